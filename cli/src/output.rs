//! Results and errors on the terminal: for people, or one JSON document. The only place that prints results.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result};
use chrono::{DateTime, Local, TimeZone};
use clap::{Args, ValueEnum};
use selkie::error::Failure;
use serde::Serialize;
use serde_json::json;

/// Exit code of an error that no [`Failure`] describes (EX_SOFTWARE of sysexits.h).
const OTHER: u8 = 70;

/// How a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It did what it was told, or the question's answer is yes.
    Done,
    /// The question's answer is no.
    No,
    /// It was not, and was made so.
    Repaired,
}

/// How progress is shown, on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressStyle {
    /// A bar on a terminal, plain lines elsewhere.
    Auto,
    /// Plain lines.
    Plain,
    /// One JSON object a line.
    Json,
    /// Nothing.
    None,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Output {
    /// Print the result as one JSON document.
    #[arg(long, global = true)]
    pub json: bool,
    /// How to show progress (on standard error).
    #[arg(long, global = true, value_enum, default_value = "auto")]
    pub progress: ProgressStyle,
}

impl Output {
    /// Prints a result: as JSON, or what `human` makes of it.
    pub fn print<T: Serialize>(&self, result: &T, human: impl FnOnce(&T) -> String) -> Result<()> {
        let text = if self.json { serde_json::to_string_pretty(result).context("printing the result")? } else { human(result) };
        write(&mut std::io::stdout(), &text)
    }

    /// Tells something beside the result, as the library's notes are told.
    pub fn note(&self, message: &str) {
        match self.progress {
            ProgressStyle::None => {}
            ProgressStyle::Json => tell(&json!({"event": "note", "message": message}).to_string()),
            ProgressStyle::Auto | ProgressStyle::Plain => tell(&format!("note: {message}")),
        }
    }

    /// Prints an error and chooses the exit code.
    pub fn fail(&self, error: &anyhow::Error) -> ExitCode {
        let failure = Failure::find(error);
        let code = failure.as_ref().map_or(OTHER, |f| f.kind.exit_code());
        if self.json {
            let kind = failure.as_ref().map_or(json!("other"), |f| json!(f.kind));
            let hint = failure.as_ref().and_then(|f| f.hint.as_deref());
            let document = json!({"error": {"kind": kind, "message": format!("{error:#}"), "hint": hint, "exit-code": code}});
            // Nowhere to report to when standard output is gone; the exit code still tells.
            let _ = write(&mut std::io::stdout(), &document.to_string());
        } else if self.progress == ProgressStyle::Json {
            let hint = failure.and_then(|f| f.hint);
            tell(&json!({"event": "error", "message": format!("{error:#}"), "hint": hint, "exit-code": code}).to_string());
        } else {
            tell(&format!("error: {error:#}"));
            if let Some(hint) = failure.and_then(|f| f.hint) {
                tell(&format!("hint: {hint}"));
            }
        }
        ExitCode::from(code)
    }
}

/// Writes a line to standard error. Where nobody reads that any more, the work goes on.
pub fn tell(line: &str) {
    // At once, so that lines of several threads do not mix.
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// Prints a text with one line break at its end. A reader that has gone away (a closed pipe) is no error.
fn write(to: &mut dyn Write, text: &str) -> Result<()> {
    match writeln!(to, "{}", text.trim_end()).and_then(|()| to.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("printing the result"),
        _ => Ok(()),
    }
}

/// Lines of `name: value`, aligned, for people.
pub fn table(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 1;
    rows.iter().map(|(name, value)| format!("{:<width$} {value}\n", format!("{name}:"))).collect()
}

/// Rows of columns, aligned, for people.
pub fn columns<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect::<String>();
    rows.iter().map(|row| format!("{}\n", line(row).trim_end())).collect()
}

/// A number of bytes for people.
pub fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}

/// A moment of the library (RFC 3339, in UTC) for people: in the time zone of this machine, with its distance from UTC. What is no such moment stays as it is.
pub fn local(moment: &str) -> String {
    in_zone(moment, &Local)
}

fn in_zone<Z: TimeZone>(moment: &str, zone: &Z) -> String
where
    Z::Offset: std::fmt::Display,
{
    let parsed = DateTime::parse_from_rfc3339(moment);
    parsed.map_or_else(|_| moment.to_owned(), |parsed| parsed.with_timezone(zone).format("%Y-%m-%d %H:%M:%S %:z").to_string())
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use super::*;

    #[test]
    fn people_see_the_time_of_their_clock_with_its_zone() {
        let zone = FixedOffset::east_opt(5 * 3600 + 1800).unwrap();
        for (moment, expected) in [
            ("2023-11-14T22:13:20Z", "2023-11-15 03:43:20 +05:30"),
            ("1970-01-01T00:00:09Z", "1970-01-01 05:30:09 +05:30"),
            ("some day", "some day"),
        ] {
            assert_eq!(in_zone(moment, &zone), expected);
        }
    }
}
