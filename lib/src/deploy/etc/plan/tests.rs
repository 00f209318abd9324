//! Trees as small maps, and every way in which three of them can differ.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::super::entry::Kind;
use super::*;

/// A tree in one line: `a` is a file, `a=x` one with other contents, `d/` a directory, `d/!700` one of that mode, `l->t` a link.
struct Small(BTreeMap<PathBuf, Entry>);

fn small(text: &str) -> Small {
    let mut entries = BTreeMap::from([(PathBuf::new(), entry("/").1)]);
    entries.extend(text.split_whitespace().map(entry));
    Small(entries)
}

fn entry(word: &str) -> (PathBuf, Entry) {
    let (word, mode) = word.split_once('!').map_or((word, None), |(w, m)| (w, Some(u32::from_str_radix(m, 8).unwrap())));
    let of = |kind, usual| Entry { kind, mode: mode.unwrap_or(usual), uid: 0, gid: 0, mtime: (1, 0), xattrs: BTreeMap::new() };
    let contents = |text: &str| Kind::File(std::array::from_fn(|i| text.as_bytes().get(i).copied().unwrap_or(0)));
    if let Some(path) = word.strip_suffix('/') {
        (path.into(), of(Kind::Directory, 0o755))
    } else if let Some((path, target)) = word.split_once("->") {
        (path.into(), of(Kind::Link(target.into()), 0o777))
    } else {
        let (path, text) = word.split_once('=').unwrap_or((word, ""));
        (path.into(), of(contents(text), 0o644))
    }
}

impl View for Small {
    fn entry(&self, path: &Path) -> Result<Option<Entry>> {
        Ok(self.0.get(path).cloned())
    }

    fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        let children = self.0.keys().filter(|p| p.parent() == Some(path));
        Ok(children.filter_map(|p| p.file_name()).map(OsString::from).collect())
    }
}

/// `a b/c` are touched names; `d*` came by a rename, `d!` is opaque.
fn touched(text: &str) -> Touched {
    let mut root = Touched::default();
    for word in text.split_whitespace() {
        let (path, mark) = match word.strip_suffix(['*', '!']) {
            Some(path) => (path, word.chars().last()),
            None => (word, None),
        };
        let mut at = &mut root;
        for part in path.split('/') {
            let Below::Names(names) = &mut at.below else { panic!("{word}") };
            at = names.entry(part.into()).or_default();
        }
        at.own = mark.is_some();
        if mark == Some('*') {
            at.below = Below::Anything;
        }
    }
    root
}

/// A plan in one line: `+file`, `-whiteout`, `dir/` with `!mode` where it is not 755, `dir/^` for opaque; then `?path:Clash`.
fn shown(plan: &Plan) -> String {
    let mut words = Vec::new();
    for action in &plan.actions {
        words.push(match action {
            Action::Whiteout { path } => format!("-{}", path.display()),
            Action::Put { path, entry } => match &entry.kind {
                Kind::Link(target) => format!("+{}->{}", path.display(), target.display()),
                Kind::File(bytes) => format!("+{}{}", path.display(), suffix(bytes)),
                other => panic!("{other:?}"),
            },
            Action::Directory { path, entry, opaque } => {
                let mode = if entry.mode == 0o755 { String::new() } else { format!("!{:o}", entry.mode) };
                format!("{}/{}{mode}", path.display(), if *opaque { "^" } else { "" })
            }
        });
    }
    words.extend(plan.conflicts.iter().map(|c| format!("?{}:{:?}", c.path.display(), c.what)));
    words.join(" ")
}

fn suffix(bytes: &[u8; 32]) -> String {
    let text: String = bytes.iter().take_while(|b| **b != 0).map(|b| *b as char).collect();
    if text.is_empty() { text } else { format!("={text}") }
}

#[track_caller]
fn check(cases: &[(&str, &str, &str, &str, &str)]) {
    for (base, local, new, names, expected) in cases {
        let plan = plan(&small(base), &small(local), &small(new), &touched(names)).unwrap();
        assert_eq!(shown(&plan), *expected, "base {base:?}, local {local:?}, new {new:?}, touched {names:?}");
    }
}

#[test]
fn nothing_local_gives_an_upper_with_the_image_s_metadata() {
    check(&[("", "", "", "", "/"), ("/", "/", "/!700", "", "/!700"), ("a", "a", "a=2 b", "", "/"), ("/", "/!750", "/", "", "/!750")]);
}

#[test]
fn files() {
    check(&[
        // Added here.
        ("", "a=1", "", "a", "/ +a=1"),
        ("", "a=1", "a=1", "a", "/"),
        ("", "a=1", "a=2", "a", "/ +a=1 ?a:BothAdded"),
        ("", "a=1", "a/ a/x", "a", "/ +a=1 ?a:Kinds"),
        // Changed here.
        ("a", "a=1", "a", "a", "/ +a=1"),
        ("a", "a=1", "a=1", "a", "/"),
        ("a", "a=1", "a=2", "a", "/ +a=1 ?a:BothChanged"),
        ("a", "a=1", "", "a", "/ +a=1 ?a:RemovedInImage"),
        ("a", "a=1", "a/ a/x", "a", "/ +a=1 ?a:Kinds"),
        ("a", "a!600", "a", "a", "/ +a"),
        ("a", "a->b", "a", "a", "/ +a->b"),
        ("l->a", "l->b", "l->c", "l", "/ +l->b ?l:BothChanged"),
        // Copied up without a change: the new image's.
        ("a", "a", "a=2", "a", "/"),
        ("a", "a", "", "a", "/"),
        // Deleted here.
        ("a", "", "a", "a", "/ -a"),
        ("a", "", "", "a", "/"),
        ("a", "", "a=2", "a", "/ -a ?a:RemovedHere"),
        ("a", "", "a/ a/x", "a", "/ -a ?a:RemovedHere"),
        // A whiteout for a name that no image has.
        ("", "", "", "a", "/"),
        ("", "", "a", "a", "/"),
    ]);
}

#[test]
fn directories_that_are_only_parents() {
    check(&[
        ("d/ d/a", "d/ d/a=1", "d/ d/a", "d/a", "/ d/ +d/a=1"),
        ("d/ d/a", "d/ d/a=1", "d/!700 d/a", "d/a", "/ d/!700 +d/a=1"),
        ("d/ d/a", "d/ d/a", "d/!700 d/a=2", "d/a", "/"),
        ("d/ d/a", "d/ d/a=1", "", "d/a", "/ d/ +d/a=1 ?d/a:RemovedInImage"),
        ("d/ d/a", "d/ d/a d/b", "", "d/b", "/ d/ +d/b"),
        ("d/ d/a", "d/ d/a d/b", "d", "d/b", "/ d/^ +d/b ?d:Kinds"),
        ("d/ d/a", "d/", "d/ d/a", "d/a", "/ d/ -d/a"),
        ("d/ d/a", "d/", "", "d/a", "/"),
    ]);
}

#[test]
fn directories_whose_metadata_changed() {
    check(&[
        ("d/", "d/!700", "d/", "d", "/ d/!700"),
        ("d/", "d/!700", "d/!700", "d", "/"),
        ("d/", "d/!700", "d/!750", "d", "/ d/!700 ?d:BothChanged"),
        ("d/", "d/!700", "", "d", "/ d/!700 ?d:RemovedInImage"),
        ("d/", "d/!700", "d", "d", "/ d/^!700 ?d:Kinds"),
    ]);
}

#[test]
fn directories_added_here() {
    check(&[
        ("", "d/ d/a", "", "d! d/a", "/ d/ +d/a"),
        ("", "d/", "", "d!", "/ d/"),
        // An overlay marks each directory that is made as opaque; that hides nothing of an image that brings it later.
        ("", "d/ d/a", "d/ d/b", "d! d/a", "/ d/ +d/a"),
        ("", "d/ d/a", "d/ d/a", "d! d/a", "/"),
        ("", "d/!700", "d/", "d!", "/ d/!700 ?d:BothAdded"),
        ("", "d/ d/a", "d", "d! d/a", "/ d/^ +d/a ?d:Kinds"),
    ]);
}

#[test]
fn directories_replaced_here() {
    check(&[
        // rm -r d; mkdir d
        ("d/ d/a", "d/ d/b", "d/ d/a", "d! d/b", "/ d/^ +d/b"),
        ("d/ d/a", "d/ d/a", "d/ d/a", "d! d/a", "/ d/^ +d/a"),
        ("d/ d/a", "d/ d/b", "d/ d/a=2", "d! d/b", "/ d/^ +d/b ?d:RemovedHere"),
        ("d/ d/a", "d/ d/b", "", "d! d/b", "/ d/ +d/b ?d:RemovedHere"),
        ("d/ d/a", "d/ d/e/ d/e/f", "d/ d/a", "d! d/e! d/e/f", "/ d/^ d/e/ +d/e/f"),
        // rm -r d; touch d
        ("d/ d/a", "d", "d/ d/a", "d", "/ +d"),
        ("d/ d/a", "d", "d/ d/a d/b", "d", "/ +d ?d:RemovedHere"),
        ("d/ d/a", "d", "d", "d", "/"),
        ("d/ d/a", "d", "d=2", "d", "/ +d ?d:RemovedHere"),
        // rm a; mkdir a
        ("a", "a/ a/x", "a", "a! a/x", "/ a/^ +a/x"),
        ("a", "a/ a/x", "a=2", "a! a/x", "/ a/^ +a/x ?a:RemovedHere"),
        ("a", "a/ a/x", "a/ a/y", "a! a/x", "/ a/ +a/x"),
        // rm -r d
        ("d/ d/a", "", "d/ d/a", "d", "/ -d"),
        ("d/ d/a", "", "d/ d/a d/b", "d", "/ -d ?d:RemovedHere"),
        ("d/ d/a", "", "", "d", "/"),
    ]);
}

#[test]
fn directories_renamed_here() {
    check(&[
        // mv d e: all that e has is local, whatever the upper directory has of it.
        ("d/ d/a d/b=1", "e/ e/a e/b=1", "d/ d/a d/b=2", "d e*", "/ -d e/ +e/a +e/b=1 ?d:RemovedHere"),
        ("d/ d/a", "e/ e/a", "d/ d/a e/ e/a e/z", "d e*", "/ -d"),
        ("d/ d/s/ d/s/a", "e/ e/s/ e/s/a", "d/ d/s/ d/s/a", "d e*", "/ -d e/ e/s/ +e/s/a"),
        // mv d e, where the image has another e.
        ("d/ d/a e/ e/old", "e/ e/a", "d/ d/a e/ e/old", "d e*", "/ -d e/^ +e/a"),
    ]);
}

#[test]
fn what_is_made_from_the_image_stays_behind() {
    check(&[
        ("", ".updated=1 a", "", ".updated a", "/ +a"),
        ("", "d/ d/.updated", "", "d! d/.updated", "/ d/ +d/.updated"),
        ("ld.so.cache", "ld.so.cache=1", "ld.so.cache=2", "ld.so.cache", "/"),
        ("udev/", "udev/ udev/hwdb.bin udev/udev.conf", "udev/", "udev/hwdb.bin udev/udev.conf", "/ udev/ +udev/udev.conf"),
    ]);
}

#[test]
fn time_alone_is_no_change() {
    let (base, mut local) = (small("a d/"), small("a d/"));
    for entry in local.0.values_mut() {
        entry.mtime = (2, 0);
    }
    let plan = plan(&base, &local, &small("a=2 d/!700"), &touched("a d")).unwrap();
    assert_eq!(shown(&plan), "/");
}

#[test]
fn conflicts_say_where_and_what() {
    let conflict = Conflict { path: "ssh/sshd_config".into(), what: Clash::BothChanged };
    assert_eq!(conflict.to_string(), "/etc/ssh/sshd_config: changed here, and differently in the new image; kept as it was here");
}
