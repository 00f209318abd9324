//! Several ESPs that are kept in step: taken in, followed, away, back, full, read-only, let go; stopped after every step.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::host::Machine;
use common::layout;
use rustix::mount::MountFlags;
use selkie::error::{Failure, FailureKind};
use selkie::image::SourceOptions;
use selkie::image_id::ImageId;
use selkie::ops::esp::{self, Listed, Role};
use selkie::ops::host::Host;
use selkie::ops::loader::{self, Action};
use selkie::ops::upgrade::{self, Options, Report, Until};
use selkie::ops::{gc, rollback, status};
use selkie::progress::{Event, Progress, Recorder, Silent};
use selkie::sys::mount::enter_private_namespace;

const BOTH: &[&str] = &["first", "second"];

fn loader(version: &str) -> String {
    format!("MZ #### LoaderInfo: systemd-boot {version} ####")
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "aa64" } else { "x64" }
}

fn loader_paths() -> [String; 2] {
    let name = architecture();
    [format!("EFI/systemd/systemd-boot{name}.efi"), format!("EFI/BOOT/BOOT{}.EFI", name.to_uppercase())]
}

/// A release whose roots are tried three times until they have proven themselves.
fn release(machine: &Machine, version: &str) {
    machine.release("stable", &layout::with(layout::bootable(version), "usr/lib/systemd/systemd-bless-boot", "bless"));
}

fn install_loaders(esp: &Path, version: &str) {
    for path in loader_paths() {
        std::fs::create_dir_all(esp.join(&path).parent().unwrap()).unwrap();
        std::fs::write(esp.join(&path), loader(version)).unwrap();
    }
}

/// A machine with a second, empty ESP.
fn with_second(root: &Path) -> (Machine, ImageId) {
    let (machine, id) = Machine::install(root);
    for directory in ["esp-second", "firmware"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    install_loaders(&root.join("esp"), "257");
    (machine, id)
}

/// A machine that keeps both in step.
fn two(root: &Path) -> (Machine, ImageId) {
    let (machine, id) = with_second(root);
    esp::add(&machine.host(&id), &machine.place("second"), &Silent).unwrap();
    (machine, id)
}

fn upgrade_on(host: &Host, progress: Arc<dyn Progress>) -> anyhow::Result<Report> {
    let options = Options { image: None, source: SourceOptions::default(), until: Until::Stage, keep: 0, retry: false };
    upgrade::run(host, &options, &progress)
}

fn upgrade(machine: &Machine, booted: &ImageId, places: &[&str]) -> ImageId {
    upgrade_on(&machine.host_from(booted, places), Arc::new(Silent)).unwrap().staged.unwrap()
}

/// A good boot of the newest root: it carries /etc over, and the counter goes.
fn boot(machine: &Machine, id: &ImageId, esp: &str) {
    machine.boot(id);
    let entries = machine.root.join(esp).join("loader/entries");
    for entry in std::fs::read_dir(&entries).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some((stem, _)) = name.split_once('+').filter(|_| name.contains(id.short())) {
            std::fs::rename(entries.join(&name), entries.join(format!("{stem}.conf"))).unwrap();
        }
    }
}

/// The roots that a place boots, the next first, each with whether it is counted.
fn menu(machine: &Machine, place: &str) -> Vec<(ImageId, bool)> {
    machine.place(place).entries().unwrap().into_iter().map(|entry| (entry.image, entry.tries.is_some())).collect()
}

fn notes(recorder: &Recorder) -> Vec<String> {
    recorder.events().into_iter().filter_map(|event| if let Event::Note { message } = event { Some(message) } else { None }).collect()
}

fn mirror(machine: &Machine, booted: &ImageId, places: &[&str]) -> Listed {
    esp::list(&machine.host_from(booted, places)).unwrap().places.pop().unwrap()
}

#[test]
fn one_esp_has_nothing_to_keep_in_step() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_second(temp.path());
    let list = esp::list(&machine.host(&first)).unwrap();
    let [only] = list.places.as_slice() else { panic!("{list:?}") };
    assert_eq!((only.partition.as_str(), only.role, only.kept, only.in_step), ("first", Role::Booted, false, Some(true)));
    assert_eq!((only.loader.as_deref(), only.xbootldr, &only.roots), (Some("257"), Some(false), &vec![first.clone()]));
    let synced = esp::sync(&machine.host(&first), &Silent).unwrap();
    assert_eq!((synced.places.len(), synced.places[0].in_step), (1, Some(true)));
    assert!(!temp.path().join("sysroot/state/boot").exists());
}

#[test]
fn where_nothing_is_to_be_synced_the_lock_of_another_verb_is_no_matter() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_second(temp.path());
    let path = format!("usr/lib/systemd/boot/efi/systemd-boot{}.efi", architecture());
    let files = layout::without(layout::bootable("2"), &[&path]);
    machine.release("stable", &layout::with(files, &path, &loader("257")));
    let second = upgrade(&machine, &first, &["first"]);
    boot(&machine, &second, "esp");
    let (host, other) = (machine.host(&second), machine.host(&second));
    let _lock = other.lock().unwrap();
    let refused = loader::run(&host, &Silent).unwrap_err();
    assert_eq!(Failure::find(&refused).unwrap().kind, FailureKind::Busy, "{refused:#}");
    let recorder = Recorder::default();
    let loaders = esp::sync(&host, &recorder).unwrap().loaders.unwrap();
    assert!(loaders.loaders.iter().all(|found| found.action != Action::Update), "{loaders:?}");
    assert_eq!(recorder.steps(), Vec::<String>::new());
}

#[test]
fn a_second_esp_gets_loader_kernels_and_entries_and_others_stay() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_second(temp.path());
    let second = temp.path().join("esp-second");
    let foreign = [
        ("loader/entries/debian.conf", "title Debian\nlinux /debian/vmlinuz\n"),
        ("EFI/debian/shimx64.efi", "shim"),
        ("loader/loader.conf", "timeout 9\n"),
    ];
    for (path, text) in foreign {
        std::fs::create_dir_all(second.join(path).parent().unwrap()).unwrap();
        std::fs::write(second.join(path), text).unwrap();
    }
    let changed = esp::add(&machine.host(&first), &machine.place("second"), &Silent).unwrap();
    assert_eq!((changed.partition.as_str(), changed.roots, changed.in_the_way), ("second", vec![first.clone()], None));
    assert_eq!(menu(&machine, "second"), menu(&machine, "first"));
    let found = mirror(&machine, &first, BOTH);
    assert_eq!(
        (found.role, found.kept, found.in_step, found.why, found.loader.as_deref()),
        (Role::Mirror, true, Some(true), None, Some("257"))
    );
    // Again is nothing new.
    let recorder = Recorder::default();
    esp::add(&machine.host_from(&first, BOTH), &machine.place("second"), &recorder).unwrap();
    assert_eq!(recorder.steps(), ["record boot place"]);
    for version in ["2", "3", "4"] {
        release(&machine, version);
        let next = upgrade(&machine, &first, BOTH);
        assert_eq!(machine.host_from(&next, BOTH).survey().problems, [""; 0], "{version}");
    }
    for (path, text) in foreign {
        assert_eq!(std::fs::read_to_string(second.join(path)).unwrap(), text, "{path}");
    }
    let removed = esp::remove(&machine.host_from(&first, BOTH), "SECOND", &Silent).unwrap();
    assert_eq!(removed.partition, "second");
    assert_eq!(menu(&machine, "second"), []);
    assert_eq!(std::fs::read_dir(second.join("EFI/selkie")).unwrap().count(), 0);
    for (path, text) in foreign {
        assert_eq!(std::fs::read_to_string(second.join(path)).unwrap(), text, "{path}");
    }
    assert_eq!(std::fs::read_dir(temp.path().join("sysroot/state/boot")).unwrap().count(), 0);
}

#[test]
fn what_is_no_second_esp_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    enter_private_namespace().expect("this test mounts file systems: run it as root");
    let (machine, first) = with_second(temp.path());
    let kind = |error: anyhow::Error| (Failure::find(&error).unwrap().kind, format!("{error:#}"));
    let (usage, _) = kind(esp::add(&machine.host(&first), &machine.place("first"), &Silent).unwrap_err());
    assert_eq!(usage, FailureKind::Usage);
    rustix::mount::mount("tmpfs", temp.path().join("esp-second"), "tmpfs", MountFlags::empty(), c"size=512k").unwrap();
    let (no_space, message) = kind(esp::add(&machine.host(&first), &machine.place("second"), &Silent).unwrap_err());
    assert_eq!((no_space, message.contains("1 MiB free (expected at least 2 MiB")), (FailureKind::NoSpace, true), "{message}");
    assert!(!temp.path().join("sysroot/state/boot").exists());
    for path in loader_paths() {
        std::fs::write(temp.path().join("esp").join(path), "GRUB").unwrap();
    }
    let (unsuitable, _) = kind(esp::add(&machine.host(&first), &machine.place("second"), &Silent).unwrap_err());
    assert_eq!(unsuitable, FailureKind::Unsuitable);
    let (missing, _) = kind(esp::remove(&machine.host(&first), "third", &Silent).unwrap_err());
    assert_eq!(missing, FailureKind::NotFound);
}

#[test]
fn a_mirror_gets_a_root_when_that_has_proven_itself() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = two(temp.path());
    release(&machine, "2");
    let second = upgrade(&machine, &first, BOTH);
    assert_eq!(menu(&machine, "first"), [(second.clone(), true), (first.clone(), false)]);
    assert_eq!(menu(&machine, "second"), [(first.clone(), false)], "nobody would count there");
    assert_eq!(mirror(&machine, &second, BOTH).in_step, Some(true));
    boot(&machine, &second, "esp");
    assert_eq!(mirror(&machine, &second, BOTH).in_step, Some(false));
    let problems = status::run(&machine.host_from(&second, BOTH)).problems;
    assert!(problems.len() == 1 && problems[0].starts_with("ESP second is not in step: it lacks selkie-"), "{problems:?}");
    esp::sync(&machine.host_from(&second, BOTH), &Silent).unwrap();
    assert_eq!(menu(&machine, "second"), [(second.clone(), false), (first.clone(), false)]);
    rollback::run(&machine.host_from(&second, BOTH), &Silent).unwrap();
    assert_eq!(menu(&machine, "second"), [(first, false), (second, false)]);
}

#[test]
fn a_root_that_is_given_up_never_comes_to_a_mirror() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = two(temp.path());
    release(&machine, "2");
    let second = upgrade(&machine, &first, BOTH);
    let entries = temp.path().join("esp/loader/entries");
    let name = |counter: &str| entries.join(format!("selkie-{}-2{counter}.conf", second.short()));
    std::fs::rename(name("+3"), name("+0-3")).unwrap();
    esp::sync(&machine.host_from(&first, BOTH), &Silent).unwrap();
    assert_eq!(menu(&machine, "second"), [(first.clone(), false)]);
    gc::run(&machine.host_from(&first, BOTH), gc::Options::default(), &Silent).unwrap();
    assert_eq!(menu(&machine, "first"), menu(&machine, "second"));
}

#[test]
fn an_absent_mirror_is_told_keeps_its_roots_and_catches_up() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = two(temp.path());
    let mut booted = first.clone();
    for version in ["2", "3", "4"] {
        release(&machine, version);
        let recorder = Arc::new(Recorder::default());
        let host = machine.host_from(&booted, &["first"]);
        booted = upgrade_on(&host, recorder.clone()).unwrap().staged.unwrap();
        assert!(notes(&recorder).iter().any(|note| note.starts_with("ESP second is out of reach")), "{:?}", notes(&recorder));
        boot(&machine, &booted, "esp");
    }
    let host = machine.host_from(&booted, &["first"]);
    let problems = host.survey().problems;
    assert!(problems.len() == 1 && problems[0].starts_with("ESP second is out of reach: "), "{problems:?}");
    let absent = mirror(&machine, &booted, &["first"]);
    assert_eq!((absent.partition.as_str(), absent.in_step, absent.roots), ("second", None, vec![first.clone()]));
    // What it boots is there, though it has no other role any more.
    assert!(host.deployments().unwrap().get(&first).unwrap().is_some());
    assert!(host.store().unwrap().tree(&first).is_ok());
    drop(host);
    gc::run(&machine.host_from(&booted, BOTH), gc::Options::default(), &Silent).unwrap();
    assert_eq!(menu(&machine, "second"), menu(&machine, "first"));
    let host = machine.host_from(&booted, BOTH);
    assert!(host.deployments().unwrap().get(&first).unwrap().is_none(), "nothing boots it any more");
    assert_eq!(host.survey().problems, [""; 0]);
}

#[test]
fn a_dead_disk_that_is_let_go_keeps_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = two(temp.path());
    let mut booted = first.clone();
    for version in ["2", "3", "4"] {
        release(&machine, version);
        booted = upgrade(&machine, &booted, &["first"]);
        boot(&machine, &booted, "esp");
    }
    esp::remove(&machine.host_from(&booted, &["first"]), "second", &Silent).unwrap();
    gc::run(&machine.host(&booted), gc::Options::default(), &Silent).unwrap();
    let host = machine.host(&booted);
    assert!(host.deployments().unwrap().get(&first).unwrap().is_none());
    assert_eq!(host.survey().problems, [""; 0]);
    assert!(!esp::list(&host).unwrap().places[0].kept);
}

/// The first disk is away, the machine goes on from the second, and then the firmware starts the first again.
#[test]
fn what_the_machine_decided_last_stays_when_an_older_place_boots() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = two(temp.path());
    release(&machine, "2");
    let second = upgrade(&machine, &first, BOTH);
    // On trial on the first ESP, which goes away: the other one boots what is known to boot.
    let from_second = &["second"];
    assert_eq!(menu(&machine, "second"), [(first.clone(), false)]);
    release(&machine, "3");
    let third = upgrade(&machine, &first, from_second);
    boot(&machine, &third, "esp-second");
    release(&machine, "4");
    let fourth = upgrade(&machine, &third, from_second);
    let host = machine.host_from(&third, from_second);
    assert!(host.deployments().unwrap().get(&second).unwrap().is_some(), "the first ESP may boot it");
    assert_eq!(host.system().unwrap().next_serial(), 5);
    drop(host);
    // The firmware starts the first ESP again, and its root on trial comes up.
    boot(&machine, &second, "esp");
    let recorder = Recorder::default();
    esp::sync(&machine.host_from(&second, BOTH), &recorder).unwrap();
    assert!(notes(&recorder).iter().any(|note| note.contains("came up from an ESP that was behind")), "{:?}", notes(&recorder));
    let system = machine.host_from(&second, BOTH).system().unwrap();
    assert_eq!(system.default_entry().unwrap().image, fourth);
    assert!(system.can_boot(system.default_entry().unwrap()));
    let counted: Vec<_> = menu(&machine, "first").into_iter().filter(|(_, counted)| *counted).collect();
    assert_eq!(counted, [(fourth, true)], "the trial goes on from here");
    assert!(menu(&machine, "second").iter().all(|(_, counted)| !counted), "and nowhere else");
    assert!(menu(&machine, "second").iter().any(|(id, _)| *id == third));
}

#[test]
fn a_full_or_read_only_mirror_keeps_no_update_from_happening() {
    let temp = tempfile::tempdir().unwrap();
    enter_private_namespace().expect("this test mounts file systems: run it as root");
    let (machine, first) = with_second(temp.path());
    let second = temp.path().join("esp-second");
    rustix::mount::mount("tmpfs", &second, "tmpfs", MountFlags::empty(), c"size=4m").unwrap();
    esp::add(&machine.host(&first), &machine.place("second"), &Silent).unwrap();
    let free = machine.place("second").free_bytes().unwrap();
    std::fs::write(second.join("other"), vec![1; free as usize - 4096]).unwrap();
    machine.release("stable", &layout::bootable("2"));
    let recorder = Arc::new(Recorder::default());
    let next = upgrade_on(&machine.host_from(&first, BOTH), recorder.clone()).unwrap().staged.unwrap();
    let told = notes(&recorder);
    let beforehand =
        |note: &String| note.starts_with("ESP second will fall behind: ") && note.contains("1 MiB free (expected at least 2 MiB)");
    assert!(told.iter().any(beforehand), "{told:?}");
    assert!(told.iter().any(|note| note.starts_with("bringing ESP second in step: ")), "{told:?}");
    assert_eq!(menu(&machine, "second"), [(first.clone(), false)]);
    let problems = machine.host_from(&next, BOTH).survey().problems;
    assert!(problems.len() == 1 && problems[0].contains("not in step: it lacks"), "{problems:?}");
    std::fs::remove_file(second.join("other")).unwrap();
    rustix::mount::mount_remount(&second, MountFlags::RDONLY, "").unwrap();
    machine.boot(&next);
    for version in ["3", "4"] {
        machine.release("stable", &layout::bootable(version));
        let next = upgrade(&machine, &next, BOTH);
        machine.boot(&next);
    }
    assert_eq!(menu(&machine, "second"), [(first.clone(), false)]);
    assert!(machine.host_from(&next, BOTH).deployments().unwrap().get(&first).unwrap().is_some(), "it still boots from there");
    rustix::mount::mount_remount(&second, MountFlags::empty(), "").unwrap();
    esp::sync(&machine.host_from(&next, BOTH), &Silent).unwrap();
    assert_eq!(menu(&machine, "second"), menu(&machine, "first"));
}

#[test]
fn a_damaged_kernel_is_not_spread() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = with_second(temp.path());
    let entry = machine.place("first").entries().unwrap().remove(0);
    let text = std::fs::read_to_string(temp.path().join("esp/loader/entries").join(&entry.file)).unwrap();
    let linux = text.lines().find_map(|line| line.strip_prefix("linux /")).unwrap();
    let path = temp.path().join("esp").join(linux);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = esp::add(&machine.host(&first), &machine.place("second"), &Silent).unwrap_err();
    assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::Corrupt, "{error:#}");
    assert_eq!(menu(&machine, "second"), []);
}

#[test]
fn a_newer_loader_comes_from_a_root_that_has_proven_itself() {
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = two(temp.path());
    let [systemd, fallback] = loader_paths();
    std::fs::write(temp.path().join("esp-second").join(&fallback), "another system").unwrap();
    let path = format!("usr/lib/systemd/boot/efi/systemd-boot{}.efi", architecture());
    let files = layout::without(layout::bootable("2"), &[&path]);
    let files = layout::with(files, "usr/lib/systemd/systemd-bless-boot", "bless");
    machine.release("stable", &layout::with(files, &path, &loader("258~rc2")));
    let second = upgrade(&machine, &first, BOTH);
    let error = loader::run(&machine.host_from(&second, BOTH), &Silent).unwrap_err();
    assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::Unsuitable, "{error:#}");
    boot(&machine, &second, "esp");
    let recorder = Recorder::default();
    let report = loader::run(&machine.host_from(&second, BOTH), &recorder).unwrap();
    let found: Vec<_> = report.loaders.iter().map(|l| (l.partition.as_str(), l.path.as_str(), l.version.as_deref(), l.action)).collect();
    let expected = [
        ("second", systemd.as_str(), Some("257"), Action::Update),
        ("second", fallback.as_str(), None, Action::Foreign),
        ("first", systemd.as_str(), Some("257"), Action::Update),
        ("first", fallback.as_str(), Some("257"), Action::Update),
    ];
    assert_eq!((found.as_slice(), report.offered.as_str(), report.problems.len()), (&expected[..], "258~rc2", 0));
    assert_eq!(recorder.steps(), [format!("write {systemd}"), format!("write {systemd}"), format!("write {fallback}")]);
    assert_eq!(std::fs::read_to_string(temp.path().join("esp-second").join(&fallback)).unwrap(), "another system");
    let again = esp::sync(&machine.host_from(&second, BOTH), &Silent).unwrap().loaders.unwrap();
    let actions: Vec<_> = again.loaders.iter().map(|l| l.action).collect();
    assert_eq!(actions, [Action::Current, Action::Foreign, Action::Current, Action::Current]);
    assert_eq!(status::run(&machine.host_from(&second, BOTH)).loader.installed.as_deref(), Some("258~rc2"));
    // Back on the old root, nothing is downgraded.
    install_loaders(&temp.path().join("esp"), "259");
    let report = loader::run(&machine.host_from(&second, BOTH), &Silent).unwrap();
    assert!(report.loaders.iter().filter(|l| l.partition == "first").all(|l| l.action == Action::Newer), "{report:?}");
}

/// Variables by which a child knows that it is one.
const DIRECTORY: &str = "SELKIE_ESP_DIRECTORY";
const BOOTED: &str = "SELKIE_ESP_BOOTED";
const VERB: &str = "SELKIE_ESP_VERB";
const STOP: &str = "SELKIE_ESP_STOP";

/// Aborts after so many durable steps.
struct Killer(usize, AtomicUsize);

impl Progress for Killer {
    fn event(&self, event: Event) {
        if matches!(event, Event::Step { .. }) && self.1.fetch_add(1, Ordering::SeqCst) + 1 == self.0 {
            std::process::abort();
        }
    }
}

/// Not a test by itself: what a child does. Without the variables there is nothing to do.
#[test]
fn child() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let machine = Machine { root: directory.into() };
    let booted: ImageId = std::env::var(BOOTED).unwrap().parse().unwrap();
    let killer = Arc::new(Killer(std::env::var(STOP).unwrap().parse().unwrap(), AtomicUsize::new(0)));
    match std::env::var(VERB).unwrap().as_str() {
        "add" => drop(esp::add(&machine.host_from(&booted, BOTH), &machine.place("second"), killer.as_ref()).unwrap()),
        "remove" => {
            let removed = esp::remove(&machine.host_from(&booted, BOTH), "second", killer.as_ref());
            // Repeated after the last step, there is none any more.
            assert!(removed.is_ok() || machine.host(&booted).records().unwrap().is_empty());
        }
        "sync" => drop(esp::sync(&machine.host_from(&booted, BOTH), killer.as_ref()).unwrap()),
        "come back" => drop(esp::sync(&machine.host_from(&booted, &["second", "first"]), killer.as_ref()).unwrap()),
        _ => drop(upgrade_on(&machine.host_from(&booted, BOTH), killer).unwrap()),
    }
}

fn killed(verb: &str, directory: &Path, booted: &ImageId, stop: usize) -> bool {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .envs([(DIRECTORY, directory.to_str().unwrap()), (BOOTED, booted.hex()), (VERB, verb), (STOP, &stop.to_string())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let aborted = output.status.signal() == Some(6);
    assert!(aborted || output.status.success(), "{verb} after {stop}: {}", String::from_utf8_lossy(&output.stderr));
    aborted
}

/// Each place that boots anything boots a root that has a deployment and an image, with all its files; and the record of each says at least what it may boot.
fn check(machine: &Machine, when: &str) {
    for place in BOTH {
        let entries = machine.place(place).entries().unwrap();
        let Some(any) = entries.first() else {
            assert_eq!(*place, "second", "{when}: nothing boots");
            continue;
        };
        let host = machine.host_from(&any.image, &[place]);
        let store = host.store().unwrap();
        let record = host.records().unwrap().iter().find(|record| record.partition == *place);
        for entry in &entries {
            assert_eq!((entry.offered, entry.missing.as_slice()), (true, &[][..]), "{when}: {place}");
            assert!(host.deployments().unwrap().get(&entry.image).unwrap().is_some(), "{when}: {place} boots a root without a deployment");
            store.tree(&entry.image).unwrap();
            assert!(record.is_none_or(|record| record.roots.contains(&entry.image)), "{when}: {place} boots what its record does not say");
        }
    }
}

fn kill_at_every_step(verb: &str, least: usize, prepare: impl Fn(&Path) -> (Machine, ImageId)) {
    for stop in 1.. {
        let temp = tempfile::tempdir().unwrap();
        let (machine, booted) = prepare(temp.path());
        let was_killed = killed(verb, temp.path(), &booted, stop);
        check(&machine, &format!("{verb} stopped after step {stop}"));
        assert!(!killed(verb, temp.path(), &booted, 0));
        check(&machine, &format!("{verb} repeated after a stop at step {stop}"));
        if verb != "remove" {
            let places = if verb == "come back" { &["second", "first"] } else { BOTH };
            assert_eq!(mirror(&machine, &booted, places).in_step, Some(true), "{verb} repeated after a stop at step {stop}");
        }
        if !was_killed {
            assert!(stop > least, "{verb} has only {} steps (expected at least {least})", stop - 1);
            return;
        }
    }
}

#[test]
fn places_survive_a_stop_after_every_step() {
    kill_at_every_step("add", 7, with_second);
    kill_at_every_step("remove", 2, two);
    kill_at_every_step("upgrade", 14, |root| {
        let (machine, first) = two(root);
        machine.release("stable", &layout::bootable("2"));
        let second = upgrade(&machine, &first, BOTH);
        machine.boot(&second);
        machine.release("stable", &layout::bootable("3"));
        let third = upgrade(&machine, &second, BOTH);
        machine.boot(&third);
        machine.release("stable", &layout::bootable("4"));
        (machine, third)
    });
    kill_at_every_step("sync", 2, |root| {
        let (machine, first) = two(root);
        release(&machine, "2");
        let second = upgrade(&machine, &first, BOTH);
        boot(&machine, &second, "esp");
        (machine, second)
    });
    // The first ESP was away while the machine went on from the second, which now is the mirror that is newer.
    kill_at_every_step("come back", 2, |root| {
        let (machine, first) = two(root);
        release(&machine, "2");
        let second = upgrade(&machine, &first, &["first"]);
        boot(&machine, &second, "esp");
        (machine, first)
    });
}
