//! Kernel arguments that the words of a call bring.

use anyhow::Result;

use crate::cmdline::Cmdline;
use crate::error::{Failure, FailureKind};

/// The root partition is found by its type on the disk that the boot loader came from, unless somebody names it.
const ROOT: &str = "root=gpt-auto";
/// Its file system is writable (the root that is seen is not).
const WRITABLE: &str = "rw";

/// The arguments of every machine, then `own`.
///
/// # Errors
///
/// Those of [`check`].
pub(super) fn of_machine(own: &[String]) -> Result<Cmdline> {
    check(own)?;
    let named = own.iter().any(|argument| argument.starts_with("root="));
    let root = (!named).then_some(ROOT);
    Ok(root.into_iter().chain([WRITABLE]).map(str::to_owned).chain(own.iter().cloned()).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_partition_is_found_by_its_type_unless_it_is_named() {
        let of = |own: &[&str]| of_machine(&own.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap().to_string();
        assert_eq!(of(&["quiet"]), "root=gpt-auto rw quiet");
        assert_eq!(of(&["root=UUID=ab-cd", "quiet"]), "rw root=UUID=ab-cd quiet");
    }
}
