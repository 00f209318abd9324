//! A pull in a process of its own, which is killed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use selkie::store::Store;

use super::partial_common::pull_into;

/// Variables by which the process knows where to pull what.
const DIRECTORY: &str = "SELKIE_KILLED_DIRECTORY";
const REFERENCE: &str = "SELKIE_KILLED_REFERENCE";

/// What a test named `child` has to do: it is the process that is killed. By itself it does nothing.
pub(crate) fn child(store: impl Fn(&Path) -> Store) {
    let (Ok(directory), Ok(reference)) = (std::env::var(DIRECTORY), std::env::var(REFERENCE)) else { return };
    let ended = pull_into(&store(Path::new(&directory)), &reference, &Arc::default());
    panic!("it was not killed: {ended:?}");
}

/// Pulls into a repository in `directory`, and kills that once it is `far` enough.
pub(crate) fn kill_once(directory: &Path, reference: &str, far: impl Fn() -> bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIRECTORY, directory)
        .env(REFERENCE, reference)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (begun, mut ended) = (Instant::now(), None);
    while !far() && ended.is_none() && begun.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(50));
        ended = child.try_wait().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(ended, None, "it has ended by itself");
}
