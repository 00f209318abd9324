//! What differs between two roots, as text: for `diff` and `upgrade --check`.

use selkie::ops::changes::{Changes, Reboot};
use selkie::ops::preview::Preview;
use selkie::packages::PackageChange;
use selkie::store::What;

use crate::output::{bytes, table};
use crate::pull::layers;

/// More lines than this of files are not shown, unless asked for.
pub const SHOWN: usize = 20;

/// The rows of a table.
pub fn rows(changes: &Changes) -> Vec<(&'static str, String)> {
    let kernel = |version: &Option<String>| version.clone().unwrap_or_else(|| "unknown".to_owned());
    let (before, after) = (kernel(&changes.kernel.before), kernel(&changes.kernel.after));
    let reboot = match changes.reboot {
        Reboot::None => "not needed: the files are the same",
        Reboot::Soft => "soft would do: kernel, initramfs and the image's kernel arguments stay",
        Reboot::Full => "full: kernel, initramfs or the image's kernel arguments change",
    };
    let files =
        [(What::Added, "added"), (What::Removed, "removed"), (What::Changed, "changed"), (What::Attributes, "with other attributes")];
    let files: Vec<String> = files.iter().map(|(what, word)| format!("{} {word}", changes.count(*what))).collect();
    vec![
        ("Kernel", if before == after { format!("{before}, same version") } else { format!("{before} -> {after}") }),
        ("Reboot", reboot.to_owned()),
        ("Files", files.join(", ")),
        ("Packages", changes.packages_unread.clone().unwrap_or_else(|| format!("{} differ", changes.packages.len()))),
    ]
}

/// Packages and files, a line each; of files no more than `shown`.
pub fn lists(changes: &Changes, shown: usize) -> String {
    let mut text: String = changes.packages.iter().map(package).collect();
    text.extend(changes.files.iter().take(shown).map(|change| format!("  {} {}\n", mark(change.what), change.path.display())));
    if changes.files.len() > shown {
        text.push_str(&format!("  and {} more files: `selkie diff --files` and --json show all\n", changes.files.len() - shown));
    }
    text
}

/// What taking an image would cost and change, under the rows of `head`.
pub fn preview(mut head: Vec<(&'static str, String)>, preview: &Preview, shown: usize) -> String {
    head.extend(preview_rows(preview));
    let changes = preview.root.as_ref().map(|root| lists(&root.changes, shown)).unwrap_or_default();
    table(&head) + &layers(&preview.fetch) + &changes
}

fn preview_rows(preview: &Preview) -> Vec<(&'static str, String)> {
    let looked_at = if preview.looked_at == 0 { String::new() } else { format!("; {} to find this out", bytes(preview.looked_at)) };
    let mut rows = vec![
        ("To fetch", format!("{}{looked_at}", bytes(preview.bytes))),
        ("Space", format!("{} needed, {} free", bytes(preview.room.needed), bytes(preview.room.free))),
    ];
    match (&preview.root, &preview.unknown) {
        (Some(root), _) => {
            let (new, size, reused) = (root.objects_new, bytes(root.bytes_new), root.objects_reused);
            rows.push(("New data", format!("{size} in {new} objects; {reused} objects are here")));
            rows.extend(self::rows(&root.changes));
        }
        (None, reason) => rows.push(("Changes", reason.clone().unwrap_or_default())),
    }
    rows
}

fn package(change: &PackageChange) -> String {
    let PackageChange { name, before, after } = change;
    match (before, after) {
        (Some(before), Some(after)) => format!("  {name} {before} -> {after}\n"),
        (None, Some(after)) => format!("  {name} {after}, new\n"),
        (before, None) => format!("  {name} {}, gone\n", before.as_deref().unwrap_or_default()),
    }
}

fn mark(what: What) -> char {
    match what {
        What::Added => '+',
        What::Removed => '-',
        What::Changed => 'M',
        What::Attributes => 'm',
    }
}
