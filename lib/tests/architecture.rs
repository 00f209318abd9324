//! The map of the code, enforced: which module may use which, how long a file may be, and what may stand only in one place.
//! `ARCHITECTURE.md` tells the same in words.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every module of the library, and the modules that it may use. A module that is not here fails the test.
const ALLOWED: &[(&str, &[&str])] = &[
    // Words: pure types, no input or output.
    ("calendar", &[]),
    ("cmdline", &["image_id"]),
    ("config", &[]),
    ("error", &[]),
    ("finding", &[]),
    ("image_id", &[]),
    ("kargs", &["cmdline"]),
    ("listing", &[]),
    ("origin", &["image_id", "record"]),
    ("os_release", &[]),
    ("packages", &[]),
    ("progress", &[]),
    ("record", &[]),
    ("reference", &["error"]),
    ("uki", &["cmdline", "os_release"]),
    // The edge.
    ("sys", &["error", "image_id"]),
    // Owners: each owns one place, and they never use each other.
    ("boot", &["cmdline", "error", "finding", "image_id", "progress", "sys", "uki"]),
    ("deploy", &["error", "image_id", "origin", "progress", "record", "sys"]),
    ("disk", &["calendar", "error", "image_id", "progress", "sys"]),
    ("image", &["calendar", "error", "listing", "progress", "reference", "sys"]),
    ("signing", &["error", "sys", "uki"]),
    ("store", &["cmdline", "error", "finding", "image_id", "kargs", "listing", "os_release", "progress", "sys", "uki"]),
    // The machine as it is.
    ("lint", &["cmdline", "config", "error", "image_id", "kargs", "os_release", "store", "sys", "uki"]),
    ("system", &["boot", "cmdline", "deploy", "error", "image_id", "origin", "record"]),
    // The verbs: owners meet here and nowhere else.
    (
        "ops",
        &[
            "boot",
            "calendar",
            "cmdline",
            "config",
            "deploy",
            "disk",
            "error",
            "finding",
            "image",
            "image_id",
            "kargs",
            "lint",
            "origin",
            "os_release",
            "packages",
            "progress",
            "record",
            "reference",
            "signing",
            "store",
            "sys",
            "system",
            "uki",
        ],
    ),
];

/// Lines before a file's tests.
const LONGEST: usize = 400;

/// Words that may stand only in the files named; elsewhere they break a rule of the map.
const HOMES: &[(&str, &str, &[&str])] = &[
    ("unsafe ", "unsafe code lives in sys/", &["lib/src/sys/"]),
    ("Command::new", "child processes are started in sys/process.rs", &["lib/src/sys/process.rs"]),
    (
        "env::var",
        "nobody reads the environment but clap, and sys/process.rs for what foreign programs read there",
        &["lib/src/sys/process.rs"],
    ),
    ("env::args", "arguments are parsed by clap, and by hand in the initramfs", &["cli/src/bin/"]),
    ("temp_dir()", "where temporaries go is the caller's to say", &[]),
    ("process::exit", "only main ends the process", &[]),
    (
        "println!",
        "the library is mute, and the command prints in output.rs and progress.rs",
        &["cli/src/output.rs", "cli/src/progress.rs", "cli/src/bin/"],
    ),
    (
        "eprint",
        "the library is mute, and the command prints in output.rs and progress.rs",
        &["cli/src/output.rs", "cli/src/progress.rs", "cli/src/bin/"],
    ),
    ("todo!(", "unfinished code is not committed", &[]),
    ("unimplemented!(", "unfinished code is not committed", &[]),
];

#[test]
fn modules_use_only_what_the_map_allows() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for file in sources("lib/src") {
        let relative = file.strip_prefix(root().join("lib/src")).unwrap();
        let module = relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let Some(edges) = allowed.get(module) else {
            wrong.push(format!("{}: module {module} is not on the map", relative.display()));
            continue;
        };
        let code = code(&file);
        for hidden in hidden_uses(&code, relative) {
            wrong.push(format!("{}: {hidden}", relative.display()));
        }
        for used in uses(&code) {
            if used != module && !edges.contains(&used.as_str()) {
                wrong.push(format!("{}: {module} may not use {used}", relative.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_map_itself_has_no_circle() {
    let order: Vec<&str> = ALLOWED.iter().map(|(module, _)| *module).collect();
    let words = order.iter().position(|m| *m == "sys").unwrap();
    for (place, (module, edges)) in ALLOWED.iter().enumerate() {
        for edge in *edges {
            let of_edge = order.iter().position(|m| m == edge).unwrap_or_else(|| panic!("{edge} is not on the map"));
            // Words stand in alphabetical order and may use each other; from sys on, an edge only points upwards.
            assert!(of_edge < place || place < words, "{module} -> {edge}");
        }
    }
}

#[test]
fn files_are_short() {
    let long: Vec<String> = sources("lib/src")
        .into_iter()
        .chain(sources("cli/src"))
        .chain(sources("integration/src"))
        .map(|file| (code(&file).lines().count(), file))
        .filter(|(lines, _)| *lines > LONGEST)
        .map(|(lines, file)| format!("{}: {lines} lines before its tests (at most {LONGEST})", file.display()))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn words_stay_in_their_homes() {
    let mut wrong = Vec::new();
    for file in sources("lib/src").into_iter().chain(sources("cli/src")) {
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        let code = code(&file);
        for (word, rule, homes) in HOMES {
            let at_home = homes.iter().any(|home| name.starts_with(home));
            for (number, line) in code.lines().enumerate().filter(|(_, l)| !at_home && uncommented(l).contains(word)) {
                wrong.push(format!("{name}:{}: {rule}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every Rust file below a folder of the workspace, but for tests and what calls readers of foreign bytes with bytes that are made up.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.file_stem().is_some_and(|name| name == "fuzz" || name == "tests") {
                continue;
            }
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {folder}");
    found.sort();
    found
}

/// A file up to its tests.
fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).collect::<Vec<_>>().join("\n")
}

/// A line without its comment. String literals with `//` in them lose their tail, which hides no word of interest.
fn uncommented(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// Ways to use a module that [`uses`] would not see.
fn hidden_uses(code: &str, file: &Path) -> Vec<String> {
    // `boot/mod.rs` is the module `boot`, as `boot.rs` would be: what lies above it is the crate.
    let top = file.components().count() == 1 || (file.components().count() == 2 && file.ends_with("mod.rs"));
    let upwards = if top { "super::" } else { "super::super::" };
    ["crate::{", "crate::*", upwards]
        .into_iter()
        .filter(|way| code.lines().any(|l| uncommented(l).contains(way)))
        .map(|way| format!("write crate::module::… instead of {way}"))
        .collect()
}

/// The first segment of every `crate::…` path.
fn uses(code: &str) -> Vec<String> {
    let mut found: Vec<String> = code
        .lines()
        .map(uncommented)
        .flat_map(|line| line.split("crate::").skip(1).map(str::to_owned).collect::<Vec<_>>())
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect())
        .filter(|name: &String| !name.is_empty())
        .collect();
    found.sort();
    found.dedup();
    found
}
