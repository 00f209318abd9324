//! `docs/json.md` lists the fields of every report as the sources say them: this writes the list from the doc comments of the types that `--json` prints, and fails where
//! the page has another. `SELKIE_DOCS=write cargo test -p selkie-cli --test json_docs` renews the page.

mod page;
mod types;

use std::path::Path;

use types::{Key, Types};

/// What is above this line is written by hand.
const MARK: &str = "<!-- The rest is written from the sources: see cli/tests/json_docs -->";

/// What each verb prints, by module and type.
const REPORTS: &[(&str, &str, &str)] = &[
    ("status", "ops::status", "Status"),
    ("list", "ops::list", "List"),
    ("diff", "ops::diff", "Report"),
    ("diff IMAGE", "ops::preview", "Report"),
    ("upgrade", "ops::upgrade", "Report"),
    ("switch", "ops::upgrade", "Report"),
    ("rollback", "ops::rollback", "Report"),
    ("boot-once", "ops::boot_once", "Report"),
    ("pin", "ops::pin", "Report"),
    ("unpin", "ops::pin", "Report"),
    ("gc", "ops::gc", "Report"),
    ("gc --repo", "ops::gc", "Swept"),
    ("esp list", "ops::esp", "List"),
    ("esp add", "ops::esp", "Changed"),
    ("esp remove", "ops::esp", "Changed"),
    ("esp sync", "ops::esp", "Synced"),
    ("loader update", "ops::loader", "Report"),
    ("auto-update", "ops::auto_update", "Report"),
    ("config show", "ops::config", "Report"),
    ("health", "ops::health", "Report"),
    ("pull", "ops::pull", "Pulled"),
    ("untag", "ops::untag", "Report"),
    ("seal", "ops::seal", "Report"),
    ("rechunk", "ops::rechunk", "Report"),
    ("delta", "ops::delta", "Report"),
    ("digest", "ops::digest", "Digests"),
    ("disk", "ops::disk", "Report"),
    ("lint", "ops::lint", "Report"),
    ("verify", "ops::verify", "Report"),
    ("fsck", "ops::fsck::report", "Report"),
];

fn source(relative: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(relative)
}

#[test]
fn the_page_says_what_the_sources_say() {
    let types = Types::read(&source("lib/src"));
    let reports: Vec<(&str, Key)> = REPORTS.iter().map(|(verb, module, name)| (*verb, types.key(module, name))).collect();
    let path = source("docs/json.md");
    let found = std::fs::read_to_string(&path).unwrap();
    let (by_hand, rest) = found.split_once(MARK).expect("the mark in docs/json.md");
    let expected = format!("\n\n{}", page::write(&types, &reports));
    if std::env::var_os("SELKIE_DOCS").is_some_and(|value| value == "write") {
        std::fs::write(&path, format!("{by_hand}{MARK}{expected}")).unwrap();
        return;
    }
    let differs = rest.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(rest == expected, "docs/json.md is not what the sources say; see the top of this test. It first differs here: {differs:#?}");
}

#[test]
fn every_verb_is_on_the_page() {
    let text = std::fs::read_to_string(source("cli/src/main.rs")).unwrap();
    let verbs = types::variants(&text, "Verb");
    assert!(verbs.len() > 20, "{verbs:?}");
    for verb in verbs {
        let listed = |(name, ..): &&(&str, &str, &str)| name.split(' ').next() == Some(&*verb);
        assert!(REPORTS.iter().any(|report| listed(&report)), "selkie {verb} is missing in REPORTS");
    }
}
