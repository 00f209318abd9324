//! The machine that a verb works on: its physical root, the places that it boots from, its lock.

mod places;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::io::Errno;

use crate::boot::{Boot, BootEntry, Choice, Mirror, Place, Variable};
use crate::config::Config;
use crate::deploy::{BootPlace, Deployments};
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;
use crate::signing::database::{Database, Trust};
use crate::store::{self, Store};
use crate::sys::efi::SecureBoot;
use crate::sys::lock::Lock;
use crate::sys::{dir, efi, mount};
use crate::system::System;

/// What a verb may do to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing is changed.
    Read,
    /// What selkie notes about this machine on the physical root is written to, and the ESP is read.
    Notes,
    /// The physical root and the ESP are written to.
    Write,
}

/// Handles on everything that a host verb needs. Deployments and ESP may be out of reach: that is told by who asks for them.
#[derive(Debug)]
pub struct Host {
    sysroot: OwnedFd,
    run: OwnedFd,
    booted: ImageId,
    config: Config,
    efivars: Option<OwnedFd>,
    deployments: Result<Deployments, Failure>,
    records: Result<Vec<BootPlace>, Failure>,
    boot: Result<Boot, Failure>,
    root: Option<OwnedFd>,
    access: Access,
}

impl Host {
    /// The running machine. Enters a mount namespace of its own, where the physical root is writable (but with [`Access::Read`]) and the
    /// ESP mounted; the rest of the machine sees neither. Call it before any thread is started.
    ///
    /// Without [`Access::Write`] missing parts are no error: [`Self::survey`] tells them.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotPermitted`] without root, [`FailureKind::NotAHost`] where `/` is not a composefs root or, with [`Access::Write`],
    /// its parts are missing.
    pub fn running(access: Access) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::new(FailureKind::NotPermitted, "opening this machine: not run as root (expected user 0)")
                .hint("run it with sudo")
                .into());
        }
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")?;
        let booted = booted_image(mount::mountinfo::root_source(&mountinfo).as_deref())?;
        mount::enter_private_namespace()?;
        if access != Access::Read {
            mount::make_writable(Path::new("/sysroot"))?;
        }
        let run = dir::ensure(dir::open_path("/run").context("opening /run")?, "selkie", 0o700)?;
        let efivars = open_efivars();
        let esp = match &efivars {
            Ok(efivars) => booted_partition(efivars).and_then(|uuid| places::mount(&run, &uuid, access, places::booted_is_gone)),
            Err(error) => Err(error.clone().into()),
        };
        let sysroot = dir::open_path("/sysroot").context("opening /sysroot")?;
        let mut host = {
            let directory = run.try_clone().context("duplicating the handle of /run/selkie")?;
            Self::with_mirrors(sysroot, esp, &mut |uuid| places::mount(&directory, uuid, access, places::absent), run, booted)
        };
        (host.efivars, host.root, host.access) = (efivars.ok(), Some(dir::open_path("/").context("opening the root")?), access);
        if access == Access::Write { host.whole() } else { Ok(host) }
    }

    /// A machine given by its parts: physical root, the places that it boots from (the one that booted first), a directory for the lock, and the
    /// image that runs.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotAHost`] when there is no `state/deploy`.
    pub fn at(sysroot: OwnedFd, places: Vec<Place>, run: OwnedFd, booted: ImageId) -> Result<Self> {
        Self::partly_at(sysroot, Ok(places), run, booted).whole()
    }

    /// The same where the places, or `state/deploy` on the physical root, may be out of reach.
    pub fn partly_at(sysroot: OwnedFd, places: Result<Vec<Place>>, run: OwnedFd, booted: ImageId) -> Self {
        let places = places.map(Vec::into_iter);
        let (place, mut others) = match places {
            Ok(mut places) => (places.next().context("looking for the place that booted: there is none"), places.collect::<Vec<_>>()),
            Err(error) => (Err(error), Vec::new()),
        };
        let mut open = |uuid: &str| {
            let at = others.iter().position(|place| place.partition() == uuid);
            at.map(|at| others.remove(at)).ok_or_else(|| places::absent(uuid).into())
        };
        Self::with_mirrors(sysroot, place, &mut open, run, booted)
    }

    /// The same, where the mirrors that are on record are opened by `open`.
    fn with_mirrors(
        sysroot: OwnedFd,
        place: Result<Place>,
        open: &mut dyn FnMut(&str) -> Result<Place>,
        run: OwnedFd,
        booted: ImageId,
    ) -> Self {
        let deployments = Deployments::open(&sysroot).map_err(|e| out_of_reach(&e));
        let records = match &deployments {
            Ok(deployments) => deployments.boot_places().map_err(|e| out_of_reach(&e)),
            Err(_) => Ok(Vec::new()),
        };
        let boot = place.map_err(|e| out_of_reach(&e)).map(|place| {
            let others = records.as_deref().unwrap_or_default().iter().filter(|record| record.partition != place.partition());
            let mirrors = others
                .map(|record| Mirror { partition: record.partition.clone(), place: open(&record.partition).map_err(|e| out_of_reach(&e)) });
            let mirrors = mirrors.collect();
            Boot::new(place, mirrors)
        });
        Self {
            deployments,
            records,
            boot,
            sysroot,
            run,
            booted,
            config: Config::default(),
            efivars: None,
            root: None,
            access: Access::Write,
        }
    }

    /// The same with the root that runs.
    #[must_use]
    pub fn with_root(self, root: OwnedFd) -> Self {
        Self { root: Some(root), ..self }
    }

    /// The root that runs, where it can be looked at.
    pub fn root(&self) -> Option<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd)
    }

    /// The same with the machine's configuration; without this call it is as by default.
    #[must_use]
    pub fn configured(self, config: Config) -> Self {
        Self { config, ..self }
    }

    /// What the machine is told to do.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The same with the EFI variables in the directory `efivars`.
    #[must_use]
    pub fn with_efivars(self, efivars: OwnedFd) -> Self {
        Self { efivars: Some(efivars), ..self }
    }

    /// Deployments and their state.
    ///
    /// # Errors
    ///
    /// Why they are out of reach: [`FailureKind::NotAHost`], where nothing else is known.
    pub fn deployments(&self) -> Result<&Deployments> {
        self.deployments.as_ref().map_err(|failure| failure.clone().into())
    }

    /// The root that runs.
    pub fn booted(&self) -> &ImageId {
        &self.booted
    }

    /// The physical root.
    pub fn sysroot(&self) -> BorrowedFd<'_> {
        self.sysroot.as_fd()
    }

    /// Whether the firmware checks what it starts.
    ///
    /// # Errors
    ///
    /// There are no EFI variables, or they cannot be read.
    pub fn secure_boot(&self) -> Result<SecureBoot> {
        efi::secure_boot(self.efivars.as_ref().context("looking for EFI variables: there are none")?)
    }

    /// What the firmware goes by when it checks what it starts.
    ///
    /// # Errors
    ///
    /// There are no EFI variables, or they cannot be read.
    pub fn trust(&self) -> Result<Trust> {
        let efivars = self.efivars.as_ref().context("looking for EFI variables: there are none")?;
        let read = |name: &str| -> Result<Database> {
            let lists = efi::security_database(efivars, name)?;
            Database::parse(&lists).with_context(|| format!("reading EFI variable {name}"))
        };
        Ok(Trust { db: read("db")?, dbx: read("dbx")? })
    }

    /// The unified kernel image that was started, as a path from the root of its partition: systemd-stub leaves that in a variable which
    /// nothing can change before the next boot. `None` where a kernel was started without the stub.
    pub fn started_image(&self) -> Result<Option<String>> {
        let efivars = self.efivars.as_ref().context("looking for EFI variables: there are none")?;
        Ok(efi::loader_variable(efivars, "StubImageIdentifier")?.map(|path| path.replace('\\', "/")))
    }

    /// The places that this machine boots from.
    ///
    /// # Errors
    ///
    /// Why the one that booted is out of reach: [`FailureKind::NotAHost`], where nothing else is known, and [`FailureKind::Busy`], where something else uses it.
    pub fn boot(&self) -> Result<&Boot> {
        self.boot.as_ref().map_err(|failure| failure.clone().into())
    }

    /// The ESPs that are kept in step, as they were when this machine was opened.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Corrupt`] where a record of them cannot be read.
    pub fn records(&self) -> Result<&[BootPlace]> {
        self.records.as_deref().map_err(|failure| failure.clone().into())
    }

    /// An ESP of this machine that is not kept in step yet, by its device.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] where there is no such device, [`FailureKind::Unsuitable`] for what is no ESP.
    pub fn place_at(&self, device: &Path) -> Result<Place> {
        places::mount_device(&self.run, device, self.access)
    }

    fn whole(self) -> Result<Self> {
        self.deployments()?;
        self.boot()?;
        Ok(self)
    }

    /// Takes the machine's one lock.
    pub fn lock(&self) -> Result<Lock> {
        Lock::take(&self.run, "lock")
    }

    /// The same for what runs at boot, where another verb may be on its way: waits so long for its end.
    pub fn lock_within(&self, patience: Duration) -> Result<Lock> {
        const PAUSE: Duration = Duration::from_millis(500);
        let begin = Instant::now();
        loop {
            match self.lock() {
                Err(error) if is_busy(&error) && begin.elapsed() < patience => std::thread::sleep(PAUSE),
                taken => return taken,
            }
        }
    }

    /// The machine as it is now, whole: what is to be changed is decided on this.
    pub fn system(&self) -> Result<System> {
        let system = System::load(self.deployments()?, self.boot()?, self.booted.clone())?.with_choices(&self.choices().0);
        Ok(system.with_elsewhere(self.boot()?, self.records()?))
    }

    /// The machine as far as it can be read. What cannot is among its problems, and so is what the firmware prefers to it.
    pub fn survey(&self) -> System {
        let (choices, unreadable) = self.choices();
        let mut system = System::survey(self.deployments.as_ref(), self.boot.as_ref(), self.booted.clone()).with_choices(&choices);
        if let Ok(boot) = &self.boot {
            system.check_choices(&choices);
            system = system.with_elsewhere(boot, self.records.as_deref().unwrap_or_default());
            system.problems.extend(places::problems(boot, &self.records));
        }
        system.problems.extend(unreadable);
        system
    }

    /// Tells the boot loader to start `entry` next, once; or, with `None`, what it starts anyway.
    ///
    /// # Errors
    ///
    /// There are no EFI variables, or the firmware refuses.
    pub fn boot_once(&self, entry: Option<&BootEntry>) -> Result<()> {
        let efivars = self.efivars.as_ref().context("looking for EFI variables: there are none")?;
        let name = Variable::OneShot.name();
        match entry {
            Some(entry) => efi::set_loader_variable(efivars, name, &entry.id()),
            None => efi::remove_loader_variable(efivars, name).map(drop),
        }
    }

    /// What the firmware's variables choose, and why some of them cannot be read.
    pub(super) fn choices(&self) -> (Vec<Choice>, Vec<String>) {
        let (mut choices, mut unreadable) = (Vec::new(), Vec::new());
        let Some(efivars) = &self.efivars else { return (choices, unreadable) };
        for variable in Variable::ALL {
            match efi::loader_variable(efivars, variable.name()) {
                Ok(entry) => choices.extend(entry.map(|entry| Choice { variable, entry })),
                Err(error) => unreadable.push(format!("{error:#}")),
            }
        }
        (choices, unreadable)
    }

    /// The composefs repository. Open it once: a second handle would make garbage collection wait for the first.
    pub fn store(&self) -> Result<Store> {
        Store::open(&self.sysroot, store::DIRECTORY)
    }

    /// Bytes that the physical root can still take.
    pub fn free_bytes(&self) -> Result<u64> {
        dir::free_bytes(&self.sysroot).context("measuring free space on the physical root")
    }

    /// Makes everything on the physical root durable.
    pub fn sync(&self) -> Result<()> {
        dir::sync_filesystem(&self.sysroot).context("syncing the physical root")
    }
}

/// Whether an error is that something else is at work.
pub(super) fn is_busy(error: &anyhow::Error) -> bool {
    Failure::is(error, FailureKind::Busy)
}

/// The image that the mount source of `/` names.
fn booted_image(source: Option<&str>) -> Result<ImageId> {
    let found = source.unwrap_or("nothing");
    let image = mount::root_image_of_source(found);
    image.ok_or_else(|| not_a_host(&format!("/ is mounted from {found} (expected composefs:<digest>)")).into())
}

fn not_a_host(found: &str) -> Failure {
    Failure::new(FailureKind::NotAHost, format!("opening this machine: {found}"))
        .hint("host verbs work on a machine that selkie installed; `selkie disk` makes one")
}

/// The reason why a part of the machine cannot be used. It outlives the first who asks, so it is kept as a failure.
fn out_of_reach(error: &anyhow::Error) -> Failure {
    match Failure::find(error) {
        Some(failure) => Failure { message: format!("{error:#}"), ..failure },
        None => not_a_host(&format!("{error:#}")),
    }
}

fn open_efivars() -> Result<OwnedFd, Failure> {
    dir::open_path("/sys/firmware/efi/efivars").map_err(|errno| match errno {
        Errno::NOENT => not_a_host("it was not booted by UEFI firmware"),
        _ => not_a_host(&format!("opening the EFI variables: {errno}")),
    })
}

/// The ESP that the boot loader came from.
fn booted_partition(efivars: &OwnedFd) -> Result<String> {
    let uuid = efi::loader_partition(efivars)?;
    Ok(uuid.ok_or_else(|| not_a_host("the boot loader did not say which ESP it came from (expected systemd-boot)"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_booted_image_is_the_mount_source_of_the_root() {
        let hex = "ab".repeat(32);
        assert_eq!(booted_image(Some(&format!("composefs:{hex}"))).unwrap().hex(), hex);
        for other in [None, Some("/dev/vda2"), Some("overlay"), Some("composefs:xyz")] {
            let error = booted_image(other).unwrap_err();
            assert_eq!(Failure::find(&error).unwrap().kind, FailureKind::NotAHost, "{other:?}");
        }
    }
}
