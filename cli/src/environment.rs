//! Options for which the environment speaks where nobody gives them. It is asked here and not by clap, whose usage lines would name what the environment
//! says as if it had to be given.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use selkie::error::{Failure, FailureKind};

/// Where the verbs work that write images or unpack them.
#[derive(Debug, Args)]
pub struct ScratchArguments {
    /// Where a scratch directory is made, with room for the files of the images and for what is made of them; it is removed at the end (default:
    /// $TMPDIR, else /var/tmp).
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

impl ScratchArguments {
    /// The directory.
    pub fn directory(&self) -> PathBuf {
        scratch(self.scratch.as_deref(), "/var/tmp")
    }
}

/// The directory that was named, else the one that the environment names, else `otherwise`.
pub fn scratch(named: Option<&Path>, otherwise: &str) -> PathBuf {
    named.map(Path::to_owned).or_else(|| said("TMPDIR").map(PathBuf::from)).unwrap_or_else(|| otherwise.into())
}

/// When what a verb makes was made.
#[derive(Debug, Args)]
pub struct TimeArguments {
    /// The time that everything made here bears (default: $SOURCE_DATE_EPOCH, else 0).
    #[arg(long, value_name = "SECONDS")]
    mtime: Option<u64>,
}

impl TimeArguments {
    /// Seconds since 1970.
    ///
    /// # Errors
    ///
    /// [`FailureKind::Usage`] where the environment has no number.
    pub fn seconds(&self) -> Result<u64> {
        let Some(said) = said("SOURCE_DATE_EPOCH").filter(|_| self.mtime.is_none()) else { return Ok(self.mtime.unwrap_or(0)) };
        let seconds = said.to_str().and_then(|said| said.parse().ok());
        let message = || format!("reading SOURCE_DATE_EPOCH: it is {said:?} (expected seconds since 1970, a whole number)");
        seconds.ok_or_else(|| Failure::new(FailureKind::Usage, message()).hint("set it to one, or give --mtime").into())
    }
}

/// What a variable says; one that is empty says nothing.
fn said(variable: &str) -> Option<OsString> {
    std::env::var_os(variable).filter(|said| !said.is_empty())
}
