//! Every reader of foreign bytes, for programs that make such bytes up. Not a part of the library: there only for tests, and with the feature `fuzzing`
//! for `lib/fuzz` (`cargo xtask fuzz`).
//!
//! A target takes any bytes and returns. A panic is a fault of the reader, and so is not coming to an end, or memory that grows beyond what the reader
//! promises. Where a reader promises more (what was printed is read again), the target checks that, too.

mod seeds;
mod words;

#[cfg(test)]
mod tests;

/// One reader, or a few that read the same kind of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is that of a file in `lib/fuzz/fuzz_targets/`.
    pub name: &'static str,
    /// Reads these bytes.
    pub run: fn(&[u8]),
    /// Good bytes, to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "tar", run: crate::store::fuzz::tar, seeds: seeds::tars },
    Target { name: "tree", run: crate::store::fuzz::tree, seeds: seeds::trees },
    Target { name: "policy", run: crate::store::fuzz::patterns, seeds: seeds::policies },
    Target { name: "content_index", run: crate::store::fuzz::content_index, seeds: crate::store::fuzz::content_indexes },
    Target { name: "split_stream", run: crate::store::fsck::fuzz::split_stream, seeds: crate::store::fsck::fuzz::split_streams },
    Target { name: "layer", run: crate::image::fuzz::layer, seeds: seeds::layers },
    Target { name: "chunked_position", run: crate::image::fuzz::position, seeds: crate::image::fuzz::positions },
    Target { name: "chunked_table", run: crate::image::fuzz::table, seeds: crate::image::fuzz::tables },
    Target { name: "tar_split", run: crate::image::fuzz::tar_split, seeds: crate::image::fuzz::tar_splits },
    Target { name: "partial", run: crate::image::fuzz::partial, seeds: crate::image::fuzz::partials },
    Target { name: "patch", run: crate::image::fuzz::patch, seeds: crate::image::fuzz::patches },
    Target { name: "delta_list", run: crate::image::fuzz::delta_list, seeds: crate::image::fuzz::delta_lists },
    Target { name: "manifest", run: crate::image::fuzz::manifest, seeds: seeds::manifests },
    Target { name: "registries_conf", run: crate::image::fuzz::registries_conf, seeds: seeds::registries_confs },
    Target { name: "credentials", run: crate::image::fuzz::credentials, seeds: seeds::credentials },
    Target { name: "challenge", run: crate::image::fuzz::challenge, seeds: seeds::challenges },
    Target { name: "registry_answer", run: crate::image::fuzz::registry_answer, seeds: crate::image::fuzz::registry_answers },
    Target { name: "initramfs", run: crate::lint::fuzz::initramfs, seeds: seeds::initramfses },
    Target { name: "uki", run: words::uki, seeds: seeds::ukis },
    Target { name: "signature_database", run: words::signature_database, seeds: seeds::signature_databases },
    Target { name: "packages", run: words::packages, seeds: seeds::packages },
    Target { name: "rpm", run: words::rpm, seeds: seeds::rpms },
    Target { name: "boot_entry", run: words::boot_entry, seeds: seeds::boot_entries },
    Target { name: "reference", run: words::reference, seeds: seeds::references },
    Target { name: "record", run: words::record, seeds: seeds::records },
    Target { name: "config", run: words::config, seeds: seeds::configs },
];

/// Runs the target of this name.
///
/// # Panics
///
/// There is no such target; and wherever a reader is at fault.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target {name}")).run)(bytes);
}

/// Takes so many bytes, and no more.
pub(crate) struct Enough(pub(crate) u64);

impl std::io::Write for Enough {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len() as u64).ok_or_else(|| std::io::Error::other("that is enough"))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Several inputs in one, which [`split`] takes apart again.
pub(crate) fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.join(BETWEEN)
}

/// The parts of an input; those that are missing are empty.
pub(crate) fn split<const N: usize>(bytes: &[u8]) -> [&[u8]; N] {
    let mut rest = Some(bytes);
    std::array::from_fn(|number| {
        let all = rest.take().unwrap_or_default();
        let at = all.windows(BETWEEN.len()).position(|window| window == BETWEEN).filter(|_| number + 1 < N);
        match at {
            Some(at) => {
                rest = Some(&all[at + BETWEEN.len()..]);
                &all[..at]
            }
            None => all,
        }
    })
}

/// What hardly stands in any input.
const BETWEEN: &[u8] = b"\xff--\xff";
