//! `selkie diff`

use anyhow::Result;
use clap::Args;
use selkie::ops::diff::{self, Options, Report, Side};
use selkie::ops::host::{Access, Host};
use selkie::packages::PackageChange;
use selkie::store::What;

use crate::output::{Answer, Output, bytes, table};

/// More lines than this of files are not shown, unless asked for.
const SHOWN: usize = 20;

/// Show what an update changes: packages, kernel, files. Without names, from the root that runs to the one that boots next.
///
/// Exit code 1 says that both roots have the same files.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The first root: a number of `selkie list`, or at least four digits. The one that runs, by default.
    from: Option<String>,
    /// The second root. The one that boots next, by default.
    #[arg(requires = "from")]
    to: Option<String>,
    /// Show all files.
    #[arg(long)]
    files: bool,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    // One name alone is compared with what runs.
    let options = match &arguments.to {
        None => Options { from: None, to: arguments.from.clone() },
        to => Options { from: arguments.from.clone(), to: to.clone() },
    };
    let report = diff::run(&Host::running(Access::Read)?, &options)?;
    let shown = if arguments.files { usize::MAX } else { SHOWN };
    output.print(&report, |report| human(report, shown))?;
    Ok(if report.files.is_empty() { Answer::No } else { Answer::Done })
}

fn human(report: &Report, shown: usize) -> String {
    let kernel = |side: &Side| side.kernel.clone().unwrap_or_else(|| "unknown".to_owned());
    let (before, after) = (kernel(&report.from), kernel(&report.to));
    let files =
        [(What::Added, "added"), (What::Removed, "removed"), (What::Changed, "changed"), (What::Attributes, "with other attributes")];
    let files: Vec<String> = files.iter().map(|(what, word)| format!("{} {word}", report.count(*what))).collect();
    let mut text = table(&[
        ("From", root(&report.from)),
        ("To", root(&report.to)),
        ("Kernel", if before == after { format!("{before}, unchanged") } else { format!("{before} -> {after}") }),
        (
            "New data",
            format!("{} in {} objects; {} objects are shared", bytes(report.new_bytes), report.new_objects, report.shared_objects),
        ),
        ("Files", files.join(", ")),
        ("Packages", report.packages_unread.clone().unwrap_or_else(|| format!("{} differ", report.packages.len()))),
    ]);
    text.extend(report.packages.iter().map(package));
    text.extend(report.files.iter().take(shown).map(|change| format!("  {} {}\n", mark(change.what), change.path.display())));
    if report.files.len() > shown {
        text.push_str(&format!("  and {} more: --files shows all\n", report.files.len() - shown));
    }
    text
}

fn root(side: &Side) -> String {
    let number = side.number.map(|number| format!("{number}: ")).unwrap_or_default();
    let version = side.os_version.as_ref().map(|version| format!("{version}, ")).unwrap_or_default();
    format!("{number}{version}{}", side.id.short())
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
