//! Signing by a command of the caller's, which may reach for whatever holds the key: a service, a machine behind a door.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result};

use super::usage;
use crate::sys::process::{Call, call};

/// Refuses a command that says nothing.
pub(super) fn check(command: &str) -> Result<()> {
    if command.trim().is_empty() {
        return Err(usage("signing: the command is empty (expected one for sh -c, that writes $SELKIE_OUTPUT)").into());
    }
    Ok(())
}

/// Has `command` sign the file `input` into the file `output`.
pub(super) fn sign(command: &str, input: &Path, output: &Path) -> Result<()> {
    check(command)?;
    let env = [("SELKIE_INPUT", input.into()), ("SELKIE_OUTPUT", output.into())];
    call(Call { argv: &argv(command, input, output), env: &env, ..Call::default() }).context("signing an EFI binary by a command")?;
    Ok(())
}

fn argv(command: &str, input: &Path, output: &Path) -> Vec<OsString> {
    vec!["sh".into(), "-c".into(), command.into(), "sh".into(), input.into(), output.into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shell_counts_arguments_from_its_name() {
        let argv = argv("sign \"$1\" \"$2\"", Path::new("/a b"), Path::new("/c"));
        assert_eq!(argv, ["sh", "-c", "sign \"$1\" \"$2\"", "sh", "/a b", "/c"]);
    }
}
