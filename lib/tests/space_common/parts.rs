//! Machines with little room that run a release which came with a table of contents, as parts of the next one may fit where all of it does not.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::sync::Arc;

use selkie::image_id::ImageId;
use selkie::ops::upgrade::{self, Until};
use selkie::progress::Recorder;

use crate::common::host::Machine;
use crate::common::layout::{self, Files, What};
use crate::oci::plain_http;
use crate::registry::{Registry, push};
use crate::space_common::{fill, installed};

/// A release with these files besides what boots.
pub(crate) fn with_files<'a>(version: &str, names: &str, contents: impl Iterator<Item = &'a [u8]>) -> Files {
    let mut files = layout::bootable(version);
    files.extend(contents.enumerate().map(|(n, content)| (format!("usr/lib/{names}-{n:02}"), What::File(content.to_vec()))));
    files
}

pub(crate) const EACH: usize = 100_000;

/// How skopeo compresses with a table of contents.
pub(crate) const CHUNKED: &[&str] = &["--dest-compress-format=zstd:chunked"];

/// A machine with 1.5 MB of room that runs a release of 3 MB, which came as zstd:chunked from a registry. It follows `stable` there.
pub(crate) struct Chunked {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) registry: Registry,
    pub(crate) machine: Machine,
    pub(crate) booted: ImageId,
    /// How layers are compressed.
    format: &'static [&'static str],
}

impl Chunked {
    pub(crate) fn new(first: &Files) -> Self {
        Self::in_format(first, CHUNKED)
    }

    /// The same with layers in another format.
    pub(crate) fn in_format(first: &Files, format: &'static [&'static str]) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (machine, booted) = installed(temp.path(), "24m", "8m");
        let mut this = Self { temp, registry: Registry::start(), machine, booted, format };
        this.publish("stable", first);
        this.booted = this.upgrade(Some("stable"), Until::Stage).unwrap().staged.unwrap();
        this.machine.boot(&this.booted);
        fill(&this.temp.path().join("sysroot"), 1_500_000);
        this
    }

    pub(crate) fn publish(&self, tag: &str, files: &Files) {
        self.machine.release(tag, files);
        let to = self.registry.name(&format!("acme/os:{tag}"));
        push(self.format, &self.temp.path().join("images"), tag, &to);
    }

    /// Runs `upgrade`, or `switch` to a tag.
    pub(crate) fn upgrade(&self, tag: Option<&str>, until: Until) -> anyhow::Result<upgrade::Report> {
        self.upgrade_with(tag, until, &Arc::default())
    }

    pub(crate) fn upgrade_with(&self, tag: Option<&str>, until: Until, recorder: &Arc<Recorder>) -> anyhow::Result<upgrade::Report> {
        let image = tag.map(|tag| self.registry.name(&format!("acme/os:{tag}")));
        self.run(image, until, recorder)
    }

    /// Runs `switch` to a tag by another address of the registry.
    pub(crate) fn switch(&self, address: &str, tag: &str, recorder: &Arc<Recorder>) -> anyhow::Result<upgrade::Report> {
        self.run(Some(format!("{address}/acme/os:{tag}")), Until::Stage, recorder)
    }

    fn run(&self, image: Option<String>, until: Until, recorder: &Arc<Recorder>) -> anyhow::Result<upgrade::Report> {
        let image = image.map(|image| image.parse().unwrap());
        let options = upgrade::Options { image, source: plain_http(), until, keep: 0, retry: false };
        upgrade::run(&self.machine.host(&self.booted), &options, &(Arc::clone(recorder) as _))
    }
}
