//! What a layer's table of contents tells of an entry, while the layer is not here. Nobody has proven it: good for foretelling what an update will do, and
//! for nothing else.

/// An entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the archive, as it stands there.
    pub path: String,
    /// What it is.
    pub kind: ListedKind,
    /// Permission bits with set-user-ID, set-group-ID and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes by name.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedKind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
        /// SHA-256 of its content, where the table says it.
        sha256: Option<[u8; 32]>,
    },
    /// A symbolic link with its target.
    Symlink(String),
    /// One more name of another file.
    Hardlink(String),
    /// A character device: major and minor number.
    CharDevice(u32, u32),
    /// A block device: major and minor number.
    BlockDevice(u32, u32),
    /// A named pipe.
    Fifo,
}
