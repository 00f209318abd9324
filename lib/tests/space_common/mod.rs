//! What the tests of full file systems share: machines on small ones. Needs root.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::path::Path;

use rustix::mount::MountFlags;
use selkie::image_id::ImageId;
use selkie::ops::status;
use selkie::store::{Store, Verity};
use selkie::sys::dir;
use selkie::sys::mount::enter_private_namespace;

use crate::common::host::Machine;

pub fn mount(directory: &Path, size: &str, flags: MountFlags) {
    std::fs::create_dir_all(directory).unwrap();
    let data = std::ffi::CString::new(format!("size={size}")).unwrap();
    rustix::mount::mount("tmpfs", directory, "tmpfs", flags, data.as_c_str()).unwrap();
}

pub fn resize(directory: &Path, size: &str) {
    let data = std::ffi::CString::new(format!("size={size}")).unwrap();
    rustix::mount::mount_remount(directory, MountFlags::empty(), data.as_c_str()).unwrap();
}

/// A machine whose file systems have the given sizes.
pub fn installed(root: &Path, sysroot: &str, esp: &str) -> (Machine, ImageId) {
    enter_private_namespace().expect("these tests mount file systems: run them as root");
    mount(&root.join("sysroot"), sysroot, MountFlags::empty());
    mount(&root.join("esp"), esp, MountFlags::empty());
    Machine::install(root)
}

pub fn assert_unchanged(machine: &Machine, booted: &ImageId) {
    let status = status::run(&machine.host(booted));
    assert_eq!((status.staged, status.problems), (None, vec![]));
}

pub fn free(directory: &Path) -> u64 {
    selkie::sys::dir::free_bytes(selkie::sys::dir::open_path(directory).unwrap()).unwrap()
}

/// Leaves so many bytes free.
pub fn fill(directory: &Path, leave: u64) {
    std::fs::write(directory.join("other"), vec![1; (free(directory) - leave) as usize]).unwrap();
}

/// A repository on a file system of this size.
pub fn repository(place: &Path, size: &str) -> Store {
    enter_private_namespace().expect("these tests mount file systems: run them as root");
    mount(place, size, MountFlags::empty());
    Store::open_or_init(dir::open_path(place).unwrap(), "r", None, Verity::IfPossible).unwrap()
}

/// Bytes that do not compress.
pub fn noise(length: usize) -> String {
    let mut state = length as u64;
    let next = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b' ' + (state >> 33) as u8 % 90)
    });
    next.take(length).collect()
}
