//! Databases of packages as rpm itself writes them: read, compared, and asked for owners of files.

mod common;
mod rechunk_common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::host::Machine;
use common::layout::{self, What};
use selkie::ops::diff::{self, Options};
use selkie::ops::upgrade::Until;
use selkie::packages::{PackageChange, RpmPackage, rpm, rpm_versions};

const PLACE: &str = "usr/lib/sysimage/rpm/rpmdb.sqlite";

/// How many packages have no files.
const EMPTIES: usize = 12;

/// A folder with packages, and a database for each release.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Builds `alpha` of this version, with 300 files, a directory and a link, and of the same source many without any: their headers take several pages.
    fn build(&self, version: &str) {
        let empty = |name: &str| format!("%package -n {name}\nSummary: b\n%description -n {name}\nb\n%files -n {name}\n");
        let empty: String = empties().iter().map(|name| empty(name)).collect();
        let spec = format!(
            "Name: alpha\nVersion: {version}\nRelease: 3\nEpoch: 2\nSummary: a\nLicense: MIT\nBuildArch: noarch\n%description\na\n\
             %install\nmkdir -p %{{buildroot}}/usr/bin %{{buildroot}}/usr/share/alpha/empty\n\
             echo {version} > %{{buildroot}}/usr/bin/alpha\nln -s alpha %{{buildroot}}/usr/bin/a\n\
             for i in $(seq 300); do echo $i > %{{buildroot}}/usr/share/alpha/a-rather-long-name-of-a-file-$i; done\n\
             %files\n/usr/bin/*\n/usr/share/alpha\n{empty}"
        );
        std::fs::write(self.path("alpha.spec"), spec).unwrap();
        let top = format!("_topdir {}", self.path("top").display());
        run(Command::new("rpmbuild").args(["--quiet", "-bb", "--define", &top]).arg(self.path("alpha.spec")));
    }

    fn rpm(&self, database: &str) -> Command {
        let mut command = Command::new("rpm");
        command.arg("--dbpath").arg(self.path(database)).args(["--define", "_db_backend sqlite"]);
        command
    }

    /// A database in which all are installed.
    fn install(&self, database: &str, version: &str) -> Vec<u8> {
        self.build(version);
        std::fs::create_dir(self.path(database)).unwrap();
        let package = |name: &str| self.path(&format!("top/RPMS/noarch/{name}-{version}-3.noarch.rpm"));
        let words = ["--justdb", "--nodeps", "--noscripts", "--nosignature", "-i"];
        run(self.rpm(database).args(words).arg(package("alpha")).args(empties().iter().map(|name| package(name))));
        // Whoever reads last closes the database.
        self.asked(database, &["-qa"]);
        std::fs::read(self.path(database).join("rpmdb.sqlite")).unwrap()
    }

    /// Lines that a query prints, sorted.
    fn asked(&self, database: &str, words: &[&str]) -> Vec<String> {
        let mut lines: Vec<String> = run(self.rpm(database).args(words)).lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

/// The names of packages without files.
fn empties() -> Vec<String> {
    (0..EMPTIES).map(|number| format!("beta{number:02}")).collect()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?} (Debian's package rpm): {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}

#[test]
fn what_rpm_writes_is_read_as_rpm_reads_it() {
    let desk = Desk::new();
    let packages = rpm(&desk.install("db", "1.2")).unwrap();
    let line = |package: &RpmPackage| {
        let architecture = package.architecture.as_deref().unwrap_or("(none)");
        format!("{} {} {architecture} {}", package.name, package.version, package.installed.unwrap())
    };
    let format = "%{NAME} %{EPOCH}:%{VERSION}-%{RELEASE} %{ARCH} %{INSTALLTIME}\\n";
    assert_eq!(sorted(packages.iter().map(line)), desk.asked("db", &["-qa", "--qf", format]));
    assert!(packages.iter().all(|package| package.source == "alpha"));
    let files = packages.iter().flat_map(|package| &package.files).map(|path| format!("/{}", std::str::from_utf8(path).unwrap()));
    let directories = ["/usr/share/alpha", "/usr/share/alpha/empty"].map(str::to_owned);
    let expected = desk.asked("db", &["-qa", "--qf", "[%{FILENAMES}\\n]"]);
    assert_eq!(sorted(files.chain(directories)), expected);
    assert_eq!((packages.len(), expected.len()), (1 + EMPTIES, 304));
}

#[test]
fn a_database_that_is_cut_or_damaged_is_an_error_or_another_database_and_never_a_fault() {
    let desk = Desk::new();
    let good = desk.install("db", "1.2");
    for length in (0..good.len()).step_by(4096 + 511) {
        let _ = rpm(&good[..length]);
    }
    assert!(rpm(&good[..4096]).unwrap_err().to_string().contains("it has no page "));
    for at in (0..good.len()).step_by(1009) {
        let mut damaged = good.clone();
        damaged[at] ^= 0xff;
        let _ = rpm(&damaged);
    }
}

#[test]
fn diff_tells_packages_of_rpm() {
    let desk = Desk::new();
    let databases = [desk.install("one", "1.2"), desk.install("two", "1.3")];
    let temp = tempfile::tempdir().unwrap();
    let (machine, first) = Machine::install(temp.path());
    let image = |database: &[u8], log: &[u8]| {
        let directory = Path::new(PLACE).parent().unwrap();
        let directories = [directory.parent().unwrap(), directory].map(|path| path.to_str().unwrap().to_owned());
        let files = directories.into_iter().fold(layout::bootable("1"), |files, path| layout::with_other(files, &path, What::Directory));
        let files = layout::with_other(files, PLACE, What::File(database.to_vec()));
        layout::with_other(files, &format!("{PLACE}-wal"), What::File(log.to_vec()))
    };
    let stage = |booted| machine.upgrade_keeping(booted, None, Until::Stage, 9).unwrap().staged.unwrap();
    machine.release("stable", &image(&databases[0], b""));
    let second = stage(&first);
    machine.boot(&second);
    machine.release("stable", &image(&databases[1], b""));
    stage(&second);
    let compare = || diff::run(&machine.host(&second), &Options::default()).unwrap();
    let change = |name: String| PackageChange { name, before: Some("2:1.2-3".into()), after: Some("2:1.3-3".into()) };
    let report = compare();
    let expected = std::iter::once("alpha".to_owned()).chain(empties()).map(change).collect();
    assert_eq!((report.changes.packages, report.changes.packages_unread), (expected, None));
    assert_eq!(rpm_versions(&rpm(&databases[0]).unwrap()).len(), 1 + EMPTIES);

    machine.release("stable", &image(&databases[1], b"changes"));
    stage(&second);
    let report = compare();
    assert!(
        report.changes.packages.is_empty() && report.changes.packages_unread.as_ref().unwrap().contains("was not closed"),
        "{report:?}"
    );
}

#[test]
fn rechunk_arranges_by_packages_of_rpm() {
    const YESTERDAY: u64 = 1_700_000_000;
    let database = Desk::new().install("db", "1.2");
    let installed = u64::from(rpm(&database).unwrap()[0].installed.unwrap());
    let tar = rechunk_common::Tar::new()
        .directories(&["usr", "usr/bin", "usr/share", "usr/share/alpha", "usr/lib", "usr/lib/sysimage", "usr/lib/sysimage/rpm"], YESTERDAY)
        .file_at("usr/bin/alpha", b"1.2", YESTERDAY)
        .file_at("usr/share/alpha/a-rather-long-name-of-a-file-7", b"7", YESTERDAY)
        // Changed after it was installed, and of no package.
        .file_at("usr/share/alpha/a-rather-long-name-of-a-file-8", b"8", installed + 1)
        .file_at("usr/bin/other", b"other", YESTERDAY)
        .file_at(PLACE, &database, YESTERDAY);
    let mut desk = rechunk_common::Desk::new();
    desk.image("v1", vec![tar.bytes()]);
    let report = desk.rechunk(&desk.options("v1")).unwrap();
    let groups: Vec<(&str, u64)> = report.layers.iter().map(|layer| (layer.group.as_str(), layer.entries)).collect();
    assert_eq!(groups, [("packages, part 1 of 1", 2), ("files of no package below /usr", 3), ("directories", 8)]);
}
