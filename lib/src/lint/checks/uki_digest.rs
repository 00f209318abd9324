//! `uki-digest`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::image_id::ImageId;
use crate::lint::ukis::Binary;

pub(super) const CHECK: Check = Check {
    id: "uki-digest",
    severity: Severity::Error,
    about: "a unified kernel image cannot be read, or names another root than the one that the layers give: machines refuse the image, because it was \
            changed after it was sealed",
    mend: "seal the image again with `selkie seal`, as the last step of its build",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut seals = Vec::new();
    for binary in subject.ukis()? {
        found.extend(problem(binary, subject.boot_image()).map(|what| Found::new(what).at(&*binary.path)));
        if !binary.is_addon && binary.roots().is_ok_and(|roots| !roots.is_empty()) {
            seals.push(binary.path.clone());
        }
    }
    if seals.len() > 1 {
        found.push(Found::new(format!("{} unified kernel images name a root (expected one of them)", seals.len())).at_all(seals));
    }
    Ok(found)
}

fn problem(binary: &Binary, boot_image: Option<&ImageId>) -> Option<String> {
    if let Err(unreadable) = &binary.read {
        return Some(format!("it cannot be read: {unreadable}"));
    }
    let roots = match binary.roots() {
        Ok(roots) => roots,
        Err(error) => return Some(error.to_string()),
    };
    let root = roots.first()?;
    if binary.is_addon {
        return Some(format!("an addon names root {} (expected that only its image does)", root.id));
    }
    // Of a directory nobody knows what its layers give.
    let boot_image = boot_image?;
    if root.id.algorithm() != boot_image.algorithm() {
        let (found, expected) = (root.id.algorithm(), boot_image.algorithm());
        return Some(format!("it names a {found} root (expected {expected}, which machines compute where no annotation says otherwise)"));
    }
    (root.id != *boot_image).then(|| format!("it names root {} (expected {boot_image}, as the layers give it)", root.id))
}
