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

#[cfg(test)]
mod tests {
    use selkie::ops::changes::Kernels;
    use selkie::ops::preview::{ForetoldRoot, Room};
    use selkie::ops::pull::{FetchedLayer, Way};
    use selkie::store::Change;

    use super::*;

    fn layer(way: Way, bytes: u64, reason: Option<&str>) -> FetchedLayer {
        FetchedLayer { digest: "sha256:ab".into(), way, bytes, size: 3 << 20, reason: reason.map(str::to_owned) }
    }

    fn version(before: Option<&str>, after: Option<&str>) -> PackageChange {
        PackageChange { name: "nano".into(), before: before.map(str::to_owned), after: after.map(str::to_owned) }
    }

    fn foretold() -> Preview {
        let change = |path: &str, what| Change { path: path.into(), what };
        let changes = Changes {
            kernel: Kernels { before: Some("6.1.1".into()), after: Some("6.1.2".into()) },
            reboot: Reboot::Full,
            packages: vec![version(Some("7.2"), Some("7.3")), version(None, Some("1")), version(Some("2"), None)],
            packages_unread: None,
            files: vec![change("/etc/a", What::Added), change("/etc/b", What::Changed), change("/etc/c", What::Removed)],
        };
        Preview {
            fetch: vec![layer(Way::Here, 0, None), layer(Way::Partial, 1 << 20, None), layer(Way::Whole, 3 << 20, Some("it is small"))],
            bytes: 4 << 20,
            looked_at: 2048,
            room: Room { needed: 5 << 20, free: 1 << 30 },
            root: Some(ForetoldRoot { objects_new: 3, bytes_new: 9 << 20, objects_reused: 70, changes }),
            unknown: None,
        }
    }

    #[test]
    fn what_an_update_costs_and_changes_is_told() {
        let text = "\
Version:  2
To fetch: 4.00 MiB; 2.00 KiB to find this out
Space:    5.00 MiB needed, 1.00 GiB free
New data: 9.00 MiB in 3 objects; 70 objects are here
Kernel:   6.1.1 -> 6.1.2
Reboot:   full: kernel, initramfs or the image's kernel arguments change
Files:    1 added, 1 removed, 1 changed, 0 with other attributes
Packages: 3 differ
1 layer: here
layer sha256:ab: partial, 1.00 MiB of 3.00 MiB
layer sha256:ab: whole, 3.00 MiB: it is small
  nano 7.2 -> 7.3
  nano 1, new
  nano 2, gone
  + /etc/a
  M /etc/b
  and 1 more files: `selkie diff --files` and --json show all
";
        assert_eq!(preview(vec![("Version", "2".to_owned())], &foretold(), 2), text);
    }

    #[test]
    fn what_cannot_be_foretold_says_why() {
        let unknown = Preview { root: None, unknown: Some("a layer has no table of contents".into()), looked_at: 0, ..foretold() };
        let text = preview(Vec::new(), &unknown, 2);
        assert!(text.starts_with("To fetch: 4.00 MiB\nSpace:    "), "{text}");
        assert!(text.contains("\nChanges:  a layer has no table of contents\n") && !text.contains("Kernel"), "{text}");
    }
}
