//! Power cuts by replay: a machine runs with its disk behind QEMU's `blklogwrites`, which logs each write and each flush. Afterwards the disk is
//! rebuilt as it may be after a power cut at any point of that log, and looked at without a boot.

mod cut;
mod disk;
mod log;
mod look;
mod random;

pub(crate) use self::cut::{Cut, choose};
pub(crate) use self::disk::Disk;
pub(crate) use self::log::count;
pub(crate) use self::look::{Found, Look};
pub(crate) use self::random::{Random, SEED, seed};
