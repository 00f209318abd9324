//! A SELinux policy takes no memory for what its patterns would become. Alone in its program, so that its memory can be told.

mod store_common;

use std::io::{BufRead, BufReader, Cursor, Read};

use selkie::error::FailureKind;
use selkie::store::Store;
use selkie::sys::memory;
use store_common::*;

const PATTERNS: &str = "etc/selinux/a/contexts/files/file_contexts";
/// What a pull may take, whatever comes.
const ALLOWED: u64 = 96 << 20;
/// What it may take where a policy is just not refused: four times as much as what there is.
const ALLOWED_AT_THE_LIMITS: u64 = 160 << 20;

#[test]
fn patterns_that_would_take_gigabytes() {
    memory::give_back();
    // Where the build has its room: the place for temporary files may be memory.
    let within = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let repository = repository(&within);
    let lines = |lines: &mut dyn Iterator<Item = String>| lines.map(|pattern| pattern + " a:b:c:s0\n").collect::<String>();
    let refused = [
        (lines(&mut std::iter::once("/x{1000}{1000}{100}".to_owned())), "line 1: "),
        (lines(&mut (0..220_000).map(|number| format!("/{number}"))), "line 41667: "),
        (lines(&mut (0..2000).map(|number| format!("/{number}/x{{1000}}"))), "line 398: "),
    ];
    for (content, place) in refused {
        expect_refused(&repository, content.len(), Cursor::new(content.into_bytes()), place);
    }
    // One line.
    let size = 1 << 30;
    expect_refused(&repository, size, BufReader::new(std::io::repeat(b'a').take(size as u64)), "has 1073741824 bytes");
    assert!(peak_memory() < ALLOWED, "{} bytes of memory", peak_memory());

    let classes = (0..270).map(|number| format!("/{number}{}", "[^a]".repeat(550)));
    let literals = (0..250).map(|number| format!("/{number}{}", "a".repeat(1500)));
    let many = (0..7000).map(|number| format!("/b{number}"));
    let content = lines(&mut classes.chain(literals).chain(many));
    commit(&repository, content.len(), Cursor::new(content.into_bytes())).unwrap();
    assert!(peak_memory() < ALLOWED_AT_THE_LIMITS, "{} bytes of memory", peak_memory());
}

fn expect_refused(repository: &Store, size: usize, content: impl BufRead + Send, words: &str) {
    let found = failure(&commit(repository, size, content).expect_err(words));
    assert!(found.kind == FailureKind::Unsuitable && found.message.contains(words), "{found}");
}

/// Stores an image with these patterns.
fn commit(repository: &Store, size: usize, content: impl BufRead + Send) -> anyhow::Result<()> {
    let below = tar(&[dir("usr"), file("etc/selinux/config", "SELINUXTYPE=a\n")]);
    repository.import_layer(&sha256(&below), &below[..])?;
    let mut header = Vec::new();
    sized(&mut header, PATTERNS.as_bytes(), size as u64);
    let padding = size.next_multiple_of(512) - size + 1024;
    // A name; nobody here compares it with the bytes.
    let above = sha256(format!("{size}").as_bytes());
    repository.import_layer(&above, Cursor::new(header).chain(content).chain(Cursor::new(vec![0; padding])))?;
    let (manifest, config) = documents_of(&[(sha256(&below), below.len()), (above, size)]);
    repository.commit(&manifest, &config, None).map(drop)
}
