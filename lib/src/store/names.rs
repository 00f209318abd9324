//! Names in archives: taken apart, cleaned, and checked against what Linux allows. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use thiserror::Error;

/// Names in a directory and whole paths can be this long on Linux; images that cannot be unpacked are refused.
const NAME_MAX: usize = 255;
pub(super) const PATH_MAX: usize = 4095;
/// Deeper trees would need more stack than a thread has, here and in every tool that reads the image.
pub(super) const MAX_DEPTH: usize = 512;

/// Why an entry cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum ChangeError {
    #[error("its name leads out of the root")]
    Outside,
    #[error("its name is longer than Linux allows")]
    TooLong,
    #[error("its name has more than {MAX_DEPTH} directories")]
    TooDeep,
    #[error("its name has a zero byte")]
    ZeroByte,
    #[error("the root is not a directory")]
    Root,
    #[error("its parent {0:?} is not a directory")]
    NotADirectory(OsString),
    #[error("symbolic links lead in circles")]
    Links,
    #[error("its target is empty, has a zero byte, or is longer than Linux allows")]
    SymlinkTarget,
    #[error("hard link to {0:?}, which is in neither this layer nor one below")]
    LinkTarget(OsString),
    #[error("hard link to {0:?}, which is a directory")]
    LinkToDirectory(OsString),
}

/// The parts of a path that mean something.
pub(super) fn parts(path: &OsStr) -> impl DoubleEndedIterator<Item = &OsStr> {
    path.as_bytes().split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").map(OsStr::from_bytes)
}

/// The parts of a name in an archive; none for the root.
pub(super) fn clean(name: &OsStr) -> Result<Vec<&OsStr>, ChangeError> {
    if name.len() > PATH_MAX {
        return Err(ChangeError::TooLong);
    }
    let mut path = Vec::new();
    for part in parts(name) {
        if part == ".." {
            path.pop().ok_or(ChangeError::Outside)?;
            continue;
        }
        path.push(checked(part)?);
    }
    if path.len() > MAX_DEPTH { Err(ChangeError::TooDeep) } else { Ok(path) }
}

/// A name that a directory can have.
pub(super) fn checked(part: &OsStr) -> Result<&OsStr, ChangeError> {
    match part.as_bytes() {
        name if name.len() > NAME_MAX => Err(ChangeError::TooLong),
        name if name.contains(&0) => Err(ChangeError::ZeroByte),
        _ => Ok(part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned() {
        let table: [(&str, Result<&str, ChangeError>); 9] = [
            ("./usr//bin/", Ok("usr/bin")),
            ("/usr/./bin", Ok("usr/bin")),
            ("usr/../etc", Ok("etc")),
            ("./", Ok("")),
            ("usr/..", Ok("")),
            ("../usr", Err(ChangeError::Outside)),
            ("usr/../../x", Err(ChangeError::Outside)),
            ("a\0b", Err(ChangeError::ZeroByte)),
            (&"x".repeat(256), Err(ChangeError::TooLong)),
        ];
        for (name, expected) in table {
            let found = clean(OsStr::new(name)).map(|parts| parts.join(OsStr::new("/")));
            assert_eq!(found, expected.map(OsString::from), "{name:?}");
        }
    }
}
