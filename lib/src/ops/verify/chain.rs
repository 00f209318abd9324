//! From the evidence to the links. Pure.

use super::evidence::{Evidence, Started};
use super::{Link, Measured};
use crate::cmdline::Cmdline;
use crate::sys::efi::SecureBoot;
use crate::sys::mount;

/// Every link, in the order in which a machine starts.
pub(super) fn links(evidence: &Evidence) -> Vec<Link> {
    let links: [(&'static str, Measured<String>); 6] = [
        ("firmware", firmware(evidence)),
        ("loader", loader(evidence)),
        ("command-line", command_line(evidence)),
        ("root", root(evidence)),
        ("fs-verity", verity(evidence)),
        ("manifest", manifest(evidence)),
    ];
    let link = |(name, found): (&'static str, Measured<String>)| match found {
        Ok(found) => Link { name, holds: true, found },
        Err(found) => Link { name, holds: false, found },
    };
    links.into_iter().map(link).collect()
}

fn firmware(evidence: &Evidence) -> Measured<String> {
    match evidence.secure_boot.clone()? {
        SecureBoot::Enforced => Ok("Secure Boot is enforced".to_owned()),
        SecureBoot::SetupMode => Err("Secure Boot is in setup mode: no keys are enrolled (expected it enforced)".to_owned()),
        SecureBoot::Off => Err("Secure Boot is off (expected it enforced)".to_owned()),
    }
}

fn sealed(evidence: &Evidence) -> Measured<Started> {
    evidence
        .started
        .clone()?
        .ok_or_else(|| "a plain kernel was started, which nothing ties to its root (expected a sealed image)".to_owned())
}

fn loader(evidence: &Evidence) -> Measured<String> {
    let started = sealed(evidence)?;
    let (file, uki) = (&started.entry.file, started.entry.uki.as_ref().map_or("", |uki| uki.path.as_str()));
    if !started.entry.uki.as_ref().is_some_and(|uki| uki.signed) {
        return Err(format!("{file} starts {uki}, which is not signed (expected a signature that the firmware has checked)"));
    }
    match started.same_as_image? {
        true => Ok(format!("{file} starts {uki}, as the image has it")),
        false => Err(format!("{file} starts {uki}, which is not the one of the deployment's image")),
    }
}

fn command_line(evidence: &Evidence) -> Measured<String> {
    let started = sealed(evidence)?;
    let own = evidence.cmdline.without_root_image();
    if own == started.arguments {
        return Ok(evidence.cmdline.to_string());
    }
    let not_in = |these: &Cmdline, those: &Cmdline| {
        let extra: Vec<&str> = these.args().filter(|a| !those.args().any(|b| a == &b)).collect();
        if extra.is_empty() { "nothing".to_owned() } else { extra.join(" ") }
    };
    let (more, less) = (not_in(&own, &started.arguments), not_in(&started.arguments, &own));
    Err(format!("the kernel was not started with the arguments of the sealed image: besides them {more}, without {less}"))
}

fn root(evidence: &Evidence) -> Measured<String> {
    let source = evidence.root.as_ref().map_or("nothing", |root| root.source.as_str());
    if mount::root_image_of_source(source).as_ref() != Some(&evidence.booted) {
        return Err(format!("/ is mounted from {source} (expected composefs:{})", evidence.booted));
    }
    let named = evidence.cmdline.root_images().map_err(|e| e.to_string())?;
    match named.as_slice() {
        [only] if only.id == evidence.booted => Ok(source.to_owned()),
        [] => Err(format!("the kernel arguments name no root (expected {})", evidence.booted)),
        names => {
            let names: Vec<String> = names.iter().map(|root| root.id.to_string()).collect();
            Err(format!("the kernel arguments name {} (expected {} alone)", names.join(", "), evidence.booted))
        }
    }
}

fn verity(evidence: &Evidence) -> Measured<String> {
    if evidence.cmdline.root_images().is_ok_and(|named| named.iter().any(|root| !root.verity_required)) {
        return Err("the kernel arguments make fs-verity optional ('?')".to_owned());
    }
    let options = evidence.root.as_ref().map(|root| root.filesystem_options.as_slice()).unwrap_or_default();
    if !options.iter().any(|option| option == "verity=require") {
        return Err(format!("/ is mounted with {} (expected verity=require)", options.join(",")));
    }
    evidence.image.clone()?;
    Ok("required for every file, and measured for the image".to_owned())
}

fn manifest(evidence: &Evidence) -> Measured<String> {
    let (digest, boot_image) = evidence.manifest.clone()?;
    if boot_image == evidence.booted {
        return Ok(digest);
    }
    Err(format!("{digest} gives root {boot_image} (expected {})", evidence.booted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::{BootEntry, EntryUki};
    use crate::image_id::ImageId;
    use crate::sys::mount::mountinfo;

    fn id(byte: &str) -> ImageId {
        byte.repeat(32).parse().unwrap()
    }

    fn mounted(source: &str, verity: &str) -> Option<mountinfo::MountEntry> {
        mountinfo::parse(&format!("62 1 0:40 / / ro - overlay {source} ro,metacopy=on,{verity}")).pop()
    }

    fn proven() -> Evidence {
        let a = id("aa");
        let entry = BootEntry {
            file: "selkie-aa.conf".into(),
            image: a.clone(),
            verity_required: true,
            serial: 1,
            tries: None,
            title: "x".into(),
            arguments: Cmdline::parse("rw"),
            uki: Some(EntryUki { path: "/EFI/selkie/x.efi".into(), signed: true }),
            offered: true,
            missing: vec![],
        };
        Evidence {
            cmdline: Cmdline::parse(&format!("composefs.digest=v1-sha256-12:{a} rw")),
            root: mounted(&format!("composefs:{a}"), "verity=require"),
            secure_boot: Ok(SecureBoot::Enforced),
            started: Ok(Some(Started { entry, arguments: Cmdline::parse("rw"), same_as_image: Ok(true) })),
            image: Ok(()),
            manifest: Ok(("sha256:ab".into(), a.clone())),
            booted: a,
        }
    }

    fn broken(change: impl FnOnce(&mut Evidence)) -> Vec<&'static str> {
        let mut evidence = proven();
        change(&mut evidence);
        links(&evidence).into_iter().filter(|link| !link.holds).map(|link| link.name).collect()
    }

    fn change_started(evidence: &mut Evidence, change: impl FnOnce(&mut Started)) {
        if let Ok(Some(started)) = &mut evidence.started {
            change(started);
        }
    }

    #[test]
    fn a_whole_chain_is_proven() {
        assert_eq!(broken(|_| {}), [""; 0]);
    }

    #[test]
    fn each_link_breaks_by_itself() {
        let other = id("bb");
        assert_eq!(broken(|e| e.secure_boot = Ok(SecureBoot::Off)), ["firmware"]);
        assert_eq!(broken(|e| e.secure_boot = Ok(SecureBoot::SetupMode)), ["firmware"]);
        assert_eq!(broken(|e| e.secure_boot = Err("no efivars".into())), ["firmware"]);
        assert_eq!(broken(|e| change_started(e, |s| s.same_as_image = Ok(false))), ["loader"]);
        assert_eq!(broken(|e| change_started(e, |s| s.entry.uki.as_mut().unwrap().signed = false)), ["loader"]);
        assert_eq!(broken(|e| change_started(e, |s| s.arguments = Cmdline::parse("rw quiet"))), ["command-line"]);
        assert_eq!(
            broken(|e| e.cmdline = Cmdline::parse(&format!("composefs.digest=v1-sha256-12:{} rw init=/bin/sh", e.booted))),
            ["command-line"]
        );
        assert_eq!(broken(|e| e.root = mounted(&format!("composefs:{other}"), "verity=require")), ["root"]);
        assert_eq!(broken(|e| e.cmdline = Cmdline::parse("rw")), ["root"]);
        assert_eq!(broken(|e| e.root = mounted(&format!("composefs:{}", e.booted), "verity=on")), ["fs-verity"]);
        assert_eq!(broken(|e| e.cmdline = Cmdline::parse(&format!("composefs.digest=?v1-sha256-12:{} rw", e.booted))), ["fs-verity"]);
        assert_eq!(broken(|e| e.image = Err("no fs-verity".into())), ["fs-verity"]);
        assert_eq!(broken(|e| e.manifest = Ok(("sha256:ab".into(), other.clone()))), ["manifest"]);
        assert_eq!(broken(|e| e.root = None), ["root", "fs-verity"]);
    }

    #[test]
    fn a_plain_kernel_proves_nothing() {
        assert_eq!(broken(|e| e.started = Ok(None)), ["loader", "command-line"]);
    }
}
