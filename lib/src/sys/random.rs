//! Randomness, for what must not happen on all machines at once, and for names that nobody else has.

use anyhow::{Context, Result};
use rustix::rand::GetRandomFlags;

/// A random number from the kernel.
pub fn number() -> Result<u32> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()).context("asking the kernel for a random number")?;
    Ok(u32::from_ne_bytes(bytes))
}
