//! Single files out of layers: by ranges from layouts and registries, good and bad. The layers are written by skopeo.

#[path = "common/oci.rs"]
mod oci;
#[path = "common/registry.rs"]
mod registry;
#[path = "common/relay.rs"]
mod relay;

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use oci::{Compression, Layout, header, noise, plain_http};
use registry::{Registry, copy, push};
use relay::{Odd, Relay};
use selkie::image::{Fetched, Receiver, Source, SourceOptions, Wanted, Way};
use selkie::progress::Silent;

/// Keeps what it is given; says that a file is right when it is `files`' content.
#[derive(Default, Clone)]
struct Kept {
    files: Vec<Vec<u8>>,
    got: Vec<Option<Vec<u8>>>,
    now: (usize, Vec<u8>),
}

impl Receiver for Kept {
    fn start(&mut self, file: usize) -> Result<()> {
        self.now = (file, Vec::new());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.now.1.extend(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<bool> {
        let (file, content) = std::mem::take(&mut self.now);
        let right = content == self.files[file];
        if right {
            self.got[file] = Some(content);
        }
        Ok(right)
    }
}

/// A layer's files, with what is in them.
struct Files(Vec<(&'static str, Vec<u8>)>);

impl Files {
    fn new() -> Self {
        let hole = [noise(700_000), vec![0; 3_000_000], noise(300_000)].concat();
        let text: Vec<u8> = (0..60_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
        Self(vec![
            ("usr/bin/big", noise(2_000_000)),
            ("usr/hole", hole),
            ("usr/text", text),
            ("usr/small", b"small\n".to_vec()),
            ("usr/empty", Vec::new()),
        ])
    }

    fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header(tar::EntryType::Directory, 0), "usr/", &b""[..]).unwrap();
        for (path, content) in &self.0 {
            builder.append_data(&mut header(tar::EntryType::Regular, content.len()), path, content.as_slice()).unwrap();
        }
        builder.append_link(&mut header(tar::EntryType::Link, 0), "usr/link", "usr/small").unwrap();
        builder.into_inner().unwrap()
    }

    fn wanted(&self, names: &[&str]) -> (Vec<Wanted>, Kept) {
        let content = |name: &&str| self.0.iter().find(|(path, _)| path == name).unwrap().1.clone();
        let files: Vec<Vec<u8>> = names.iter().map(content).collect();
        let wanted = names.iter().zip(&files).map(|(path, content)| Wanted { path: path.into(), size: content.len() as u64 });
        (wanted.collect(), Kept { got: vec![None; files.len()], files, ..Default::default() })
    }

    /// An image of these files in zstd:chunked, as skopeo writes it.
    fn push(&self, registry: &Registry) {
        let mut layout = Layout::new();
        let image = layout.image("amd64", &[(Compression::None, self.tar())]);
        layout.publish(Some("v1"), &image);
        push(&["--dest-compress-format=zstd:chunked"], layout.path(), "v1", &registry.name("acme/os:v1"));
    }
}

/// Fetches files of the only layer, which must all be right then, and ends the source.
async fn fetch(reference: &str, options: &SourceOptions, files: &Files, names: &[&str]) -> Fetched {
    let source = Source::open(&reference.parse().unwrap(), options, &Silent).await.unwrap();
    let (wanted, kept) = files.wanted(names);
    let (kept, fetched) = source.fetch_files(0, &wanted, kept, Arc::new(Silent)).await.unwrap();
    source.close().await.unwrap();
    let got: Vec<Vec<u8>> = kept.got.into_iter().flatten().collect();
    assert!(got == kept.files, "{reference}: {fetched:?}");
    assert_eq!(fetched.missing, [0; 0], "{reference}");
    fetched
}

const ALL: [&str; 5] = ["usr/bin/big", "usr/hole", "usr/text", "usr/small", "usr/empty"];

fn to_layout(registry: &Registry, to: &Path) -> String {
    let layout = format!("oci:{}:v1", to.display());
    copy(&[], &format!("docker://{}", registry.name("acme/os:v1")), &layout);
    layout
}

#[tokio::test]
async fn files_of_chunked_layers_come_by_ranges_from_registries_and_layouts() {
    let (registry, files, temp) = (Registry::start(), Files::new(), tempfile::tempdir().unwrap());
    files.push(&registry);
    let layout = to_layout(&registry, temp.path());
    let whole = std::fs::metadata(registry.blob(&layer_of(&layout).await.0)).unwrap().len();
    for reference in [registry.name("acme/os:v1"), layout] {
        let mut before = None;
        for name in ALL {
            let fetched = fetch(&reference, &plain_http(), &files, &[name]).await;
            let size = files.0.iter().find(|(path, _)| *path == name).unwrap().1.len() as u64;
            assert_eq!(fetched.way, Way::Ranges, "{reference} {name}");
            // Frames of small pieces have some bytes more than what is in them.
            assert!(fetched.bytes <= size + size / 50 + 16, "{name}: {fetched:?}");
            assert!(fetched.table_bytes > 0 && *before.get_or_insert(fetched.table_bytes) == fetched.table_bytes, "{fetched:?}");
        }
        let all = fetch(&reference, &plain_http(), &files, &ALL).await;
        assert!(all.way == Way::Ranges && all.bytes + all.table_bytes < whole, "{all:?} of {whole}");
        // The hole was not fetched.
        let hole = fetch(&reference, &plain_http(), &files, &["usr/hole"]).await;
        assert!(hole.bytes < 1_030_000, "{hole:?}");
    }
}

/// Digest and size of the only layer.
async fn layer_of(reference: &str) -> (String, u64) {
    let source = Source::open(&reference.parse().unwrap(), &plain_http(), &Silent).await.unwrap();
    let layer = source.resolved().layers[0].clone();
    source.close().await.unwrap();
    (layer.digest, layer.size)
}

#[tokio::test]
async fn the_table_is_found_without_annotations_too() {
    let (registry, files, temp) = (Registry::start(), Files::new(), tempfile::tempdir().unwrap());
    files.push(&registry);
    let annotated = to_layout(&registry, temp.path());
    let with = fetch(&annotated, &plain_http(), &files, &ALL).await;
    let source = Source::open(&annotated.parse().unwrap(), &plain_http(), &Silent).await.unwrap();
    let layer = source.resolved().layers[0].clone();
    let mut layout = Layout::new();
    std::fs::copy(registry.blob(&layer.digest), layout.blob(&layer.digest)).unwrap();
    let digest: ocidir::oci_spec::image::Digest = layer.digest.parse().unwrap();
    let descriptor = ocidir::oci_spec::image::Descriptor::new(layer.media_type, layer.size, digest);
    let image = layout.image_of("amd64", vec![descriptor], vec![layer.diff_id]);
    layout.publish(Some("v1"), &image);
    let without = fetch(&layout.reference(Some("v1")), &plain_http(), &files, &ALL).await;
    assert_eq!(without, Fetched { table_bytes: with.table_bytes + 72, ..with });
}

#[tokio::test]
async fn layers_without_a_table_come_whole() {
    let files = Files::new();
    let mut layout = Layout::new();
    for (tag, compression) in [("plain", Compression::None), ("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
        let image = layout.image("amd64", &[(compression, files.tar())]);
        layout.publish(Some(tag), &image);
        let reference = layout.reference(Some(tag));
        let fetched = fetch(&reference, &plain_http(), &files, &["usr/text", "usr/empty", "usr/bin/big"]).await;
        let way = Way::WholeLayer("the layer has no table of contents".into());
        assert_eq!(fetched, Fetched { way, bytes: layer_of(&reference).await.1, table_bytes: 72, missing: vec![] });
    }
    let archive = layout.path().join("v1.tar").display().to_string();
    copy(&[], &layout.reference(Some("gzip")), &format!("oci-archive:{archive}:v1"));
    let fetched = fetch(&format!("oci-archive:{archive}:v1"), &plain_http(), &files, &["usr/text"]).await;
    assert_eq!((fetched.way, fetched.table_bytes), (Way::WholeLayer("oci-archive: gives no ranges".into()), 0));
}

#[tokio::test]
async fn what_is_not_there_is_missing_and_not_made_up() {
    let (registry, files) = (Registry::start(), Files::new());
    files.push(&registry);
    let source = Source::open(&registry.name("acme/os:v1").parse().unwrap(), &plain_http(), &Silent).await.unwrap();
    let (mut wanted, mut kept) = files.wanted(&["usr/small", "usr/text", "usr/bin/big", "usr/empty"]);
    wanted[0].path = "usr/none".into();
    wanted[1].size += 1;
    // The digest is that of another file.
    kept.files[2][7] ^= 1;
    let (kept, fetched) = source.fetch_files(0, &wanted, kept, Arc::new(Silent)).await.unwrap();
    let size = source.resolved().layers[0].size;
    source.close().await.unwrap();
    assert_eq!(kept.got, [None, None, None, Some(vec![])]);
    assert_eq!(fetched.missing, [0, 1, 2]);
    let way = Way::WholeLayer("usr/bin/big: what the table of contents leads to is not the file that was wanted".into());
    assert_eq!((fetched.way, fetched.bytes > size), (way, true));
}

#[tokio::test]
async fn an_error_of_the_receiver_ends_the_fetch() {
    struct Full;
    impl Receiver for Full {
        fn start(&mut self, _: usize) -> Result<()> {
            Ok(())
        }
        fn write(&mut self, _: &[u8]) -> Result<()> {
            anyhow::bail!("the disk is full")
        }
        fn end(&mut self) -> Result<bool> {
            panic!("nothing was written")
        }
    }
    let (registry, files, temp) = (Registry::start(), Files::new(), tempfile::tempdir().unwrap());
    files.push(&registry);
    let source = Source::open(&to_layout(&registry, temp.path()).parse().unwrap(), &plain_http(), &Silent).await.unwrap();
    let error = source.fetch_files(0, &files.wanted(&["usr/text"]).0, Full, Arc::new(Silent)).await.err().unwrap();
    assert_eq!(error.to_string(), "the disk is full");
}

#[tokio::test]
async fn registries_that_answer_ranges_badly_are_read_whole() {
    let (registry, files) = (Registry::start(), Files::new());
    files.push(&registry);
    let table = [
        (Odd::Ignored, "the registry allows no ranges: it answers with the whole blob"),
        (Odd::Truncated, "reading the answer: "),
        (Odd::Shifted, "the answer has the range \"bytes "),
        (Odd::OtherSize, "the answer has the range \"bytes "),
        (Odd::Short, "bytes (expected "),
        (Odd::Flipped, "its table of contents does not match its checksum"),
        (Odd::Refused, "the answer is 500 Internal Server Error (expected 206)"),
        (Odd::Compressed, "the answer is compressed once more"),
        (Odd::Circle, "more than 5 redirects"),
        (Odd::Nowhere, "without a location"),
    ];
    for (odd, expected) in table {
        let relay = Relay::start(&registry.address, odd);
        let reference = format!("{}/acme/os:v1", relay.address);
        let fetched = fetch(&reference, &plain_http(), &files, &["usr/text", "usr/small"]).await;
        let Way::WholeLayer(reason) = &fetched.way else { panic!("{odd:?}: {fetched:?}") };
        assert!(reason.contains(expected), "{odd:?}: {reason}");
    }
}

#[tokio::test]
async fn a_lost_line_and_damaged_contents_cost_the_whole_layer_only() {
    let (registry, files) = (Registry::start(), Files::new());
    files.push(&registry);
    let relay = Relay::start(&registry.address, Odd::FlippedContents);
    let fetched = fetch(&format!("{}/acme/os:v1", relay.address), &plain_http(), &files, &["usr/empty", "usr/bin/big"]).await;
    let Way::WholeLayer(reason) = &fetched.way else { panic!("{fetched:?}") };
    assert!(reason.starts_with("usr/bin/big: ") && fetched.bytes > fetched.table_bytes, "{reason}");
}

#[tokio::test]
async fn tokens_are_fetched_and_go_nowhere_else() {
    let (registry, files) = (Registry::start(), Files::new());
    files.push(&registry);
    let relay = Relay::start(&registry.address, Odd::Token);
    let auth = tempfile::tempdir().unwrap();
    let authfile = |said: &str| {
        let path = auth.path().join(format!("{said}.json"));
        std::fs::write(&path, format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{said}\"}}}}}}", relay.address)).unwrap();
        SourceOptions { authfile: Some(path), ..plain_http() }
    };
    // `me:secret`
    let options = authfile("bWU6c2VjcmV0");
    let fetched = fetch(&format!("{}/acme/os:v1", relay.address), &options, &files, &["usr/text", "usr/bin/big"]).await;
    assert_eq!(fetched.way, Way::Ranges);
    let seen = relay.seen();
    // The table and two files, each from the store of blobs to which the registry redirects, which never sees a credential.
    let at_store: Vec<&String> = seen.iter().filter(|head| head.contains("GET /store/") && head.contains("range: bytes=")).collect();
    assert_eq!(at_store.len(), 3, "{seen:?}");
    assert!(at_store.iter().all(|head| !head.contains("authorization")), "{at_store:?}");
    // One token serves all; it was asked for with the words of the challenge.
    let own = |head: &&String| head.contains("GET /token?") && head.contains("user-agent: selkie/");
    let tokens: Vec<&String> = seen.iter().filter(own).collect();
    assert!(tokens.len() == 1 && tokens[0].contains("scope=repository%3aacme%2fos%3apull"), "{tokens:?}");
    assert!(tokens[0].contains("service=relay") && tokens[0].contains("authorization: basic bwu6c2vjcmv0"), "{tokens:?}");
}

#[tokio::test]
async fn passwords_are_used_and_wrong_ones_are_no_reason_to_ask_elsewhere() {
    let (registry, files) = (Registry::start_closed(), Files::new());
    let mut layout = Layout::new();
    let image = layout.image("amd64", &[(Compression::None, files.tar())]);
    layout.publish(Some("v1"), &image);
    let authfile = registry.authfile("bWU6c2VjcmV0");
    let dest = format!("--dest-authfile={}", authfile.display());
    push(&[&dest, "--dest-compress-format=zstd:chunked"], layout.path(), "v1", &registry.name("acme/os:v1"));
    let options = SourceOptions { authfile: Some(authfile), ..plain_http() };
    let fetched = fetch(&registry.name("acme/os:v1"), &options, &files, &["usr/small"]).await;
    assert_eq!(fetched.way, Way::Ranges);
}
