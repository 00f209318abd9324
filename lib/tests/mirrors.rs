//! Tags that move during a pull, where registries.conf has a mirror: real registries, and processes with a home of their own.

mod partial_common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use partial_common::oci::{Compression, Layout, plain_http};
use partial_common::registry::{Registry, push};
use partial_common::{Release, store};
use selkie::ops::pull;
use selkie::progress::{Event, Progress};

/// Variables by which a process of [`pulled`] knows where to work, and which registry gets the second release meanwhile.
const DIRECTORY: &str = "SELKIE_MIRRORS_DIRECTORY";
const MOVED: &str = "SELKIE_MIRRORS_MOVED";

/// Where that process writes what the tag has moved to.
const FOUND: &str = "found";

/// What [`pulled`] starts; by itself it has nothing to do.
#[test]
fn child() {
    let (Ok(directory), Ok(moved)) = (std::env::var(DIRECTORY), std::env::var(MOVED)) else { return };
    let directory = PathBuf::from(directory);
    let options = pull::Options { image: "images.example/acme/os:stable".parse().unwrap(), source: plain_http(), tag: None };
    let mover: Arc<dyn Progress> = Arc::new(Mover { layout: directory.join("layout"), address: moved });
    let pulled = pull::run(&store(&directory), &options, &mover).unwrap();
    std::fs::write(directory.join(FOUND), serde_json::to_vec(&(pulled.manifest_digest, pulled.moved_to)).unwrap()).unwrap();
}

/// Moves the tag in a registry as soon as something is fetched.
struct Mover {
    layout: PathBuf,
    address: String,
}

impl Progress for Mover {
    fn event(&self, event: Event) {
        if matches!(event, Event::Step { .. }) {
            publish(&self.layout, "v2", &self.address);
        }
    }
}

/// Has the tag of a registry name a release.
fn publish(layout: &Path, release: &str, address: &str) {
    push(&["--preserve-digests"], layout, release, &format!("{address}/acme/os:stable"));
}

/// Pulls the tag, which moves to the second release at `moved` meanwhile: the digest that came, and that to which it is said to have moved.
fn pulled(layout: &Layout, mirror: &Registry, registry: &Registry, moved: &Registry) -> (String, Option<String>) {
    let home = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(layout.path(), home.path().join("layout")).unwrap();
    let config = home.path().join(".config/containers");
    std::fs::create_dir_all(&config).unwrap();
    let conf = format!(
        "[[registry]]\nprefix = 'images.example'\nlocation = '{}'\ninsecure = true\n[[registry.mirror]]\nlocation = '{}'\ninsecure = true\n",
        registry.address, mirror.address
    );
    std::fs::write(config.join("registries.conf"), conf).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--nocapture"]).env("HOME", home.path()).env_remove("XDG_CONFIG_HOME");
    let output = child.env(DIRECTORY, home.path()).env(MOVED, &moved.address).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&std::fs::read(home.path().join(FOUND)).unwrap()).unwrap()
}

#[test]
fn a_tag_is_compared_at_the_place_where_the_image_came_from() {
    let mut layout = Layout::new();
    let mut digests = [("v1", Release::first()), ("v2", Release::second())].map(|(tag, release)| {
        let image = layout.image("amd64", &[(Compression::Zstd, release.tar())]);
        layout.publish(Some(tag), &image);
        image.digest().to_string()
    });
    let [first, second] = digests.each_mut().map(std::mem::take);
    // Whether the mirror has the tag at first, whether it moves there and not in the registry, and whether that is told.
    for (has, there, told) in [(true, true, true), (true, false, false), (false, false, true), (false, true, false)] {
        let (mirror, registry) = (Registry::start(), Registry::start());
        publish(layout.path(), "v1", &registry.address);
        if has {
            publish(layout.path(), "v1", &mirror.address);
        }
        let found = pulled(&layout, &mirror, &registry, if there { &mirror } else { &registry });
        assert_eq!(found, (first.clone(), told.then(|| second.clone())), "{has}, {there}");
    }
}
