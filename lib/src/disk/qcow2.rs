//! The adapter of qemu-img: a raw image as qcow2.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};

use crate::error::{Failure, FailureKind};
use crate::sys::process::{Call, call};

/// Converts the image `raw` in `directory` to the image `qcow2` there.
pub(super) fn convert(directory: &Path, raw: &str, qcow2: &str) -> Result<()> {
    let run = call(Call { argv: &argv(raw, qcow2), directory: Some(directory), ..Call::default() });
    run.map_err(|error| match Failure::find(&error) {
        Some(failure) if failure.kind == FailureKind::NotFound => {
            Failure { hint: Some("install the package qemu-utils, or write a raw image".to_owned()), ..failure }.into()
        }
        _ => error,
    })
    .context("converting the disk image to qcow2")?;
    Ok(())
}

fn argv(raw: &str, qcow2: &str) -> Vec<OsString> {
    ["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", raw, qcow2].map(OsString::from).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_named() {
        assert_eq!(argv("a", "b"), ["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", "a", "b"]);
    }
}
