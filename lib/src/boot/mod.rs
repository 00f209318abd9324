//! The owner of $BOOT: boot loader entries and kernels on the EFI system partition.
//!
//! It alone writes there. Entries of other systems are left alone; ours are told by what they say, never by their file names.
//! Formats: the Boot Loader Specification (UAPI.1) and the sort order of systemd-boot.

mod bls;
mod check;
mod choice;
mod files;
mod places;
mod publish;
mod restore;
mod tries;
mod volume;

pub use bls::{BlsError, Entry};
pub use check::{EntryLook, EntryName, FileState, Inspection, Reading};
pub use choice::{Choice, Variable};
pub use files::{BootFile, BootFiles};
pub use places::{Boot, Mirror, Place};
pub use publish::{EntryRequest, StagedEntry};
pub use tries::Tries;
pub use volume::{BootEntry, EntryUki, FoundEntry};

/// Where the firmware and systemd-boot look, relative to the root of the ESP.
pub const ENTRIES: &str = "loader/entries";

/// Where our kernels, initramfs images and unified kernel images lie, relative to the root of the ESP.
pub const FILES: &str = "EFI/selkie";

/// `loader/loader.conf` of a machine that selkie installs: a short menu, and the newest selkie entry by default.
pub const LOADER_CONF: &str = "timeout 3\ndefault selkie-*\neditor no\n";
