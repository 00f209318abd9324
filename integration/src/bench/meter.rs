//! What a command costs: wall time, processor time, memory and bytes written (by GNU time), and what a registry was asked for and sent (by a relay in
//! front of it).

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context, Result};

use crate::{command::Argv, relay};

/// The unit of GNU time's "file system outputs", in bytes.
const BLOCK: u64 = 512;
/// Below so many seconds, GNU time is too coarse.
const COARSE: f64 = 0.5;

/// The cost of one command.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Seconds from start to end.
    pub(crate) wall: f64,
    /// Seconds of processor time, with those of its children.
    pub(crate) cpu: f64,
    /// Largest resident set of it or one child, in KiB.
    pub(crate) memory: u64,
    /// Bytes that it and its children wrote to files.
    pub(crate) written: u64,
    /// Bytes that came from the registry.
    pub(crate) received: u64,
    /// Requests for manifests that the registry got.
    pub(crate) manifests: u64,
}

/// What went through the relay.
#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    manifests: AtomicU64,
}

/// A relay on loopback that counts what goes from the registry to clients.
#[derive(Debug)]
pub(crate) struct Meter {
    port: u16,
    counters: Arc<Counters>,
}

impl Meter {
    /// Starts relaying to `registry`, a port on loopback; ends with this process.
    pub(crate) fn start(registry: u16) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let (asked, sent) = (Arc::clone(&counters), Arc::clone(&counters));
        let port = relay::start(
            registry,
            move |request| {
                // A request fits into a packet, on loopback.
                let head = request.split(|byte| *byte == b'\n').next().unwrap_or_default();
                let wanted = head.windows(b"/manifests/".len()).any(|part| part == b"/manifests/");
                asked.manifests.fetch_add(wanted.into(), Ordering::Relaxed);
            },
            move |bytes| {
                sent.received.fetch_add(bytes as u64, Ordering::Relaxed);
            },
        )?;
        Ok(Self { port, counters })
    }

    /// A reference in the registry, by way of the relay.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Runs a command to its end, which must be a success, and tells its cost. `dir` takes the figures of GNU time and the log.
    pub(crate) fn measure(&self, argv: &Argv, dir: &Path) -> Result<Sample> {
        let figures = dir.join("time");
        let count = || (self.counters.received.load(Ordering::Relaxed), self.counters.manifests.load(Ordering::Relaxed));
        let before = count();
        let started = Instant::now();
        Argv::new(["/usr/bin/time", "--format", "%e %U %S %M %O", "--output"]).with([&figures]).with(&argv.0).log(&dir.join("log"))?;
        let (wall, after) = (started.elapsed().as_secs_f64(), count());
        let text = fs::read_to_string(&figures).with_context(|| format!("reading {}", figures.display()))?;
        let sample = parse(&text).with_context(|| format!("reading the figures of GNU time: {text:?} (expected five numbers)"))?;
        // GNU time knows hundredths of a second; where that is too little, starting it and the command counts.
        let wall = if sample.wall < COARSE { wall } else { sample.wall };
        Ok(Sample { wall, received: after.0 - before.0, manifests: after.1 - before.1, ..sample })
    }
}

fn parse(text: &str) -> Option<Sample> {
    let mut words = text.split_whitespace();
    let mut number = || words.next()?.parse::<f64>().ok();
    let (wall, user, system) = (number()?, number()?, number()?);
    let (memory, blocks) = (number()?, number()?);
    Some(Sample { wall, cpu: user + system, memory: memory as u64, written: blocks as u64 * BLOCK, received: 0, manifests: 0 })
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
        let sample = Sample { wall: 1.5, cpu: 2.25, memory: 40960, written: 1024, received: 0, manifests: 0 };
        assert_eq!(parse("1.50 2.00 0.25 40960 2\n"), Some(sample));
        assert_eq!(parse("Command exited with non-zero status 1\n"), None);
    }

    #[test]
    fn the_relay_counts_what_comes_back_and_requests_for_manifests() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in server.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 100]).unwrap();
                stream.write_all(&[7; 1000]).unwrap();
            }
        });
        let meter = Meter::start(port).unwrap();
        for request in ["HEAD /v2/a/manifests/b HTTP/1.1\r\n\r\n", "GET /v2/a/blobs/c HTTP/1.1\r\n\r\n"] {
            let mut client = TcpStream::connect(("127.0.0.1", meter.port)).unwrap();
            client.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer, [7; 1000]);
        }
        assert_eq!((meter.counters.received.load(Ordering::Relaxed), meter.counters.manifests.load(Ordering::Relaxed)), (2000, 1));
    }
}
