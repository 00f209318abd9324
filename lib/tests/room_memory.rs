//! Looking at what is missing of an update that does not fit as a whole takes the memory of one table of contents, however many layers there are. Alone in its program, so
//! that its memory can be told.
//!
//! Small tmpfs mounts in a mount namespace of the test's thread; needs root.

#[path = "common/chunked.rs"]
mod chunked;
mod common;
#[path = "common/oci.rs"]
mod oci;
mod space_common;

use chunked::{Spoil, chunked};
use oci::{Layout, header, noise};
use selkie::error::{Failure, FailureKind};
use selkie::ops::upgrade::Until;
use selkie::sys::memory;
use space_common::{assert_unchanged, installed};

const LAYERS: usize = 12;
const FILES: usize = 20_000;
/// All tables together take more than twice as much.
const ALLOWED: u64 = 48 << 20;
/// The size of a file that cannot be compressed.
const SIZE: usize = 1_000_000;

/// A layer of many empty files, and of one with this content.
fn layer(number: usize, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in 0..FILES {
        let name = format!("usr/lib/layer-{number}/a-directory-with-a-long-name/file-{file}");
        tar.append_data(&mut header(tar::EntryType::Regular, 0), name, &b""[..]).unwrap();
    }
    tar.append_data(&mut header(tar::EntryType::Regular, content.len()), format!("usr/lib/noise-{number}"), content).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn a_look_at_many_layers_takes_the_memory_of_one() {
    memory::give_back();
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = installed(temp.path(), "8m", "8m");
    let mut layout = Layout::new();
    let noise = noise(LAYERS * SIZE);
    let layers = noise.chunks(SIZE).enumerate().map(|(number, content)| chunked(&layer(number, content), &Spoil::nothing(false)));
    let (descriptors, diff_ids) = layers.map(|layer| layer.write(&layout)).unzip();
    let image = layout.image_of(&selkie::image::host_architecture(), descriptors, diff_ids);
    layout.publish(Some("next"), &image);
    memory::give_back_now();
    // From here on, see proc_pid_clear_refs(5).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak_memory();
    let error = machine.upgrade(&first, Some(&layout.reference(Some("next"))), Until::Stage).unwrap_err();
    let failure = Failure::find(&error).unwrap();
    assert_eq!(failure.kind, FailureKind::NoSpace, "{error:#}");
    assert!(failure.message.contains("12 MiB of layers that are not here yet"), "{failure}");
    assert_unchanged(&machine, &first);
    let took = peak_memory() - before;
    assert!(took < ALLOWED, "{took} bytes of memory");
}

fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
