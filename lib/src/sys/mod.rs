//! The edge: the only place for unsafe code, raw syscalls and child processes.

pub mod clock;
pub mod dir;
pub mod efi;
pub mod in_root;
pub mod interrupt;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod nameless;
pub mod partitions;
pub mod process;
pub mod random;
pub mod reboot;
pub mod scratch;
pub mod tree;
pub mod units;
