//! The client against a small server of the test's own, with TLS and without: certificates, mirrors, connections that are kept.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslMethod, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509NameBuilder};

use super::*;
use crate::progress::{Event, Recorder, Silent};

const BLOB: &[u8] = b"0123456789abcdef";
const DIGEST: &str = "sha256:9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f";

/// A certificate and its key.
#[derive(Clone)]
struct Signed {
    certificate: X509,
    key: PKey<Private>,
}

impl Signed {
    /// For 127.0.0.1, signed by `by`, or by itself.
    fn new(name: &str, by: Option<&Signed>) -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut subject = X509NameBuilder::new().unwrap();
        subject.append_entry_by_text("CN", name).unwrap();
        let subject = subject.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_subject_name(&subject).unwrap();
        builder.set_issuer_name(by.map_or(&subject, |by| by.certificate.subject_name())).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(1_000_000_000).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(4_000_000_000).unwrap()).unwrap();
        if by.is_none() {
            builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        }
        let names = SubjectAlternativeName::new().ip("127.0.0.1").build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(by.map_or(&key, |by| &by.key), MessageDigest::sha256()).unwrap();
        Self { certificate: builder.build(), key }
    }

    fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().unwrap()
    }
}

/// A registry with one blob.
struct Server {
    address: String,
    connections: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn plain() -> Self {
        Self::start(|stream| Some(Box::new(stream)))
    }

    /// It ends connections in the middle of a body, after so many bytes of it.
    fn breaking(after: usize) -> Self {
        Self::start_with(|stream| Some(Box::new(stream)), after)
    }

    /// It ends connections at once.
    fn dead() -> Self {
        Self::start(|_| None)
    }

    /// With this certificate; only for those who show one that `clients` signed, where given.
    fn tls(own: &Signed, clients: Option<&Signed>) -> Self {
        let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
        acceptor.set_certificate(&own.certificate).unwrap();
        acceptor.set_private_key(&own.key).unwrap();
        if let Some(clients) = clients {
            let mut store = X509StoreBuilder::new().unwrap();
            store.add_cert(clients.certificate.clone()).unwrap();
            acceptor.set_verify_cert_store(store.build()).unwrap();
            acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        let acceptor = acceptor.build();
        Self::start(move |stream| Some(Box::new(acceptor.accept(stream).ok()?)))
    }

    fn start(wrap: impl Fn(std::net::TcpStream) -> Option<Box<dyn Stream>> + Send + 'static) -> Self {
        Self::start_with(wrap, usize::MAX)
    }

    fn start_with(wrap: impl Fn(std::net::TcpStream) -> Option<Box<dyn Stream>> + Send + 'static, after: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (connections, heads) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (count, seen) = (connections.clone(), heads.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let Some(stream) = wrap(stream) else { continue };
                let seen = seen.clone();
                std::thread::spawn(move || serve(stream, &seen, after));
            }
        });
        Self { address, connections, heads }
    }
}

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// Answers until the other side is gone, or it has to break after so many bytes of a body.
fn serve(mut stream: Box<dyn Stream>, seen: &Mutex<Vec<String>>, after: usize) {
    let (mut head, mut byte) = (String::new(), [0]);
    while stream.read_exact(&mut byte).is_ok() && byte[0].is_ascii() {
        head.push(char::from(byte[0]));
        if !head.ends_with("\r\n\r\n") {
            continue;
        }
        let head = std::mem::take(&mut head).to_ascii_lowercase();
        seen.lock().unwrap().push(head.clone());
        let range = head.split_once("range: bytes=").and_then(|(_, after)| after.split_once("\r\n")?.0.split_once('-'));
        let answer = match range {
            Some((first, last)) if head.contains("/blobs/sha256:9f9f") => {
                let body = &BLOB[first.parse().unwrap()..=last.parse().unwrap()];
                let range = format!("Content-Range: bytes {first}-{last}/{}", BLOB.len());
                let head = format!("HTTP/1.1 206 Partial\r\n{range}\r\nContent-Length: {}\r\n\r\n", body.len());
                if after < body.len() {
                    let _ = stream.write_all(&[head.as_bytes(), &body[..after]].concat());
                    return;
                }
                [head.as_bytes(), body].concat()
            }
            Some(_) => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(),
            None => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
        };
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

fn repository(places: &Places, reference: &str, tls_verify: Option<bool>) -> Repository {
    let retries = Retries { most: 2, first: Duration::from_millis(1) };
    let options = SourceOptions { tls_verify, retries, ..Default::default() };
    Repository::open_with(places, &reference.parse().unwrap(), &options).unwrap()
}

fn open(places: &Places, reference: &str, tls_verify: Option<bool>, digest: &str) -> Blob {
    repository(places, reference, tls_verify).blob(digest, BLOB.len() as u64, Arc::new(Silent))
}

/// `images.example/os`, which is in these places: mirrors, and last the registry itself.
fn mirrored(servers: &[&Server]) -> Repository {
    let (registry, mirrors) = servers.split_last().unwrap();
    let mirror = |server: &&Server| format!("[[registry.mirror]]\nlocation='{}'\ninsecure=true\n", server.address);
    let mirrors: String = mirrors.iter().map(mirror).collect();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("registries.conf");
    let conf = format!("[[registry]]\nprefix='images.example'\nlocation='{}'\ninsecure=true\n{mirrors}", registry.address);
    std::fs::write(&path, conf).unwrap();
    repository(&Places { registries: vec![path], ..Default::default() }, "images.example/os:v1", None)
}

/// How many ranges a server was asked for.
fn ranges(server: &Server) -> usize {
    server.heads.lock().unwrap().iter().filter(|head| head.contains("range:")).count()
}

fn read(blob: &mut Blob, offset: u64, length: u64) -> Result<String, String> {
    let mut text = String::new();
    let mut reader = blob.range(offset, length).map_err(|e| e.to_string())?;
    reader.read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}

/// The first bytes, through `certs.d` in `certs`.
fn first(server: &Server, certs: &Path, tls_verify: Option<bool>) -> Result<String, String> {
    let places = Places { certs: vec![certs.join("none"), certs.to_owned()], ..Default::default() };
    read(&mut open(&places, &format!("{}/os", server.address), tls_verify, DIGEST), 0, 4)
}

#[test]
fn authorities_of_a_registry_are_trusted_for_it_alone() {
    let (authority, temp) = (Signed::new("authority", None), tempfile::tempdir().unwrap());
    let own = Signed::new("registry", Some(&authority));
    let (known, unknown) = (Server::tls(&own, None), Server::tls(&own, None));
    let folder = temp.path().join(&known.address);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
    for verify in [None, Some(true)] {
        assert_eq!(first(&known, temp.path(), verify), Ok("0123".into()));
        let error = first(&unknown, temp.path(), verify).unwrap_err();
        assert!(error.contains("certificate verify failed"), "{error}");
    }
    assert_eq!(first(&unknown, temp.path(), Some(false)), Ok("0123".into()));
    std::fs::write(folder.join("ca.crt"), "nothing").unwrap();
    first(&known, temp.path(), None).unwrap_err();
}

#[test]
fn certificates_of_our_own_are_shown_where_they_are_wanted() {
    let (authority, temp) = (Signed::new("authority", None), tempfile::tempdir().unwrap());
    let server = Server::tls(&Signed::new("registry", Some(&authority)), Some(&authority));
    let folder = temp.path().join(&server.address);
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("ca.crt"), authority.pem()).unwrap();
    first(&server, temp.path(), None).unwrap_err();
    let own = Signed::new("machine", Some(&authority));
    std::fs::write(folder.join("machine.cert"), own.pem()).unwrap();
    let places = Places { certs: vec![temp.path().to_owned()], ..Default::default() };
    let reference = format!("{}/os", server.address).parse().unwrap();
    let missing = Repository::open_with(&places, &reference, &SourceOptions::default()).err().unwrap();
    assert!(missing.to_string().contains("machine.key: No such file"), "{missing}");
    for key in [own.key.private_key_to_pem_pkcs8().unwrap(), own.key.ec_key().unwrap().private_key_to_pem().unwrap()] {
        std::fs::write(folder.join("machine.key"), key).unwrap();
        assert_eq!(first(&server, temp.path(), None), Ok("0123".into()));
    }
}

#[test]
fn plain_http_is_spoken_only_where_that_is_allowed() {
    let (server, none) = (Server::plain(), tempfile::tempdir().unwrap());
    first(&server, none.path(), None).unwrap_err();
    first(&server, none.path(), Some(true)).unwrap_err();
    assert_eq!(first(&server, none.path(), Some(false)), Ok("0123".into()));
    // The hello of TLS is no request.
    assert!(server.heads.lock().unwrap().iter().all(|head| head.starts_with("get /v2/")));
}

#[test]
fn mirrors_are_asked_first_and_what_they_do_not_have_comes_from_the_registry() {
    let (mirror, registry, temp) = (Server::plain(), Server::plain(), tempfile::tempdir().unwrap());
    // Nobody listens on port 1.
    let conf = format!(
        "[[registry]]\nprefix='images.example/acme'\nlocation='{}/own'\ninsecure=true\n\
         [[registry.mirror]]\nlocation='127.0.0.1:1/gone'\n[[registry.mirror]]\nlocation='{}/copy'\ninsecure=true\n",
        registry.address, mirror.address
    );
    let path = temp.path().join("registries.conf");
    std::fs::write(&path, conf).unwrap();
    let places = Places { registries: vec![path], ..Default::default() };
    let mut blob = open(&places, "images.example/acme/os:v1", None, DIGEST);
    assert_eq!(read(&mut blob, 10, 6), Ok("abcdef".into()));
    let asked = |server: &Server| server.heads.lock().unwrap().iter().filter(|head| head.contains("range:")).cloned().collect::<Vec<_>>();
    assert!(asked(&mirror)[0].starts_with(&format!("get /v2/copy/os/blobs/{DIGEST} ")), "{:?}", asked(&mirror));
    assert_eq!(asked(&registry).len(), 0);
    let other = DIGEST.replace("9f9f", "0000");
    let error = read(&mut open(&places, "images.example/acme/os:v1", None, &other), 0, 1).unwrap_err();
    assert_eq!((asked(&mirror).len(), asked(&registry).len()), (2, 1));
    assert!(asked(&registry)[0].starts_with(&format!("get /v2/own/os/blobs/{other} ")));
    assert!(error.contains("127.0.0.1:1: ") && error.ends_with("the answer is 404 Not Found (expected 206)"), "{error}");
}

#[test]
fn one_connection_serves_many_ranges() {
    let server = Server::plain();
    let mut blob = open(&Places::default(), &format!("{}/os", server.address), Some(false), DIGEST);
    for offset in 0..10 {
        assert_eq!(read(&mut blob, offset, 3).unwrap().as_bytes(), &BLOB[usize::try_from(offset).unwrap()..][..3]);
    }
    // Nor do those use up connections who do not ask whether there is more.
    for offset in 0..10 {
        blob.range(offset, 3).unwrap().read_exact(&mut [0; 3]).unwrap();
    }
    // One was a hello of TLS, one is that on which it was asked how it speaks, with an answer that nobody read.
    assert_eq!(server.heads.lock().unwrap().len(), 21);
    assert!(server.connections.load(Ordering::SeqCst) <= 3, "{:?}", server.connections);
}

#[test]
fn a_registry_that_was_greeted_is_not_asked_again_how_it_speaks() {
    let server = Server::plain();
    let reference = format!("{}/os:v1", server.address).parse().unwrap();
    let options = SourceOptions { tls_verify: Some(false), ..Default::default() };
    let repository = Repository::greet(&reference, &options).blocking_recv().unwrap().unwrap();
    let asked = || server.heads.lock().unwrap().len();
    assert_eq!(asked(), 1);
    for number in 2..4 {
        read(&mut repository.blob(DIGEST, BLOB.len() as u64, Arc::new(Silent)), 0, 4).unwrap();
        assert_eq!(asked(), number);
    }
    // One that is not there is no trouble before something is wanted.
    let dead = Server::dead();
    let reference = format!("{}/os:v1", dead.address).parse().unwrap();
    let repository = Repository::greet(&reference, &options).blocking_recv().unwrap().unwrap();
    assert!(dead.connections.load(Ordering::SeqCst) > 0 && repository.clients[0].is_unreached());
}

#[test]
fn a_mirror_that_breaks_in_the_middle_is_asked_after_the_others() {
    let (mirror, registry) = (Server::breaking(4), Server::plain());
    let mut blob = mirrored(&[&mirror, &registry]).blob(DIGEST, BLOB.len() as u64, Arc::new(Silent));
    assert_eq!(read(&mut blob, 1, 15), Ok("123456789abcdef".into()));
    assert_eq!((ranges(&mirror), ranges(&registry)), (1, 1));
    // That holds for all requests for the blob.
    assert_eq!(read(&mut blob.clone(), 0, 15), Ok("0123456789abcde".into()));
    assert_eq!((ranges(&mirror), ranges(&registry)), (1, 2));
}

#[test]
fn places_that_all_break_take_turns_and_are_given_up_as_one_is() {
    let (mirror, registry) = (Server::breaking(4), Server::breaking(4));
    let recorder = Arc::<Recorder>::default();
    let mut blob = mirrored(&[&mirror, &registry]).blob(DIGEST, BLOB.len() as u64, recorder.clone());
    let error = read(&mut blob, 1, 15).unwrap_err();
    assert_eq!((ranges(&mirror), ranges(&registry)), (2, 1));
    assert!(error.starts_with(&format!("{}: ", mirror.address)), "{error}");
    assert!(error.ends_with(", after 12 bytes (expected 15), 3 times in a row"), "{error}");
    let notes = recorder.events().into_iter().filter_map(|event| if let Event::Note { message } = event { Some(message) } else { None });
    let expected =
        [(&mirror, ", after 4 bytes (expected 15); asking again in "), (&registry, ", after 8 bytes (expected 15); asking again in ")];
    for (note, (server, words)) in notes.zip(expected) {
        assert!(note.starts_with(&format!("{}: ", server.address)) && note.contains(words), "{note}");
    }
}

#[test]
fn a_place_that_is_not_reached_is_not_tried_for_each_blob() {
    let (dead, registry) = (Server::dead(), Server::plain());
    let repository = mirrored(&[&dead, &registry]);
    let blob = |digest: &str| repository.blob(digest, BLOB.len() as u64, Arc::new(Silent));
    let tried = || dead.connections.load(Ordering::SeqCst);
    assert_eq!(read(&mut blob(DIGEST), 0, 4), Ok("0123".into()));
    let once = tried();
    assert!(once > 0);
    for offset in 1..4 {
        read(&mut blob(DIGEST), offset, 4).unwrap();
    }
    assert_eq!(tried(), once);
    // What the others do not have may be there after all.
    let error = read(&mut blob(&DIGEST.replace("9f9f", "0000")), 0, 4).unwrap_err();
    assert!(tried() > once && error.contains("404 Not Found") && error.contains(&dead.address), "{error}");
    // The only place is tried each time.
    let alone = mirrored(&[&dead]);
    let mut before = tried();
    for _ in 0..2 {
        read(&mut alone.blob(DIGEST, BLOB.len() as u64, Arc::new(Silent)), 0, 4).unwrap_err();
        assert!(tried() > std::mem::replace(&mut before, tried()));
    }
}
