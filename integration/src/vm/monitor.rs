//! QEMU's monitor: what the machine does that the guest cannot tell, above all that it was reset.
//! Format: <https://www.qemu.org/docs/master/interop/qmp-spec.html>.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A connection that hears of events.
#[derive(Debug)]
pub(crate) struct Monitor {
    stream: BufReader<UnixStream>,
    /// What has come of a line that is not at its end.
    line: Vec<u8>,
    /// Names of events that nobody has asked for yet, oldest first.
    events: Vec<String>,
}

impl Monitor {
    /// Connects to a QEMU that has just been started.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        const PATIENCE: Duration = Duration::from_secs(30);
        let begin = Instant::now();
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if begin.elapsed() > PATIENCE => {
                    return Err(error).with_context(|| format!("connecting to QEMU's monitor at {}", socket.display()));
                }
                Err(_) => sleep(Duration::from_millis(50)),
            }
        };
        let mut monitor = Self { stream: BufReader::new(stream), line: Vec::new(), events: Vec::new() };
        monitor.stream.get_mut().write_all(b"{\"execute\": \"qmp_capabilities\"}\n").context("greeting QEMU's monitor")?;
        while begin.elapsed() < PATIENCE {
            if monitor.receive(PATIENCE)?.is_some_and(|message| message.get("return").is_some()) {
                return Ok(monitor);
            }
        }
        bail!("greeting QEMU's monitor: no answer")
    }

    /// Waits until an event of this name has come; whether it did in time. Those before it are forgotten with it.
    pub(crate) fn wait_for(&mut self, event: &str, patience: Duration) -> Result<bool> {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.events.iter().position(|name| name == event) {
                self.events.drain(..=at);
                return Ok(true);
            }
            let Some(left) = patience.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) else { return Ok(false) };
            self.receive(left)?;
        }
    }

    /// Forgets the events so far.
    pub(crate) fn forget(&mut self) -> Result<()> {
        while self.receive(Duration::from_millis(1))?.is_some() {}
        self.events.clear();
        Ok(())
    }

    /// The next message, if one comes in time. Events are kept.
    fn receive(&mut self, patience: Duration) -> Result<Option<Value>> {
        self.stream.get_ref().set_read_timeout(Some(patience)).context("setting a time limit")?;
        match self.stream.read_until(b'\n', &mut self.line) {
            Ok(0) => bail!("reading from QEMU's monitor: the connection is closed"),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
            Err(error) => return Err(error).context("reading from QEMU's monitor"),
        }
        let line = std::mem::take(&mut self.line);
        let message: Value =
            serde_json::from_slice(&line).with_context(|| format!("reading from QEMU's monitor: {:?}", String::from_utf8_lossy(&line)))?;
        self.events.extend(message["event"].as_str().map(str::to_owned));
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn events_are_heard_in_order_and_silence_ends() {
        let temp = tempfile::tempdir().unwrap();
        let socket = temp.path().join("monitor");
        let listener = UnixListener::bind(&socket).unwrap();
        let qemu = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"{\"QMP\": {}}\n{\"return\": {}}\n{\"event\": \"WATCHDOG\"}\n{\"event\": \"RESET\"}\n").unwrap();
            stream
        });
        let mut monitor = Monitor::connect(&socket).unwrap();
        let _stream = qemu.join().unwrap();
        assert!(monitor.wait_for("RESET", Duration::from_secs(5)).unwrap());
        assert!(!monitor.wait_for("WATCHDOG", Duration::from_millis(20)).unwrap(), "it came before, and is forgotten");
        monitor.forget().unwrap();
    }
}
