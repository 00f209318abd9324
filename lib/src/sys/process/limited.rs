//! Child processes that may hang, and may talk without end: a limit in time, and only the end of what they say is kept.

use std::ffi::OsString;
use std::io::{ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

/// How much of the output is kept, in bytes.
const KEPT: usize = 16 << 10;
/// How much is read at once, and how often at most after the child has ended: a grandchild may hold the pipe and talk on.
const CHUNK: usize = 64 << 10;
const CHUNKS_AFTER: usize = 64;

/// How a child process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, with this exit code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
    /// It was not done in time, and was killed with all of its process group.
    TimedOut,
}

/// A child process that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub end: End,
    /// How long it ran.
    pub took: Duration,
    /// The last bytes that it said, on standard output and standard error together.
    pub output: Vec<u8>,
}

/// Runs `argv` in a process group of its own, without input, for at most `limit`. Whatever is left of the group after that is killed; what a child that
/// ended in time has started goes on, and is not waited for.
///
/// # Errors
///
/// It could not be started.
pub fn limited(argv: &[OsString], limit: Duration) -> Result<Ended> {
    let mut command = super::command(argv).context("running a program: empty command line")?;
    let name = argv.first().map(|program| program.display().to_string()).unwrap_or_default();
    let (reader, writer) = std::io::pipe().context("making a pipe")?;
    let errors = writer.try_clone().context("making a pipe")?;
    let started = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(writer).stderr(errors).process_group(0).spawn().with_context(|| format!("running {name}"))?;
    // It holds the child's ends of the pipe, which would keep it open.
    drop(command);
    let mut tail = Tail::new(reader)?;
    let watched = watch(&child, started, limit, &mut tail);
    // Whatever happened, no child is left running and unwaited for.
    let in_time = *watched.as_ref().unwrap_or(&false);
    if !in_time {
        kill_group(&child);
    }
    let status = child.wait().with_context(|| format!("waiting for {name}"))?;
    watched?;
    let took = started.elapsed();
    tail.rest()?;
    let end = if in_time { end(status) } else { End::TimedOut };
    Ok(Ended { end, took, output: tail.kept })
}

/// Reads what the child says until it ends; whether it did in time.
fn watch(child: &Child, started: Instant, limit: Duration, tail: &mut Tail) -> Result<bool> {
    let pidfd = pidfd(child)?;
    loop {
        let Some(left) = limit.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else { return Ok(false) };
        let timeout = Timespec::try_from(left).context("waiting for a child process")?;
        let mut ready = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&tail.pipe, PollFlags::IN)];
        // A pipe that everybody has closed is ready for ever.
        let watched = if tail.open { 2 } else { 1 };
        match poll(&mut ready[..watched], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for a child process"),
        }
        let ended = !ready[0].revents().is_empty();
        let said = !ready[1].revents().is_empty();
        if said {
            tail.chunk()?;
        }
        if ended {
            return Ok(true);
        }
    }
}

fn pidfd(child: &Child) -> Result<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()).context("watching a child process")
}

/// The child has not been waited for, so its number is still that of its group.
fn kill_group(child: &Child) {
    let _ = rustix::process::kill_process_group(Pid::from_child(child), Signal::KILL);
}

fn end(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exit(code),
        (None, signal) => End::Signal(signal.unwrap_or_default()),
    }
}

/// The end of what comes out of a pipe.
struct Tail {
    pipe: PipeReader,
    open: bool,
    kept: Vec<u8>,
}

impl Tail {
    fn new(pipe: PipeReader) -> Result<Self> {
        let flags = rustix::fs::fcntl_getfl(&pipe).context("preparing a pipe")?;
        rustix::fs::fcntl_setfl(pipe.as_fd(), flags | rustix::fs::OFlags::NONBLOCK).context("preparing a pipe")?;
        Ok(Self { pipe, open: true, kept: Vec::new() })
    }

    /// Reads what is there, at most a chunk; whether there was anything.
    fn chunk(&mut self) -> Result<bool> {
        let mut buffer = vec![0; CHUNK];
        match self.pipe.read(&mut buffer) {
            Ok(0) => self.open = false,
            Ok(count) => {
                self.kept.extend_from_slice(&buffer[..count]);
                self.kept.drain(..self.kept.len().saturating_sub(KEPT));
                return Ok(true);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error).context("reading what a child process says"),
        }
        Ok(false)
    }

    /// Reads what is left in the pipe of a child that has ended.
    fn rest(&mut self) -> Result<()> {
        for _ in 0..CHUNKS_AFTER {
            if !self.open || !self.chunk()? {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Ended {
        limited(&["sh".into(), "-c".into(), script.into()], limit).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn how_it_ended_and_what_it_said_on_both_outputs() {
        let ended = sh("echo one; echo two >&2; exit 3", LONG);
        assert_eq!((ended.end, ended.output.as_slice()), (End::Exit(3), b"one\ntwo\n".as_slice()));
        assert_eq!(sh("kill -9 $$", LONG).end, End::Signal(9));
        assert_eq!(sh("read line; test -z \"$line\"", LONG).end, End::Exit(0), "there is no input");
        limited(&["/nowhere/program".into()], LONG).unwrap_err();
    }

    #[test]
    fn a_hanging_child_is_killed_with_its_group() {
        let temp = tempfile::tempdir().unwrap();
        let pids = temp.path().join("pids");
        let script = format!("sleep 1000 & echo $! > {}; echo begun; wait", pids.display());
        let ended = sh(&script, Duration::from_millis(500));
        assert_eq!((ended.end, ended.output.as_slice()), (End::TimedOut, b"begun\n".as_slice()));
        assert!(ended.took < Duration::from_secs(30), "{ended:?}");
        let pid = std::fs::read_to_string(pids).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        // An orphan is somebody's to wait for, who may be slow.
        let gone = (0..100).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            state().is_empty() || state().contains(") Z ")
        });
        assert!(gone, "{}", state());
    }

    #[test]
    fn only_the_end_of_megabytes_is_kept() {
        let ended = sh("head -c 8000000 /dev/zero; echo; echo last", LONG);
        assert_eq!((ended.end, ended.output.len()), (End::Exit(0), KEPT));
        assert!(ended.output.ends_with(b"\nlast\n"));
        let ended = sh("yes", Duration::from_millis(300));
        assert_eq!((ended.end, ended.output.len()), (End::TimedOut, KEPT));
    }

    #[test]
    fn what_goes_on_in_the_background_is_not_waited_for() {
        let ended = sh("sleep 5 & echo started", LONG);
        assert_eq!((ended.end, ended.output.as_slice()), (End::Exit(0), b"started\n".as_slice()));
        assert!(ended.took < Duration::from_secs(4), "{ended:?}");
        let ended = sh("exec >&- 2>&-; sleep 0.3; exit 4", LONG);
        assert_eq!(ended.end, End::Exit(4), "it closed its outputs");
    }
}
