//! A large file goes from a registry to its receiver without being kept. Alone in its program, so that its memory can be told.

#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;

use std::sync::Arc;

use anyhow::Result;
use oci::{Compression, Layout, noise, tar};
use openssl::sha::Sha256;
use registry::{Registry, push};
use selkie::image::{Receiver, Source, SourceOptions, Wanted, Way};
use selkie::progress::Silent;

const SIZE: usize = 128 << 20;

#[derive(Default)]
struct Hashed(Sha256, u64, [u8; 32]);

impl Receiver for Hashed {
    fn start(&mut self, _: usize) -> Result<()> {
        *self = Self::default();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.update(bytes);
        self.1 += bytes.len() as u64;
        Ok(())
    }

    fn end(&mut self) -> Result<bool> {
        self.2 = std::mem::take(&mut self.0).finish();
        Ok(true)
    }
}

#[tokio::test]
async fn a_large_file_needs_no_memory_of_its_size() {
    let registry = Registry::start();
    let (mut block, mut content) = (noise(1 << 20), Vec::with_capacity(SIZE));
    for number in 0..SIZE >> 20 {
        block[..8].copy_from_slice(&number.to_le_bytes());
        content.extend_from_slice(&block);
    }
    let expected = openssl::sha::sha256(&content);
    let mut layout = Layout::new();
    let image = layout.image("amd64", &[(Compression::None, tar(&content))]);
    drop(content);
    layout.publish(Some("v1"), &image);
    push(&["--dest-compress-format=zstd:chunked"], layout.path(), "v1", &registry.name("acme/os:v1"));
    // From here on, see proc_pid_clear_refs(5).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let options = SourceOptions { tls_verify: Some(false), architecture: Some("amd64".into()), ..Default::default() };
    let source = Source::open(&registry.name("acme/os:v1").parse().unwrap(), &options, &Silent).await.unwrap();
    let wanted = [Wanted { path: "usr/file".into(), size: SIZE as u64 }];
    let (hashed, fetched) = source.fetch_files(0, &wanted, Hashed::default(), Arc::new(Silent)).await.unwrap();
    source.close().await.unwrap();
    assert_eq!((fetched.way, hashed.1, hashed.2), (Way::Ranges, SIZE as u64, expected));
    assert!(peak_memory() < 64 << 20, "{} bytes of memory", peak_memory());
}

fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
