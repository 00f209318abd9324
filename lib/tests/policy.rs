//! A SELinux policy is looked at before the library makes one automaton of all of its patterns.

mod store_common;

use selkie::error::FailureKind;
use selkie::image_id::Algorithm;
use store_common::{Entry, tar, *};

const FILES: &str = "etc/selinux/targeted/contexts/files";

/// A root with a configuration and these files of its policy.
fn image(files: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let mut entries =
        vec![dir("usr"), file("usr/large", [1; 100]), file("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n")];
    entries.extend(files.iter().map(|(name, content)| match name.contains('/') {
        true => file(name, content),
        false => file(format!("{FILES}/{name}"), content),
    }));
    vec![tar(&entries)]
}

/// Why an image is refused, in the same words by whoever stores it and by whoever computes its digest.
fn refused(layers: &[Vec<u8>]) -> String {
    let temp = temporary();
    let stored = failure(&store(&repository(&temp), layers, None).expect_err("it was stored"));
    let found = failure(&measured(layers, Algorithm::Sha256).expect_err("it has a digest"));
    assert_eq!((stored.kind, &stored), (FailureKind::Unsuitable, &found));
    assert_eq!(stored.hint.as_deref(), Some("change this file in the image"), "{}", stored.message);
    stored.message
}

#[test]
fn patterns_that_would_take_all_memory_are_refused_with_their_place() {
    let good = "# patterns\n\n/.* system_u:object_r:default_t:s0\n";
    let table = [
        (
            "file_contexts",
            "/x{1000}{100} a:b:c:s0",
            "line 4: pattern \"/x{1000}{100}\": it takes up to 200409 states to match it (expected at most 2048)",
        ),
        (
            "file_contexts.local",
            "(a{500}){50} -d a:b:c:s0",
            "line 4: pattern \"(a{500}){50}\": it takes up to 50207 states to match it (expected at most 2048)",
        ),
        (
            "file_contexts.homedirs",
            "/(?!x)(.*)*y -- <<none>>",
            "line 4: pattern \"/(?!x)(.*)*y\": no automaton can match it, and it repeats a group (expected at most ? behind one)",
        ),
    ];
    for (name, line, message) in table {
        let content = format!("{good}{line}\n");
        let mut files = vec![(name, content.as_str())];
        if name != "file_contexts" {
            files.push(("file_contexts", good));
        }
        assert_eq!(refused(&image(&files)), format!("/{FILES}/{name}, {message}"));
    }
}

#[test]
fn small_patterns_are_too_many() {
    let lines: String = (0..50_000).map(|number| format!("/{number} a:b:c:s0\n")).collect();
    let message = refused(&image(&[("file_contexts", &lines)]));
    let expected =
        "file_contexts, line 41667: pattern \"/41666\": with it, the patterns of the policy have 250002 parts (expected at most 250000)";
    assert_eq!(message, format!("/{FILES}/{expected}"));
    let lines: String = (0..300).map(|number| format!("/.*a.{{60}}{number} a:b:c:s0\n")).collect();
    let message = refused(&image(&[("file_contexts", &lines)]));
    assert!(message.starts_with(&format!("/{FILES}: for a path that begins with \"/\", the patterns can be in ")), "{message}");
}

#[test]
fn large_files_long_lines_and_other_encodings_are_refused() {
    let long = "x".repeat(5000);
    let patterns = "/.* a:b:c:s0\n";
    let in_files = |rest: &str| format!("/{FILES}/{rest}");
    let begins = format!("\"{}\"...", "x".repeat(80));
    let table = [
        (image(&[("file_contexts", &"#\n".repeat(3 << 20))]), in_files("file_contexts: it has 6291456 bytes (expected at most 4194304)")),
        (
            image(&[("file_contexts", &format!("{long} a:b:c:s0"))]),
            in_files(&format!("file_contexts, line 1: pattern {begins}: it has 5000 bytes (expected at most 4096)")),
        ),
        (
            image(&[("file_contexts", &format!("{patterns}/x {long}"))]),
            in_files(&format!("file_contexts, line 2: label {begins} has 5000 bytes (expected at most 255)")),
        ),
        (
            image(&[("file_contexts", patterns), ("file_contexts.subs", &format!("/a /b\n/c {long}"))]),
            in_files(&format!("file_contexts.subs, line 2: path {begins} has 5000 bytes (expected at most 255)")),
        ),
        (
            image(&[("file_contexts", patterns), ("file_contexts.subs_dist", &"#\n".repeat(1 << 17))]),
            in_files("file_contexts.subs_dist: it has 262144 bytes (expected at most 65536)"),
        ),
        (
            image(&[("etc/selinux/config", &"#\n".repeat(1 << 17))]),
            "/etc/selinux/config: it has 262144 bytes (expected at most 65536)".to_owned(),
        ),
        (vec![tar(&latin(patterns))], in_files("file_contexts, line 2: it is not UTF-8")),
    ];
    for (layers, expected) in table {
        assert_eq!(refused(&layers), expected);
    }
}

#[test]
fn files_that_labels_would_make_many_of_are_refused() {
    let patterns = "/usr/large a:b:c:s0\n/usr/l.* a:b:d:s0\n";
    let large = |names: usize| {
        let mut entries = vec![dir("usr"), file("usr/large", [1; 100]).xattr("security.capability", &[7; 30_000])];
        entries.extend((0..names).map(|name| hardlink(format!("usr/l{name}"), "usr/large")));
        entries.extend([file("etc/selinux/config", "SELINUXTYPE=targeted"), file(format!("{FILES}/file_contexts"), patterns)]);
        vec![tar(&entries)]
    };
    let expected = "with a label for each of their names, files with several names take 72 MiB (expected at most 64 MiB)";
    assert_eq!(refused(&large(2500)), format!("/{FILES}: {expected}"));
    let temp = temporary();
    store(&repository(&temp), &large(100), None).unwrap();
}

fn latin(patterns: &str) -> [Entry; 3] {
    let content = [patterns.as_bytes(), b"/caf\xe9 a:b:c:s0\n"].concat();
    [dir("usr"), file("etc/selinux/config", "SELINUXTYPE=targeted"), file(format!("{FILES}/file_contexts"), content)]
}

/// Three times as many patterns as Fedora has, of the same kinds.
#[test]
fn policies_much_larger_than_those_that_exist_are_taken() {
    let kinds: [fn(&str, usize) -> String; 6] = [
        |directory, n| format!("{directory}/program-{n}\t--\tsystem_u:object_r:program_{n}_exec_t:s0"),
        |directory, n| format!("{directory}/package-{n}(/.*)?\tsystem_u:object_r:package_{n}_t:s0"),
        |directory, n| format!("{directory}/service-{n}.*\\.service\t--\tsystem_u:object_r:service_{n}_unit_file_t:s0"),
        |directory, n| format!("{directory}/[^/]*/lib(mw|a{n})\\.so(\\.[^/]*)*\t--\tsystem_u:object_r:textrel_shlib_t:s0"),
        |directory, n| format!("{directory}/log-{n}[0-9]{{0,9}}\\.log\t-s\t<<none>>"),
        |directory, n| format!("{directory}/a?{n}(-[^/]+)?/.*\tsystem_u:object_r:a_{n}_t:s0"),
    ];
    let lines =
        (0..20_400).map(|n| kinds[if n % 60 == 0 { 3 } else { [0, 0, 1, 0, 2, 4][n % 6] }](&format!("/usr/lib/{}", n % 50), n) + "\n");
    let contexts: String = std::iter::once("/.*\tsystem_u:object_r:default_t:s0\n".to_owned()).chain(lines).collect();
    let tried: String =
        (0..100).map(|n| format!("/run/user/%{{USERID}}/a{n}(/.*)? a:b:c:s0\n/run/waydroid-(?!lxc{n}).* a:b:d:s0\n")).collect();
    let files = [
        ("file_contexts", contexts.as_str()),
        ("file_contexts.local", &tried),
        ("file_contexts.subs_dist", "/usr/large /usr/lib/2/package-2\n"),
    ];
    let temp = temporary();
    let repository = repository(&temp);
    let stored = store(&repository, &image(&files), None).unwrap();
    let node = repository.tree(&stored.boot_image).unwrap().get("/usr/large").unwrap().unwrap();
    let label = node.xattrs.iter().find(|(name, _)| name == "security.selinux").unwrap().1.clone();
    assert_eq!(String::from_utf8(label).unwrap(), "system_u:object_r:package_2_t:s0");
}
