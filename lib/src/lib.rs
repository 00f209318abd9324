//! selkie makes an ordinary OCI container image the operating system of a machine.
//!
//! This crate is everything that is not text on a terminal. It is layered: words (pure types), `sys` (syscalls and
//! processes), owners (`image`, `store`, `deploy`, `boot`, `disk`, `signing`, which never import each other), `system` (the
//! machine as it is, read-only), and `ops` (the verbs, where owners meet). `ARCHITECTURE.md` is the map and
//! `tests/architecture.rs` enforces it.

pub mod calendar;
pub mod cmdline;
pub mod config;
pub mod error;
pub mod finding;
pub mod image_id;
pub mod kargs;
pub mod listing;
pub mod origin;
pub mod os_release;
pub mod packages;
pub mod progress;
pub mod record;
pub mod reference;
pub mod uki;

pub mod sys;

pub mod boot;
pub mod deploy;
pub mod disk;
pub mod image;
pub mod signing;
pub mod store;

pub mod lint;
pub mod system;

pub mod ops;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
