//! What tests of the verbs share: images in OCI layout made on the spot, and a machine made of temporary directories.
#![allow(dead_code, reason = "each test program uses its own part")]

pub mod host;
pub mod layout;
pub mod sealed;
