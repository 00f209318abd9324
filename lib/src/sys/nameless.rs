//! Files without a name: gone with their last handle, unless they are given one.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// Makes a file with `mode` on the file system of `dir`, to write and to read.
pub fn create(dir: impl AsFd, mode: u32) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, ".", flags, Mode::from_raw_mode(mode))?.into())
}

/// Gives up the right to write to a file: while somebody can, it cannot be sealed.
pub fn reopen(file: File) -> rustix::io::Result<OwnedFd> {
    // The handle that is given up goes last: with it, the file would.
    rustix::fs::open(path_of(&file), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Gives a file its name; what has the name stays. By its handle, which older kernels allow only to those who may read everything: to others they say that there is
/// no such file.
pub fn link(file: impl AsFd, dir: impl AsFd, path: &str) -> rustix::io::Result<()> {
    match rustix::fs::linkat(&file, "", &dir, path, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT) => rustix::fs::linkat(CWD, path_of(&file), dir, path, AtFlags::SYMLINK_FOLLOW),
        linked => linked,
    }
}

/// A file without a name has this one, as long as it is open.
fn path_of(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::sys::dir;

    #[test]
    fn a_file_is_there_once_it_has_a_name_and_takes_none_from_others() {
        let temp = tempfile::tempdir().unwrap();
        let directory = dir::open_path(temp.path()).unwrap();
        let mut file = create(&directory, 0o644).unwrap();
        file.write_all(b"one").unwrap();
        assert_eq!(dir::names(&directory).unwrap(), [""; 0]);
        let file = reopen(file).unwrap();
        link(&file, &directory, "a").unwrap();
        assert_eq!(link(create(&directory, 0o644).unwrap(), &directory, "a"), Err(Errno::EXIST));
        assert_eq!(dir::read_optional(&directory, "a").unwrap().as_deref(), Some(b"one".as_slice()));
        let mut file = File::from(file);
        file.write_all(b"two").unwrap_err();
        let mut read = Vec::new();
        file.read_to_end(&mut read).unwrap();
        assert_eq!(read, b"one");
    }
}
