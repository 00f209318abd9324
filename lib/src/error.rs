//! The few errors that a caller acts on, each with its exit code and a hint.
//!
//! Everything else travels as `anyhow::Error` with context. A [`Failure`] anywhere in such a chain decides the exit
//! code of the command; `docs/exit-codes.md` is the user's copy of the table.

use std::fmt;

use serde::Serialize;

/// What to do about what may be otherwise the next time.
pub const AGAIN: &str = "run the same command again";
/// What to do about bytes of an image that came otherwise than their digest says.
pub const DAMAGED: &str = "run the same command again; if it happens again, the copy at the source is damaged: push the image again";
/// What to do about what is damaged in a repository.
pub const REPAIR: &str = "`selkie fsck --repair` fetches what is damaged, or makes it again, and puts it back; for a repository that is no machine's, with --repo DIR";
/// What to do about a file system that is full.
pub const FREE_SPACE: &str = "free some space, then run the same command again";
/// What to do about a registry that was given up.
pub const AGAIN_LATER: &str = "run the same command again when the registry can be reached";

/// What kind of thing went wrong; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The words of the call are off.
    Usage,
    /// No such image, tag, deployment or file.
    NotFound,
    /// The registry refused the credentials, or there were none.
    Denied,
    /// The registry could not be reached or answered with an error of its own.
    Unreachable,
    /// Bytes do not match their digest, or ended early.
    Corrupt,
    /// The image cannot be the operating system of this machine.
    Unsuitable,
    /// A file system has not enough room.
    NoSpace,
    /// The call needs privileges that it does not have.
    NotPermitted,
    /// This machine was not installed by selkie (or the parts that prove it are gone).
    NotAHost,
    /// Another selkie process holds the lock, or something else holds the ESP so that it cannot be written.
    Busy,
    /// The repository exists, and is of another algorithm or format than asked for.
    StoreMismatch,
    /// The terminal was gone (`SIGHUP`).
    HungUp,
    /// Somebody pressed ^C (`SIGINT`).
    Interrupted,
    /// The process was told to end (`SIGTERM`).
    Terminated,
}

impl FailureKind {
    /// The exit code of a command that ends with this failure.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Unreachable => 5,
            Self::Corrupt => 6,
            Self::Unsuitable => 7,
            Self::NoSpace => 8,
            Self::NotPermitted => 9,
            Self::NotAHost => 10,
            Self::Busy => 11,
            Self::StoreMismatch => 12,
            // As shells have it: 128 and the number of the signal.
            Self::HungUp => 129,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }
}

/// An error that a caller acts on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure this is.
    pub kind: FailureKind,
    /// What was found, and what was expected.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same failure, with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure of a verb that keeps what it has fetched: where its advice is to call again, that tells so.
    #[must_use]
    pub fn kept(self) -> Self {
        let more = match (self.kind, self.hint.as_deref()) {
            (FailureKind::Unreachable, Some(AGAIN_LATER)) => ": it goes on from what is there",
            (FailureKind::HungUp | FailureKind::Interrupted | FailureKind::Terminated, Some(AGAIN)) => {
                ": it goes on from what is there, and removes what is of no use"
            }
            _ => return self,
        };
        Self { hint: self.hint.map(|hint| hint + more), ..self }
    }

    /// Whether the exit code of `error` is that of this kind, see [`find`](Self::find).
    pub fn is(error: &anyhow::Error, kind: FailureKind) -> bool {
        Self::find(error).is_some_and(|failure| failure.kind == kind)
    }

    /// The failure that decides the exit code of `error`: the outermost in its chain, else a full disk, one that is read-only, or a
    /// refused access.
    pub fn find(error: &anyhow::Error) -> Option<Failure> {
        if let Some(failure) = stated(error) {
            return Some(failure.clone());
        }
        if is_out_of_room(error) {
            return Some(Failure::new(FailureKind::NoSpace, "a file system is full").hint(FREE_SPACE));
        }
        let causes = || error.chain().flat_map(with_inner);
        let any = |of_io: fn(&std::io::Error) -> bool, of_errno: fn(rustix::io::Errno) -> bool| {
            causes().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(of_io)
                || causes().filter_map(|cause| cause.downcast_ref::<rustix::io::Errno>()).any(|errno| of_errno(*errno))
        };
        if any(|e| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem, |e| e == rustix::io::Errno::ROFS) {
            let hint = "mount it to be written (`mount -o remount,rw`), or name another place; where that does not work, the kernel may have found it damaged: see its \
                        messages (`dmesg`)";
            return Some(Failure::new(FailureKind::NotPermitted, "a file system is read-only").hint(hint));
        }
        any(|e| e.kind() == std::io::ErrorKind::PermissionDenied, is_denied_errno)
            .then(|| Failure::new(FailureKind::NotPermitted, "a file or directory is closed to this user"))
    }

    /// Whether a file system was full, and nobody has said yet which and how much it lacks.
    pub fn is_bare_no_space(error: &anyhow::Error) -> bool {
        stated(error).is_none() && is_out_of_room(error)
    }
}

/// The outermost failure in the chain.
fn stated(error: &anyhow::Error) -> Option<&Failure> {
    error.chain().flat_map(with_inner).find_map(|cause| cause.downcast_ref())
}

fn is_out_of_room(error: &anyhow::Error) -> bool {
    let full = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref().is_some_and(is_full) || cause.downcast_ref().is_some_and(|errno| is_full_errno(*errno))
    };
    error.chain().flat_map(with_inner).any(full)
}

/// An error and what is packed into it. The `source` of an `io::Error` that was made from another error is the source of
/// that other error, so a plain walk along the chain would step over it.
fn with_inner<'a>(cause: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(cause), |outer| {
        let inner = outer.downcast_ref::<std::io::Error>()?.get_ref()?;
        Some(inner as &(dyn std::error::Error + 'static))
    })
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

fn is_denied_errno(errno: rustix::io::Errno) -> bool {
    errno == rustix::io::Errno::ACCESS || errno == rustix::io::Errno::PERM
}

fn is_full_errno(errno: rustix::io::Errno) -> bool {
    errno == rustix::io::Errno::NOSPC || errno == rustix::io::Errno::DQUOT
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn a_failure_is_found_below_context() {
        let failure = Failure::new(FailureKind::NotFound, "no tag").hint("look at the registry");
        let error = Err::<(), _>(failure.clone()).context("pulling").unwrap_err();
        assert_eq!(Failure::find(&error), Some(failure));
    }

    #[test]
    fn a_failure_is_found_inside_input_and_output_errors() {
        let failure = Failure::new(FailureKind::Corrupt, "a flipped byte");
        let once = std::io::Error::new(std::io::ErrorKind::InvalidData, failure.clone());
        let twice = std::io::Error::other(std::io::Error::other(failure.clone()));
        for error in [once, twice] {
            let error = Err::<(), _>(error).context("importing").context("pulling").unwrap_err();
            assert_eq!(Failure::find(&error), Some(failure.clone()));
        }
    }

    #[test]
    fn only_advice_to_call_again_says_that_something_was_kept() {
        let hint = |kind, hint: &str| Failure::new(kind, "x").hint(hint).kept().hint.unwrap();
        assert_eq!(
            hint(FailureKind::Interrupted, AGAIN),
            "run the same command again: it goes on from what is there, and removes what is of no use"
        );
        let later = "run the same command again when the registry can be reached: it goes on from what is there";
        assert_eq!(hint(FailureKind::Unreachable, AGAIN_LATER), later);
        assert_eq!(hint(FailureKind::Unreachable, AGAIN), AGAIN);
        assert_eq!(hint(FailureKind::Denied, "log in"), "log in");
        assert_eq!(Failure::new(FailureKind::Unreachable, "x").kept().hint, None);
    }

    #[test]
    fn a_full_disk_is_a_failure_of_its_own() {
        let error = Err::<(), _>(std::io::Error::from(rustix::io::Errno::NOSPC)).context("writing").unwrap_err();
        assert_eq!(Failure::find(&error).map(|f| f.kind), Some(FailureKind::NoSpace));
        assert!(Failure::is_bare_no_space(&error));
        let inner = anyhow::Error::new(std::io::Error::other(std::io::Error::from(rustix::io::Errno::DQUOT)));
        assert!(Failure::is_bare_no_space(&inner.context("importing")));
        let told = anyhow::Error::new(Failure::new(FailureKind::NoSpace, "5 MiB free"));
        assert!(!Failure::is_bare_no_space(&told.context("importing")));
        assert_eq!(Failure::find(&anyhow::anyhow!("else")), None);
    }

    #[test]
    fn a_read_only_file_system_is_told_from_a_closed_file() {
        for (errno, words) in [(rustix::io::Errno::ROFS, "read-only"), (rustix::io::Errno::ACCESS, "closed to this user")] {
            for error in [anyhow::Error::new(errno), anyhow::Error::new(std::io::Error::from(errno))] {
                let failure = Failure::find(&error.context("writing")).unwrap();
                assert_eq!((failure.kind, failure.message.contains(words)), (FailureKind::NotPermitted, true), "{failure}");
            }
        }
    }
}
