//! Reading below a directory that is the root of a system, perhaps not of this one: links, absolute ones too, lead to where they would lead there.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::dir;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A file with these bytes.
    Bytes(Vec<u8>),
    /// `/dev/null`, or a link to that: what was there is turned off.
    Null,
}

/// Reads a file; `None` where there is none.
///
/// # Errors
///
/// It cannot be read, is neither a file nor the null device, or is a link to nothing.
pub fn read(root: impl AsFd, path: &str) -> Result<Option<Content>> {
    let link = link(root.as_fd(), path)?;
    // Another root may have no devices.
    if link.as_deref() == Some("/dev/null") {
        return Ok(Some(Content::Null));
    }
    // A pipe must not make this wait.
    let opened = open(root.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let Some(opened) = opened else {
        return if link.is_some() { bail!("reading {path}: it is a link to nothing") } else { Ok(None) };
    };
    let stat = rustix::fs::fstat(&opened).with_context(|| format!("looking at {path}"))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let mut bytes = Vec::new();
            File::from(opened).read_to_end(&mut bytes).with_context(|| format!("reading {path}"))?;
            Ok(Some(Content::Bytes(bytes)))
        }
        FileType::CharacterDevice => Ok(Some(Content::Null)),
        other => bail!("reading {path}: it is a {other:?} (expected a file)"),
    }
}

/// The names in a directory, sorted; none where there is no such directory.
pub fn names(root: impl AsFd, path: &str) -> Result<Vec<String>> {
    let Some(opened) = open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)? else { return Ok(Vec::new()) };
    let names = dir::names(&opened).with_context(|| format!("listing {path}"))?;
    Ok(names.iter().map(|name| name.to_string_lossy().into_owned()).collect())
}

/// Where a link leads, as it says itself; `None` where there is none.
pub fn link(root: impl AsFd, path: &str) -> Result<Option<String>> {
    let path = Path::new(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let opened = open(root, &parent.to_string_lossy(), OFlags::PATH | OFlags::DIRECTORY)?;
    let Some(opened) = opened else { return Ok(None) };
    // What is no link, or is not there, has no answer.
    Ok(rustix::fs::readlinkat(opened, name, Vec::new()).ok().map(|target| target.to_string_lossy().into_owned()))
}

fn open(root: impl AsFd, path: &str, flags: OFlags) -> Result<Option<OwnedFd>> {
    let opened = rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT);
    dir::optional(opened).with_context(|| format!("opening {path}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_in_the_root() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("etc")).unwrap();
        let at = |name: &str| temp.path().join(name);
        std::fs::write(at("etc/file"), "text").unwrap();
        symlink("/etc/file", at("etc/absolute")).unwrap();
        symlink("../../../etc/file", at("etc/upwards")).unwrap();
        symlink("/dev/null", at("etc/masked")).unwrap();
        symlink("nowhere", at("etc/dangling")).unwrap();
        let root = dir::open_path(temp.path()).unwrap();
        let text = Some(Content::Bytes(b"text".to_vec()));
        for (path, expected) in [
            ("etc/file", text.clone()),
            ("etc/absolute", text.clone()),
            ("etc/upwards", text),
            ("etc/masked", Some(Content::Null)),
            ("etc/none", None),
            ("none/none", None),
        ] {
            assert_eq!(read(&root, path).unwrap(), expected, "{path}");
        }
        assert!(read(&root, "etc/dangling").unwrap_err().to_string().contains("link to nothing"));
        assert!(read(&root, "etc").unwrap_err().to_string().contains("expected a file"));
        assert_eq!(names(&root, "etc").unwrap(), ["absolute", "dangling", "file", "masked", "upwards"]);
        assert_eq!(names(&root, "nowhere").unwrap(), [""; 0]);
        assert_eq!(link(&root, "etc/absolute").unwrap().as_deref(), Some("/etc/file"));
        assert_eq!((link(&root, "etc/file").unwrap(), link(&root, "nowhere/x").unwrap()), (None, None));
    }
}
