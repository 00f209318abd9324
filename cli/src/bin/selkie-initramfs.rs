//! `selkie-initramfs setup-root [--sysroot DIR] [--run DIR] [--cmdline FILE]`: what the initramfs runs once the physical root is mounted.
//!
//! Small on purpose: every megabyte of an initramfs is read before anything else runs. What it has to say goes to standard error,
//! and to the kernel's log, which is still there when the journal is not.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use selkie::cmdline::Cmdline;
use selkie::error::{Failure, FailureKind};
use selkie::ops::setup_root::{Options, setup_root};
use selkie::progress::{Event, Progress};

const USAGE: &str = "usage: selkie-initramfs setup-root [--sysroot DIR] [--run DIR] [--cmdline FILE]";

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let failure = Failure::find(&error);
            say(Level::Error, &format!("{error:#}"));
            if let Some(hint) = failure.as_ref().and_then(|f| f.hint.as_deref()) {
                say(Level::Error, hint);
            }
            failure.map_or(1, |f| f.kind.exit_code()).into()
        }
    }
}

fn run(mut args: impl Iterator<Item = OsString>) -> Result<()> {
    let usage = |what: String| Failure::new(FailureKind::Usage, what).hint(USAGE);
    match args.next() {
        Some(verb) if verb == "setup-root" => {}
        other => return Err(usage(format!("reading the command line: {other:?} (expected setup-root)")).into()),
    }
    let mut options = Options::new(Cmdline::default());
    let mut cmdline = PathBuf::from("/proc/cmdline");
    while let Some(option) = args.next() {
        let value = args.next().map(PathBuf::from).ok_or_else(|| usage(format!("reading the command line: {option:?} has no value")))?;
        match option.to_str() {
            Some("--sysroot") => options.sysroot = value,
            Some("--run") => options.run = value,
            Some("--cmdline") => cmdline = value,
            _ => return Err(usage(format!("reading the command line: {option:?} is not known")).into()),
        }
    }
    options.cmdline = read_cmdline(&cmdline)?;
    setup_root(&options, &Console)?;
    Ok(())
}

fn read_cmdline(path: &Path) -> Result<Cmdline> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading kernel arguments from {}", path.display()))?;
    Ok(Cmdline::parse(&text))
}

/// The console and the kernel's log as receivers of events.
struct Console;

impl Progress for Console {
    fn event(&self, event: Event) {
        match event {
            Event::Note { message } => say(Level::Notice, &message),
            Event::Phase { name } | Event::Step { name } => say(Level::Info, &name),
            Event::Advance { .. } => {}
        }
    }
}

/// Priorities of the kernel's log, as syslog has them.
#[derive(Clone, Copy)]
enum Level {
    Error = 3,
    Notice = 5,
    Info = 6,
}

fn say(level: Level, message: &str) {
    // Nothing that can be done if a console is gone; the work goes on.
    let _ = writeln!(std::io::stderr(), "selkie: {message}");
    if let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = kmsg.write_all(format!("<{}>selkie: {message}\n", level as u8).as_bytes());
    }
}
