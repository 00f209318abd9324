//! Kernel arguments that the words of a call bring.

use anyhow::Result;

use crate::cmdline::Cmdline;
use crate::error::{Failure, FailureKind};

/// Arguments of every machine: the root partition is found by its type on the disk that the boot loader came from, and its file system
/// is writable (the root that is seen is not).
const ALWAYS: [&str; 2] = ["root=gpt-auto", "rw"];

/// The arguments of every machine, then `own`.
///
/// # Errors
///
/// Those of [`check`].
pub(super) fn of_machine(own: &[String]) -> Result<Cmdline> {
    check(own)?;
    Ok(ALWAYS.into_iter().map(str::to_owned).chain(own.iter().cloned()).collect())
}

/// Each must be something that can stand in a command line, and not name a root image.
///
/// # Errors
///
/// [`FailureKind::Usage`] for the first that is not.
pub(super) fn check(own: &[String]) -> Result<()> {
    let refused = |argument: &String, why: &str| Failure::new(FailureKind::Usage, format!("reading kernel argument {argument:?}: {why}"));
    for argument in own {
        if argument.trim().is_empty() || argument.contains(char::is_control) {
            return Err(refused(argument, "it is empty or has a control character").into());
        }
        if !argument.matches('"').count().is_multiple_of(2) {
            return Err(refused(argument, "a quote is not closed").into());
        }
        if Cmdline::parse(argument).args().count() != 1 {
            return Err(refused(argument, "it is more than one (expected one; quotes protect white space)").into());
        }
        if Cmdline::parse(argument).without_root_image() != Cmdline::parse(argument) {
            return Err(refused(argument, "which root is booted is not for arguments to say").into());
        }
    }
    Ok(())
}
