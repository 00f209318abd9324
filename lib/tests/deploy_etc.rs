//! Power cuts while /etc is carried: stopped after any step and begun again, the outcome is that of a carry that was not stopped.
//! The three trees are plain directories here; `setup_root.rs` has the real overlays.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use selkie::deploy::etc::{Conflict, EtcState, Sources};
use selkie::deploy::{Deployment, Deployments};
use selkie::image_id::ImageId;
use selkie::origin::Origin;
use selkie::progress::{Event, Progress, Recorder};
use selkie::sys::dir;

struct Trial {
    temp: tempfile::TempDir,
}

/// Cuts the power after the step of that name.
struct CutAfter(Option<&'static str>);

struct PowerCut;

impl Progress for CutAfter {
    fn event(&self, event: Event) {
        if let Event::Step { name } = event
            && Some(name.as_str()) == self.0
        {
            std::panic::resume_unwind(Box::new(PowerCut));
        }
    }
}

impl Trial {
    /// A deployment that is to take the changes of another; with an /etc from an earlier life, or without.
    fn new(lived_before: bool) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test gives files to other users: run it as root");
        let trial = Self { temp: tempfile::tempdir().unwrap() };
        for (path, text) in [
            ("base/kept", "image"),
            ("base/changed", "image"),
            ("base/deleted", "image"),
            ("local/kept", "image"),
            ("local/changed", "mine"),
            ("local/added", "mine"),
            ("upper/changed", "mine"),
            ("upper/added", "mine"),
            ("upper/deleted", "stands for a whiteout"),
            ("new/kept", "newer"),
            ("new/changed", "newer"),
            ("new/deleted", "image"),
        ] {
            let path = trial.temp.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let deployment = trial.deployments().create(&id("bb"), &origin()).unwrap();
        if lived_before {
            deployment.make_etc(dir::open_path(trial.temp.path().join("base")).unwrap()).unwrap();
            std::fs::write(trial.state().join("etc/upper/former"), "from before").unwrap();
        }
        deployment.request_etc(&id("aa")).unwrap();
        trial
    }

    fn deployments(&self) -> Deployments {
        Deployments::open_or_create(dir::open_path(self.temp.path()).unwrap()).unwrap()
    }

    fn deployment(&self) -> Deployment {
        self.deployments().get(&id("bb")).unwrap().unwrap()
    }

    fn state(&self) -> PathBuf {
        self.temp.path().join("state/deploy").join(id("bb").hex())
    }

    /// What the initramfs does, up to the mount.
    fn boot(&self, progress: &dyn Progress) -> Option<Vec<Conflict>> {
        let deployment = self.deployment();
        match deployment.prepare_etc().unwrap() {
            EtcState::Ready => None,
            EtcState::Requested(from) => {
                assert_eq!(from, id("aa"));
                let [base, local, upper, new] =
                    ["base", "local", "upper", "new"].map(|d| dir::open_path(self.temp.path().join(d)).unwrap());
                let sources = Sources { base: base.as_fd(), local: local.as_fd(), upper: Some(upper.as_fd()), new: new.as_fd() };
                Some(deployment.carry_etc(&sources, progress).unwrap())
            }
            EtcState::Missing => panic!("the request is gone"),
        }
    }

    fn boot_until(&self, step: &'static str) {
        let boot = || self.boot(&CutAfter(Some(step)));
        let cut = std::panic::catch_unwind(std::panic::AssertUnwindSafe(boot)).expect_err("no such step");
        assert!(cut.is::<PowerCut>());
    }

    /// All that the deployment has, but for times.
    fn contents(&self) -> Vec<String> {
        let mut lines = Vec::new();
        walk(&self.state(), Path::new(""), &mut lines);
        lines
    }
}

fn walk(root: &Path, path: &Path, lines: &mut Vec<String>) {
    let full = root.join(path);
    let meta = std::fs::symlink_metadata(&full).unwrap();
    let what = if meta.is_dir() {
        "directory".to_owned()
    } else if meta.file_type().is_char_device() {
        format!("device {}", meta.rdev())
    } else {
        std::fs::read_to_string(&full).unwrap()
    };
    lines.push(format!("{} {:o} {what}", path.display(), meta.mode() & 0o7777));
    if meta.is_dir() {
        for name in dir::names(dir::open_path(&full).unwrap()).unwrap() {
            walk(root, &path.join(name), lines);
        }
    }
}

fn id(byte: &str) -> ImageId {
    byte.repeat(32).parse().unwrap()
}

fn origin() -> Origin {
    Origin {
        version: Origin::VERSION,
        image: "quay.io/acme/os:stable".into(),
        manifest_digest: "sha256:aa".into(),
        index_digest: None,
        config_digest: "sha256:bb".into(),
        kernel_arguments: String::new(),
        image_arguments: vec![],
        os_version: None,
        os_name: None,
        made_under: None,
        number: None,
        staged: None,
    }
}

#[test]
fn the_fresh_upper_has_the_local_changes_and_nothing_else() {
    let trial = Trial::new(true);
    let conflicts = trial.boot(&CutAfter(None)).unwrap();
    assert_eq!(conflicts.iter().map(|c| c.path.as_path()).collect::<Vec<_>>(), [Path::new("changed")]);
    let contents = trial.contents();
    let in_etc: Vec<_> = contents.iter().filter(|l| l.starts_with("etc")).map(String::as_str).collect();
    assert_eq!(
        in_etc,
        [
            "etc 755 directory",
            "etc/carried 644 ",
            "etc/upper 755 directory",
            "etc/upper/added 644 mine",
            "etc/upper/changed 644 mine",
            "etc/upper/deleted 0 device 0",
            "etc/work 700 directory",
            "etc.replaced 755 directory",
            "etc.replaced/upper 755 directory",
            "etc.replaced/upper/former 644 from before",
            "etc.replaced/work 700 directory",
        ]
    );
    assert_eq!(trial.boot(&CutAfter(None)), None, "the second boot carries again");
    assert_eq!(trial.contents(), contents);
}

#[test]
fn a_power_cut_after_any_step_changes_nothing_of_the_outcome() {
    for lived_before in [false, true] {
        let whole = Trial::new(lived_before);
        let steps = Recorder::default();
        whole.boot(&steps);
        let steps = steps.steps();
        assert_eq!(steps.len(), 4, "{steps:?}");
        for step in steps {
            let trial = Trial::new(lived_before);
            // Twice at the same place, too.
            trial.boot_until(Box::leak(step.clone().into_boxed_str()));
            let state = trial.deployment().prepare_etc().unwrap();
            if matches!(state, EtcState::Requested(_)) {
                trial.boot_until(Box::leak(step.clone().into_boxed_str()));
            }
            trial.boot(&CutAfter(None));
            assert_eq!(trial.contents(), whole.contents(), "cut after {step}, lived before: {lived_before}");
            assert!(trial.deployment().etc_dirs().unwrap().is_some());
        }
    }
}

#[test]
fn what_a_cut_left_half_built_is_not_used() {
    let (whole, trial) = (Trial::new(true), Trial::new(true));
    whole.boot(&CutAfter(None));
    std::fs::create_dir_all(trial.state().join("etc.new/upper/half")).unwrap();
    std::fs::write(trial.state().join("etc.new/upper/half/built"), "x").unwrap();
    std::fs::write(trial.state().join("etc.new/carried"), "").unwrap();
    trial.boot(&CutAfter(None));
    assert_eq!(trial.contents(), whole.contents());
}

#[test]
fn each_carry_keeps_what_it_replaced() {
    let trial = Trial::new(true);
    trial.boot(&CutAfter(None));
    // Staged again while the last exchange was not ended: both are kept, and the new request is fulfilled.
    trial.deployment().request_etc(&id("aa")).unwrap();
    trial.boot_until("exchange /etc");
    trial.deployment().request_etc(&id("aa")).unwrap();
    assert!(trial.state().join("etc.replaced.2/upper/added").exists());
    assert!(trial.boot(&CutAfter(None)).is_some());
    assert!(trial.state().join("etc.replaced/upper/former").exists());
    assert!(trial.state().join("etc.replaced.3/upper/added").exists());
    assert_eq!(trial.deployment().prepare_etc().unwrap(), EtcState::Ready);
}

#[test]
fn a_deployment_cannot_ask_itself() {
    let trial = Trial::new(false);
    let error = trial.deployment().request_etc(&id("bb")).unwrap_err();
    assert_eq!(error.to_string(), "requesting /etc of bbbbbbbbbbbb for itself (expected another deployment)");
}
