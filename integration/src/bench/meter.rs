//! What a command costs: wall time, processor time, memory (by GNU time), and bytes that a registry sent (by a relay in front of it).

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};

use crate::{command::Argv, relay};

/// The cost of one command.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Seconds from start to end.
    pub(crate) wall: f64,
    /// Seconds of processor time, with those of its children.
    pub(crate) cpu: f64,
    /// Largest resident set of it or one child, in KiB.
    pub(crate) memory: u64,
    /// Bytes that came from the registry.
    pub(crate) received: u64,
}

/// A relay on loopback that counts what goes from the registry to clients.
#[derive(Debug)]
pub(crate) struct Meter {
    port: u16,
    received: Arc<AtomicU64>,
}

impl Meter {
    /// Starts relaying to `registry`, a port on loopback; ends with this process.
    pub(crate) fn start(registry: u16) -> Result<Self> {
        let received = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&received);
        let port = relay::start(registry, move |bytes| {
            counter.fetch_add(bytes as u64, Ordering::Relaxed);
        })?;
        Ok(Self { port, received })
    }

    /// A reference in the registry, by way of the relay.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Runs a command to its end, which must be a success, and tells its cost. `dir` takes the figures of GNU time and the log.
    pub(crate) fn measure(&self, argv: &Argv, dir: &Path) -> Result<Sample> {
        let figures = dir.join("time");
        let before = self.received.load(Ordering::Relaxed);
        Argv::new(["/usr/bin/time", "--format", "%e %U %S %M", "--output"]).with([&figures]).with(&argv.0).log(&dir.join("log"))?;
        let received = self.received.load(Ordering::Relaxed) - before;
        let text = fs::read_to_string(&figures).with_context(|| format!("reading {}", figures.display()))?;
        parse(&text, received).with_context(|| format!("reading the figures of GNU time: {text:?} (expected four numbers)"))
    }
}

fn parse(text: &str, received: u64) -> Option<Sample> {
    let mut words = text.split_whitespace();
    let mut number = || words.next()?.parse::<f64>().ok();
    let (wall, user, system) = (number()?, number()?, number()?);
    Some(Sample { wall, cpu: user + system, memory: words.next()?.parse().ok()?, received })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        thread,
    };

    use super::*;

    #[test]
    fn the_figures_of_time_are_read() {
        let sample = Sample { wall: 1.5, cpu: 2.25, memory: 40960, received: 7 };
        assert_eq!(parse("1.50 2.00 0.25 40960\n", 7), Some(sample));
        assert_eq!(parse("Command exited with non-zero status 1\n", 7), None);
    }

    #[test]
    fn the_relay_counts_what_comes_back() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut asked = [0; 4];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(&[7; 1000]).unwrap();
        });
        let meter = Meter::start(port).unwrap();
        let mut client = TcpStream::connect(("127.0.0.1", meter.port)).unwrap();
        client.write_all(b"give").unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!((answer, meter.received.load(Ordering::Relaxed)), (vec![7; 1000], 1000));
    }
}
