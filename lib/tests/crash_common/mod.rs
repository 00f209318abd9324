//! Killing a verb after every durable step, each time on something made anew: what every crash test shares.
//!
//! A test program says `mod crash_common;` (and `mod crash_host;` with the path `crash_common/host.rs` where machines are changed), has a test `child` that hands its table of verbs to [`child`], and calls [`kill_at_every_step`] with
//! the name of one of them and a [`Scene`]. Each stop is a real one: the test program runs itself, and that child process aborts, so that no
//! clean-up code runs. `cargo xtask test` adds up the lines `cut points: N`.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use selkie::image_id::ImageId;
use selkie::progress::{Event, Progress};

/// Variables by which a child knows that it is one.
const DIRECTORY: &str = "SELKIE_CRASH_DIRECTORY";
const BOOTED: &str = "SELKIE_CRASH_BOOTED";
const VERB: &str = "SELKIE_CRASH_VERB";
const STOP: &str = "SELKIE_CRASH_STOP";

/// A child has its parent's files open until it runs its own program, among them the lock of a machine that another test has just given up. So
/// children are started (written) while no test prepares a machine (reads).
static STARTS: RwLock<()> = RwLock::new(());

/// What a verb gets to work on.
pub struct Job {
    /// The directory that `prepare` made.
    pub directory: PathBuf,
    /// What [`Scene::booted`] said.
    pub booted: Option<ImageId>,
    /// To be given to the verb: it kills the process.
    pub progress: Arc<dyn Progress>,
}

/// Runs a verb to its end; it may not fail.
pub type Verb = (&'static str, fn(&Job));

/// Something that a verb changes, and how to see that it is well.
pub trait Scene {
    /// Whether images are mounted from it, which the kernel does from no tmpfs.
    const MOUNTS: bool = false;

    /// The root that runs, for a machine.
    fn booted(&self) -> Option<&ImageId> {
        None
    }

    /// What has to hold whenever the verb is stopped, and after it; `when` is for messages.
    fn check(&self, when: &str);

    /// What has to hold once the verb has run to its end.
    fn check_end(&self, when: &str);
}

/// Aborts after so many durable steps.
struct Killer {
    stop: usize,
    steps: AtomicUsize,
}

impl Progress for Killer {
    fn event(&self, event: Event) {
        if matches!(event, Event::Step { .. }) && self.steps.fetch_add(1, Ordering::SeqCst) + 1 == self.stop {
            std::process::abort();
        }
    }
}

/// What the test `child` of a test program does. Without the variables there is nothing to do.
pub fn child(verbs: &[Verb]) {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let verb = std::env::var(VERB).unwrap();
    let (_, run) = verbs.iter().find(|(name, _)| *name == verb).unwrap_or_else(|| panic!("no verb {verb}"));
    run(&Job {
        directory: directory.into(),
        booted: std::env::var(BOOTED).ok().map(|id| id.parse().unwrap()),
        progress: Arc::new(Killer { stop: std::env::var(STOP).unwrap().parse().unwrap(), steps: AtomicUsize::new(0) }),
    });
}

/// Runs a verb that is killed after `stop` steps (0: never); whether it was, or ended before.
pub fn killed(verb: &str, directory: &Path, booted: Option<&ImageId>, stop: usize) -> bool {
    let alone = STARTS.write().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(VERB, verb)
        .env(STOP, stop.to_string())
        .envs(booted.map(|id| (BOOTED, id.hex())))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(alone);
    let output = child.wait_with_output().unwrap();
    let aborted = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(6);
    assert!(aborted || output.status.success(), "{verb} after {stop}: {}", String::from_utf8_lossy(&output.stderr));
    aborted
}

/// A directory on a file system where syncs cost nothing, where there is one with room: a process is killed here, and no machine.
pub fn temporary() -> tempfile::TempDir {
    const ROOM: u64 = 4 << 30;
    let roomy = rustix::fs::statvfs("/dev/shm").is_ok_and(|found| found.f_bavail * found.f_frsize >= ROOM);
    if roomy { tempfile::tempdir_in("/dev/shm") } else { tempfile::tempdir() }.unwrap()
}

/// Makes something while no child is started.
pub fn prepared<T>(prepare: impl FnOnce() -> T) -> T {
    let _others_wait = STARTS.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    prepare()
}

/// Kills `verb` after every step in turn, each time on what `prepare` makes anew, looks at what is left, runs the verb again to its end and looks
/// once more. A verb that has lost steps (`least`) would not be tested any more.
pub fn kill_at_every_step<S: Scene>(verb: &str, least: usize, prepare: impl Fn(&Path) -> S) {
    for stop in 1.. {
        let temp = if S::MOUNTS { tempfile::tempdir_in("/var/tmp").unwrap() } else { temporary() };
        let scene = prepared(|| prepare(temp.path()));
        let was_killed = killed(verb, temp.path(), scene.booted(), stop);
        scene.check(&format!("{verb} stopped after step {stop}"));
        assert!(!killed(verb, temp.path(), scene.booted(), 0));
        let when = format!("{verb} repeated after a stop at step {stop}");
        scene.check(&when);
        scene.check_end(&when);
        if !was_killed {
            assert!(stop > least, "{verb} has only {} steps (expected at least {least})", stop - 1);
            return report(verb, stop - 1);
        }
    }
}

/// The line that `cargo xtask test` reads. It goes past the test harness, which keeps what passing tests print to itself.
pub fn report(verb: &str, points: usize) {
    std::io::stdout().write_all(format!("cut points: {points} ({verb})\n").as_bytes()).unwrap();
}
