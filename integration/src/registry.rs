//! A container registry on the loopback interface, as a child of this process.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{command::Argv, lab::Lab, relay::Gate};

/// A running registry; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Registry {
    port: u16,
    child: Child,
    data: PathBuf,
    keep: bool,
}

impl Registry {
    /// Starts an empty registry. `port` must be free; see [`choose_port`].
    pub(crate) fn start(lab: &Lab, port: u16, keep: bool) -> Result<Self> {
        let data = lab.fresh_subdir("registry")?;
        let config = lab.dir.join("registry.yml");
        fs::write(&config, configuration(port, &data)).with_context(|| format!("writing {}", config.display()))?;
        let log = fs::File::create(lab.log("registry")).context("creating the registry's log")?;
        let stderr = log.try_clone().context("opening the registry's log a second time")?;
        let argv = Argv::new(["docker-registry", "serve"]).with([&config]).dying_with_us();
        let child = argv.command().stdout(log).stderr(stderr).spawn().with_context(|| format!("starting {argv}"))?;
        let mut registry = Self { port, child, data, keep };
        registry.wait()?;
        Ok(registry)
    }

    /// A gate in front of it, and what a guest needs in registries.conf to go through that gate instead.
    pub(crate) fn gate(&self) -> Result<(Gate, String)> {
        let gate = Gate::start(self.port)?;
        let (prefix, location) = (guest_address(self.port), guest_address(gate.port()));
        Ok((gate, format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{location}\"\ninsecure = true\n")))
    }

    /// Its port on the loopback interface.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A reference to a repository and tag, as seen from this machine.
    pub(crate) fn here(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// The same, as seen from a virtual machine with user-mode networking.
    pub(crate) fn for_guest(&self, name: &str) -> String {
        format!("{}/{name}", guest_address(self.port))
    }

    /// Writes a manifest as it is under a tag of a repository, where the usual programs would change it.
    pub(crate) fn put(&self, repository: &str, tag: &str, media_type: &str, manifest: &str) -> Result<()> {
        put(self.port, repository, tag, media_type, manifest).with_context(|| format!("writing {repository}:{tag} to the registry"))
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.child.try_wait().context("looking at the registry")? {
                bail!("starting the registry on port {}: it ended with {status}", self.port);
            }
            if Instant::now() > deadline {
                bail!("starting the registry on port {}: no answer after 20 s", self.port);
            }
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.keep {
            let _ = fs::remove_dir_all(&self.data);
        }
    }
}

fn put(port: u16, repository: &str, tag: &str, media_type: &str, manifest: &str) -> Result<()> {
    let mut registry = TcpStream::connect(("127.0.0.1", port)).context("connecting")?;
    let head = format!("PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {media_type}");
    let request = format!("{head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{manifest}", manifest.len());
    registry.write_all(request.as_bytes()).context("asking")?;
    let mut answer = String::new();
    registry.read_to_string(&mut answer).context("reading the answer")?;
    let status = answer.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 201 ") {
        bail!("{status:?} (expected status 201)");
    }
    Ok(())
}

/// Where a virtual machine finds the registry: user-mode networking maps 10.0.2.2 to this machine's loopback.
pub(crate) fn guest_address(port: u16) -> String {
    format!("10.0.2.2:{port}")
}

/// Where the lab's ports are: below those that the kernel gives to whoever asks for any, so that nobody takes one before the registry is up.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A free port: the one that was used last time when it is still free, because images for virtual machines name it.
pub(crate) fn choose_port(lab: &Lab) -> Result<u16> {
    let memory = lab.dir.join("registry-port");
    let last = fs::read_to_string(&memory).ok().and_then(|text| text.trim().parse().ok());
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    if let Some(port) = last.filter(|port| PORTS.contains(port)).filter(free) {
        return Ok(port);
    }
    // Each process begins elsewhere, so that two labs of one machine that start at once hardly choose the same.
    let offset = u16::try_from(std::process::id() % u32::from(PORTS.end - PORTS.start)).unwrap_or_default();
    let port = (PORTS.start + offset..PORTS.end).chain(PORTS).find(free);
    let port = port.with_context(|| format!("looking for a free port: there is none from {} to {}", PORTS.start, PORTS.end))?;
    fs::write(&memory, port.to_string()).with_context(|| format!("writing {}", memory.display()))?;
    Ok(port)
}

fn configuration(port: u16, data: &Path) -> String {
    format!(
        "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        data.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_written_as_it_is_or_the_answer_is_told() {
        let server = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        for (status, expected) in [("201 Created", None), ("400 Bad Request", Some("\"HTTP/1.1 400 Bad Request\" (expected status 201)"))] {
            let client = std::thread::spawn(move || put(port, "a", "b", "c/d", "{}").map_err(|e| e.to_string()));
            let (mut stream, _) = server.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n{}") {
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).unwrap();
                assert_ne!(read, 0, "{asked:?}");
                asked.extend_from_slice(&buffer[..read]);
            }
            let asked = String::from_utf8(asked).unwrap();
            assert!(asked.starts_with("PUT /v2/a/manifests/b HTTP/1.1\r\n"), "{asked}");
            assert!(asked.contains("\r\nContent-Type: c/d\r\nContent-Length: 2\r\n"), "{asked}");
            write!(stream, "HTTP/1.1 {status}\r\n\r\n").unwrap();
            drop(stream);
            assert_eq!(client.join().unwrap().err().as_deref(), expected);
        }
    }
}
