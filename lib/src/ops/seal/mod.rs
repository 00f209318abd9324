//! Sealed images: what they say of themselves.

mod annotation;

pub use annotation::{BOOT_IMAGE, RECIPE, algorithm, check_recipe, sealed_with};
