//! The first boot of a new root is stopped after every durable step of carrying `/etc`: the old root boots as it was, and the next boot of the new
//! one ends what the first began.

mod crash_common;
mod machine;

use std::path::Path;

use crash_common::{Scene, kill_at_every_step};
use machine::{Machine, long};
use selkie::image_id::ImageId;

#[test]
fn child() {
    crash_common::child(&[("setup-root", |job| {
        let id = job.booted.as_ref().unwrap();
        Machine::at(&job.directory).boot_telling(&format!("composefs=?{id}"), &*job.progress, |_| ()).unwrap();
    })]);
}

/// A machine whose next boot carries `/etc` from the root `old` to the root `new`.
struct FirstBoot {
    machine: Machine,
    old: ImageId,
    new: ImageId,
    /// Files of /etc and their contents under the old root, and under the new one.
    seen: [&'static [(&'static str, &'static str)]; 2],
    /// What the new root had in its /etc before; it is kept aside.
    aside: Option<(&'static str, &'static str)>,
}

fn see(root: &Path, files: &[(&str, &str)], when: &str) {
    for (name, content) in files {
        let found = std::fs::read_to_string(root.join("etc").join(name)).unwrap_or_else(|e| panic!("{when}: {name}: {e}"));
        assert_eq!(found, *content, "{when}: {name}");
    }
}

impl Scene for FirstBoot {
    const MOUNTS: bool = true;

    fn booted(&self) -> Option<&ImageId> {
        Some(&self.new)
    }

    fn check(&self, when: &str) {
        self.machine.boot(&self.old, |root| see(root, self.seen[0], when));
    }

    fn check_end(&self, when: &str) {
        let request = || self.machine.deployments().get(&self.new).unwrap().unwrap().requested_etc().unwrap();
        assert_eq!(request(), None, "{when}");
        self.machine.boot(&self.new, |root| see(root, self.seen[1], when));
        if let Some((name, content)) = self.aside {
            let kept = self.machine.state(&self.new).join("etc.replaced/upper").join(name);
            assert_eq!(std::fs::read_to_string(kept).unwrap(), content, "{when}");
        }
    }
}

fn edit(root: &Path) {
    std::fs::write(root.join("etc/both"), "mine").unwrap();
    std::fs::write(root.join("etc/added"), "mine").unwrap();
    std::fs::remove_file(root.join("etc/deleted")).unwrap();
}

fn two(directory: &Path) -> (Machine, ImageId, ImageId) {
    let machine = Machine::install(directory, |_| ());
    let (first, second) = (machine.image("etc/both=1 etc/deleted=1 etc/kept=1"), machine.image("etc/both=2 etc/deleted=1 etc/kept=2"));
    machine.deploy(&first);
    machine.boot(&first, edit);
    machine.deploy(&second).request_etc(&first).unwrap();
    (machine, first, second)
}

#[test]
fn the_first_boot_of_a_new_root_survives_a_stop_after_every_step() {
    kill_at_every_step("setup-root", 4, |directory| {
        let (machine, old, new) = two(directory);
        let seen: [&[_]; 2] =
            [&[("both", "mine"), ("added", "mine"), ("kept", "1")], &[("both", "mine"), ("added", "mine"), ("kept", "2")]];
        FirstBoot { machine, old, new, seen, aside: None }
    });
}

#[test]
fn going_back_to_a_root_with_an_etc_of_its_own_survives_a_stop_after_every_step() {
    kill_at_every_step("setup-root", 4, |directory| {
        let (machine, first, second) = two(directory);
        machine.boot(&second, |root| std::fs::write(root.join("etc/added"), long("under the second")).unwrap());
        machine.deploy(&first).request_etc(&second).unwrap();
        let seen: [&[_]; 2] = [&[("both", "mine"), ("kept", "2")], &[("both", "mine"), ("kept", "1")]];
        FirstBoot { machine, old: second, new: first, seen, aside: Some(("added", "mine")) }
    });
}
