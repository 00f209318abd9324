//! Looks at the policy of an image before the library does, which bears what it finds there only if its makers meant well.

use std::fmt::Display;
use std::io::{BufRead, BufReader, ErrorKind};

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;
use composefs::generic_tree::DirectoryRef;
use composefs::repository::Repository;
use composefs::tree::{FileSystem, RegularFile};
use composefs_boot::selabel::open_file;

use super::paths::{Paths, require_few_copies};
use super::patterns::Patterns;
use super::{CONFIG, DIRECTORY, FILES_OF_PATTERNS, FILES_OF_SUBSTITUTES};
use crate::error::Failure;
use crate::store::unsuitable;

/// Where the files of a policy are in its directory.
const FILES_IN: &str = "contexts/files";
/// The most bytes of a file of patterns: ten times as many as the longest that is known. The library has all of its lines in memory.
const MAX_PATTERNS: u64 = 4 << 20;
/// The most bytes of the other files, which have about one thousand.
const MAX_OTHERS: u64 = 64 << 10;
/// The most bytes of a label. Every file of the image gets a copy of its own.
const MAX_LABEL: usize = 255;
/// The most bytes of a path that stands for another: as many are looked at for each file below it.
const MAX_SUBSTITUTE: usize = 255;

/// Refuses a policy for which the library would take memory or time without bounds. What else may be wrong with it, the library says.
///
/// It reads the same files in the same way as the library does, which has to be so: what is not seen here has no bounds.
pub(in crate::store) fn require_bounded<H: FsVerityHashValue>(tree: &FileSystem<H>, repository: &Repository<H>) -> Result<()> {
    let Ok(Some(all)) = tree.as_dir().get_directory_ref_opt(DIRECTORY.as_ref()) else { return Ok(()) };
    let Some(name) = name(&Folder { repository, directory: all, path: format!("/{DIRECTORY}") })? else { return Ok(()) };
    let below = all.get_directory_ref(name.as_ref()).and_then(|policy| policy.get_directory_ref(FILES_IN.as_ref()));
    let Ok(directory) = below else { return Ok(()) };
    let folder = Folder { repository, directory, path: format!("/{DIRECTORY}/{name}/{FILES_IN}") };
    require_few_copies(tree).map_err(|e| refused(&folder.path, e))?;
    let paths = Paths::of(tree);
    let mut patterns = Patterns::new(paths.longest + MAX_SUBSTITUTE as u64);
    for file in FILES_OF_PATTERNS {
        for line in folder.lines(file, MAX_PATTERNS)? {
            let line = line?;
            add(&mut patterns, &line.text).map_err(|e| line.refused(e))?;
        }
    }
    for file in FILES_OF_SUBSTITUTES {
        for line in folder.lines(file, MAX_OTHERS)? {
            let line = line?;
            if !line.text.trim_start().starts_with('#') {
                require_short(line.text.split_whitespace(), MAX_SUBSTITUTE, "path").map_err(|e| line.refused(e))?;
            }
        }
    }
    patterns.require_few_at_once(paths.bytes).map_err(|e| refused(&folder.path, e).into())
}

/// The policy that the configuration names.
fn name<H: FsVerityHashValue>(folder: &Folder<'_, H>) -> Result<Option<String>> {
    for line in folder.lines(CONFIG, MAX_OTHERS)? {
        if let Some((key, value)) = line?.text.split_once('=')
            && key.trim().eq_ignore_ascii_case("SELINUXTYPE")
        {
            return Ok(Some(value.trim().to_owned()));
        }
    }
    Ok(None)
}

/// A line with a pattern, perhaps a type of files, and a label.
fn add(patterns: &mut Patterns, line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let (Some(pattern), Some(next)) = (words.next().filter(|word| !word.starts_with('#')), words.next()) else { return Ok(()) };
    let kind = next.strip_prefix('-').unwrap_or(".");
    patterns.add(pattern, &format!("^({pattern}){kind}$")).map_err(|e| format!("pattern {}: {e}", shown(pattern)))?;
    require_short([next].into_iter().chain(words), MAX_LABEL, "label")
}

fn require_short<'w>(mut words: impl Iterator<Item = &'w str>, most: usize, what: &str) -> Result<(), String> {
    words.find(|word| word.len() > most).map_or(Ok(()), |word| {
        let (word, length) = (shown(word), word.len());
        Err(format!("{what} {word} has {length} bytes (expected at most {most})"))
    })
}

/// A word for a message, and not all of it where it is long.
fn shown(word: &str) -> String {
    const LONG: usize = 80;
    match word.char_indices().nth(LONG) {
        Some((end, _)) => format!("{:?}...", &word[..end]),
        None => format!("{word:?}"),
    }
}

/// A directory of the image with files of the policy.
struct Folder<'t, H: FsVerityHashValue> {
    repository: &'t Repository<H>,
    directory: DirectoryRef<'t, RegularFile<H>>,
    path: String,
}

impl<H: FsVerityHashValue> Folder<'_, H> {
    /// The lines of a file; none where it is not there.
    fn lines(&self, name: &str, most: u64) -> Result<impl Iterator<Item = Result<Line>>> {
        let path = format!("{}/{name}", self.path);
        let size = self.directory.get_file_opt(name.as_ref()).ok().flatten().map_or(0, RegularFile::file_size);
        if size > most {
            return Err(refused(&path, format!("it has {size} bytes (expected at most {most})")).into());
        }
        let file = match size {
            // Nor has it any where it is no file, which the library refuses.
            0 => None,
            _ => open_file(self.directory, name, self.repository).with_context(|| format!("reading {path}"))?,
        };
        let lines = file.into_iter().flat_map(|file| BufReader::new(file).lines()).enumerate();
        Ok(lines.map(move |(before, text)| {
            let place = format!("{path}, line {}", before + 1);
            match text {
                Ok(text) => Ok(Line { place, text }),
                Err(e) if e.kind() == ErrorKind::InvalidData => Err(refused(&place, "it is not UTF-8").into()),
                Err(e) => Err(e).with_context(|| format!("reading {path}")),
            }
        }))
    }
}

struct Line {
    place: String,
    text: String,
}

impl Line {
    fn refused(&self, why: impl Display) -> Failure {
        refused(&self.place, why)
    }
}

fn refused(what: &str, why: impl Display) -> Failure {
    unsuitable(format!("{what}: {why}")).hint("change this file in the image")
}
