//! A layer's tar stream taken apart: what stays in the split stream as it is, and the files that become objects.
//!
//! The one reader of foreign tar files. It is pushed: blocks of any size go in, in order, and what they mean comes out at once, so that it
//! needs no memory but for the headers of one entry. What it calls inline and what it calls a file equals, byte for byte, what
//! composefs-oci's `tar::split_async` does; `tests/store_library.rs` compares the two. Three things are refused that the library takes, or
//! on which it never ends: headers that ask for more and more without getting on, content of what is no file, and no end after the end.

use anyhow::{Result, bail, ensure};
use composefs::INLINE_CONTENT_MAX_V0;
use tar_core::HEADER_SIZE;
use tar_core::parse::{ParseEvent, ParsedEntry, Parser};

/// Contents of what is no file stay in memory. No program writes any, so a mebibyte, as for the headers of one entry, is generous.
const MAX_ODD: u64 = 1 << 20;
/// What follows the end of an archive stays in memory, too. Programs fill up to a record of 10 KiB, or as much as they are told.
const MAX_AFTER: u64 = 16 << 20;

/// What a tar stream consists of, in order.
pub(super) trait Parts {
    /// What stands for the content of a file.
    type Object;
    /// Bytes that stay as they are.
    fn inline(&mut self, bytes: &[u8]) -> Result<()>;
    /// The content of a file that is so small that it stays as it is, too.
    fn small(&mut self, content: &[u8]) -> Result<()>;
    /// A file begins: its name in the archive and its size.
    fn begin(&mut self, name: &[u8], size: u64) -> Result<()>;
    /// The next bytes of this file.
    fn content(&mut self, bytes: &[u8]) -> Result<()>;
    /// This file is whole.
    fn end(&mut self) -> Result<()>;
    /// What has just begun is this object, of which no byte comes; nor does [`end`](Self::end).
    fn object(&mut self, object: Self::Object) -> Result<()>;
}

/// Takes a tar stream apart.
pub(super) struct Splitter {
    parser: Parser,
    state: State,
    /// The headers of one entry, or the content of a small file, as far as they are there.
    head: Vec<u8>,
    /// How many bytes the parser wants of them.
    need: usize,
}

/// Where in the stream it is.
#[derive(Clone, Copy)]
enum State {
    Head,
    /// So many bytes stay as they are.
    Inline(u64),
    /// A small file of so many bytes and so many of its padding.
    Small(usize, u64),
    /// A file begins, of so many bytes and so many of its padding.
    Begun(u64, u64),
    /// So many bytes of it are left, and so many of its padding.
    File(u64, u64),
    /// The archive has ended, so many bytes ago.
    After(u64),
}

impl Splitter {
    pub(super) fn new() -> Self {
        Self { parser: Parser::with_defaults(), state: State::Head, head: Vec::new(), need: HEADER_SIZE }
    }

    /// Takes the next bytes.
    pub(super) fn push(&mut self, mut bytes: &[u8], parts: &mut impl Parts) -> Result<()> {
        while !bytes.is_empty() {
            let used = match self.state {
                State::Head => self.take_head(bytes, parts)?,
                State::Inline(left) => self.take_inline(bytes, left, parts)?,
                State::Small(size, padding) => self.take_small(bytes, size, padding, parts)?,
                State::Begun(left, padding) | State::File(left, padding) => self.take_content(bytes, left, padding, parts)?,
                State::After(seen) => self.take_rest(bytes, seen, parts)?,
            };
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// Takes an object instead of the next `size` bytes. Whether that could be: they have to be the content of one file.
    pub(super) fn push_object<P: Parts>(&mut self, object: P::Object, size: u64, parts: &mut P) -> Result<bool> {
        match self.state {
            State::Begun(left, padding) if left == size => {
                parts.object(object)?;
                self.state = inline(padding);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Says that the stream has ended.
    pub(super) fn finish(self) -> Result<()> {
        match self.state {
            State::After(_) => Ok(()),
            State::Head if self.head.is_empty() => Ok(()),
            State::Head => bail!("unexpected EOF in tar stream"),
            State::Inline(_) | State::Small(..) | State::Begun(..) | State::File(..) => bail!("unexpected EOF reading tar entry"),
        }
    }

    fn take_head(&mut self, bytes: &[u8], parts: &mut impl Parts) -> Result<usize> {
        let used = bytes.len().min(self.need - self.head.len());
        self.head.extend_from_slice(&bytes[..used]);
        if self.head.len() < self.need {
            return Ok(used);
        }
        let head = std::mem::take(&mut self.head);
        match self.parser.parse(&head)? {
            ParseEvent::NeedData { min_bytes } => {
                // Of the map of a sparse file that has no end, the parser asks for the same bytes for ever.
                ensure!(min_bytes > head.len(), "a header that does not end");
                self.need = min_bytes;
                self.head = head;
                return Ok(used);
            }
            ParseEvent::SparseEntry { .. } => bail!("sparse tar entries are not supported"),
            ParseEvent::GlobalExtensions { consumed, .. } => whole(&head, consumed, parts)?,
            ParseEvent::End { consumed } => {
                whole(&head, consumed, parts)?;
                self.state = State::After(0);
            }
            ParseEvent::Entry { consumed, entry } => {
                whole(&head, consumed, parts)?;
                self.state = body(&entry, parts)?;
            }
        }
        self.head = head;
        self.head.clear();
        self.need = HEADER_SIZE;
        Ok(used)
    }

    fn take_inline(&mut self, bytes: &[u8], left: u64, parts: &mut impl Parts) -> Result<usize> {
        let used = up_to(bytes, left);
        parts.inline(&bytes[..used])?;
        self.state = inline(left - used as u64);
        Ok(used)
    }

    fn take_small(&mut self, bytes: &[u8], size: usize, padding: u64, parts: &mut impl Parts) -> Result<usize> {
        let used = bytes.len().min(size - self.head.len());
        self.head.extend_from_slice(&bytes[..used]);
        if self.head.len() == size {
            parts.small(&self.head)?;
            self.head.clear();
            self.state = inline(padding);
        }
        Ok(used)
    }

    fn take_content(&mut self, bytes: &[u8], left: u64, padding: u64, parts: &mut impl Parts) -> Result<usize> {
        let used = up_to(bytes, left);
        parts.content(&bytes[..used])?;
        let left = left - used as u64;
        self.state = State::File(left, padding);
        if left == 0 {
            parts.end()?;
            self.state = inline(padding);
        }
        Ok(used)
    }

    fn take_rest(&mut self, bytes: &[u8], seen: u64, parts: &mut impl Parts) -> Result<usize> {
        let seen = seen + bytes.len() as u64;
        ensure!(seen <= MAX_AFTER, "more than {MAX_AFTER} bytes after the end of the archive");
        parts.inline(bytes)?;
        self.state = State::After(seen);
        Ok(bytes.len())
    }
}

/// Headers of one entry. The parser was given no more than it had asked for.
fn whole(head: &[u8], consumed: usize, parts: &mut impl Parts) -> Result<()> {
    ensure!(consumed == head.len(), "{} bytes of headers, of which {consumed} were used", head.len());
    parts.inline(head)
}

/// What follows the headers of an entry.
fn body(entry: &ParsedEntry<'_>, parts: &mut impl Parts) -> Result<State> {
    let size = entry.size;
    let padding = size.wrapping_neg() % HEADER_SIZE as u64;
    if entry.entry_type.is_file() && size > INLINE_CONTENT_MAX_V0 as u64 {
        parts.begin(&entry.path, size)?;
        return Ok(State::Begun(size, padding));
    }
    if entry.entry_type.is_file() && size > 0 {
        return Ok(State::Small(size as usize, padding));
    }
    ensure!(size <= MAX_ODD, "entry {}: it has {size} bytes of content and is no file", entry.path_lossy());
    Ok(inline(size + padding))
}

/// So many bytes inline, then the next entry.
fn inline(left: u64) -> State {
    if left == 0 { State::Head } else { State::Inline(left) }
}

fn up_to(bytes: &[u8], left: u64) -> usize {
    bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came out, in words.
    #[derive(Default)]
    struct Said(Vec<String>);

    impl Parts for Said {
        type Object = &'static str;

        fn inline(&mut self, bytes: &[u8]) -> Result<()> {
            self.add("inline", bytes.len());
            Ok(())
        }

        fn small(&mut self, content: &[u8]) -> Result<()> {
            self.0.push(format!("small {}", content.len()));
            Ok(())
        }

        fn begin(&mut self, name: &[u8], size: u64) -> Result<()> {
            self.0.push(format!("begin {} {size}", String::from_utf8_lossy(name)));
            Ok(())
        }

        fn content(&mut self, bytes: &[u8]) -> Result<()> {
            self.add("content", bytes.len());
            Ok(())
        }

        fn end(&mut self) -> Result<()> {
            self.0.push("end".to_owned());
            Ok(())
        }

        fn object(&mut self, object: &'static str) -> Result<()> {
            self.0.push(format!("object {object}"));
            Ok(())
        }
    }

    impl Said {
        /// Adds to the last of the same kind: how the bytes were cut has no meaning.
        fn add(&mut self, kind: &str, more: usize) {
            let before = self.0.last().and_then(|last| last.strip_prefix(kind)?.trim().parse::<usize>().ok());
            if before.is_some() {
                self.0.pop();
            }
            self.0.push(format!("{kind} {}", before.unwrap_or(0) + more));
        }
    }

    fn split(tar: &[u8], block: usize) -> Result<Vec<String>, String> {
        let (mut splitter, mut said) = (Splitter::new(), Said::default());
        for block in tar.chunks(block) {
            splitter.push(block, &mut said).map_err(|e| e.to_string())?;
        }
        splitter.finish().map_err(|e| e.to_string())?;
        Ok(said.0)
    }

    fn archive(files: &[(&str, usize)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, size) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(*size as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, &vec![7; *size][..]).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn blocks_may_be_cut_anywhere() {
        let long = "d/".repeat(60) + "long";
        let mut tar = archive(&[("a", 64), ("b", 65), ("c", 0), (&long, 1024), ("e", 4097)]);
        tar.extend([0; 3000]);
        let begin = format!("begin {long} 1024");
        let expected = [
            "inline 512",
            "small 64",
            "inline 960",
            "begin b 65",
            "content 65",
            "end",
            "inline 2495",
            &begin,
            "content 1024",
            "end",
            "inline 512",
            "begin e 4097",
            "content 4097",
            "end",
            "inline 4535",
        ];
        for block in [1, 7, 511, 512, 513, 4096, tar.len()] {
            assert_eq!(split(&tar, block).unwrap(), expected, "blocks of {block}");
        }
    }

    #[test]
    fn an_object_stands_for_the_content_of_a_whole_file_and_for_nothing_else() {
        let tar = archive(&[("b", 700), ("c", 64)]);
        // How many bytes come before it, what its size is, and whether that can be.
        for (before, size, expected) in [
            (512, 700, true),
            (512, 699, false),
            (512, 701, false),
            (0, 700, false),
            (511, 700, false),
            (513, 699, false),
            (513, 700, false),
            (1212, 324, false),
            (1536 + 512, 64, false),
            (tar.len(), 700, false),
        ] {
            let (mut splitter, mut said) = (Splitter::new(), Said::default());
            splitter.push(&tar[..before], &mut said).unwrap();
            assert_eq!(splitter.push_object("o", size, &mut said).unwrap(), expected, "{size} bytes after {before}");
            let done = if expected { before + size as usize } else { before };
            splitter.push(&tar[done..], &mut said).unwrap();
            splitter.finish().unwrap();
            let content: &[&str] = if expected { &["object o"] } else { &["content 700", "end"] };
            let rest = format!("inline {}", tar.len() - 2048 - 64);
            let all = [&["inline 512", "begin b 700"], content, &["inline 836", "small 64", &rest]].concat();
            assert_eq!(said.0, all, "{size} bytes after {before}");
        }
    }

    #[test]
    fn what_is_cut_short_is_told() {
        let small = split(&archive(&[("a", 64)])[..512 + 63], 512);
        assert_eq!(small, Err("unexpected EOF reading tar entry".to_owned()));
        let tar = archive(&[("a", 1000)]);
        let table = [
            (0, Ok(())),
            (100, Err("unexpected EOF in tar stream")),
            (700, Err("unexpected EOF reading tar entry")),
            (1520, Err("unexpected EOF reading tar entry")),
            (1536, Ok(())),
            (2048, Err("unexpected EOF in tar stream")),
            (2560, Ok(())),
        ];
        for (length, expected) in table {
            let found = split(&tar[..length], 512).map(|_| ());
            assert_eq!(found, expected.map_err(str::to_owned), "{length} bytes");
        }
    }

    /// A pax header with these records, and a file after it.
    fn pax(records: &[(&str, &str)], content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions(records.iter().map(|(key, value)| (*key, value.as_bytes()))).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, "x", content).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn headers_that_never_end_are_refused() {
        let sparse = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "4096")];
        // The map of such a file is lines of text; here there is no end of the first line.
        let endless = pax(&sparse, &[b'1'; 8192]);
        for block in [512, 4096, endless.len()] {
            let error = split(&endless, block).unwrap_err();
            assert!(error.contains("does not end") || error.contains("sparse"), "{error}");
        }
        let map = [b"0\n".as_slice(), &[0; 510]].concat();
        assert_eq!(split(&pax(&sparse, &map), 512).unwrap_err(), "sparse tar entries are not supported");
    }

    #[test]
    fn what_would_fill_the_memory_is_refused() {
        let mut header = tar::Header::new_gnu();
        header.set_path("d").unwrap();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(MAX_ODD + 1);
        header.set_cksum();
        let error = split(header.as_bytes(), 512).unwrap_err();
        assert_eq!(error, format!("entry d: it has {} bytes of content and is no file", MAX_ODD + 1));
        let mut tar = archive(&[]);
        tar.resize(1024 + MAX_AFTER as usize, 0);
        split(&tar, 1 << 20).unwrap();
        tar.push(0);
        assert_eq!(split(&tar, 1 << 20).unwrap_err(), format!("more than {MAX_AFTER} bytes after the end of the archive"));
    }
}
