//! How much memory this machine has left.

use anyhow::{Context, Result};

/// What can be used without swapping, in MiB; `None` where the kernel has no estimate.
pub(crate) fn available() -> Result<Option<u64>> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    Ok(read(&meminfo))
}

/// `MemAvailable` of `/proc/meminfo` (proc_meminfo(5)).
fn read(meminfo: &str) -> Option<u64> {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    rest.trim().strip_suffix("kB")?.trim().parse().ok().map(|kib: u64| kib >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_estimate_is_read() {
        assert_eq!(read("MemTotal:       24689652 kB\nMemFree: 1 kB\nMemAvailable:   23847828 kB\n"), Some(23_288));
        assert_eq!(read("MemTotal: 5 kB\n"), None);
        assert_eq!(read("MemAvailable: many kB\n"), None);
    }
}
