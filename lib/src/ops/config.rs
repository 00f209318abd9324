//! `selkie config show`, and reading the configuration for every verb that asks for it.

use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result};
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::config::{self, ConfigError, Effective, FOLDERS, File, Location, Setting};
use crate::error::{Failure, FailureKind};
use crate::sys::dir;
use crate::sys::in_root::{self, Content};

/// The machine's own time zone.
const LOCAL: &str = "etc/localtime";

/// The configuration, key by key.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Every key.
    pub settings: Vec<Setting>,
}

/// Reads the configuration of the system whose root is at `root`.
///
/// # Errors
///
/// [`FailureKind::Usage`] for a file that is not understood, which is named with its line, and where `root` is no directory.
pub fn load(root: &Path) -> Result<Effective> {
    let opened = dir::open_path(root).map_err(|errno| dir::unusable(format!("opening {}", root.display()), errno))?;
    let files = files(&opened, root)?;
    let zone = |name: Option<&str>| zone(&opened, name);
    config::read(&files, &zone).map_err(|error| failure(&error).into())
}

/// Runs the verb.
///
/// # Errors
///
/// Those of [`load`].
pub fn show(root: &Path) -> Result<Report> {
    Ok(Report { settings: load(root)?.settings() })
}

fn failure(error: &ConfigError) -> Failure {
    Failure::new(FailureKind::Usage, error.to_string())
        .hint("correct the file; an empty file of the same name in /etc/selkie/config.d turns one of /usr/lib off")
}

/// The drop-in files that count, in order. An empty one, and a link to /dev/null, only replace what is below them.
fn files(root: impl AsFd, shown: &Path) -> Result<Vec<File>> {
    let names = FOLDERS.map(|folder| in_root::names(root.as_fd(), folder)).into_iter().collect::<Result<Vec<_>>>()?;
    let mut files = Vec::new();
    for (folder, name) in config::order(&names) {
        let relative = format!("{}/{name}", FOLDERS[folder]);
        let path = shown.join(&relative).display().to_string();
        match in_root::read(root.as_fd(), &relative).context("reading the configuration")? {
            Some(Content::Bytes(bytes)) => files.push(File { text: text(bytes, &path)?, path }),
            Some(Content::Null) | None => {}
        }
    }
    Ok(files)
}

fn text(bytes: Vec<u8>, path: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let location = Location { file: path.to_owned(), line };
        failure(&ConfigError { location, what: "these bytes are no text (expected UTF-8)".to_owned() }).into()
    })
}

fn zone(root: impl AsFd, name: Option<&str>) -> Option<TimeZone> {
    match name {
        Some(name) => config::zone(name, |path| file(root.as_fd(), path)),
        None => local(root),
    }
}

/// UTC where nobody has chosen one, as for every other program.
fn local(root: impl AsFd) -> Option<TimeZone> {
    let link = in_root::link(root.as_fd(), LOCAL).ok()?;
    let name = link.as_deref().and_then(|link| link.split_once("zoneinfo/")).map(|(_, name)| name.to_owned());
    match file(root.as_fd(), LOCAL) {
        Some(bytes) => TimeZone::tzif(name.as_deref().unwrap_or("local"), &bytes).ok(),
        None if link.is_none() => Some(TimeZone::UTC),
        None => zone(root, Some(&name?)),
    }
}

fn file(root: impl AsFd, path: &str) -> Option<Vec<u8>> {
    match in_root::read(root, path) {
        Ok(Some(Content::Bytes(bytes))) => Some(bytes),
        _ => None,
    }
}
