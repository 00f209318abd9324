//! The configuration as it is read from the folders of a root directory.

use std::os::unix::fs::symlink;
use std::path::Path;

use selkie::config::{Policy, opening};
use selkie::error::{Failure, FailureKind};
use selkie::ops::config;

const USR: &str = "usr/lib/selkie/config.d";
const ETC: &str = "etc/selkie/config.d";
const RUN: &str = "run/selkie/config.d";

fn put(root: &Path, path: &str, text: impl AsRef<[u8]>) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn failure(root: &Path) -> Failure {
    Failure::find(&config::load(root).unwrap_err()).unwrap()
}

#[test]
fn without_files_everything_is_as_by_default() {
    let temp = tempfile::tempdir().unwrap();
    let effective = config::load(temp.path()).unwrap();
    assert_eq!(effective.config, selkie::config::Config::default());
    assert!(effective.settings().iter().all(|setting| setting.from.is_none()));
    config::load(&temp.path().join("nowhere")).unwrap_err();
}

#[test]
fn folders_are_one_by_name_and_the_higher_one_replaces() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    put(root, &format!("{USR}/10-a.toml"), "keep = 1\ntries = 7");
    put(root, &format!("{USR}/20-replaced.toml"), "nonsense that nobody reads");
    put(root, &format!("{USR}/30-masked.toml"), "keep = 30");
    put(root, &format!("{USR}/40-emptied.toml"), "keep = 40");
    put(root, &format!("{USR}/README"), "no configuration");
    put(root, &format!("{ETC}/15-b.toml"), "# over 10\nkeep = 2");
    put(root, &format!("{ETC}/20-replaced.toml"), "health.timeout = '5m'");
    put(root, &format!("{ETC}/40-emptied.toml"), "");
    put(root, &format!("{RUN}/05-c.toml"), "keep = 3\nupdate.policy = 'check'");
    symlink("/dev/null", root.join(ETC).join("30-masked.toml")).unwrap();
    symlink("/etc/elsewhere", root.join(RUN).join("50-link.toml")).unwrap();
    put(root, "etc/elsewhere", "update.policy = 'stage'");

    let report = config::show(root).unwrap();
    let said: Vec<_> = report.settings.iter().filter_map(|s| Some((s.key, s.value.to_string(), s.from.as_ref()?.to_string()))).collect();
    let at = |path: &str| root.join(path).display().to_string();
    let expected = [
        ("health.timeout", "\"5m\"".to_owned(), at("etc/selkie/config.d/20-replaced.toml:1")),
        ("keep", "2".to_owned(), at("etc/selkie/config.d/15-b.toml:2")),
        ("tries", "7".to_owned(), at("usr/lib/selkie/config.d/10-a.toml:2")),
        ("update.policy", "\"stage\"".to_owned(), at("run/selkie/config.d/50-link.toml:1")),
    ];
    assert_eq!(said, expected);
    assert_eq!(config::load(root).unwrap().config.update.policy, Policy::Stage);
}

#[test]
fn what_is_wrong_names_file_and_line_and_is_a_usage_error() {
    let temp = tempfile::tempdir().unwrap();
    let path = format!("{ETC}/10-a.toml");
    for (text, line, said) in [
        ("keep = 1\nupdate.when = 'now'\n".as_bytes(), 2, "unknown key update.when"),
        (b"keep = 1\n# \xff\n", 2, "these bytes are no text"),
        (b"keep = [", 1, "this is not TOML"),
    ] {
        put(temp.path(), &path, text);
        let failure = failure(temp.path());
        assert_eq!(failure.kind, FailureKind::Usage);
        let begin = format!("reading configuration {}:{line}: {said}", temp.path().join(&path).display());
        assert!(failure.message.starts_with(&begin), "{}", failure.message);
    }
}

#[test]
fn what_cannot_be_read_is_no_absence() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(temp.path().join(ETC).join("10-folder.toml")).unwrap();
    assert!(format!("{:#}", config::load(temp.path()).unwrap_err()).contains("10-folder.toml"));
    std::fs::remove_dir_all(temp.path().join(ETC)).unwrap();
    std::fs::create_dir_all(temp.path().join(ETC)).unwrap();
    symlink("nowhere", temp.path().join(ETC).join("10-dangling.toml")).unwrap();
    assert!(format!("{:#}", config::load(temp.path()).unwrap_err()).contains("link to nothing"));
}

/// A time zone that no database has: two hours east of Greenwich, by name of a city that has another time.
const EAST: &[u8] = b"TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\0\0\x1c\x20\0\0EST\0\
    TZif2\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\x04\0\0\x1c\x20\0\0EST\0\n<+02>-2\n";

#[test]
fn zones_are_the_systems_and_else_those_of_this_program() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path();
    // 2026-11-25, a Wednesday, 12:00 UTC.
    const NOON: u64 = 1_795_608_000;
    let open = |window: &str| {
        put(root, &format!("{ETC}/10.toml"), format!("update.window = '{window}'"));
        opening(&config::load(root).unwrap().config.update.windows, NOON)
    };
    assert!(open("12:00-13:00") && open("12:00-13:00 UTC") && open("21:00-22:00 Asia/Tokyo") && open("13:00-14:00 Europe/Berlin"));
    put(root, "usr/share/zoneinfo/Asia/Tokyo", EAST);
    assert!(open("14:00-15:00 Asia/Tokyo") && !open("21:00-22:00 Asia/Tokyo"), "the system's files count");
    symlink("/usr/share/zoneinfo/Asia/Tokyo", root.join("etc/localtime")).unwrap();
    assert!(open("14:00-15:00") && !open("12:00-13:00"), "the machine's own zone");
    std::fs::remove_file(root.join("usr/share/zoneinfo/Asia/Tokyo")).unwrap();
    assert!(open("21:00-22:00"), "by its name, where the system has no such file");
    for name in ["../../etc/passwd", "/etc/localtime", "Nowhere/Town", "Asia//Tokyo"] {
        put(root, &format!("{ETC}/10.toml"), format!("update.window = '02:00-04:00 {name}'"));
        assert!(failure(root).message.contains("there is no time zone"), "{name}");
    }
}
