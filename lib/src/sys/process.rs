//! Child processes. Each foreign program has one adapter file that builds its argv; this runs it.

mod limited;

pub use limited::{End, Ended, limited};

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

use crate::error::{Failure, FailureKind};

/// Where the programs of administrators are: not on everyone's search path.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

/// A child process to run: [`run`] with the few more words that some programs need.
#[derive(Debug, Clone, Copy, Default)]
pub struct Call<'a> {
    /// Program and arguments.
    pub argv: &'a [OsString],
    /// What it reads from standard input.
    pub input: &'a [u8],
    /// Environment variables on top of the inherited ones.
    pub env: &'a [(&'a str, OsString)],
    /// Where it runs, if not here.
    pub directory: Option<&'a Path>,
}

/// What a child process that ended well has said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

/// Runs `argv`, feeding it `input`, and returns its standard output.
///
/// # Errors
///
/// Names the program, how it ended and the last lines of what it said. A program that is not installed is
/// [`FailureKind::NotFound`].
pub fn run(argv: &[OsString], input: &[u8]) -> Result<Vec<u8>> {
    Ok(call(Call { argv, input, ..Call::default() })?.stdout)
}

/// Runs a child process and returns all that it said. Errors are those of [`run`].
pub fn call(call: Call<'_>) -> Result<Said> {
    let (program, args) = call.argv.split_first().context("running a program: empty command line")?;
    let name = program.display();
    let mut child = spawn(program, args, call)?;
    let mut stdin = child.stdin.take().context("opening the child's standard input")?;
    let input = call.input;
    // A thread of its own, so that a child that talks before it has read everything cannot block both.
    let (fed, output) = std::thread::scope(|scope| {
        let feeder = scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output();
        (feeder.join(), output)
    });
    let output = output.with_context(|| format!("waiting for {name}"))?;
    if !output.status.success() {
        // Checkers tell their findings on standard output.
        let said = [last_lines(&output.stdout), last_lines(&output.stderr)];
        let said: Vec<_> = said.iter().filter(|lines| !lines.is_empty()).map(String::as_str).collect();
        bail!("running {}: {}: {}", shown(call.argv), output.status, said.join("; "));
    }
    match fed {
        Ok(Ok(())) => Ok(Said { stdout: output.stdout, stderr: output.stderr }),
        Ok(Err(e)) => Err(e).with_context(|| format!("feeding {name}")),
        Err(_) => bail!("feeding {name}: the feeding thread ended early"),
    }
}

/// Starts `program`, also from where only administrators look.
fn spawn(program: &OsString, args: &[OsString], call: Call<'_>) -> Result<Child> {
    let name = program.display();
    let bare = !program.as_encoded_bytes().contains(&b'/');
    let elsewhere = SBIN.iter().filter(|_| bare).map(|dir| Path::new(dir).join(program).into_os_string());
    for candidate in std::iter::once(program.clone()).chain(elsewhere) {
        let mut command = Command::new(candidate);
        command.args(args).env("LC_ALL", "C").envs(call.env.iter().map(|(k, v)| (k, v)));
        if let Some(directory) = call.directory {
            command.current_dir(directory);
        }
        match command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
            Ok(child) => return Ok(child),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("running {name}")),
        }
    }
    Err(Failure::new(FailureKind::NotFound, format!("running {name}: no such program"))
        .hint(format!("install the package that has {name}"))
        .into())
}

/// A command that a library wants to start itself. Not tied to the thread that starts it: a signal on the death of the parent
/// comes with the death of that thread, and threads of a runtime come and go.
pub fn command(argv: &[OsString]) -> Option<Command> {
    let (program, args) = argv.split_first()?;
    let mut command = Command::new(program);
    command.args(args).env("LC_ALL", "C");
    Some(command)
}

/// Tells all child processes to end, as far as the kernel lists them. They are not waited for.
pub fn end_children() {
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _ = rustix::process::kill_process(child, Signal::TERM);
        }
    }
}

/// Where programs put temporary files that may be large: `TMPDIR`, else `/var/tmp`.
pub fn temporary() -> std::path::PathBuf {
    std::env::var_os("TMPDIR").filter(|directory| !directory.is_empty()).map_or_else(|| "/var/tmp".into(), Into::into)
}

/// The home directory, below which foreign programs keep the configuration of this user.
pub fn home() -> Option<std::path::PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}

/// A variable by which foreign programs are told where their configuration is.
pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

fn shown(argv: &[OsString]) -> String {
    argv.iter().map(|a| a.display().to_string()).collect::<Vec<_>>().join(" ")
}

fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).rev().take(5).collect();
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

    #[test]
    fn a_call_has_its_own_directory_and_words() {
        let temp = tempfile::tempdir().unwrap();
        let argv = argv(&["sh", "-c", "pwd; echo $SELKIE_TEST >&2"]);
        let env = [("SELKIE_TEST", OsString::from("word"))];
        let said = call(Call { argv: &argv, input: b"", env: &env, directory: Some(temp.path()) }).unwrap();
        let stdout = format!("{}\n", temp.path().display()).into_bytes();
        assert_eq!(said, Said { stdout, stderr: b"word\n".to_vec() });
    }
}
