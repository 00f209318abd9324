//! The machine as it is.
