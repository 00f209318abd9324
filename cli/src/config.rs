//! `selkie config`, and the configuration for the other verbs.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use selkie::config::{Config, Setting};
use selkie::ops::config::{self, Report};

use crate::output::{Answer, Output, columns};

/// What this machine is told to do.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Show(Show),
}

/// Show every key with its value, and which file says so.
///
/// Files are read from /usr/lib/selkie/config.d, /etc/selkie/config.d and /run/selkie/config.d.
#[derive(Debug, Args)]
struct Show {
    /// The root directory of the system whose configuration is read.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let Verb::Show(show) = &arguments.verb;
    output.print(&config::show(&show.root)?, human)?;
    Ok(Answer::Done)
}

/// The configuration of this machine.
pub fn load() -> Result<Config> {
    Ok(config::load(Path::new("/"))?.config)
}

/// The same for what must work whatever the files say: as by default, with the reason, where they cannot be read.
pub fn load_or_default(root: &Path) -> (Config, Option<String>) {
    match config::load(root) {
        Ok(effective) => (effective.config, None),
        Err(error) => (Config::default(), Some(format!("{error:#}; what is the default counts"))),
    }
}

/// TOML that means the same.
fn human(report: &Report) -> String {
    let from = |setting: &Setting| setting.from.as_ref().map_or_else(|| "default".to_owned(), ToString::to_string);
    columns(report.settings.iter().map(|setting| [format!("{} = {}", setting.key, setting.value), format!("# {}", from(setting))]))
}
