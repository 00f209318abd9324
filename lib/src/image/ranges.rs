//! Single files of a layer, with as few bytes fetched as can be: by ranges of the blob where the layer has a table of contents and its
//! source allows ranges, else by reading the whole layer.
//!
//! Ranges are an economy and never a condition: whatever goes wrong with them is a reason to read the whole layer as always. What comes by
//! ranges is not covered by the digest of the blob, so only the receiver can say that it is the file that was wanted.

use std::collections::HashMap;
use std::fs::File as StdFile;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use oci_spec::image::ImageManifest;

use super::chunked::{FOOTER, File, Position, Ranged, Table, Trouble, copy, decoder, exactly};
use super::manifest::Resolved;
use super::reason::Reason;
use super::registry;
use super::together::Together;

/// A regular file of a layer that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its path in the layer's tar, not that of a hard link to it; what stands before and after in tar files (`./`, `/`) makes no difference.
    pub path: PathBuf,
    /// Its size in bytes. One of another size is not what is wanted.
    pub size: u64,
}

/// Where the contents of files go.
pub trait Receiver: Send {
    /// The content of a file follows, counted as in the list of those that are wanted. Where a file was started and not ended before,
    /// what came of it is void.
    ///
    /// # Errors
    ///
    /// Those end the whole fetch, as do those of the other functions.
    fn start(&mut self, file: usize) -> Result<()>;

    /// Takes the next bytes of the file that was started last.
    ///
    /// # Errors
    ///
    /// As above.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// That was all of the file. Answers whether it is the one that was wanted, by a digest of which the layer's table knows nothing.
    ///
    /// # Errors
    ///
    /// As above; a wrong digest is not an error but `false`.
    fn end(&mut self) -> Result<bool>;
}

/// How files were fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By ranges of the blob; nothing else was fetched.
    Ranges,
    /// As the whole layer, for this reason.
    WholeLayer(String),
}

/// What fetching files took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// How.
    pub way: Way,
    /// Bytes of the blob that were fetched for contents, by ranges or as the whole.
    pub bytes: u64,
    /// Bytes of the blob that were fetched for its table of contents.
    pub table_bytes: u64,
    /// The files that are not in the layer, or not so that the receiver would have them; counted as in the list.
    pub missing: Vec<usize>,
}

/// What was had by ranges.
pub(super) struct Ranges {
    /// Bytes of contents and of the table.
    pub(super) bytes: u64,
    pub(super) table_bytes: u64,
    /// The files that are still wanted, and why.
    pub(super) left: Vec<usize>,
    pub(super) reason: Option<String>,
}

/// Fetches `wanted` by ranges, as many as can be had so.
///
/// # Errors
///
/// Those of the receiver only.
pub(super) fn fetch<B: Ranged>(
    blob: Result<B, String>,
    annotations: &HashMap<String, String>,
    wanted: &[Wanted],
    receiver: &mut dyn Receiver,
) -> Result<Ranges> {
    let mut ranges = Ranges { bytes: 0, table_bytes: 0, left: (0..wanted.len()).collect(), reason: None };
    let opened = blob.map_err(Reason::from).and_then(|mut blob| Ok((table(&mut blob, annotations, &mut ranges.table_bytes)?, blob)));
    let (table, mut blob) = match opened {
        Ok(opened) => opened,
        Err(reason) => return Ok(Ranges { reason: Some(reason.to_string()), ..ranges }),
    };
    for (number, file) in wanted.iter().enumerate() {
        match one(&mut blob, &table, file, number, &mut ranges.bytes, receiver) {
            Ok(()) => ranges.left.retain(|left| *left != number),
            Err(Trouble::Blob(reason)) => ranges.reason = Some(format!("{}: {reason}", file.path.display())),
            Err(Trouble::Line(failure)) => {
                // The next file would wait as long.
                ranges.reason = Some(format!("{}: {failure}", file.path.display()));
                break;
            }
            Err(Trouble::Receiver(error)) => return Err(error),
        }
    }
    Ok(ranges)
}

fn one<B: Ranged>(
    blob: &mut B,
    table: &Table,
    wanted: &Wanted,
    number: usize,
    fetched: &mut u64,
    receiver: &mut dyn Receiver,
) -> Result<(), Trouble> {
    use std::os::unix::ffi::OsStrExt;
    let file: &File = table.find(wanted.path.as_os_str().as_bytes()).map_err(|e| Trouble::Blob(e.to_string()))?;
    if file.size != wanted.size {
        return Err(Trouble::Blob(format!("the table of contents says that it has {} bytes (expected {})", file.size, wanted.size)));
    }
    receiver.start(number).map_err(Trouble::Receiver)?;
    copy(blob, file, fetched, &mut |bytes| receiver.write(bytes))?;
    if receiver.end().map_err(Trouble::Receiver)? {
        return Ok(());
    }
    Err(Trouble::Blob("what the table of contents leads to is not the file that was wanted".into()))
}

/// The table of contents of a blob, or why there is none. Counts the bytes that were fetched for it.
pub(super) fn table<B: Ranged>(blob: &mut B, annotations: &HashMap<String, String>, fetched: &mut u64) -> Result<Table, Reason> {
    let (json, limit) = table_json(blob, annotations, fetched)?;
    Table::parse(&json, limit).map_err(|e| e.to_string().into())
}

/// The JSON of that table, and where in the blob the contents of files have to end.
pub(super) fn table_json<B: Ranged>(
    blob: &mut B,
    annotations: &HashMap<String, String>,
    fetched: &mut u64,
) -> Result<(Vec<u8>, u64), Reason> {
    let size = blob.size();
    let mut position = Position::of_annotations(annotations, size).map_err(|e| e.to_string())?;
    if position.is_none() {
        let length = FOOTER.min(size);
        *fetched += length;
        position = Position::of_footer(&bytes(blob, size - length, length)?, size).map_err(|e| e.to_string())?;
    }
    let position = position.ok_or("the layer has no table of contents")?;
    *fetched += position.size;
    let packed = packed_table(blob, &position)?;
    Ok((unpack_table(&packed, &position)?, position.offset))
}

/// The table of contents as it is in the blob: compressed.
pub(super) fn packed_table<B: Ranged>(blob: &mut B, position: &Position) -> Result<Vec<u8>, Reason> {
    let packed = bytes(blob, position.offset, position.size)?;
    position.verify(&packed).map_err(|e| e.to_string())?;
    Ok(packed)
}

/// The JSON of a table that was fetched.
pub(super) fn unpack_table(packed: &[u8], position: &Position) -> Result<Vec<u8>, Reason> {
    decompress(packed, position.uncompressed).map_err(|e| format!("its table of contents: {e}").into())
}

pub(super) fn bytes<B: Ranged>(blob: &mut B, offset: u64, length: u64) -> Result<Vec<u8>, Reason> {
    // Bounded by whoever knows what is there.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    blob.range(offset, length).and_then(|mut range| range.read_to_end(&mut bytes))?;
    Ok(bytes)
}

/// Decompresses what has to be `size` bytes then.
fn decompress(compressed: &[u8], size: u64) -> io::Result<Vec<u8>> {
    let mut json = Vec::new();
    decoder(compressed)?.take(size + 1).read_to_end(&mut json)?;
    if json.len() as u64 != size {
        let found =
            if json.len() as u64 > size { "it has more bytes when uncompressed".into() } else { format!("it has {} bytes", json.len()) };
        return Err(io::Error::other(format!("{found} (expected {size})")));
    }
    Ok(json)
}

/// The annotations of layer `index`, which the digest of the manifest covers.
pub(super) fn annotations(resolved: &Resolved, index: usize) -> Result<HashMap<String, String>> {
    let manifest = ImageManifest::from_reader(resolved.manifest.as_slice()).context("reading the manifest")?;
    Ok(manifest.layers().get(index).and_then(|layer| layer.annotations().clone()).unwrap_or_default())
}

/// A blob in a layout or in a registry.
#[derive(Clone)]
pub(super) enum RangedBlob {
    File(Arc<StdFile>, u64),
    Registry(registry::Blob),
}

impl Ranged for RangedBlob {
    fn size(&self) -> u64 {
        match self {
            Self::File(_, size) => *size,
            Self::Registry(blob) => blob.size(),
        }
    }

    fn range(&mut self, offset: u64, length: u64) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::File(file, _) => Ok(Box::new(exactly(At { file: Arc::clone(file), offset }, length))),
            Self::Registry(blob) => Ok(Box::new(exactly(blob.range(offset, length)?, length))),
        }
    }

    fn bind(&mut self, together: &Together) {
        if let Self::Registry(blob) = self {
            blob.bind(together);
        }
    }
}

struct At {
    file: Arc<StdFile>,
    offset: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const CONTENT: &[u8] = b"the content of the second piece is this";

    /// Accepts `files` only, and nothing that is longer than they are.
    struct Checked {
        files: Vec<Vec<u8>>,
        now: (usize, Vec<u8>),
        accepted: usize,
    }

    impl Receiver for Checked {
        fn start(&mut self, file: usize) -> Result<()> {
            self.now = (file, Vec::new());
            Ok(())
        }

        fn write(&mut self, bytes: &[u8]) -> Result<()> {
            self.now.1.extend(bytes);
            assert!(self.now.1.len() <= self.files[self.now.0].len(), "more than the file has");
            Ok(())
        }

        fn end(&mut self) -> Result<bool> {
            let right = self.now.1 == self.files[self.now.0];
            self.accepted += usize::from(right);
            Ok(right)
        }
    }

    /// A layer of two files; the JSON of its table, spoiled by `spoil`, has neither checksum nor annotations.
    fn layer(spoil: impl FnOnce(&mut Vec<u8>)) -> (StdFile, u64) {
        let mut blob = b"tar header".to_vec();
        let mut put = |bytes: &[u8]| {
            let start = blob.len();
            blob.extend(zstd::encode_all(bytes, 3).unwrap());
            (start, blob.len())
        };
        let (first, second, other) = (put(&[7; 100]), put(CONTENT), put(b"other"));
        let sha = |bytes: &[u8]| hex::encode(openssl::sha::sha256(bytes));
        let whole = [&[7; 100], CONTENT].concat();
        let mut json = format!(
            r#"{{"version":1,"entries":[{{"type":"dir","name":"usr/"}},
            {{"type":"reg","name":"usr/a","size":{},"digest":"sha256:{}","offset":{},"endOffset":{},"chunkSize":100}},
            {{"type":"chunk","name":"usr/a","offset":{},"chunkSize":{},"chunkOffset":100,"chunkDigest":"sha256:{}"}},
            {{"type":"reg","name":"usr/b","size":5,"offset":{},"endOffset":{}}}]}}"#,
            whole.len(),
            sha(&whole),
            first.0,
            second.1,
            second.0,
            CONTENT.len(),
            sha(CONTENT),
            other.0,
            other.1
        )
        .into_bytes();
        spoil(&mut json);
        let table = zstd::encode_all(json.as_slice(), 3).unwrap();
        let offset = blob.len() as u64 + 8;
        let frame = |length: usize| [&0x184d_2a50_u32.to_le_bytes()[..], &u32::try_from(length).unwrap().to_le_bytes()].concat();
        blob.extend([frame(table.len()), table.clone(), frame(64)].concat());
        blob.extend([offset, table.len() as u64, json.len() as u64, 1, 0, 0, 0].iter().flat_map(|n| n.to_le_bytes()));
        blob.extend(b"GNUlInUx");
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&blob).unwrap();
        (file, blob.len() as u64)
    }

    fn fetched(spoil: impl FnOnce(&mut Vec<u8>)) -> (Ranges, usize) {
        let (file, size) = layer(spoil);
        let files = vec![[&[7; 100], CONTENT].concat(), b"other".to_vec()];
        let wanted: Vec<Wanted> =
            files.iter().zip(["usr/a", "./usr/b"]).map(|(f, path)| Wanted { path: path.into(), size: f.len() as u64 }).collect();
        let mut receiver = Checked { files, now: (0, Vec::new()), accepted: 0 };
        let ranges = fetch(Ok(RangedBlob::File(file.into(), size)), &HashMap::new(), &wanted, &mut receiver).unwrap();
        (ranges, receiver.accepted)
    }

    #[test]
    fn a_table_with_any_byte_spoiled_gives_the_right_files_or_a_reason() {
        let (good, accepted) = fetched(|_| {});
        assert_eq!((good.left.as_slice(), good.reason.as_deref(), accepted), (&[][..], None, 2));
        let mut length = 0;
        fetched(|json| length = json.len());
        for at in 0..length {
            for byte in [b'0', b'9', b'"', b'z', 0xff] {
                let (ranges, accepted) = fetched(|json| json[at] = byte);
                assert_eq!(ranges.left.len() + accepted, 2, "byte {at} as {byte}");
                assert_eq!(ranges.reason.is_some(), !ranges.left.is_empty(), "byte {at} as {byte}");
            }
        }
    }

    #[test]
    fn a_table_that_is_larger_than_it_says_is_not_read_on() {
        let json = [b' '; 1_000_000];
        let compressed = zstd::encode_all(&json[..], 3).unwrap();
        assert_eq!(decompress(&compressed, 1_000_000).unwrap().len(), 1_000_000);
        let error = |size| decompress(&compressed, size).unwrap_err().to_string();
        assert_eq!(error(10), "it has more bytes when uncompressed (expected 10)");
        assert_eq!(error(1_000_001), "it has 1000000 bytes (expected 1000001)");
    }

    #[test]
    fn blobs_that_are_shorter_than_they_should_be_are_a_reason() {
        for lost in [1, 40, 100, 300] {
            let (file, size) = layer(|_| {});
            file.set_len(size - lost).unwrap();
            let wanted = [Wanted { path: "usr/b".into(), size: 5 }];
            let mut receiver = Checked { files: vec![b"other".to_vec()], now: (0, Vec::new()), accepted: 0 };
            let ranges = fetch(Ok(RangedBlob::File(file.into(), size)), &HashMap::new(), &wanted, &mut receiver).unwrap();
            assert!(ranges.reason.unwrap().starts_with("truncated: "), "{lost}");
            assert_eq!((ranges.left, receiver.accepted), (vec![0], 0));
        }
    }
}
