//! ops

pub mod setup_root;
