//! Which checks an image and its machine have, and running them.
//!
//! Two layouts, side by side: `health.d` of selkie, executables of any kind, and the folders of greenboot, whose files `*.sh` are run by bash, executable or
//! not, in /usr/lib before /etc, with no masking between the two.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::deploy::FailedCheck;
use crate::sys::process::{self, End};
use crate::sys::{dir, units};

/// Where selkie's own checks are; a name in the second masks the same name in the first.
const HEALTH: [&str; 2] = ["usr/lib/selkie/health.d", "etc/selkie/health.d"];
/// Where greenboot's folders are.
const GREENBOOT: [&str; 2] = ["usr/lib/greenboot", "etc/greenboot"];
/// The unit that runs this: what it was the last time says nothing about now. And the one that updates: a registry that cannot be reached makes no root a bad one.
const OWN_UNITS: [&str; 3] = ["selkie-health.service", "selkie-update.service", "selkie-esp.service"];
/// How many lines of what a check said are told, and how long each may be.
const LINES: usize = 10;
const LINE: usize = 300;

/// What a check means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It decides: where it fails, the boot is bad.
    Required,
    /// Its failure is told, and decides nothing.
    Wanted,
    /// Run after a good boot; decides nothing.
    Green,
    /// Run after a bad one; decides nothing.
    Red,
}

impl Kind {
    /// Its folder in greenboot's layout.
    fn greenboot(self) -> &'static str {
        match self {
            Self::Required => "check/required.d",
            Self::Wanted => "check/wanted.d",
            Self::Green => "green.d",
            Self::Red => "red.d",
        }
    }
}

/// A check that is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it means.
    pub kind: Kind,
    /// File name.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Whether it can be run.
    pub form: Form,
}

/// How a file is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As a program.
    Program,
    /// By bash.
    Bash,
    /// Not at all: it lacks the permission.
    NotExecutable,
    /// Not at all, and that is meant so: it is a link to /dev/null.
    Masked,
    /// A link to nothing.
    Missing,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Well.
    Passed,
    /// It ended with another exit code than 0, or by a signal.
    Failed,
    /// It was not done in time and was killed.
    TimedOut,
    /// It could not be started.
    NotStarted,
    /// It is not executable, and was not run: a warning.
    Skipped,
}

/// A check and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// What it means.
    pub kind: Kind,
    /// File name, or `failed-units`.
    pub name: String,
    /// Its file, where it has one.
    pub path: Option<String>,
    /// How it went.
    pub outcome: Outcome,
    /// The same for people: `exit code 3`.
    pub ended: String,
    /// Milliseconds that it ran.
    pub duration_ms: u64,
    /// The last lines that it said.
    pub lines: Vec<String>,
}

impl Finding {
    /// Whether it makes the boot a bad one.
    pub fn is_bad(&self) -> bool {
        self.kind == Kind::Required && !matches!(self.outcome, Outcome::Passed | Outcome::Skipped)
    }

    /// What a record keeps of it.
    pub(super) fn record(&self) -> FailedCheck {
        FailedCheck { name: self.name.clone(), ended: self.ended.clone(), lines: self.lines.clone() }
    }
}

/// The checks of these kinds below `root`, in the order in which they run: selkie's, then greenboot's.
///
/// # Errors
///
/// A folder that is there and cannot be read.
pub fn find(root: &Path, kinds: &[Kind]) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    for &kind in kinds {
        if kind == Kind::Required {
            checks.extend(own(files(&root.join(HEALTH[0]))?, files(&root.join(HEALTH[1]))?));
        }
        for folder in GREENBOOT {
            checks.extend(greenboot(kind, files(&root.join(folder).join(kind.greenboot()))?));
        }
    }
    Ok(checks)
}

/// Files in a folder, with how they could be run as programs.
type Files = Vec<(PathBuf, Form)>;

fn files(folder: &Path) -> Result<Files> {
    let opened = dir::optional(dir::open_path(folder)).with_context(|| format!("opening {}", folder.display()))?;
    let Some(opened) = opened else { return Ok(Vec::new()) };
    let names = dir::names(&opened).with_context(|| format!("listing {}", folder.display()))?;
    Ok(names.iter().filter_map(|name| Some((folder.join(name), form(&folder.join(name))?))).collect())
}

/// `None` for what is no file, as a directory.
fn form(path: &Path) -> Option<Form> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let Ok(meta) = path.metadata() else { return Some(Form::Missing) };
    match meta.file_type() {
        kind if kind.is_char_device() => Some(Form::Masked),
        kind if !kind.is_file() => None,
        _ if meta.permissions().mode() & 0o111 == 0 => Some(Form::NotExecutable),
        _ => Some(Form::Program),
    }
}

/// Of the same name only the one in /etc, by name.
fn own(usr: Files, etc: Files) -> Vec<Check> {
    let named = |(path, form): (PathBuf, Form)| Some((path.file_name()?.to_owned(), (path, form)));
    let by_name: BTreeMap<OsString, (PathBuf, Form)> = usr.into_iter().chain(etc).filter_map(named).collect();
    let check = |(name, (path, form)): (OsString, (PathBuf, Form))| Check { kind: Kind::Required, name: shown(&name), path, form };
    by_name.into_iter().filter(|(name, (_, form))| is_meant(name) && *form != Form::Masked).map(check).collect()
}

/// Hidden files, and what editors and package managers leave behind, are no checks.
fn is_meant(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    !name.starts_with('.') && ![b'~', b'#'].iter().any(|end| name.as_bytes().ends_with(&[*end])) && !name.contains(".dpkg-")
}

fn greenboot(kind: Kind, files: Files) -> Vec<Check> {
    let script = |(path, form): (PathBuf, Form)| {
        let name = path.file_name()?.to_owned();
        let runs = path.extension().is_some_and(|end| end == "sh") && form != Form::Masked;
        let form = if form == Form::Missing { form } else { Form::Bash };
        runs.then(|| Check { kind, name: shown(&name), path, form })
    };
    files.into_iter().filter_map(script).collect()
}

/// Runs a check for at most `limit`.
pub fn run(check: &Check, limit: Duration) -> Finding {
    let path: OsString = check.path.clone().into();
    let argv = match check.form {
        Form::Program => vec![path],
        Form::Bash => vec!["bash".into(), path],
        Form::NotExecutable => return not_run(check, Outcome::Skipped, "it is not executable"),
        Form::Missing | Form::Masked => return not_run(check, Outcome::NotStarted, "it is a link to nothing"),
    };
    match process::limited(&argv, limit) {
        Ok(ended) => {
            let (outcome, how) = match ended.end {
                End::Exit(0) => (Outcome::Passed, "exit code 0".to_owned()),
                End::Exit(code) => (Outcome::Failed, format!("exit code {code}")),
                End::Signal(signal) => (Outcome::Failed, format!("signal {signal}")),
                End::TimedOut => (Outcome::TimedOut, format!("not done after {} s", limit.as_secs_f32())),
            };
            let duration_ms = u64::try_from(ended.took.as_millis()).unwrap_or(u64::MAX);
            Finding { outcome, ended: how, duration_ms, lines: last_lines(&ended.output), ..not_run(check, outcome, "") }
        }
        Err(error) => not_run(check, Outcome::NotStarted, &format!("{error:#}")),
    }
}

fn not_run(check: &Check, outcome: Outcome, why: &str) -> Finding {
    let path = Some(check.path.display().to_string());
    Finding { kind: check.kind, name: check.name.clone(), path, outcome, ended: why.to_owned(), duration_ms: 0, lines: Vec::new() }
}

/// Whether systemd has failed units.
pub fn failed_units() -> Finding {
    let (outcome, ended, lines) = match units::failed() {
        Ok(failed) => judge_units(failed),
        Err(error) => (Outcome::NotStarted, format!("{error:#}"), Vec::new()),
    };
    Finding { kind: Kind::Required, name: "failed-units".to_owned(), path: None, outcome, ended, duration_ms: 0, lines }
}

fn judge_units(failed: Vec<String>) -> (Outcome, String, Vec<String>) {
    let failed: Vec<String> = failed.into_iter().filter(|unit| !OWN_UNITS.contains(&unit.as_str())).collect();
    match failed.len() {
        0 => (Outcome::Passed, "no failed units".to_owned(), failed),
        1 => (Outcome::Failed, "1 failed unit".to_owned(), failed),
        count => (Outcome::Failed, format!("{count} failed units"), failed),
    }
}

/// For terminals and JSON: no control characters, no endless lines.
fn last_lines(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|line| shown(OsStr::new(line))).collect()
}

fn shown(text: &OsStr) -> String {
    let clean = |c: char| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    text.to_string_lossy().trim_end().chars().take(LINE).map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(checks: &[Check]) -> Vec<(&str, Form)> {
        checks.iter().map(|check| (check.name.as_str(), check.form)).collect()
    }

    fn listed(folder: &str, files: &[(&str, Form)]) -> Files {
        files.iter().map(|(name, form)| (Path::new(folder).join(name), *form)).collect()
    }

    #[test]
    fn etc_masks_usr_by_name_and_all_run_by_name() {
        let usr = [("20-b", Form::Program), ("10-a", Form::Program), ("30-c", Form::Program), ("x~", Form::Program)];
        let etc = [("30-c", Form::Masked), ("20-b", Form::NotExecutable), ("15-x", Form::Program), (".hidden", Form::Program)];
        let checks = own(listed("/usr", &usr), listed("/etc", &etc));
        assert_eq!(names(&checks), [("10-a", Form::Program), ("15-x", Form::Program), ("20-b", Form::NotExecutable)]);
        assert_eq!(checks[2].path, Path::new("/etc/20-b"));
    }

    #[test]
    fn greenboot_runs_its_scripts_whatever_their_mode() {
        let files = [("b.sh", Form::NotExecutable), ("a.sh", Form::Program), ("README", Form::Program), ("c.sh", Form::Missing)];
        let checks = greenboot(Kind::Wanted, listed("/etc", &files));
        assert_eq!(names(&checks), [("b.sh", Form::Bash), ("a.sh", Form::Bash), ("c.sh", Form::Missing)]);
    }

    #[test]
    fn units_fail_but_not_the_one_that_asks() {
        for (failed, outcome, ended) in [
            (&[][..], Outcome::Passed, "no failed units"),
            (&OWN_UNITS, Outcome::Passed, "no failed units"),
            (&["a.service", OWN_UNITS[0]], Outcome::Failed, "1 failed unit"),
            (&["a.service", "b.mount"], Outcome::Failed, "2 failed units"),
        ] {
            let judged = judge_units(failed.iter().map(ToString::to_string).collect());
            assert_eq!((judged.0, judged.1.as_str()), (outcome, ended), "{failed:?}");
        }
    }

    #[test]
    fn lines_are_fit_to_be_shown() {
        let many: String = (0..20).map(|n| format!("line {n}\n")).collect();
        assert_eq!(last_lines(many.as_bytes())[..2], ["line 10", "line 11"]);
        assert_eq!(last_lines(b"\n\x1b[31mred\xff\r\n  \n"), ["\u{fffd}[31mred\u{fffd}"]);
        assert_eq!(last_lines(&[b'x'; 5000])[0].len(), LINE);
    }
}
