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

/// A line to a registry on which somebody else has the tag `tag` of `acme/os` name `index` right after each of the first `times` writes of it, before whoever wrote
/// it hears so. It stays until the end of the test process.
pub(crate) fn meddling_line(to: &str, tag: &str, index: &[u8], times: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (to, tag, index, left) = (to.to_owned(), tag.to_owned(), index.to_vec(), Arc::new(AtomicUsize::new(times)));
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (to, tag, index, left) = (to.clone(), tag.clone(), index.clone(), left.clone());
            std::thread::spawn(move || meddle(client, &to, &tag, &index, &left));
        }
    });
    address
}

fn meddle(mut client: TcpStream, to: &str, tag: &str, index: &[u8], left: &AtomicUsize) {
    let Ok(mut server) = TcpStream::connect(to) else { return };
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let (written, head) = (Arc::new(AtomicUsize::new(0)), format!("PUT /v2/acme/os/manifests/{tag} ").into_bytes());
    let seen = written.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = from_client.read(&mut buffer) {
            // A request is written at once, and there is one at a time.
            seen.fetch_add(usize::from(buffer[..read].starts_with(&head)), Ordering::SeqCst);
            if to_server.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
        let _ = to_server.shutdown(std::net::Shutdown::Write);
    });
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = server.read(&mut buffer) {
        let mine = written.swap(0, Ordering::SeqCst) > 0;
        if mine && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            put_index(to, tag, index);
        }
        if client.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
}

/// Has a tag of `acme/os` in the registry at `address` name an index.
pub(crate) fn put_index(address: &str, tag: &str, index: &[u8]) {
    let mut registry = TcpStream::connect(address).unwrap();
    let (kind, length) = ("application/vnd.oci.image.index.v1+json", index.len());
    let head = format!(
        "PUT /v2/acme/os/manifests/{tag} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    registry.write_all(&[head.as_bytes(), index].concat()).unwrap();
    let mut answer = String::new();
    registry.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
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
