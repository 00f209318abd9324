//! A registry that behaves oddly when it is asked for ranges: a real HTTP server in front of a real registry, which answers everything else.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

/// What is odd about the answers to requests with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Odd {
    /// The whole blob, with 200.
    Ignored,
    /// The connection ends in the middle of the body.
    Truncated,
    /// Another range than the one asked for.
    Shifted,
    /// The right range of a blob of another size.
    OtherSize,
    /// A shorter body than its range, and it says so.
    Short,
    /// One bit of the body is another.
    Flipped,
    /// The same, but not in the first answer, which is the table of contents.
    FlippedContents,
    /// 500.
    Refused,
    /// A body with a content encoding.
    Compressed,
    /// A redirect to itself.
    Circle,
    /// A redirect that does not say where.
    Nowhere,
    /// Of selkie's requests for blobs, the first two are answered with 429.
    Busy,
    /// The first so many questions for manifests, but those of selkie itself, are answered with 503.
    Starts(usize),
    /// Each answer with a blob to selkie ends after so many bytes of it.
    Breaks(usize),
    /// After so many bytes of each, nothing more comes, and the connection stays.
    Stalls(usize),
    /// The first one does, and ranges are ignored.
    BreaksOnce(usize),
    /// Nothing but the truth, until selkie has so many answers with blobs; then connections end without an answer, whoever asks.
    Gone(usize),
    /// Selkie has no answer, whatever it asks; once it has asked so often, nobody has.
    Unmet(usize),
    /// The first so many questions of selkie how the registry is spoken with are answered with 503.
    Closed(usize),
    /// The first so many questions what refers to a manifest are answered with 503.
    Unlisted(usize),
    /// Of the ranges after the first, which is the table of contents, the one from the start of the blob is answered with 503, and others with 404.
    Uneven,
    /// Nothing but the truth, but ranges of a blob after its first, which is the table of contents, wait until so many blobs were asked for.
    Tables(usize),
    /// Nothing but the truth, for those who bring a token; blobs are in a store of their own, to which the registry redirects.
    Token,
    /// Nothing but the truth, and it lists what refers to a manifest.
    Referrers,
}

/// A running relay. It stays until the end of the test process.
pub(crate) struct Relay {
    /// `127.0.0.1:PORT`
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone)]
struct Server {
    to: String,
    odd: Odd,
    own: String,
    /// Another address, which is the store of blobs.
    store: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    /// Starts a relay to the registry at `to`.
    pub(crate) fn start(to: &str, odd: Odd) -> Self {
        let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let server = Server { to: to.to_owned(), odd, own: address(&first), store: address(&second), seen: seen.clone() };
        let address = server.own.clone();
        for listener in [first, second] {
            let server = server.clone();
            std::thread::spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    let server = server.clone();
                    std::thread::spawn(move || server.serve(client));
                }
            });
        }
        Self { address, seen }
    }

    /// The heads of all requests so far, in lower case except for the method.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// The ranges that were asked for so far.
    pub(crate) fn ranges(&self) -> Vec<RangeInclusive<u64>> {
        let range = |head: String| {
            let (first, last) = head.split_once("\r\nrange: bytes=")?.1.split_once("\r\n")?.0.split_once('-')?;
            Some(first.parse().unwrap()..=last.parse().unwrap())
        };
        self.seen().into_iter().filter_map(range).collect()
    }
}

impl Server {
    /// Answers one request and closes.
    fn serve(&self, mut client: TcpStream) {
        let Some(head) = head(&mut client) else { return };
        let lower = head.to_ascii_lowercase().replacen("get ", "GET ", 1);
        self.seen.lock().unwrap().push(lower.clone());
        if matches!(self.odd, Odd::Gone(answers) if self.asked() > answers) {
            return;
        }
        if matches!(self.odd, Odd::Unmet(most) if lower.contains("user-agent: selkie/") || self.count(|head| head.contains("user-agent: selkie/")) >= most)
        {
            return;
        }
        if let Some(answer) = self.own_answer(&head, &lower) {
            let _ = client.write_all(answer.as_bytes());
            return;
        }
        let head = head.replacen("GET /store/", "GET /v2/", 1);
        let head = if self.odd == Odd::Referrers { by_tag(&head) } else { head };
        if lower.contains("user-agent: selkie/") && lower.contains("/blobs/") && self.breaks(&head, &mut client) {
            return;
        }
        if !lower.contains("\r\nrange: ") {
            let mut upstream = self.ask(&head);
            let _ = std::io::copy(&mut upstream, &mut client);
            return;
        }
        if matches!(self.odd, Odd::Tables(most) if !self.tables_come(&lower, most)) {
            return;
        }
        let nth = self.seen.lock().unwrap().iter().filter(|head| head.contains("\r\nrange: ")).count();
        let _ = client.write_all(&self.range(&head, nth));
    }

    /// How many requests so far are such.
    fn count(&self, such: impl Fn(&str) -> bool) -> usize {
        self.seen.lock().unwrap().iter().filter(|head| such(head)).count()
    }

    /// Whether it is the first range of its blob, or so many blobs are asked for within a minute.
    fn tables_come(&self, head: &str, most: usize) -> bool {
        let blob = |head: &str| head.split(' ').nth(1).unwrap_or_default().to_owned();
        let ranged =
            || self.seen.lock().unwrap().iter().filter(|head| head.contains("\r\nrange: ")).map(|head| blob(head)).collect::<Vec<_>>();
        let own = blob(head);
        if ranged().iter().filter(|blob| **blob == own).count() == 1 {
            return true;
        }
        (0..600).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            ranged().into_iter().collect::<std::collections::BTreeSet<_>>().len() >= most
        })
    }

    /// How often selkie has asked for a blob.
    fn asked(&self) -> usize {
        self.count(|head| head.contains("user-agent: selkie/") && head.contains("/blobs/"))
    }

    /// How often somebody else than selkie has asked for a manifest.
    fn manifests(&self) -> usize {
        self.count(|head| head.contains("/manifests/") && !head.contains("user-agent: selkie/"))
    }

    /// Whether it answered, with less than was asked for or nothing.
    fn breaks(&self, head: &str, client: &mut TcpStream) -> bool {
        let nth = self.asked();
        let (head, bytes) = match self.odd {
            Odd::Busy if nth <= 2 => {
                let busy = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = client.write_all(busy.as_bytes());
                return true;
            }
            Odd::Breaks(bytes) | Odd::Stalls(bytes) => (head.to_owned(), bytes),
            Odd::BreaksOnce(bytes) => (without(head, "range"), if nth == 1 { bytes } else { usize::MAX }),
            _ => return false,
        };
        let mut answer = Vec::new();
        self.ask(&head).read_to_end(&mut answer).unwrap();
        let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        answer.truncate(body.saturating_add(bytes));
        let _ = client.write_all(&answer);
        if let Odd::Stalls(_) = self.odd {
            loop {
                std::thread::park();
            }
        }
        true
    }

    fn own_answer(&self, head: &str, lower: &str) -> Option<String> {
        let empty = |status: &str, extra: &str| format!("HTTP/1.1 {status}\r\n{extra}Content-Length: 0\r\nConnection: close\r\n\r\n");
        let path = head.split(' ').nth(1).unwrap_or_default();
        let ranged = lower.contains("\r\nrange: ");
        let greeted = || self.count(|head| head.starts_with("GET /v2/ ") && head.contains("user-agent: selkie/"));
        match self.odd {
            Odd::Closed(times) if path == "/v2/" && lower.contains("user-agent: selkie/") && greeted() <= times => {
                Some(empty("503 Service Unavailable", ""))
            }
            Odd::Unlisted(times) if path.contains("/referrers/") && self.count(|head| head.contains("/referrers/")) <= times => {
                Some(empty("503 Service Unavailable", ""))
            }
            Odd::Circle if ranged => Some(empty("307 Temporary Redirect", &format!("Location: {path}\r\n"))),
            Odd::Nowhere if ranged => Some(empty("302 Found", "")),
            Odd::Refused if ranged => Some(empty("500 Internal Server Error", "")),
            Odd::Uneven if ranged && self.asked() > 1 => {
                Some(empty(if lower.contains("\r\nrange: bytes=0-") { "503 Service Unavailable" } else { "404 Not Found" }, ""))
            }
            Odd::Starts(times) if path.contains("/manifests/") && self.manifests() <= times => Some(empty("503 Service Unavailable", "")),
            Odd::Token if path.starts_with("/token?") => {
                let known = head.contains("Basic bWU6c2VjcmV0");
                let body = if known { r#"{"access_token":"good","expires_in":300}"# } else { "{}" };
                Some(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()))
            }
            Odd::Token if path.starts_with("/store/") => None,
            Odd::Token if !head.contains("Bearer good") => {
                let challenge = format!("Bearer realm=\"http://{}/token\",service=\"relay\"", self.own);
                Some(empty("401 Unauthorized", &format!("Www-Authenticate: {challenge}\r\n")))
            }
            Odd::Token if path.contains("/blobs/") => {
                let to = format!("http://{}{}", self.store, path.replacen("/v2/", "/store/", 1));
                Some(empty("307 Temporary Redirect", &format!("Location: {to}\r\n")))
            }
            _ => None,
        }
    }

    /// The registry's answer to a request for a range, made odd.
    fn range(&self, head: &str, nth: usize) -> Vec<u8> {
        let head = if self.odd == Odd::Ignored { without(head, "range") } else { head.to_owned() };
        let mut answer = Vec::new();
        self.ask(&head).read_to_end(&mut answer).unwrap();
        let body = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let headers = String::from_utf8(answer[..body].to_vec()).unwrap();
        let length = answer.len() - body;
        let with = |headers: String, body: &[u8]| [headers.as_bytes(), body].concat();
        let middle = body + length / 2;
        match self.odd {
            Odd::Truncated => answer[..middle].to_vec(),
            Odd::Shifted => with(headers.replace("Content-Range: bytes ", "Content-Range: bytes 1"), &answer[body..]),
            Odd::OtherSize => with(headers.replace("\r\nContent-Type", "9\r\nContent-Type"), &answer[body..]),
            Odd::Short => {
                let shorter = headers.replace(&format!("Content-Length: {length}"), &format!("Content-Length: {}", length - 1));
                with(shorter, &answer[body..answer.len() - 1])
            }
            Odd::Compressed => with(headers.replacen("\r\n", "\r\nContent-Encoding: x-odd\r\n", 1), &answer[body..]),
            Odd::Flipped => flip(answer, middle),
            Odd::FlippedContents if nth > 1 => flip(answer, middle),
            _ => answer,
        }
    }

    /// Asks the registry the same, for one answer.
    fn ask(&self, head: &str) -> TcpStream {
        let mut upstream = TcpStream::connect(&self.to).unwrap();
        let head = without(&without(head, "connection"), "host");
        let head = head.replacen("\r\n", &format!("\r\nHost: {}\r\nConnection: close\r\n", self.own), 1);
        upstream.write_all(head.as_bytes()).unwrap();
        upstream
    }
}

/// A question for what refers to a manifest, as one for the tag that stands in for it.
fn by_tag(head: &str) -> String {
    let Some((before, rest)) = head.split_once("/referrers/sha256:") else { return head.to_owned() };
    let (asked, after) = rest.split_once(' ').unwrap();
    format!("{before}/manifests/sha256-{} {after}", asked.split('?').next().unwrap())
}

fn flip(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] ^= 1;
    bytes
}

/// A head without one of its headers.
fn without(head: &str, name: &str) -> String {
    let lines = head.split_inclusive("\r\n").filter(|line| !line.to_ascii_lowercase().starts_with(&format!("{name}:")));
    lines.collect()
}

/// Reads the head of a request; requests here have no body. `None` for what is no HTTP, such as the hello of TLS.
fn head(client: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
        if !head[0].is_ascii_uppercase() || head.len() > 16 << 10 {
            return None;
        }
    }
    String::from_utf8(head).ok()
}
