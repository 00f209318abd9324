//! Layers become trees by the OCI rules: tables, a property over random layers, and hand-written trees, against an
//! independent reading of the same bytes.

mod store_common;

use selkie::error::{Failure, FailureKind};
use selkie::store::{Content, NodeKind};
use store_common::{Entry, Flat, FlatKind, FlatTree, Kind, reference, tar, *};

/// A name, layers on top of the base, and all paths of the result except the base's.
type Case = (&'static str, Vec<Vec<Entry>>, Vec<&'static str>);

fn table() -> Vec<Case> {
    let long = "n".repeat(200);
    let deep: &'static str = Box::leak(format!("{long}/{long}").into_boxed_str());
    let deep_dir: &'static str = Box::leak(long.into_boxed_str());
    vec![
        ("whiteout", vec![vec![dir("a"), file("a/x", "1"), file("a/y", "2")], vec![dir("a"), file("a/.wh.x", "")]], vec!["a", "a/y"]),
        ("whiteout of a directory", vec![vec![dir("a"), file("a/x", "1")], vec![file(".wh.a", "")]], vec![]),
        ("whiteout of nothing", vec![vec![file(".wh.a", ""), file("b/.wh.c", "")]], vec![]),
        ("whiteout after its own layer's entry", vec![vec![file("x", "1")], vec![file("x", "2"), file(".wh.x", "")]], vec!["x"]),
        ("whiteout before its own layer's entry", vec![vec![file("x", "1")], vec![file(".wh.x", ""), file("x", "2")]], vec!["x"]),
        (
            "whiteout of a directory that the layer has too",
            vec![vec![dir("a"), file("a/x", "1")], vec![dir("a"), file("a/y", "2"), file(".wh.a", "")]],
            vec!["a", "a/y"],
        ),
        ("whiteouts below a whiteout", vec![vec![dir("a"), file("a/x", "1")], vec![file(".wh.a", ""), file("a/.wh.x", "")]], vec![]),
        (
            "opaque first",
            vec![vec![dir("a"), file("a/x", "1")], vec![dir("a"), file("a/.wh..wh..opq", ""), file("a/y", "2")]],
            vec!["a", "a/y"],
        ),
        (
            "opaque last",
            vec![vec![dir("a"), file("a/x", "1")], vec![dir("a"), file("a/y", "2"), file("a/.wh..wh..opq", "")]],
            vec!["a", "a/y"],
        ),
        (
            "opaque is deep",
            vec![vec![dir("a"), dir("a/b"), file("a/b/x", "1")], vec![dir("a"), file("a/.wh..wh..opq", ""), dir("a/b")]],
            vec!["a", "a/b"],
        ),
        ("directory over file", vec![vec![file("a", "1")], vec![dir("a"), file("a/x", "2")]], vec!["a", "a/x"]),
        ("file over directory", vec![vec![dir("a"), file("a/x", "2")], vec![file("a", "1")]], vec!["a"]),
        ("link over directory", vec![vec![dir("a"), file("a/x", "2")], vec![symlink("a", "usr")]], vec!["a"]),
        ("directory over link", vec![vec![symlink("a", "usr")], vec![dir("a"), file("a/x", "2")]], vec!["a", "a/x"]),
        (
            "directory over directory",
            vec![vec![dir("a").mode(0o700), file("a/x", "1")], vec![dir("a").mode(0o1777).owner(3, 4)]],
            vec!["a", "a/x"],
        ),
        ("missing parents", vec![vec![file("a/b/c", "1")]], vec!["a", "a/b", "a/b/c"]),
        ("parents from below keep their metadata", vec![vec![dir("a").mode(0o1777)], vec![file("a/x", "1")]], vec!["a", "a/x"]),
        (
            "through a link of the same layer",
            vec![vec![symlink("lib", "usr/lib"), file("lib/x", "1")]],
            vec!["lib", "usr/lib", "usr/lib/x"],
        ),
        (
            "a link that gives way to what is reached through it",
            vec![vec![dir("a"), symlink("a/l", "."), dir("a/l/l"), file("a/l/x", "1")]],
            vec!["a", "a/l", "a/l/x"],
        ),
        (
            "a link whose way changes by what is put through it",
            vec![vec![dir("o"), dir("o/d"), symlink("l", "s/.."), symlink("l/s", "o/d"), file("l/x", "1")]],
            vec!["l", "o", "o/d", "o/x", "s"],
        ),
        ("in the place of a link below", vec![vec![symlink("lib", "usr")], vec![file("lib/x", "1")]], vec!["lib", "lib/x"]),
        ("links up and from the root", vec![vec![dir("a"), symlink("a/l", "../../b/."), file("a/l/x", "1")]], vec!["a", "a/l", "b", "b/x"]),
        ("hard link", vec![vec![file("x", "1"), hardlink("y", "x"), hardlink("z", "./y")]], vec!["x", "y", "z"]),
        ("hard link across layers", vec![vec![file("x", [7; 100])], vec![hardlink("y", "x")]], vec!["x", "y"]),
        ("hard link to what the layer hides", vec![vec![file("x", [7; 100])], vec![file(".wh.x", ""), hardlink("y", "x")]], vec!["y"]),
        ("hard link to a symbolic link", vec![vec![symlink("x", "usr"), hardlink("y", "/x")]], vec!["x", "y"]),
        ("one of two names replaced", vec![vec![file("x", "1"), hardlink("y", "x")], vec![file("x", "2")]], vec!["x", "y"]),
        ("the last of one name", vec![vec![file("x", "1"), file("x", "2"), dir("x"), file("x", "3")]], vec!["x"]),
        ("file, then directory", vec![vec![dir("a"), file("a/x", "1")], vec![file("a", "2"), dir("a")]], vec!["a"]),
        ("odd names", vec![vec![dir("./a//"), file("/a/./b", "1"), file("a/../c", "2"), dir("./").mode(0o700)]], vec!["a", "a/b", "c"]),
        (
            "sizes",
            vec![vec![file("e", ""), file("f", [1; 64]), file("g", [1; 65]), file("h", [1; 512]), file("i", [1; 513])]],
            vec!["e", "f", "g", "h", "i"],
        ),
        ("long names", vec![vec![file(deep, "1"), symlink("l", deep), hardlink("m", deep)]], vec!["l", "m", deep_dir, deep]),
        (
            "special files",
            vec![vec![
                special("c", Kind::Char(1, 3)),
                special("b", Kind::Block(8, 1)),
                special("f", Kind::Fifo),
                special("w", Kind::Char(0, 0)),
            ]],
            vec!["b", "c", "f", "w"],
        ),
        ("set-user-ID and owners", vec![vec![file("x", "1").mode(0o6755).owner(65_534, 100_000), dir("d").mode(0o3775)]], vec!["d", "x"]),
        (
            "times",
            vec![vec![file("x", "1").mtime(1, 1), file("y", "1").mtime(1_700_000_000, 123_456_789), file("z", "1").mtime(0, 0)]],
            vec!["x", "y", "z"],
        ),
        (
            "attributes",
            vec![vec![
                file("x", "1").xattr("security.capability", &[1, 0, 0, 2, 0, 4, 0, 0]).xattr("user.gone", b"1"),
                file("y", "").xattr("security.selinux", b"a"),
            ]],
            vec!["x", "y"],
        ),
        ("/run is emptied", vec![vec![dir("run").mode(0o700), dir("run/lock"), file("run/.containerenv", [1; 100])]], vec!["run"]),
        ("names of AUFS", vec![vec![dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "1"), file("x", "1")]], vec!["x"]),
        ("an empty layer", vec![vec![]], vec![]),
    ]
}

#[test]
fn trees_are_those_of_an_independent_reading() {
    let temp = temporary();
    let repository = repository(&temp);
    for (name, stack, mut expected) in table() {
        let layers = with_base(stack);
        let found = tree(&repository, &layers).unwrap_or_else(|e| panic!("{name}: {e:#}"));
        assert_eq!(found, reference::image(&layers).unwrap(), "{name}");
        expected.extend(["", "usr", "boot", "sysroot"]);
        expected.sort_unstable();
        let paths: Vec<_> = found.keys().map(|path| String::from_utf8(path.clone()).unwrap()).collect();
        assert_eq!(paths, expected, "{name}");
    }
}

#[test]
fn names_are_bytes() {
    let temp = temporary();
    let repository = repository(&temp);
    let mut long = vec![0xff; 150];
    long.extend(b"/\xfe\"\\");
    let layers = with_base(vec![vec![file(&long, "1"), symlink(b"\x80", b"\x81"), file("caf\u{e9}".as_bytes(), "")]]);
    let found = tree(&repository, &layers).unwrap();
    assert_eq!(found, reference::image(&layers).unwrap());
    assert_eq!(found[&long].kind, FlatKind::File(b"1".to_vec()));
    assert_eq!(found[&b"\x80"[..]].kind, FlatKind::Symlink(b"\x81".to_vec()));
    // A newline in a PAX record is more than the `tar` crate can read.
    let newline = [&long[..], b"\n"].concat();
    let found = tree(&repository, &with_base(vec![vec![file(&newline, "1")]])).unwrap();
    assert_eq!(found[&newline].kind, FlatKind::File(b"1".to_vec()));
}

#[test]
fn gnu_long_names_are_read() {
    let temp = temporary();
    let repository = repository(&temp);
    let long = format!("usr/{}/{}", "a".repeat(120), "b".repeat(120));
    let mut builder = ::tar::Builder::new(Vec::new());
    let mut header = ::tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(7);
    header.set_uid(3);
    header.set_gid(4);
    header.set_size(2);
    builder.append_data(&mut header, &long, &b"hi"[..]).unwrap();
    let mut header = ::tar::Header::new_gnu();
    header.set_entry_type(::tar::EntryType::Symlink);
    header.set_mode(0o777);
    header.set_mtime(8);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    builder.append_link(&mut header, "link", &long).unwrap();
    let layers = vec![tar(&base()), builder.into_inner().unwrap()];
    let found = tree(&repository, &layers).unwrap();
    assert_eq!(found, reference::image(&layers).unwrap());
    assert_eq!(found[long.as_bytes()].kind, FlatKind::File(b"hi".to_vec()));
}

#[test]
fn a_hand_written_tree() {
    let temp = temporary();
    let repository = repository(&temp);
    let layers = with_base(vec![
        vec![dir("etc").mode(0o750).owner(1, 2).mtime(10, 0), file("etc/a", "old").mtime(11, 0), file("etc/b", "kept").mtime(12, 0)],
        vec![file("etc/.wh.a", ""), hardlink("etc/c", "etc/b").mode(0o777).mtime(99, 0), file("opt/x/y", "new").mtime(13, 7)],
    ]);
    let node = |mode, owner, mtime, kind, same_as: &str| Flat {
        mode,
        owner,
        mtime,
        xattrs: Default::default(),
        kind,
        same_as: same_as.as_bytes().to_vec(),
    };
    let expected: FlatTree = [
        ("", node(0o755, (0, 0), (1_600_000_000, 5), FlatKind::Dir, "")),
        ("boot", node(0o755, (0, 0), (1_700_000_000, 0), FlatKind::Dir, "boot")),
        ("etc", node(0o750, (1, 2), (10, 0), FlatKind::Dir, "etc")),
        ("etc/b", node(0o644, (0, 0), (12, 0), FlatKind::File(b"kept".to_vec()), "etc/b")),
        ("etc/c", node(0o644, (0, 0), (12, 0), FlatKind::File(b"kept".to_vec()), "etc/b")),
        ("opt", node(0o755, (0, 0), (0, 0), FlatKind::Dir, "opt")),
        ("opt/x", node(0o755, (0, 0), (0, 0), FlatKind::Dir, "opt/x")),
        ("opt/x/y", node(0o644, (0, 0), (13, 7), FlatKind::File(b"new".to_vec()), "opt/x/y")),
        ("sysroot", node(0o755, (0, 0), (1_700_000_000, 0), FlatKind::Dir, "sysroot")),
        ("usr", node(0o755, (0, 0), (1_600_000_000, 5), FlatKind::Dir, "usr")),
    ]
    .into_iter()
    .map(|(path, node)| (path.as_bytes().to_vec(), node))
    .collect();
    assert_eq!(tree(&repository, &layers).unwrap(), expected);
}

#[test]
fn whiteouts_follow_links_of_their_own_layer() {
    let temp = temporary();
    let repository = repository(&temp);
    let layers = with_base(vec![
        vec![file("usr/x", "1"), file("usr/y", "2"), dir("opt"), file("opt/z", "3")],
        vec![symlink("a", "usr"), file("a/.wh.x", ""), file("f", ""), file("f/.wh.z", ""), symlink("o", "opt"), file("o/.wh..wh..opq", "")],
    ]);
    let found = tree(&repository, &layers).unwrap();
    let paths: Vec<_> = found.keys().map(|path| String::from_utf8(path.clone()).unwrap()).collect();
    assert_eq!(paths, ["", "a", "boot", "f", "o", "opt", "sysroot", "usr", "usr/y"]);
}

#[test]
fn the_boot_image_has_empty_mount_points() {
    let temp = temporary();
    let repository = repository(&temp);
    // The entry names a kernel that is not in the image, which the library refuses to read.
    let conf = file("boot/loader/entries/a.conf", "linux /missing\n");
    let layers = vec![tar(&[dir("usr").mtime(5, 6), dir("boot").mode(0o700), conf, file("boot/x", [1; 100])])];
    let stored = store(&repository, &layers, None).unwrap();
    let plain = flatten(&repository.tree(&stored.image).unwrap());
    let boot = flatten(&repository.tree(&stored.boot_image).unwrap());
    let paths = |tree: &FlatTree| tree.keys().map(|path| String::from_utf8(path.clone()).unwrap()).collect::<Vec<_>>();
    assert_eq!(paths(&plain), ["", "boot", "boot/loader", "boot/loader/entries", "boot/loader/entries/a.conf", "boot/x", "usr"]);
    assert_eq!(paths(&boot), ["", "boot", "sysroot", "usr"]);
    assert_eq!((boot[&b"boot"[..]].mode, boot[&b"boot"[..]].mtime), (0o700, (5, 6)));
    assert_eq!((boot[&b"sysroot"[..]].mode, boot[&b"sysroot"[..]].mtime), (0o755, (5, 6)));
}

#[test]
fn what_cannot_be_a_root_is_refused() {
    let temp = temporary();
    let repository = repository(&temp);
    let deep = "d/".repeat(600);
    let cases: Vec<(Vec<Vec<Entry>>, &str)> = vec![
        (vec![vec![dir("etc")]], "no /usr"),
        (vec![vec![symlink("usr", "x")]], "/usr is not a directory"),
        (vec![base(), vec![symlink("run", "var")]], "run"),
        (vec![vec![dir("usr"), file("boot", "")]], "/boot is not a directory"),
        (vec![vec![dir("usr"), symlink("sysroot", "x")]], "/sysroot is not a directory"),
        (vec![base(), vec![file("../x", "")]], "entry /../x: its name leads out of the root"),
        (vec![base(), vec![file("usr/../../x", "")]], "leads out of the root"),
        (vec![base(), vec![file(".", "")]], "the root is not a directory"),
        (vec![base(), vec![file("x".repeat(256), "")]], "longer than Linux allows"),
        (vec![base(), vec![dir(&deep)]], "more than 512 directories"),
        (vec![base(), vec![hardlink("a", "b")]], "hard link to \"/b\", which is in neither this layer nor one below"),
        (vec![base(), vec![hardlink("a", "usr")]], "which is a directory"),
        (vec![base(), vec![file("a", ""), file("a/b", "")]], "its parent \"a\" is not a directory"),
        (vec![base(), vec![symlink("a", "b"), symlink("b", "a"), file("a/b", "")]], "circles"),
        (vec![base(), vec![symlink("a", "")]], "its target is empty"),
        (vec![base(), vec![dir("etc"), dir("etc/selinux"), file("etc/selinux/config", "SELINUXTYPE=gone\n")]], "preparing the boot image"),
    ];
    for (stack, words) in cases {
        let layers: Vec<_> = stack.iter().map(|layer| tar(layer)).collect();
        let error = tree(&repository, &layers).expect_err(words);
        let found = failure(&error);
        assert_eq!(found.kind, FailureKind::Unsuitable, "{error:#}");
        assert!(found.message.contains(words), "{words}: {found}");
    }
}

#[test]
fn sparse_files_are_refused_with_advice() {
    let temp = temporary();
    let repository = repository(&temp);
    let mut old = Vec::new();
    block(&mut old, b'S', b"x", b"", b"", 0o644, (0, 0), 0, (0, 0));
    // The fields of a GNU sparse header are only read under GNU's magic.
    old[257..265].copy_from_slice(b"ustar  \0");
    old[386..482].fill(0);
    old[483..495].copy_from_slice(b"00000001000\0");
    old[148..156].fill(b' ');
    let sum: u32 = old[..512].iter().map(|b| u32::from(*b)).sum();
    old[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    old.resize(old.len() + 1024, 0);

    let mut pax = Vec::new();
    let records = [record("GNU.sparse.major", b"1"), record("GNU.sparse.minor", b"0"), record("GNU.sparse.realsize", b"4096")].concat();
    block(&mut pax, b'x', b"pax", b"", &records, 0o644, (0, 0), 0, (0, 0));
    block(&mut pax, b'0', b"x", b"", &[b"0\n".as_slice(), &[0; 510]].concat(), 0o644, (0, 0), 0, (0, 0));
    pax.resize(pax.len() + 1024, 0);

    for layer in [old, pax] {
        let error = repository.import_layer(&sha256(&layer), &layer[..]).unwrap_err();
        let found = failure(&error);
        assert_eq!(found.kind, FailureKind::Unsuitable, "{error:#}");
        assert!(found.hint.as_deref().is_some_and(|hint| hint.contains("sparse")), "{error:#}");
        assert!(!repository.has_layer(&sha256(&layer)).unwrap());
    }
}

/// A sparse file whose map has no end: the library asks for what it has got, for ever.
#[test]
fn a_header_that_never_ends_is_refused() {
    let temp = temporary();
    let repository = repository(&temp);
    let mut layer = Vec::new();
    let records = [record("GNU.sparse.major", b"1"), record("GNU.sparse.minor", b"0"), record("GNU.sparse.realsize", b"9")].concat();
    block(&mut layer, b'x', b"pax", b"", &records, 0o644, (0, 0), 0, (0, 0));
    block(&mut layer, b'0', b"usr/x", b"", &[b'1'; 4096], 0o644, (0, 0), 0, (0, 0));
    layer.resize(layer.len() + 1024, 0);
    let layer = [tar(&base())[..1536].to_vec(), layer].concat();
    let error = repository.import_layer(&sha256(&layer), &layer[..]).unwrap_err();
    let found = failure(&error);
    assert_eq!((found.kind, &*found.message), (FailureKind::Unsuitable, "reading its tar stream: a header that does not end"), "{error:#}");
    assert!(!repository.has_layer(&sha256(&layer)).unwrap());
}

/// Some bytes, then others for ever.
struct Endless {
    first: Vec<u8>,
    again: Vec<u8>,
    given: u64,
}

impl std::io::BufRead for Endless {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        assert!(self.given < 8 << 30, "it is read for ever");
        let given = self.given as usize;
        let after = |first: usize| &self.again[(given - first) % self.again.len()..];
        Ok(self.first.get(given..).filter(|rest| !rest.is_empty()).unwrap_or_else(|| after(self.first.len())))
    }

    fn consume(&mut self, amount: usize) {
        self.given += amount as u64;
    }
}

impl std::io::Read for Endless {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = std::io::Read::read(&mut std::io::BufRead::fill_buf(self)?, buf)?;
        std::io::BufRead::consume(self, read);
        Ok(read)
    }
}

#[test]
fn a_tar_that_never_ends_is_refused() {
    const MIB: usize = 1 << 20;
    let mut huge = Vec::new();
    sized(&mut huge, b"usr/big", 1 << 60);
    let mut directory = Vec::new();
    block(&mut directory, b'5', b"d", b"", &[0; MIB], 0o755, (0, 0), 0, (0, 0));
    let table = [
        (
            "a huge file",
            huge,
            vec![0; MIB],
            "entry usr/big: a layer of 1152921504606847488 bytes and more (expected at most 1099511627776)",
        ),
        ("headers", vec![], directory, "more than 268435456 bytes of headers and small files without another file"),
        ("zeros after the end", tar(&[file("a", [1; 100])]), vec![0; MIB], "more than 16777216 bytes after the end of the archive"),
    ];
    for (name, first, again, expected) in table {
        let temp = temporary();
        let repository = repository(&temp);
        let (mut layer, diff_id) = (Endless { first, again, given: 0 }, sha256(name.as_bytes()));
        let error = repository.import_layer(&diff_id, &mut layer).unwrap_err();
        let found = failure(&error);
        assert_eq!((found.kind, found.message), (FailureKind::Unsuitable, format!("reading its tar stream: {expected}")), "{name}");
        assert!(error.is::<selkie::store::Unproven>(), "{name}: {error:#}");
        // What was wrong may be its digest: so much is read for that.
        assert!(layer.given < (4 << 30) + (300 << 20), "{name}: {} bytes", layer.given);
        assert!(!repository.has_layer(&diff_id).unwrap(), "{name}");
    }
}

#[test]
fn unknown_entries_are_refused() {
    let temp = temporary();
    let repository = repository(&temp);
    let mut layer = Vec::new();
    block(&mut layer, b'V', b"volume", b"", b"", 0o644, (0, 0), 0, (0, 0));
    layer.resize(layer.len() + 1024, 0);
    let error = tree(&repository, &[tar(&base()), layer]).unwrap_err();
    assert_eq!(failure(&error).kind, FailureKind::Unsuitable, "{error:#}");
}

/// Fails with `error` at the end, like a reader that proves its digest.
struct Unproven<'b> {
    bytes: &'b [u8],
    error: Failure,
}

impl std::io::Read for Unproven<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.bytes.is_empty() {
            return Err(std::io::Error::other(self.error.clone()));
        }
        let n = self.bytes.len().min(buf.len()).min(1000);
        self.bytes.read(&mut buf[..n])
    }
}

#[test]
fn a_layer_that_is_not_proven_is_not_there() {
    let temp = temporary();
    let repository = repository(&temp);
    let whole = tar(&[file("a", [1; 5000]), file("b", [2; 70])]);
    let mut damaged = whole.clone();
    damaged[5700] ^= 1; // in the second header, so that it is bad tar too
    let error = Failure::new(FailureKind::Corrupt, "layer has another digest");
    for bytes in [&whole[..], &whole[..3000], &whole[..5632], &damaged[..]] {
        let reader = std::io::BufReader::new(Unproven { bytes, error: error.clone() });
        let found = repository.import_layer(&sha256(&whole), reader).unwrap_err();
        assert_eq!(failure(&found), error, "{found:#}");
        assert!(!repository.has_layer(&sha256(&whole)).unwrap());
    }
    // Bytes that are proven and still no tar.
    for bytes in [&whole[..3000], &damaged[..]] {
        let found = repository.import_layer(&sha256(&whole), bytes).unwrap_err();
        assert_eq!(failure(&found).kind, FailureKind::Unsuitable, "{found:#}");
        assert!(!repository.has_layer(&sha256(&whole)).unwrap());
    }
    let stats = repository.import_layer(&sha256(&whole), &whole[..]).unwrap();
    assert_eq!((stats.layers_new, stats.objects_new + stats.objects_reused), (1, 2));
    assert!(repository.has_layer(&sha256(&whole)).unwrap());
    let again = repository.import_layer(&sha256(&whole), &whole[..]).unwrap();
    assert_eq!((again.layers_new, again.layers_reused), (0, 1));
}

#[test]
fn a_file_of_more_than_two_gib() {
    let temp = tempfile::tempdir().unwrap();
    let repository = repository(&temp);
    let size = (1 << 31) + 4097;
    // The store does not hash the stream: any name does.
    let (first, big) = (tar(&base()), sha256(b"big"));
    repository.import_layer(&sha256(&first), &first[..]).unwrap();
    let stats = repository.import_layer(&big, zeros(size)).unwrap();
    assert_eq!((stats.objects_new, stats.bytes_new), (1, size));
    let (manifest, config) = documents_of(&[(sha256(&first), first.len()), (big, 1)]);
    let stored = repository.commit(&manifest, &config, None).unwrap();
    let tree = repository.tree(&stored.image).unwrap();
    let NodeKind::File(file) = tree.get("/usr/big").unwrap().unwrap().kind else { panic!("not a file") };
    assert_eq!(file.size, size);
    let Content::Object(object) = file.content else { panic!("not an object") };
    let listed = repository.objects_of(&stored.image).unwrap();
    assert_eq!(listed.iter().find(|listed| listed.id == object).unwrap().size, size);
    assert!(peak_memory() < 512 << 20, "{} bytes of memory", peak_memory());
}
