//! The format newc of cpio: `070701`, thirteen numbers of eight hexadecimal digits, name, bytes; each padded to four bytes.

use std::io::{BufRead, Read, sink};

use openssl::sha::Sha256;

use super::compression::Part;
use super::{Broken, Contents, KEPT, PROGRAM, keeps};

/// Names can be this long for the kernel, with the zero byte at their end.
const PATH_MAX: usize = 4096;
const HEADER: usize = 110;
/// The name of the last entry.
const END: &[u8] = b"TRAILER!!!";

/// Bytes that are counted: no part unpacks to more than what is left.
struct Counted<'a, R> {
    input: R,
    left: &'a mut u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.input.read(buf)?;
        *self.left = self.left.checked_sub(n as u64).ok_or(std::io::ErrorKind::FileTooLarge)?;
        Ok(n)
    }
}

/// Reads the archives of a part: the one that a plain part begins with, all that a compressed part has.
pub(super) fn read<R: BufRead>(part: &mut Part<'_, R>, left: &mut u64, contents: &mut Contents) -> Result<(), Broken> {
    let plain = matches!(part, Part::Plain(_));
    let mut input = Counted { input: part, left };
    while archive(&mut input, contents)? && !plain {}
    Ok(())
}

/// Reads one archive; whether there was one.
fn archive(input: &mut impl Read, contents: &mut Contents) -> Result<bool, Broken> {
    let Some(first) = after_zeros(input)? else { return Ok(false) };
    let mut header = [0; HEADER];
    header[0] = first;
    input.read_exact(&mut header[1..])?;
    while entry(input, &header, contents)? {
        input.read_exact(&mut header)?;
    }
    Ok(true)
}

/// The first byte that is not zero; `None` where there is none.
fn after_zeros(input: &mut impl Read) -> Result<Option<u8>, Broken> {
    let mut byte = [0];
    loop {
        match input.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) if byte[0] == 0 => {}
            Ok(_) => return Ok(Some(byte[0])),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Reads the rest of an entry; whether it was not the last.
fn entry(input: &mut impl Read, header: &[u8; HEADER], contents: &mut Contents) -> Result<bool, Broken> {
    if !matches!(&header[..6], b"070701" | b"070702") {
        return Err(Broken::Header);
    }
    let (links, size, name_size) = (field(header, 4)?, field(header, 6)?, field(header, 11)? as usize);
    if !(1..=PATH_MAX).contains(&name_size) {
        return Err(Broken::Header);
    }
    let mut name = vec![0; name_size];
    input.read_exact(&mut name)?;
    skip(input, padding(HEADER + name_size))?;
    name.pop();
    if name == END {
        // The kernel passes over the bytes of this entry, too.
        skip(input, size + padding(size as usize))?;
        return Ok(false);
    }
    let name = clean(&String::from_utf8_lossy(&name));
    // Of a file with several names only the last entry has the bytes.
    let here = size > 0 || links <= 1;
    if name == PROGRAM && here {
        let mut hash = Sha256::new();
        each(input, size, |bytes| hash.update(bytes))?;
        contents.program = Some(hash.finish());
    } else if keeps(&name) && here {
        let mut kept = Vec::new();
        each(input, size, |bytes| kept.extend(&bytes[..bytes.len().min(KEPT.saturating_sub(kept.len()))]))?;
        contents.kept.insert(name.clone(), kept);
    } else {
        skip(input, size)?;
    }
    skip(input, padding(size as usize))?;
    contents.add(name)?;
    Ok(true)
}

/// The number in field `index`, counted from 0 after the magic.
fn field(header: &[u8; HEADER], index: usize) -> Result<u64, Broken> {
    let digits = &header[6 + 8 * index..][..8];
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    text.and_then(|text| u64::from_str_radix(text, 16).ok()).ok_or(Broken::Header)
}

/// The bytes between a length and the next multiple of four.
fn padding(length: usize) -> u64 {
    (length.next_multiple_of(4) - length) as u64
}

fn skip(input: &mut impl Read, length: u64) -> Result<(), Broken> {
    let skipped = std::io::copy(&mut input.by_ref().take(length), &mut sink())?;
    if skipped == length { Ok(()) } else { Err(Broken::Truncated) }
}

fn each(input: &mut impl Read, length: u64, mut take: impl FnMut(&[u8])) -> Result<(), Broken> {
    let mut buffer = vec![0; 1 << 16];
    let mut left = length;
    while left > 0 {
        let part = &mut buffer[..left.min(1 << 16) as usize];
        input.read_exact(part)?;
        take(part);
        left -= part.len() as u64;
    }
    Ok(())
}

/// A name in one form: no `/` or `./` at the front, and the directories that are links into `/usr` by their real name.
fn clean(name: &str) -> String {
    let name = name.trim_start_matches("./").trim_start_matches('/');
    if name.starts_with("lib/") { format!("usr/{name}") } else { name.to_owned() }
}
