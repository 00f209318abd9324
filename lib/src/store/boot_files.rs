//! What a machine boots with, found in the tree of an image.

use anyhow::{Context, Result};

use super::tree::{File, NodeKind, Tree};
use super::unsuitable;
use crate::kargs;
use crate::os_release::OsRelease;

/// Where an image keeps its kernels, each in a directory of its version.
const MODULES: &str = "/usr/lib/modules";
/// Where Debian and Fedora keep the boot loader that gets copied to the ESP, and the stubs of unified kernel images.
const LOADERS: &str = "/usr/lib/systemd/boot/efi";
/// Where sealing puts the boot loader that it has signed.
pub const SIGNED_LOADERS: &str = "/boot/EFI/systemd";

/// The kernel of an image with its initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Its version, as `uname -r` says.
    pub version: String,
    /// The kernel.
    pub kernel: File,
    /// The initramfs.
    pub initrd: File,
}

/// The kernel of the image: exactly one `/usr/lib/modules/VERSION/vmlinuz`, with `initramfs.img` beside it.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable) where `/usr`, the kernel or the initramfs is missing, or
/// where there are two kernels.
pub fn kernel(tree: &Tree) -> Result<Kernel> {
    if !matches!(tree.get("/usr")?.map(|node| node.kind), Some(NodeKind::Directory)) {
        return Err(unsuitable("finding the kernel: the image has no /usr")
            .hint("the image must be an operating system: begin its Containerfile with a base image of one")
            .into());
    }
    let mut kernels = Vec::new();
    for (name, _) in tree.children(MODULES)? {
        let Some(version) = name.to_str() else { continue };
        if let Some(kernel) = tree.file(format!("{MODULES}/{version}/vmlinuz"))? {
            kernels.push((version.to_owned(), kernel));
        }
    }
    let (version, kernel) = match (kernels.pop(), kernels.is_empty()) {
        (Some(only), true) => only,
        (Some((last, _)), false) => return Err(too_many(kernels.into_iter().map(|(version, _)| version).chain([last])).into()),
        (None, _) => {
            return Err(unsuitable(format!("finding the kernel: the image has no {MODULES}/VERSION/vmlinuz"))
                .hint("install a kernel in the image; where the package puts it into /boot, copy it to /usr/lib/modules/VERSION/vmlinuz")
                .into());
        }
    };
    let initrd = tree.file(format!("{MODULES}/{version}/initramfs.img"))?.ok_or_else(|| {
        unsuitable(format!("finding the initramfs: the image has no {MODULES}/{version}/initramfs.img"))
            .hint(format!("run `dracut --force {MODULES}/{version}/initramfs.img {version}` in the Containerfile, after the kernel"))
    })?;
    Ok(Kernel { version, kernel, initrd })
}

fn too_many(versions: impl Iterator<Item = String>) -> crate::error::Failure {
    let versions: Vec<_> = versions.collect();
    unsuitable(format!("finding the kernel: the image has {} kernels: {} (expected one)", versions.len(), versions.join(", ")))
        .hint("remove all but one of them in the Containerfile, with their packages")
}

/// What the image says that it is: `/etc/os-release`, else `/usr/lib/os-release`, else nothing.
pub fn os_release(tree: &Tree) -> Result<OsRelease> {
    Ok(os_release_text(tree)?.map_or_else(OsRelease::default, |text| OsRelease::parse(&text)))
}

/// The text of that file.
pub fn os_release_text(tree: &Tree) -> Result<Option<String>> {
    for path in ["/etc/os-release", "/usr/lib/os-release"] {
        if let Some(file) = tree.file(path)? {
            let bytes = tree.read(&file).with_context(|| format!("reading {path}"))?;
            return Ok(Some(String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    Ok(None)
}

/// The kernel arguments that the image brings for `architecture`, as OCI names it.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable) where a drop-in file cannot be read: a machine without its arguments may
/// not come up.
pub fn kargs(tree: &Tree, architecture: &str) -> Result<Vec<String>> {
    let mut arguments = Vec::new();
    for (name, _) in tree.children(kargs::DIRECTORY)? {
        let Some(name) = name.to_str().filter(|name| name.ends_with(".toml")) else { continue };
        let path = format!("{}/{name}", kargs::DIRECTORY);
        let Some(file) = tree.file(&path)? else { continue };
        let bytes = tree.read(&file).with_context(|| format!("reading {path}"))?;
        let found = kargs::parse(&String::from_utf8_lossy(&bytes), architecture);
        arguments.extend(found.map_err(|e| unsuitable(format!("reading {path}: {e}")))?);
    }
    Ok(arguments)
}

/// A boot loader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loader {
    /// The EFI binary.
    pub file: File,
    /// The architecture as UEFI file names have it: `x64`, `aa64`…
    pub architecture: String,
}

/// The systemd-boot of the image for `architecture`, as OCI names it; a signed one where there is one. The one that sealing has signed
/// comes first; it is in the tree of the image as its layers give it only.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable) where there is none.
pub fn systemd_boot(tree: &Tree, architecture: &str) -> Result<Loader> {
    let architecture = efi_architecture(architecture);
    let name = format!("systemd-boot{architecture}.efi");
    for path in [format!("{SIGNED_LOADERS}/{name}"), format!("{LOADERS}/{name}.signed"), format!("{LOADERS}/{name}")] {
        if let Some(file) = tree.file(path)? {
            return Ok(Loader { file, architecture: architecture.to_owned() });
        }
    }
    Err(unsuitable(format!("finding the boot loader: the image has no {LOADERS}/{name}"))
        .hint("install systemd-boot-efi (Debian) or systemd-boot-unsigned (Fedora) in the image")
        .into())
}

/// What systemd-boot and unified kernel images are made from, found in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealingTools {
    /// The stub of unified kernel images.
    pub stub: File,
    /// The stub of addons, where the image has one.
    pub addon_stub: Option<File>,
    /// The boot loader, unsigned.
    pub loader: File,
    /// The architecture as UEFI file names have it: `x64`, `aa64`…
    pub architecture: String,
}

/// The stubs and the boot loader in the image for `architecture`, as OCI names it.
///
/// # Errors
///
/// [`FailureKind::Unsuitable`](crate::error::FailureKind::Unsuitable) where a stub or the boot loader is missing.
pub fn sealing_tools(tree: &Tree, architecture: &str) -> Result<SealingTools> {
    let architecture = efi_architecture(architecture);
    let need = |what: &str, name: String| {
        tree.file(format!("{LOADERS}/{name}"))?.ok_or_else(|| {
            anyhow::Error::from(
                unsuitable(format!("finding the {what}: the image has no {LOADERS}/{name}"))
                    .hint("install systemd-boot-efi (Debian) or systemd-boot-unsigned (Fedora) in the image"),
            )
        })
    };
    Ok(SealingTools {
        stub: need("stub of unified kernel images", format!("linux{architecture}.efi.stub"))?,
        addon_stub: tree.file(format!("{LOADERS}/addon{architecture}.efi.stub"))?,
        loader: need("boot loader", format!("systemd-boot{architecture}.efi"))?,
        architecture: architecture.to_owned(),
    })
}

/// The name that UEFI files have for an architecture of OCI.
/// What UEFI file names call an architecture that OCI calls `oci`.
pub fn efi_architecture(oci: &str) -> &str {
    match oci {
        "amd64" => "x64",
        "arm64" => "aa64",
        "386" => "ia32",
        "loong64" => "loongarch64",
        other => other,
    }
}
