//! Results and errors on the terminal: for people, or one JSON document. The only place that prints results.
#![expect(clippy::print_stderr, reason = "this module is the terminal")]

use std::process::ExitCode;

use anyhow::{Context, Result};
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
#[derive(Debug, Args)]
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
            eprintln!("{}", json!({"event": "error", "message": format!("{error:#}"), "hint": hint, "exit-code": code}));
        } else {
            eprintln!("error: {error:#}");
            if let Some(hint) = failure.and_then(|f| f.hint) {
                eprintln!("hint: {hint}");
            }
        }
        ExitCode::from(code)
    }
}

/// Prints a text with one line break at its end. A reader that has gone away (a closed pipe) is no error.
fn write(to: &mut dyn std::io::Write, text: &str) -> Result<()> {
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
