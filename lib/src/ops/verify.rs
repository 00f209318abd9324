//! `selkie verify`: whether what runs is what was sealed. One chain from the firmware to the files, each link looked at by itself.
//!
//! ```text
//! firmware     Secure Boot is enforced
//! loader       what was started is the signed unified kernel image of the image
//! command-line the kernel was started with the arguments inside it
//! root         / is the root that these arguments name, and no other
//! fs-verity    the kernel checks every file that is read, and the image itself
//! manifest     that root is what the manifest of the deployment's origin gives
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;

use super::digest;
use super::host::Host;
use super::runtime::block_on;
use super::seal;
use crate::image::{Source, SourceOptions};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::reference::ImageReference;
use crate::store::Store;

mod chain;
mod evidence;

pub use evidence::KernelState;
use evidence::{Evidence, Measured};

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// An image that the machine must run, wherever it is.
    pub against: Option<ImageReference>,
    /// How to reach it.
    pub source: SourceOptions,
    /// Whether to read every object of the root.
    pub deep: bool,
    /// Where to keep headers of an image to compare with that is not sealed.
    pub scratch: PathBuf,
}

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Link {
    /// Its name.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// What was found, and where it does not hold, what was expected.
    pub found: String,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Whether every link holds.
    pub proven: bool,
    /// The first link that does not.
    pub broken: Option<&'static str>,
    /// The root that runs.
    pub booted: ImageId,
    /// All links, from the firmware on.
    pub links: Vec<Link>,
}

/// Runs the verb. Nothing is changed.
///
/// # Errors
///
/// Only where the question cannot be asked: the image to compare with cannot be reached. What is wrong with the machine is in the report.
pub fn run(host: &Host, kernel: &KernelState, options: &Options, progress: &Arc<dyn Progress>) -> Result<Report> {
    let store = host.store();
    let mut links = chain::links(&Evidence::gather(host, kernel, &store));
    if let Some(reference) = &options.against {
        let compared = against(host, reference, options, progress)?;
        links.push(compared);
    }
    if options.deep {
        progress.phase("reading every object of the root".to_owned());
        links.push(objects(host.booted(), &store));
    }
    let broken = links.iter().find(|link| !link.holds).map(|link| link.name);
    Ok(Report { proven: broken.is_none(), broken, booted: host.booted().clone(), links })
}

/// Compares with an image elsewhere: by what its manifest says of its seal, which nobody on this machine has written, or else by what its layers
/// give. What this machine's files say of their origin is no proof.
fn against(host: &Host, reference: &ImageReference, options: &Options, progress: &Arc<dyn Progress>) -> Result<Link> {
    let resolved = block_on(async {
        let source = Source::open(reference, &options.source, progress.as_ref()).await?;
        let resolved = source.resolved().clone();
        source.close().await?;
        anyhow::Ok(resolved)
    })
    .context("reaching the image to compare with")?;
    let boots = match seal::sealed_root(&resolved)? {
        Some(root) => root.id,
        None => {
            let options = digest::Options {
                image: reference.clone(),
                source: options.source.clone(),
                algorithm: Some(host.booted().algorithm()),
                scratch: options.scratch.clone(),
            };
            digest::run(&options, progress)?.boot_image
        }
    };
    let found = format!("{reference} is {} and boots {boots}", resolved.manifest_digest);
    Ok(match boots == *host.booted() {
        true => Link { name: "against", holds: true, found },
        false => Link { name: "against", holds: false, found: format!("{found} (expected {}, which runs)", host.booted()) },
    })
}

/// Reads all that the root consists of and compares it with its names.
fn objects(booted: &ImageId, store: &Result<Store>) -> Link {
    let checked =
        store.as_ref().map_err(|error| format!("{error:#}")).and_then(|store| store.check_objects(booted).map_err(|e| format!("{e:#}")));
    match checked {
        Ok(checked) => Link { name: "objects", holds: true, found: format!("{} objects, {} bytes", checked.objects, checked.bytes) },
        Err(found) => Link { name: "objects", holds: false, found },
    }
}
