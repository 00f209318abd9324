//! Targets of words, boot entries and signatures.

use std::io::Cursor;

use crate::boot::{Entry, Loader, Tries};
use crate::cmdline::Cmdline;
use crate::config::{self, File, Window};
use crate::deploy::{AutoUpdate, FailedBoot};
use crate::kargs;
use crate::origin::Origin;
use crate::os_release::OsRelease;
use crate::packages as databases;
use crate::record as records;
use crate::reference::ImageReference;
use crate::signing::database::{Database, signed_value};
use crate::uki::pe::Pe;
use crate::uki::{Parts, Uki, assemble, assemble_addon, authenticode};

/// The text that is nearest to these bytes.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn uki(bytes: &[u8]) {
    let [binary, other] = super::split(bytes);
    if let Ok(uki) = Uki::read(&mut Cursor::new(binary)) {
        let _ = uki.root_images();
    }
    if let Ok(pe) = Pe::read(&mut Cursor::new(binary)) {
        for section in pe.sections() {
            let content = section.content(&mut Cursor::new(binary), 1 << 20);
            assert!(content.is_err() || content.is_ok_and(|content| content.len() <= binary.len()), "a section larger than its binary");
        }
    }
    let _ = authenticode::digest(binary);
    let _ = authenticode::signatures(binary);
    let _ = authenticode::check_signed_form(binary, other);
    let _ = Loader::version_of(binary);
    let parts = Parts { stub: binary, os_release: "ID=a\n", cmdline: "quiet", uname: "6.12", linux: other, initrd: b"initrd" };
    if let Ok(made) = assemble(&parts) {
        let read = Uki::read(&mut Cursor::new(made)).map(|uki| uki.cmdline);
        assert_eq!(read.expect("what was put together is read"), Some("quiet".to_owned()));
    }
    let _ = assemble_addon(binary, "quiet", "6.12");
}

pub(super) fn signature_database(bytes: &[u8]) {
    let [lists, binary] = super::split(bytes);
    let _ = signed_value(lists);
    for database in [Database::parse(lists), Database::parse_signed(lists)].into_iter().flatten() {
        let _ = database.accepts(binary);
        let _ = database.revokes(binary);
    }
}

pub(super) fn packages(bytes: &[u8]) {
    let text = text(bytes);
    let (dpkg, apk) = (databases::dpkg(&text), databases::apk(&text));
    let changes = databases::changes(&dpkg, &apk);
    assert!(changes.len() <= dpkg.len() + apk.len());
    let _ = databases::dpkg_sources(&text);
    for path in databases::dpkg_list(bytes) {
        assert!(!path.is_empty());
    }
    let _ = databases::apk_files(bytes);
}

/// A database of rpm.
pub(super) fn rpm(bytes: &[u8]) {
    let Ok(packages) = databases::rpm(bytes) else { return };
    let versions = databases::rpm_versions(&packages);
    assert!(versions.len() <= packages.len());
    assert!(packages.iter().all(|package| !package.name.contains('\0') && package.version.contains('-')));
}

pub(super) fn boot_entry(bytes: &[u8]) {
    let _ = Tries::split(&text(bytes));
    let Ok(entry) = Entry::parse(bytes) else { return };
    let _ = (entry.serial(), entry.root_image(), entry.files().count(), entry.options().root_images());
    let again = Entry::parse(entry.to_string().as_bytes());
    assert_eq!(again.as_ref(), Ok(&entry), "what was printed is read again");
}

pub(super) fn reference(bytes: &[u8]) {
    let Ok(reference) = text(bytes).parse::<ImageReference>() else { return };
    let printed = reference.to_string();
    assert_eq!(printed.parse::<ImageReference>().as_ref().ok(), Some(&reference), "{printed:?} is read again");
    let _ = (reference.skopeo(), reference.name(), reference.tag(), reference.digest(), reference.pinned("sha256:00"));
}

pub(super) fn record(bytes: &[u8]) {
    let _ = records::read::<FailedBoot>(bytes);
    let _ = records::read::<AutoUpdate>(bytes);
    let Ok(origin) = records::read::<Origin>(bytes) else { return };
    let written = records::write(&origin).expect("a record fits into JSON");
    assert_eq!(records::read::<Origin>(&written).ok(), Some(origin), "what was written is read again");
}

pub(super) fn config(bytes: &[u8]) {
    let text = text(bytes);
    let zones = |name: Option<&str>| name.map_or(Some(jiff::tz::TimeZone::UTC), |name| config::zone(name, |_| None));
    if let Ok(effective) = config::read(&[File { path: "a.toml".into(), text: text.clone() }], &zones) {
        let _ = effective.settings();
    }
    for line in text.lines().take(20) {
        if let Ok(window) = Window::parse(line, &zones) {
            // Now, and about as far as times of the kernel go.
            for at in [0, 1_800_000_000, 1 << 33] {
                let next = window.next(at);
                assert!(next.is_none_or(|next| next >= at), "the next opening of {line:?} is {next:?} after {at}");
            }
        }
        if let Ok(duration) = config::duration(line) {
            let printed = config::in_words(duration);
            assert_eq!(config::duration(&printed).ok(), Some(duration), "{printed:?} is read again");
        }
    }
    let _ = OsRelease::parse(&text).title();
    let cmdline = Cmdline::parse(&text);
    let _ = (cmdline.root_images(), cmdline.without_root_image().to_string());
    if let Ok(arguments) = kargs::parse(&text, "x86_64") {
        let _ = kargs::carry(&cmdline, &arguments, &arguments);
    }
}
