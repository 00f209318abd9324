//! What is wrong with an image, found without booting it: read-only, one file a check.
//!
//! Beside [`system`](crate::system), which loads a machine as it is, this looks at an image as it is: at the tree that its layers make, and
//! at what its configuration says. [`CHECKS`] is the table of all checks; `docs/lint.md` is the user's copy of it.
//!
//! A check answers with findings, never with an error of the image's making: what the image has and nobody can read is a finding, too.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use crate::error::Failure;

mod checks;
mod drop_ins;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod initramfs;
mod subject;
mod sysusers;
mod tmpfiles;
mod ukis;

pub use checks::{CHECKS, DIRECTORIES};
pub use subject::{Image, Layer, Subject};

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The image does not boot, or its machines are open to attack.
    Error,
    /// Machines lack something, or have what they should not have.
    Warning,
    /// Worth knowing.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// A check: one kind of thing that can be wrong.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    /// Its name, in kebab-case. It never changes, because scripts skip checks by it.
    pub id: &'static str,
    /// How much its findings matter.
    pub severity: Severity,
    /// What must not be so, and why.
    pub about: &'static str,
    /// What to do about a finding, in general.
    pub mend: &'static str,
    #[serde(skip)]
    look: Look,
}

/// What a check looks at.
#[derive(Debug)]
enum Look {
    /// At the error that ended the taking in of the layers; what is wrong, if it is this.
    Import(fn(&anyhow::Error) -> Option<Found>),
    /// At the tree and at what is known of the image.
    Tree(fn(&Subject<'_>) -> Result<Vec<Found>>),
}

/// What a check has found, before it gets the check's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Found {
    paths: Vec<String>,
    what: String,
    mend: Option<String>,
}

impl Found {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), ..Self::default() }
    }

    /// What a failure says, with its hint.
    fn of(failure: Failure) -> Self {
        Self { what: failure.message, mend: failure.hint, ..Self::default() }
    }

    fn at(self, path: impl Into<String>) -> Self {
        self.at_all([path.into()])
    }

    fn at_all(mut self, paths: impl IntoIterator<Item = String>) -> Self {
        self.paths.extend(paths);
        self
    }

    fn mend(mut self, advice: impl Into<String>) -> Self {
        self.mend = Some(advice.into());
        self
    }
}

/// Something that a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// The check.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// Where, as absolute paths in the image; bytes that are not UTF-8 are replaced. Empty where no path says it.
    pub paths: Vec<String>,
    /// What was found.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

impl Check {
    fn finding(&self, found: Found) -> Finding {
        let mend = found.mend.unwrap_or_else(|| self.mend.to_owned());
        Finding { id: self.id, severity: self.severity, paths: found.paths, what: found.what, mend }
    }
}

/// Runs all checks but those in `skip`; findings in the order of [`CHECKS`].
///
/// # Errors
///
/// Where the files of the tree cannot be read from the repository, which is not the image's fault.
pub fn run(subject: &Subject<'_>, skip: &[String]) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for check in CHECKS.iter().filter(|check| !skip.iter().any(|id| id == check.id)) {
        let Look::Tree(look) = check.look else { continue };
        let found = look(subject).or_else(|error| defeated(error).map(|found| vec![found]))?;
        findings.extend(found.into_iter().map(|found| check.finding(found)));
    }
    Ok(findings)
}

/// The finding that explains why layers could not be taken in; `None` where that is no fault of the image.
pub fn of_import(error: &anyhow::Error) -> Option<Finding> {
    CHECKS.iter().find_map(|check| match check.look {
        Look::Import(look) => look(error).map(|found| check.finding(found)),
        Look::Tree(_) => None,
    })
}

/// A check that the image itself defeats, by links in circles for example, has found something.
fn defeated(error: anyhow::Error) -> Result<Found> {
    let outside = error.chain().any(|cause| cause.is::<std::io::Error>() || cause.is::<rustix::io::Errno>());
    if outside || Failure::find(&error).is_some() {
        return Err(error);
    }
    Ok(Found::new(format!("it cannot be told: {error:#}")).mend("mend the path that is named, so that the check can be made"))
}
