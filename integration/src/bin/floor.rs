//! `floor LAYOUT DIGEST DIR`: the least that a verified pull of an image has to do, and nothing else, as a limit that no puller beats by much: read
//! each blob of the manifest DIGEST and hash it, decompress it, hash what comes out (diff_id), compute the fs-verity digest of every file, and write
//! each that is new below DIR.
//!
//! No transport, no names, no tree, no syncing, no care for memory. The crates are those of selkie, each stage of each layer has a thread of its own.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use composefs::fsverity::{FsVerityHashValue, FsVerityHasher, Sha256HashValue};
use openssl::sha::Sha256;
use serde_json::Value;
use zlib_rs::{Inflate, InflateFlush, Status};

const BLOCK: usize = 256 << 10;
const WAITING: usize = 8;
/// Files of at most so many bytes stay in the metadata, as composefs keeps them.
const INLINE: u64 = 64;

type Known = Mutex<HashSet<Sha256HashValue>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [layout, digest, target] = arguments.as_slice() else {
        bail!("reading the arguments: {} (expected LAYOUT DIGEST DIR)", arguments.len());
    };
    let (blobs, target) = (PathBuf::from(layout).join("blobs"), PathBuf::from(target));
    let manifest = document(&blob(&blobs, digest))?;
    let config = document(&blob(&blobs, text(&manifest["config"]["digest"])?))?;
    let layers = manifest["layers"].as_array().context("looking for layers")?;
    let diff_ids = config["rootfs"]["diff_ids"].as_array().context("looking for diff_ids")?;
    ensure!(layers.len() == diff_ids.len(), "{} layers with {} diff_ids", layers.len(), diff_ids.len());
    for first in 0..=u8::MAX {
        fs::create_dir_all(target.join(format!("{first:02x}"))).context("making directories")?;
    }
    let known = Known::default();
    thread::scope(|scope| {
        let mut running = Vec::new();
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let (digest, diff_id) = (text(&layer["digest"])?, text(diff_id)?);
            let (path, known, target) = (blob(&blobs, digest), &known, &target);
            running.push(scope.spawn(move || take(&path, digest, diff_id, known, target).with_context(|| format!("layer {digest}"))));
        }
        running.into_iter().try_for_each(joined)
    })
}

fn take(path: &Path, digest: &str, diff_id: &str, known: &Known, target: &Path) -> Result<()> {
    let (to_decoder, compressed) = sync_channel(WAITING);
    let (to_hasher, plain) = sync_channel(WAITING);
    let (to_files, contents) = sync_channel(WAITING);
    thread::scope(|scope| {
        let stages = [
            scope.spawn(move || hash_blob(path, digest, &to_decoder)),
            scope.spawn(move || decode(Blocks::new(compressed), &[to_hasher, to_files])),
            scope.spawn(move || hash_plain(&plain, diff_id)),
            scope.spawn(move || files(Blocks::new(contents), known, target)),
        ];
        stages.into_iter().try_for_each(joined)
    })
}

fn joined(stage: thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    stage.join().map_err(|_| anyhow!("a thread panicked"))?
}

fn hash_blob(path: &Path, digest: &str, next: &SyncSender<Arc<Vec<u8>>>) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut hasher = Sha256::new();
    loop {
        let block = filled(&mut file)?;
        if block.is_empty() {
            return compare(hasher, digest);
        }
        hasher.update(&block);
        next.send(Arc::new(block)).map_err(|_| gone())?;
    }
}

fn decode(blob: Blocks, next: &[SyncSender<Arc<Vec<u8>>>]) -> Result<()> {
    let mut blob = BufReader::with_capacity(BLOCK, blob);
    let mut plain: Box<dyn Read> = match blob.fill_buf()? {
        [0x1f, 0x8b, ..] => Box::new(Gzip { blob, member: None }),
        _ => Box::new(zstd::Decoder::with_buffer(blob)?),
    };
    loop {
        let block = Arc::new(filled(&mut plain)?);
        if block.is_empty() {
            return Ok(());
        }
        for next in next {
            next.send(Arc::clone(&block)).map_err(|_| gone())?;
        }
    }
}

fn hash_plain(blocks: &Receiver<Arc<Vec<u8>>>, diff_id: &str) -> Result<()> {
    let mut hasher = Sha256::new();
    blocks.iter().for_each(|block| hasher.update(&block));
    compare(hasher, diff_id)
}

fn files(contents: Blocks, known: &Known, target: &Path) -> Result<()> {
    let mut archive = tar::Archive::new(BufReader::with_capacity(BLOCK, contents));
    let mut content = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() || entry.size() <= INLINE {
            continue;
        }
        content.clear();
        entry.read_to_end(&mut content)?;
        let mut hasher = FsVerityHasher::<Sha256HashValue>::new();
        content.chunks(FsVerityHasher::<Sha256HashValue>::BLOCK_SIZE).for_each(|block| hasher.add_block(block));
        let id = hasher.digest();
        if known.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone()) {
            fs::write(target.join(id.to_object_pathname()), &content).context("writing a file")?;
        }
    }
    // What follows the end of the archive belongs to the layer, too.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop).context("reading on")
}

/// Blocks from another thread, as a reader.
struct Blocks {
    blocks: Receiver<Arc<Vec<u8>>>,
    block: Arc<Vec<u8>>,
    used: usize,
}

impl Blocks {
    fn new(blocks: Receiver<Arc<Vec<u8>>>) -> Self {
        Self { blocks, block: Arc::default(), used: 0 }
    }
}

impl Read for Blocks {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.used == self.block.len() {
            let Ok(block) = self.blocks.recv() else { return Ok(0) };
            (self.block, self.used) = (block, 0);
        }
        let read = (&self.block[self.used..]).read(buf)?;
        self.used += read;
        Ok(read)
    }
}

struct Gzip {
    blob: BufReader<Blocks>,
    member: Option<Inflate>,
}

impl Read for Gzip {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.blob.fill_buf()?;
            if input.is_empty() {
                return if self.member.is_none() { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            let member = self.member.get_or_insert_with(|| Inflate::new(true, 16 + 15));
            let before = (member.total_in(), member.total_out());
            let status = member.decompress(input, buf, InflateFlush::NoFlush).map_err(|e| io::Error::other(e.as_str()))?;
            let (used, made) = ((member.total_in() - before.0) as usize, (member.total_out() - before.1) as usize);
            self.blob.consume(used);
            if status == Status::StreamEnd {
                self.member = None;
            }
            if made > 0 {
                return Ok(made);
            }
        }
    }
}

fn filled(from: &mut impl Read) -> Result<Vec<u8>> {
    let mut block = Vec::with_capacity(BLOCK);
    from.take(BLOCK as u64).read_to_end(&mut block).context("reading a block")?;
    Ok(block)
}

fn compare(hasher: Sha256, expected: &str) -> Result<()> {
    let found = format!("sha256:{}", hex::encode(hasher.finish()));
    ensure!(found == expected, "the digest is {found} (expected {expected})");
    Ok(())
}

fn gone() -> anyhow::Error {
    anyhow!("the next stage has ended")
}

fn blob(blobs: &Path, digest: &str) -> PathBuf {
    blobs.join(digest.replace(':', "/"))
}

fn document(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("reading {value} (expected a string)"))
}
