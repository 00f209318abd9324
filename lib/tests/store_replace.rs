//! Damaged objects give way to good ones, also where several processes come with the same.

mod store_common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use selkie::progress::Silent;
use selkie::store::Store;
use selkie::store::fsck::Inspect;
use store_common::{dir, file, repository, sha256, tar, temporary};

/// Variables by which a process of [`importer`] knows where it is to work, and who it is.
const DIRECTORY: &str = "SELKIE_REPLACING_DIRECTORY";
const NUMBER: &str = "SELKIE_REPLACING_NUMBER";
const PROCESSES: usize = 3;
const FILES: usize = 500;

fn layer() -> Vec<u8> {
    let mut entries = vec![dir("usr")];
    entries.extend((0..FILES).map(|n| file(format!("usr/{n:03}"), format!("{n} ").repeat(2000))));
    entries.push(file("usr/large", vec![7; 6 << 20]));
    tar(&entries)
}

fn open(directory: &Path) -> Store {
    Store::open(selkie::sys::dir::open_path(directory).unwrap(), "repository").unwrap()
}

fn objects(directory: &Path) -> impl Iterator<Item = PathBuf> {
    let below = std::fs::read_dir(directory.join("repository/objects")).unwrap();
    below.flat_map(|below| std::fs::read_dir(below.unwrap().path()).unwrap()).map(|entry| entry.unwrap().path())
}

fn wait_for(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(300), "it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What [`importer`] starts; by itself it has nothing to do.
#[test]
fn child() {
    let (Ok(directory), Ok(number)) = (std::env::var(DIRECTORY), std::env::var(NUMBER)) else { return };
    let (directory, layer) = (PathBuf::from(directory), layer());
    let store = open(&directory);
    std::fs::write(directory.join(format!("ready-{number}")), "").unwrap();
    wait_for(|| directory.join("go").exists());
    store.import_layer(&sha256(&layer), &layer[..]).unwrap();
}

fn importer(directory: &Path, number: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(NUMBER, number.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn processes_that_replace_the_same_objects_all_succeed() {
    let (temp, layer) = (temporary(), layer());
    let store = repository(&temp);
    let new = store.import_layer(&sha256(&layer), &layer[..]).unwrap();
    assert_eq!(new.objects_new as usize, FILES + 1);
    let name = temp.path().join(format!("repository/streams/oci-layer-{}", sha256(&layer)));
    // It is made by the library, which believes what is there.
    let stream = name.canonicalize().unwrap();
    std::fs::remove_file(name).unwrap();
    for object in objects(temp.path()).filter(|object| *object != stream) {
        // Whether or not it is sealed.
        std::fs::remove_file(&object).unwrap();
        std::fs::write(&object, "short").unwrap();
    }
    let children: Vec<Child> = (0..PROCESSES).map(|number| importer(temp.path(), number)).collect();
    wait_for(|| (0..PROCESSES).all(|number| temp.path().join(format!("ready-{number}")).exists()));
    std::fs::write(temp.path().join("go"), "").unwrap();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let inspection = store.inspect(&Inspect { all_known: true, ..Inspect::default() }, None, &Silent).unwrap();
    assert!(inspection.findings.is_empty(), "{:#?}", inspection.findings);
    assert!(store.has_layer(&sha256(&layer)).unwrap());
    let left: Vec<_> = std::fs::read_dir(temp.path().join("repository")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}
