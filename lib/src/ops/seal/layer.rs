//! What the layer of a sealed image holds.

use std::path::Path;

use anyhow::{Context, Result};

use super::Options;
use crate::cmdline::{Cmdline, RootImage};
use crate::error::{Failure, FailureKind};
use crate::image::{LayerFile, NewLayer, layer_tar};
use crate::ops::arguments;
use crate::signing::Signer;
use crate::store::{self, Tree};
use crate::uki::{self, Parts};

/// Where the unified kernel image goes. The name says nothing: what it boots is inside.
pub(super) const UKI: &str = "/boot/EFI/Linux/selkie.efi";

/// What the layer is made from.
pub(super) struct Ingredients<'a> {
    /// The root that boots.
    pub(super) boot: &'a Tree,
    /// The root as the layers give it.
    pub(super) whole: &'a Tree,
    /// As OCI names it.
    pub(super) architecture: &'a str,
    pub(super) root: &'a RootImage,
}

/// The layer.
pub(super) struct Made {
    /// Its bytes, uncompressed.
    pub(super) tar: Vec<u8>,
    /// The kernel arguments of the unified kernel image.
    pub(super) arguments: Cmdline,
    pub(super) unsigned_sha256: String,
}

impl Made {
    pub(super) fn layer(&self) -> NewLayer {
        let comment = format!("boots {} and nothing else", self.arguments.args().next().unwrap_or_default());
        NewLayer { tar: self.tar.clone(), created_by: "selkie seal".to_owned(), comment: Some(comment) }
    }
}

/// Looks at the words of the call, before anything is fetched.
///
/// # Errors
///
/// [`FailureKind::Usage`] for an argument or an addon that cannot be one.
pub(super) fn check(options: &Options) -> Result<()> {
    arguments::check(&options.arguments)?;
    for (place, (name, text)) in options.addons.iter().enumerate() {
        addon_line(name, text)?;
        if options.addons[..place].iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            return Err(
                Failure::new(FailureKind::Usage, format!("reading addon {name}: it is named twice (expected each name once)")).into()
            );
        }
    }
    Ok(())
}

/// Puts everything together and has it signed.
pub(super) fn make(from: &Ingredients<'_>, options: &Options, scratch: &Path) -> Result<Made> {
    let tools = store::sealing_tools(from.boot, from.architecture)?;
    let kernel = store::kernel(from.boot)?;
    store::require_bootable_layout(from.boot)?;
    let arguments = command_line(from, &options.arguments)?;
    let read = |file, what: &str| from.boot.read(file).with_context(|| format!("reading the {what} of the image"));
    let unsigned = uki::assemble(&Parts {
        stub: &read(&tools.stub, "stub")?,
        os_release: &os_release(from.boot)?,
        cmdline: &arguments.to_string(),
        uname: &kernel.version,
        linux: &read(&kernel.kernel, "kernel")?,
        initrd: &read(&kernel.initrd, "initramfs")?,
    })
    .map_err(|e| unsuitable(format!("making the unified kernel image: {e}")))?;
    let sign = |bytes: &[u8], what: &str| signed(options.signer.as_ref(), bytes, scratch).with_context(|| format!("signing the {what}"));
    let unsigned_sha256 = hex::encode(openssl::sha::sha256(&unsigned));
    let mut files = vec![(UKI.to_owned(), sign(&unsigned, "unified kernel image")?)];
    for (name, arguments) in &options.addons {
        let stub = tools.addon_stub.as_ref().ok_or_else(|| {
            unsuitable("making an addon: the image has no stub for addons".to_owned())
                .hint("it comes with systemd 254 and later, in systemd-boot-efi")
        })?;
        let line = addon_line(name, arguments)?.to_string();
        let addon = uki::assemble_addon(&read(stub, "stub of addons")?, &line, &kernel.version);
        let addon = addon.map_err(|e| unsuitable(format!("making addon {name}: {e}")))?;
        files.push((format!("{UKI}{}/{name}{}", store::ADDONS, store::ADDON), sign(&addon, "addon")?));
    }
    let loader = format!("{}/systemd-boot{}.efi", store::SIGNED_LOADERS, tools.architecture);
    files.push((loader, sign(&read(&tools.loader, "boot loader")?, "boot loader")?));
    Ok(Made { tar: tar(from, &files, options.mtime)?, arguments, unsigned_sha256 })
}

/// The root, what every machine has, what the image brings, and what was asked for.
fn command_line(from: &Ingredients<'_>, own: &[String]) -> Result<Cmdline> {
    let mut line = Cmdline::default();
    line.push(from.root.to_string());
    let brought = store::kargs(from.boot, from.architecture)?;
    arguments::of_machine(own)?.args().map(str::to_owned).chain(brought).for_each(|argument| line.push(argument));
    Ok(line)
}

fn addon_line(name: &str, text: &str) -> Result<Cmdline> {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) && !name.starts_with('.');
    if !plain {
        let message = format!("reading addon {name:?}: not a name (expected letters, digits, '-', '_' and '.')");
        return Err(Failure::new(FailureKind::Usage, message).into());
    }
    let words: Vec<String> = Cmdline::parse(text).args().map(str::to_owned).collect();
    arguments::check(&words)?;
    if words.is_empty() {
        return Err(Failure::new(FailureKind::Usage, format!("reading addon {name}: it has no kernel arguments")).into());
    }
    Ok(words.into_iter().collect())
}

fn os_release(tree: &Tree) -> Result<String> {
    let text = store::os_release_text(tree)?.ok_or_else(|| {
        unsuitable("reading os-release: the image has neither /etc/os-release nor /usr/lib/os-release".to_owned())
            .hint("the boot menu names the system by it: install base-files, or write one")
    })?;
    Ok(text)
}

fn signed(signer: Option<&Signer>, bytes: &[u8], scratch: &Path) -> Result<Vec<u8>> {
    signer.map_or_else(|| Ok(bytes.to_vec()), |signer| signer.sign(bytes, scratch))
}

/// Directories that are there stay as they are; addons that an earlier sealing left go.
fn tar(from: &Ingredients<'_>, files: &[(String, Vec<u8>)], mtime: u64) -> Result<Vec<u8>> {
    let addons = format!("{UKI}{}", store::ADDONS);
    let mut existing = Vec::new();
    for path in ["/boot", "/boot/EFI", store::UKIS, store::SIGNED_LOADERS, &addons] {
        if from.whole.get_link(path)?.is_some() {
            existing.push(path.trim_start_matches('/'));
        }
    }
    let left: Vec<String> = from.whole.children(&addons)?.iter().map(|(name, _)| format!("{addons}/{}", name.display())).collect();
    let written = |path: &&String| files.iter().any(|(file, _)| file == *path);
    let whiteouts: Vec<&str> = left.iter().filter(|path| !written(path)).map(|path| path.trim_start_matches('/')).collect();
    let files: Vec<LayerFile<'_>> =
        files.iter().map(|(path, bytes)| LayerFile { path: path.trim_start_matches('/'), bytes, mode: 0o644 }).collect();
    layer_tar(&files, &whiteouts, &existing, mtime)
}

fn unsuitable(message: String) -> Failure {
    Failure::new(FailureKind::Unsuitable, message)
}
