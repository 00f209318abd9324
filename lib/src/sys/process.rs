//! Child processes. Each foreign program has one adapter file that builds its argv; this runs it.

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::error::{Failure, FailureKind};

/// Runs `argv`, feeding it `input`, and returns its standard output.
///
/// # Errors
///
/// Names the program, how it ended and the last lines of what it said. A program that is not installed is
/// [`FailureKind::NotFound`].
pub fn run(argv: &[OsString], input: &[u8]) -> Result<Vec<u8>> {
    let (program, args) = argv.split_first().context("running a program: empty command line")?;
    let name = program.display();
    let spawned =
        Command::new(program).args(args).env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Failure::new(FailureKind::NotFound, format!("running {name}: no such program"))
                .hint(format!("install the package that has {name}"))
                .into());
        }
        Err(e) => return Err(e).with_context(|| format!("running {name}")),
    };
    let mut stdin = child.stdin.take().context("opening the child's standard input")?;
    let input = input.to_vec();
    // A thread of its own, so that a child that talks before it has read everything cannot block both.
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().with_context(|| format!("waiting for {name}"))?;
    let fed = feeder.join();
    if !output.status.success() {
        bail!("running {}: {}: {}", shown(argv), output.status, last_lines(&output.stderr));
    }
    match fed {
        Ok(Ok(())) => Ok(output.stdout),
        Ok(Err(e)) => Err(e).with_context(|| format!("feeding {name}")),
        Err(_) => bail!("feeding {name}: the feeding thread ended early"),
    }
}

fn shown(argv: &[OsString]) -> String {
    argv.iter().map(|a| a.display().to_string()).collect::<Vec<_>>().join(" ")
}

fn last_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn output_and_errors_carry_what_was_said() {
        assert_eq!(run(&argv(&["cat"]), b"hello").unwrap(), b"hello");
        let error = run(&argv(&["sh", "-c", "echo no luck >&2; exit 3"]), b"").unwrap_err();
        assert!(error.to_string().contains("exit status: 3: no luck"), "{error}");
        let missing = run(&argv(&["selkie-no-such-program"]), b"").unwrap_err();
        assert_eq!(Failure::find(&missing).unwrap().kind, FailureKind::NotFound);
    }
}
