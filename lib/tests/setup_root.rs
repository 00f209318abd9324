//! Boots of small images in a mount namespace: what the machine sees, what stays, and what is said where something is missing.

mod machine;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use machine::{Machine, long};
use rustix::io::Errno;
use selkie::error::{Failure, FailureKind};
use selkie::sys::mount::{mountinfo, root_image_of_source};

fn errno(result: std::io::Result<()>) -> Option<Errno> {
    result.err().and_then(|e| Errno::from_io_error(&e))
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path.as_ref()).unwrap_or_else(|e| panic!("{}: {e}", path.as_ref().display()))
}

#[test]
fn the_new_root_is_what_was_promised() {
    let machine = Machine::new();
    let id = machine.image("etc/short=small etc/long=*big etc/private=secret!600");
    machine.deploy(&id);
    let notes = machine.boot(&id, |root| {
        assert_eq!(read(root.join("usr/file")), long("usr"));
        assert_eq!(errno(std::fs::write(root.join("usr/new"), "x")), Some(Errno::ROFS));
        assert_eq!(errno(std::fs::write(root.join("sysroot/new"), "x")), Some(Errno::ROFS));
        assert!(root.join("sysroot/composefs/meta.json").exists());
        std::fs::write(root.join("etc/short"), "changed").unwrap();
        std::fs::write(root.join("etc/added"), "new").unwrap();
        std::fs::write(root.join("var/log"), "line").unwrap();
        assert_eq!((read(root.join("etc/long")), read(root.join("etc/short"))), (long("big"), "changed".into()));
        let table = read("/proc/thread-self/mountinfo");
        let entries = mountinfo::parse(&table);
        let at = |path: &Path| entries.iter().rfind(|e| e.target == path).unwrap().clone();
        assert_eq!(root_image_of_source(&at(root).source), Some(id.clone()));
        assert!(at(root).options.contains(&"ro".to_owned()) && at(&root.join("sysroot")).options.contains(&"ro".to_owned()));
        // One level each: /etc is an overlay of its own, and another overlay still fits on top of both.
        assert_eq!(
            (at(&root.join("etc")).kind.as_str(), at(&root.join("var")).kind.as_str()),
            ("overlay", at(&root.join("sysroot")).kind.as_str())
        );
        let var = at(&root.join("var")).options;
        assert!(var.contains(&"rw".to_owned()) && !var.contains(&"nodev".to_owned()), "{var:?}");
        assert!(!entries.iter().any(|e| e.target.starts_with(machine.run())), "{table}");
    });
    assert_eq!(notes, [format!("root is composefs:{} (fs-verity not required)", id.short())]);
    // On disk afterwards: the upper directory is exactly the local changes, /var is shared.
    let upper = machine.state(&id).join("etc/upper");
    assert_eq!((read(upper.join("short")), read(upper.join("added"))), ("changed".into(), "new".into()));
    assert_eq!(std::fs::read_dir(&upper).unwrap().count(), 2);
    assert_eq!(std::fs::metadata(&upper).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(read(machine.root().join("state/os/default/var/log")), "line");
    machine.boot(&id, |root| assert_eq!(read(root.join("etc/added")), "new"));
}

#[test]
fn another_overlay_fits_on_top() {
    let machine = Machine::new();
    let id = machine.image("etc/a=1");
    machine.deploy(&id);
    machine.boot(&id, |root| {
        for dir in ["etc", "usr"] {
            let (target, empty) = (root.join("var").join(dir), root.join("var/empty"));
            std::fs::create_dir_all(&target).unwrap();
            std::fs::create_dir_all(&empty).unwrap();
            let layers = format!("lowerdir={}:{}", root.join(dir).display(), empty.display());
            let status = Command::new("mount").args(["-t", "overlay", "-o", &layers, "extension"]).arg(target).status().unwrap();
            assert!(status.success(), "{dir}");
        }
    });
}

#[test]
fn a_fresh_etc_shows_the_image_s_metadata() {
    let machine = Machine::new();
    let id = machine.bare_image("usr/ sysroot/ var/ etc/!750 etc/a=1");
    machine.deploy(&id);
    machine.boot(&id, |root| assert_eq!(std::fs::metadata(root.join("etc")).unwrap().mode() & 0o7777, 0o750));
}

#[test]
fn the_device_of_the_physical_root_is_told_to_systemd() {
    let machine = Machine::new();
    let id = machine.image("");
    machine.deploy(&id);
    machine.boot(&id, |_| ());
    let device = std::fs::metadata(machine.root()).unwrap().dev();
    let link = machine.run().join("systemd/volatile-root");
    match rustix::fs::major(device) {
        0 => assert!(!link.exists()),
        major => {
            let target = std::fs::read_link(link).unwrap();
            assert_eq!(target, Path::new(&format!("/dev/block/{major}:{}", rustix::fs::minor(device))));
        }
    }
}

#[test]
fn only_a_missing_image_moves_on() {
    let machine = Machine::new();
    let id = machine.image("etc/a=1");
    machine.deploy(&id);
    let missing = "ab".repeat(32);
    let (root, notes) = machine.boot_with(&format!("quiet composefs=?{missing} composefs.digest=?v1-sha256-12:{id} rw"), |_| ());
    assert_eq!(root.unwrap().id, id);
    assert_eq!(notes[0], format!("image {missing} is not in the repository"));
    // A repository without fs-verity is no reason to try the next.
    let (root, _) = machine.boot_with(&format!("composefs={id} composefs=?{id}"), |_| ());
    let text = format!("{:#}", root.unwrap_err());
    assert!(
        text.contains("looking for fs-verity on meta.json of the repository (expected it, as the kernel argument has no '?')"),
        "{text}"
    );
}

/// What is taken away, the kernel arguments, what is said, and the kind of failure.
type Case = (fn(&Machine), String, String, Option<FailureKind>);

#[test]
fn what_is_missing_is_named_and_the_physical_root_stays() {
    let machine = Machine::new();
    let id = machine.image("etc/a=1");
    let undeployed = machine.image("etc/a=2");
    let bare = machine.bare_image("usr/ sysroot/ var/");
    let rootless = machine.bare_image("usr/ etc/ var/");
    let absent = "cd".repeat(32);
    for id in [&id, &bare, &rootless] {
        machine.deploy(id);
    }
    let karg = |id: &str| format!("composefs.digest=?v1-sha256-12:{id}");
    let no_var = |machine: &Machine| std::fs::remove_dir(machine.root().join("state/os/default/var")).unwrap();
    let no_state = |machine: &Machine| std::fs::remove_dir_all(machine.root().join("state")).unwrap();
    let no_repository = |machine: &Machine| std::fs::remove_dir_all(machine.root().join("composefs")).unwrap();
    let cases: Vec<Case> = vec![
        (|_| (), "rw quiet".into(), "none names a root image (expected composefs.digest=[?]v1-sha256-12:".into(), Some(FailureKind::Usage)),
        (|_| (), "composefs=?zz".into(), "reading kernel argument \"composefs=?zz\": expected".into(), None),
        (|_| (), karg(&absent), format!("composefs/images has none of {absent}"), Some(FailureKind::NotFound)),
        (|_| (), karg(undeployed.hex()), format!("state/deploy/{undeployed} is missing"), Some(FailureKind::NotFound)),
        (|_| (), karg(bare.hex()), "opening /etc in it (expected a directory)".into(), None),
        (|_| (), karg(rootless.hex()), "mounting /sysroot (expected that the image has this directory)".into(), None),
        (no_var, karg(id.hex()), "state/os/default/var cannot be used".into(), None),
        (no_state, karg(id.hex()), "opening state/deploy: no such directory".into(), Some(FailureKind::NotAHost)),
        (no_repository, karg(id.hex()), "opening the sha256 repository composefs".into(), None),
    ];
    for (take_away, cmdline, expected, kind) in cases {
        take_away(&machine);
        let (root, _) = machine.boot_with(&cmdline, |root| {
            let table = mountinfo::parse(&read("/proc/thread-self/mountinfo"));
            let left: Vec<_> = table.iter().filter(|e| e.target.starts_with(root)).collect();
            assert!(matches!(left[..], [physical] if physical.kind != "overlay"), "{expected}: {left:?}");
        });
        let error = root.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(&expected), "{text:?} does not say {expected:?}");
        assert_eq!(Failure::find(&error).map(|f| f.kind), kind, "{text}");
    }
}

/// Edits of every kind under the first image, and what they must look like under the second.
fn edit(etc: &Path) {
    let run = |script: &str| assert!(Command::new("sh").args(["-ec", script]).current_dir(etc).status().unwrap().success());
    std::fs::write(etc.join("edited"), "mine").unwrap();
    std::fs::write(etc.join("both"), "mine").unwrap();
    std::fs::write(etc.join("added"), "mine").unwrap();
    std::fs::write(etc.join("rewritten"), long("same")).unwrap();
    std::fs::set_permissions(etc.join("chmodded"), std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(etc.join("d/deep"), std::fs::Permissions::from_mode(0o640)).unwrap();
    std::fs::remove_file(etc.join("deleted")).unwrap();
    std::fs::remove_file(etc.join("deleted-in-both")).unwrap();
    std::fs::rename(etc.join("moved"), etc.join("moved-here")).unwrap();
    std::fs::rename(etc.join("renamed.d"), etc.join("local.d")).unwrap();
    std::fs::write(etc.join("local.d/two"), "mine").unwrap();
    std::fs::remove_dir_all(etc.join("replaced.d")).unwrap();
    std::fs::create_dir(etc.join("replaced.d")).unwrap();
    std::fs::write(etc.join("replaced.d/mine"), "mine").unwrap();
    std::fs::create_dir(etc.join("new.d")).unwrap();
    std::fs::write(etc.join("new.d/mine"), "mine").unwrap();
    std::fs::create_dir(etc.join("was-dir-in-new")).unwrap();
    std::fs::write(etc.join(".updated"), "stamp").unwrap();
    symlink("../usr/share/zoneinfo/UTC", etc.join("localtime")).unwrap();
    run("chown 7:8 chmodded && touch -d @1234567890.5 edited && mkfifo -m 622 fifo && mknod -m 640 loop b 7 9 && ln -s nowhere 'odd name'");
    run("chmod 2770 setgid.d && printf x > \"$(printf 'bad\\377name')\"");
    rustix::fs::setxattr(etc.join("edited"), "user.note", b"kept", rustix::fs::XattrFlags::empty()).unwrap();
}

const FIRST: &str = "etc/edited=1 etc/both=*1 etc/rewritten=*same etc/untouched=1 etc/chmodded=*data etc/d/ etc/d/deep=*deep etc/deleted=1 \
    etc/deleted-in-both=1 etc/moved=*content etc/renamed.d/ etc/renamed.d/one=*one etc/renamed.d/two=2 etc/replaced.d/ etc/replaced.d/old=1 \
    etc/gone=1 etc/setgid.d/ etc/setgid.d/x=1";
const SECOND: &str = "etc/edited=1 etc/both=*2 etc/rewritten=*newer etc/untouched=2 etc/chmodded=*data etc/d/!711 etc/d/deep=*deep etc/d/more=1 \
    etc/deleted=1 etc/moved=*content etc/renamed.d/ etc/renamed.d/one=*one etc/renamed.d/two=2 etc/replaced.d/ etc/replaced.d/old=1 \
    etc/new.d/ etc/new.d/theirs=1 etc/brought=1 etc/setgid.d/ etc/setgid.d/x=2";

#[test]
fn local_changes_are_carried_at_the_first_boot() {
    let machine = Machine::new();
    let (first, second) = (machine.image(FIRST), machine.image(SECOND));
    machine.deploy(&first);
    machine.boot(&first, |root| edit(&root.join("etc")));
    let left = listing(&machine.state(&first));
    machine.deploy(&second).request_etc(&first).unwrap();
    let notes = machine.boot(&second, |root| check_carried(&root.join("etc")));
    let conflict = "/etc/both: changed here, and differently in the new image; kept as it was here";
    assert_eq!(notes[..2], [format!("local changes of /etc were carried from {}", first.short()), conflict.to_owned()]);
    assert_eq!(listing(&machine.state(&first)), left, "the deployment that ran before was written to");
    // Nothing in the fresh upper leads to a lower layer, and it has no more than what was carried.
    let upper = machine.state(&second).join("etc/upper");
    for name in ["untouched", "rewritten", ".updated", "deleted-in-both", "renamed.d/one"] {
        assert!(std::fs::symlink_metadata(upper.join(name)).is_err(), "{name}");
    }
    assert_eq!(read(upper.join("chmodded")), long("data"));
    // The second boot of the same deployment carries nothing, and sees the same.
    machine.boot(&second, |root| check_carried(&root.join("etc")));
}

fn check_carried(etc: &Path) {
    let meta = |name: &str| std::fs::symlink_metadata(etc.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mode = |name: &str| meta(name).mode() & 0o7777;
    for (name, text) in [
        ("edited", "mine".to_owned()),
        ("both", "mine".to_owned()),
        ("added", "mine".to_owned()),
        ("rewritten", long("newer")),
        ("untouched", "2".to_owned()),
        ("brought", "1".to_owned()),
        ("chmodded", long("data")),
        ("d/deep", long("deep")),
        ("d/more", "1".to_owned()),
        ("moved-here", long("content")),
        ("local.d/one", long("one")),
        ("local.d/two", "mine".to_owned()),
        ("replaced.d/mine", "mine".to_owned()),
        ("new.d/mine", "mine".to_owned()),
        ("new.d/theirs", "1".to_owned()),
        ("setgid.d/x", "2".to_owned()),
    ] {
        assert_eq!(read(etc.join(name)), text, "{name}");
    }
    for name in ["deleted", "deleted-in-both", "moved", "renamed.d", "replaced.d/old", "gone", ".updated"] {
        assert!(std::fs::symlink_metadata(etc.join(name)).is_err(), "{name} is there");
    }
    assert_eq!((mode("chmodded"), meta("chmodded").uid(), meta("chmodded").gid()), (0o600, 7, 8));
    assert_eq!((mode("d/deep"), mode("d"), mode("setgid.d"), mode("fifo"), mode("loop")), (0o640, 0o711, 0o2770, 0o622, 0o640));
    assert_eq!((meta("edited").mtime(), meta("edited").mtime_nsec()), (1_234_567_890, 500_000_000));
    assert_eq!(meta("loop").rdev(), rustix::fs::makedev(7, 9));
    assert_eq!(std::fs::read_link(etc.join("localtime")).unwrap(), Path::new("../usr/share/zoneinfo/UTC"));
    let bad = std::os::unix::ffi::OsStrExt::as_bytes;
    assert!(std::fs::read_dir(etc).unwrap().any(|e| bad(e.unwrap().file_name().as_os_str()) == b"bad\xffname"));
    let mut note = [0; 16];
    let size = rustix::fs::getxattr(etc.join("edited"), "user.note", &mut note).unwrap();
    assert_eq!(&note[..size], b"kept");
}

#[test]
fn there_and_back_again() {
    let machine = Machine::new();
    let (first, second) = (machine.image("etc/a=1 etc/b=1 etc/d/ etc/d/x=*1"), machine.image("etc/a=2 etc/b=2 etc/d/ etc/d/x=*2"));
    machine.deploy(&first);
    machine.boot(&first, |root| std::fs::write(root.join("etc/a"), "under first").unwrap());
    machine.deploy(&second).request_etc(&first).unwrap();
    machine.boot(&second, |root| {
        std::fs::write(root.join("etc/d/x"), "under second").unwrap();
        std::fs::write(root.join("etc/c"), "under second").unwrap();
    });
    // The first again, made under the second: its own /etc from before is kept aside.
    machine.deploy(&first).request_etc(&second).unwrap();
    machine.boot(&first, |root| {
        let etc = root.join("etc");
        let words = ["a", "b", "c", "d/x"].map(|name| read(etc.join(name)));
        assert_eq!(words, ["under first", "1", "under second", "under second"]);
    });
    assert_eq!(read(machine.state(&first).join("etc.replaced/upper/a")), "under first");
    assert_eq!(machine.deploy(&first).requested_etc().unwrap(), None);
}

#[test]
fn no_boot_depends_on_where_an_image_came_from() {
    let machine = Machine::new();
    let (first, second) = (machine.image("etc/a=1"), machine.image("etc/a=1 etc/b=2"));
    for id in [&first, &second] {
        machine.deploy(id);
    }
    // Half of it, and one of a selkie to come.
    std::fs::write(machine.state(&first).join("origin.json"), "{").unwrap();
    std::fs::write(machine.state(&second).join("origin.json"), "{\"version\": 99, \"image\": [\"quay.io/acme/os\"]}").unwrap();
    machine.boot(&first, |root| std::fs::write(root.join("etc/a"), "mine").unwrap());
    let deployment = machine.deployments().get(&second).unwrap().unwrap();
    deployment.request_etc(&first).unwrap();
    let found = machine.deployments().list().unwrap().found.into_iter().find(|f| f.id == second).unwrap();
    assert_eq!((found.origin.is_err(), found.etc_from.as_ref()), (true, Some(&first)), "a prune would take away what is to be carried");
    machine.boot(&second, |root| assert_eq!((read(root.join("etc/a")), read(root.join("etc/b"))), ("mine".into(), "2".into())));
    std::fs::remove_file(machine.state(&second).join("origin.json")).unwrap();
    machine.boot(&second, |root| assert_eq!(read(root.join("etc/a")), "mine"));
}

#[test]
fn a_carry_that_cannot_be_done_stops_the_boot() {
    let machine = Machine::new();
    let (id, before) = (machine.image("etc/a=1"), machine.image("etc/a=2"));
    let nowhere = "ef".repeat(32).parse().unwrap();
    let deployment = machine.deploy(&id);
    deployment.request_etc(&before).unwrap();
    let failing = |expected: &str| {
        let (root, _) = machine.boot_with(&format!("composefs=?{id}"), |_| ());
        let text = format!("{:#}", root.unwrap_err());
        assert!(text.contains(expected), "{text:?} does not say {expected:?}");
    };
    failing(&format!("carrying /etc from deployment {before}: opening deployment: state/deploy/{before} is missing"));
    machine.deploy(&nowhere);
    deployment.request_etc(&nowhere).unwrap();
    failing(&format!("composefs/images has no {nowhere}"));
    std::fs::write(machine.state(&id).join("etc-from.json"), "{").unwrap();
    failing(&format!("preparing /etc of deployment {id}: reading etc-from.json"));
    // With the deployment back, the same boot goes through.
    machine.deploy(&before);
    deployment.request_etc(&before).unwrap();
    machine.boot(&id, |root| assert_eq!(read(root.join("etc/a")), "1"));
}

/// Boots `id`, whose /etc cannot be carried, and returns what is said and advised.
fn refused(machine: &Machine, id: &impl std::fmt::Display) -> (String, Failure) {
    let (root, _) = machine.boot_with(&format!("composefs=?{id}"), |_| ());
    let error = root.unwrap_err();
    (format!("{error:#}"), Failure::find(&error).unwrap_or_else(|| panic!("no advice: {error:#}")))
}

#[test]
fn a_carry_without_room_says_what_to_do() {
    // A disk of its own, in a mount namespace of this thread; an overlay and a file-backed EROFS do not do with a tmpfs.
    selkie::sys::mount::enter_private_namespace().unwrap();
    let disk = tempfile::NamedTempFile::new().unwrap();
    disk.as_file().set_len(16 << 20).unwrap();
    let run = |program: &str, args: &[&std::ffi::OsStr]| assert!(Command::new(program).args(args).status().unwrap().success(), "{program}");
    run("mkfs.ext4", &["-q".as_ref(), "-m0".as_ref(), disk.path().as_ref()]);
    let machine = Machine::new_on(|root| run("mount", &["-oloop".as_ref(), disk.path().as_ref(), root.as_ref()]));
    let (first, second) = (machine.image("etc/a=1"), machine.image("etc/a=2"));
    machine.deploy(&first);
    machine.boot(&first, |root| std::fs::write(root.join("etc/large"), vec![1; 1 << 20]).unwrap());
    machine.deploy(&second).request_etc(&first).unwrap();
    let ballast = machine.root().join("state/os/default/var/ballast");
    let filled = std::io::copy(&mut std::io::repeat(1), &mut std::fs::File::create(&ballast).unwrap());
    assert_eq!(errno(filled.map(|_| ())), Some(Errno::NOSPC));
    let (text, failure) = refused(&machine, &second);
    assert!(text.contains(&format!("carrying /etc from deployment {first}")) && text.contains("No space left on device"), "{text}");
    assert_eq!(failure.kind, FailureKind::NoSpace);
    assert_eq!(
        failure.hint.as_deref(),
        Some("boot the previous entry, which is as it was, and free some space in /var; the next boot of this entry tries again")
    );
    // And so it is.
    machine.boot(&first, |root| std::fs::remove_file(root.join("var/ballast")).unwrap());
    machine.boot(&second, |root| assert_eq!(std::fs::metadata(root.join("etc/large")).unwrap().len(), 1 << 20));
}

#[test]
fn a_carry_that_cannot_read_says_what_to_do() {
    let machine = Machine::new();
    let (first, second) = (machine.image("etc/a=*1"), machine.image("etc/b=2"));
    machine.deploy(&first);
    // Only its metadata is in the upper directory then; its bytes are in the object.
    machine.boot(&first, |root| std::fs::set_permissions(root.join("etc/a"), std::fs::Permissions::from_mode(0o600)).unwrap());
    machine.deploy(&second).request_etc(&first).unwrap();
    let object = machine.object(&long("1"));
    std::fs::rename(&object, machine.root().join("object")).unwrap();
    let (text, failure) = refused(&machine, &second);
    assert!(text.contains(&format!("carrying /etc from deployment {first}")), "{text}");
    assert_eq!(failure.kind, FailureKind::Corrupt, "{text}");
    assert_eq!(
        failure.hint.as_deref(),
        Some(
            "boot the previous entry, which is as it was, and look for errors of the disk in dmesg; the next boot of this entry tries again"
        )
    );
    std::fs::rename(machine.root().join("object"), &object).unwrap();
    machine.boot(&second, |root| assert_eq!(read(root.join("etc/a")), long("1")));
}

/// Everything below a directory: path, mode, owner, device, size and time of change.
fn listing(path: &Path) -> Vec<String> {
    let output = Command::new("find").arg(path).args(["-printf", "%P %m %U:%G %y %s %T@ %C@\\n"]).output().unwrap();
    let mut lines: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    lines.sort();
    assert!(lines.len() > 5, "{lines:?}");
    lines
}
