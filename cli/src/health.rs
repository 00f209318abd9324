//! `selkie health`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use selkie::config::{DurationError, duration};
use selkie::ops::health::{self, Action, Consequence, Finding, Kind, Options, Outcome, Report, Verdict};
use selkie::ops::host::{Access, Host};

use crate::output::{Answer, Output};
use crate::progress::renderer;

/// How long to wait for another selkie process that is changing the machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Run the health checks of this machine: exit code 0 if it is well, 1 if not.
///
/// Checks are executables in /usr/lib/selkie/health.d and /etc/selkie/health.d, and greenboot's folders below /usr/lib/greenboot and /etc/greenboot.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Draw the consequences, as selkie-health.service does at boot: run green.d or red.d, keep a record, and restart a machine that is not well.
    #[arg(long)]
    apply: bool,
    /// How long a check may run: 90s, 2m, or a number of seconds (default: `health.timeout` of the configuration, else 1m).
    #[arg(long, value_name = "TIME", value_parser = limit)]
    timeout: Option<Duration>,
    /// A failed unit of systemd is a failed check, too.
    #[arg(long)]
    failed_units: bool,
    /// Where the folders of checks are looked for.
    #[arg(long, value_name = "DIR", default_value = "/", hide = true, conflicts_with = "apply")]
    root: PathBuf,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let progress = renderer(output);
    // A boot is judged whatever the files say.
    let (config, unreadable) = crate::config::load_or_default(&arguments.root);
    let options = Options {
        root: arguments.root.clone(),
        limit: arguments.timeout.unwrap_or(config.health.timeout),
        failed_units: arguments.failed_units || config.health.failed_units,
        follow_up: arguments.apply,
    };
    let mut report = health::check(&options, progress.as_ref())?;
    report.problems.extend(unreadable);
    if arguments.apply {
        match Host::running(Access::Notes) {
            Ok(host) => health::apply(&host, &mut report, PATIENCE, progress.as_ref()),
            Err(error) => report.problems.push(format!("{error:#}")),
        }
    }
    output.print(&report, human)?;
    if report.consequence.as_ref().is_some_and(|c| c.action == Action::Reboot) {
        selkie::sys::reboot::reboot()?;
    }
    Ok(if report.verdict == Verdict::Good { Answer::Done } else { Answer::No })
}

/// A number alone is one of seconds.
fn limit(text: &str) -> Result<Duration, DurationError> {
    let read = text.parse().map(|seconds: u32| Duration::from_secs(seconds.into())).or_else(|_| duration(text))?;
    if read.is_zero() { Err(DurationError(text.to_owned())) } else { Ok(read) }
}

fn human(report: &Report) -> String {
    let mut text: String = report.checks.iter().map(line).collect();
    let count = |bad: &dyn Fn(&Finding) -> bool| report.checks.iter().filter(|check| bad(check)).count();
    let ran = count(&|check| check.kind == Kind::Required && check.outcome != Outcome::Skipped);
    let (skipped, bad) = (count(&|check| check.outcome == Outcome::Skipped), count(&Finding::is_bad));
    let beside = if skipped == 0 { String::new() } else { format!("; skipped, and so not counted: {skipped}") };
    // What follows a boot is no check.
    let none = count(&|check| matches!(check.kind, Kind::Required | Kind::Wanted) && check.outcome != Outcome::Skipped) == 0;
    text += &match report.verdict {
        Verdict::Good if none && skipped == 0 => {
            "No check ran: neither the image nor this machine has any. Nothing says that it is not well.\n".to_owned()
        }
        Verdict::Good if none => format!("No check ran{beside}. Nothing says that this machine is not well.\n"),
        Verdict::Good => format!("This machine is well (required checks: {ran}{beside}).\n"),
        Verdict::Bad => format!("This machine is not well: {bad} of {ran} required checks failed{beside}.\n"),
    };
    text.extend(report.consequence.as_ref().and_then(consequence));
    text.extend(report.problems.iter().map(|problem| format!("Problem: {problem}\n")));
    text
}

fn line(check: &Finding) -> String {
    let word = match check.outcome {
        Outcome::Passed => "ok",
        Outcome::Skipped => "SKIPPED",
        Outcome::Failed | Outcome::TimedOut | Outcome::NotStarted if check.kind == Kind::Required => "FAILED",
        Outcome::Failed | Outcome::TimedOut | Outcome::NotStarted => "WARNING",
    };
    let seconds = Duration::from_millis(check.duration_ms).as_secs_f32();
    let name = check.path.as_ref().unwrap_or(&check.name);
    let lines = if check.outcome == Outcome::Passed { &[][..] } else { &check.lines };
    let said: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    format!("{word:<8} {name}: {} ({seconds:.1} s)\n{said}", check.ended)
}

fn consequence(consequence: &Consequence) -> Option<String> {
    let because = &consequence.because;
    match consequence.action {
        Action::GoOn => None,
        Action::Reboot => Some(format!("Restarting: {because}.\n")),
        Action::StayUp => Some(format!("Staying up: {because}. `selkie rollback --apply` goes back to the root before.\n")),
    }
}
