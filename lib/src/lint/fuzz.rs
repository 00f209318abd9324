//! Targets of the lints: see [`crate::fuzz`].

use super::{drop_ins, initramfs};

/// An initramfs; and lines of drop-in files.
pub(crate) fn initramfs(bytes: &[u8]) {
    if let Ok(contents) = initramfs::read(bytes) {
        let _ = (contents.has("init"), contents.below("usr/").count(), contents.text("a"), contents.program());
    }
    for line in String::from_utf8_lossy(bytes).lines().take(20) {
        let _ = drop_ins::words(line);
    }
}
