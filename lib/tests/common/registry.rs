//! A real registry (docker-registry) on a free loopback port, with its storage in a temporary directory.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// User `me` with password `secret`.
const HTPASSWD: &str = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// A running registry; dropping it ends it.
pub(crate) struct Registry {
    child: Child,
    dir: tempfile::TempDir,
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
}

impl Registry {
    /// A registry that anybody may read and write.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// A registry that only `me` may use.
    pub(crate) fn start_closed() -> Self {
        Self::start_with("auth: {htpasswd: {realm: test, path: DIR/htpasswd}}\n")
    }

    fn start_with(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        std::fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: DIR/storage}}, cache: {{blobdescriptor: \"\"}}}}\n\
             http: {{addr: \"127.0.0.1:0\"}}\n{extra}"
        );
        std::fs::write(dir.path().join("config.yml"), config.replace("DIR", &at)).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(dir.path().join("config.yml")).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("starting docker-registry, which these tests need");
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = listening(&mut log);
        // A full pipe would stop the registry.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, dir, address }
    }

    /// `ADDRESS/NAME`
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The file of a blob in the registry's storage.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.dir.path().join(format!("storage/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]))
    }

    /// The digest to which a tag points in the registry's storage.
    pub(crate) fn tag(&self, name: &str, tag: &str) -> String {
        let link = format!("storage/docker/registry/v2/repositories/{name}/_manifests/tags/{tag}/current/link");
        std::fs::read_to_string(self.dir.path().join(link)).unwrap()
    }

    /// A file of credentials with this password for `me`, in base64 with the name: `me:PASSWORD`.
    pub(crate) fn authfile(&self, base64: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{base64}.json"));
        std::fs::write(&path, format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{base64}\"}}}}}}", self.address)).unwrap();
        path
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address that the registry chose: it says so when it answers.
fn listening(log: &mut impl BufRead) -> String {
    let mut said = String::new();
    for line in log.lines().map_while(Result::ok) {
        if let Some((_, after)) = line.split_once("listening on ") {
            let end = after.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(after.len());
            return after[..end].to_owned();
        }
        said.push_str(&line);
    }
    panic!("docker-registry ended: {said}");
}

/// `skopeo copy`, which has to work.
pub(crate) fn copy(options: &[&str], from: &str, to: &str) {
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false"]).args(options).args([from, to]);
    let output = command.output().expect("starting skopeo, which these tests need");
    assert!(output.status.success(), "copying {from} to {to}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Copies from a layout to a registry.
pub(crate) fn push(options: &[&str], layout: &Path, tag: &str, to: &str) {
    copy(options, &format!("oci:{}:{tag}", layout.display()), &format!("docker://{to}"));
}

/// A line to a registry that breaks after so many bytes of answers. It stays until the end of the test process.
pub(crate) fn breaking_line(to: &str, after: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, to) = (listener.local_addr().unwrap().to_string(), to.to_owned());
    let left = Arc::new(AtomicUsize::new(after));
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (to, left) = (to.clone(), left.clone());
            std::thread::spawn(move || relay(client, &to, &left));
        }
    });
    address
}

fn relay(client: TcpStream, to: &str, left: &AtomicUsize) {
    let Ok(server) = TcpStream::connect(to) else { return };
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut from_client, &mut to_server));
    let (mut client, mut server) = (client, server);
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = server.read(&mut buffer) {
        let before = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |l| Some(l.saturating_sub(read))).unwrap();
        if client.write_all(&buffer[..read.min(before)]).is_err() || before <= read {
            let _ = client.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}
