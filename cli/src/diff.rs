//! `selkie diff`

use anyhow::Result;
use clap::Args;
use selkie::error::{Failure, FailureKind};
use selkie::ops::diff::{self, Report, Side};
use selkie::ops::host::{Access, Host};
use selkie::ops::preview;

use crate::changes::{SHOWN, lists, rows};
use crate::output::{Answer, Output, bytes, table};
use crate::progress::renderer;
use crate::source::SourceArguments;

/// Show what an update changes: packages, kernel, files. Without names, from the root that runs to the one that boots next.
///
/// For a machine that selkie installed. An image need not be here: its tables of contents tell what it would bring, and with how many bytes.
/// Exit code 1 says that both roots have the same files.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The first root: a number of `selkie list`, or at least four digits. The one that runs, by default.
    from: Option<String>,
    /// The second root, or an image as `selkie pull` takes it, with a slash or a colon in its name. The root that boots next, by default.
    #[arg(requires = "from")]
    to: Option<String>,
    /// Show all files.
    #[arg(long)]
    files: bool,
    #[command(flatten)]
    source: SourceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    // One name alone is compared with what runs.
    let (from, to) = match &arguments.to {
        None => (None, arguments.from.clone()),
        to => (arguments.from.clone(), to.clone()),
    };
    if let Some(from) = from.as_deref().filter(|from| is_image(from)) {
        let message = format!("comparing roots: {from} is an image (expected a root of this machine, as `selkie list` shows them)");
        return Err(Failure::new(FailureKind::Usage, message).hint("only the second may be an image").into());
    }
    let host = Host::running(Access::Read)?;
    let shown = if arguments.files { usize::MAX } else { SHOWN };
    let same = match to.as_deref().filter(|to| is_image(to)) {
        Some(image) => {
            let (image, source) = (image.parse()?, arguments.source.options());
            let report = preview::run(&host, &preview::Options { from, image, source }, &renderer(output))?;
            output.print(&report, |report| foretold(report, shown))?;
            report.preview.root.is_some_and(|root| root.changes.files.is_empty())
        }
        None => {
            let report = diff::run(&host, &diff::Options { from, to })?;
            output.print(&report, |report| human(report, shown))?;
            report.changes.files.is_empty()
        }
    };
    Ok(if same { Answer::No } else { Answer::Done })
}

/// Roots have digits alone.
fn is_image(name: &str) -> bool {
    name.contains(['/', ':'])
}

fn human(report: &Report, shown: usize) -> String {
    let (new, size, shared) = (report.new_objects, bytes(report.new_bytes), report.shared_objects);
    let mut all = vec![
        ("From", root(&report.from)),
        ("To", root(&report.to)),
        ("New data", format!("{size} in {new} objects; {shared} objects are shared")),
    ];
    all.extend(rows(&report.changes));
    table(&all) + &lists(&report.changes, shown)
}

fn foretold(report: &preview::Report, shown: usize) -> String {
    let head = vec![("From", root(&report.from)), ("To", format!("{}, {}", report.image, report.to_manifest))];
    crate::changes::preview(head, &report.preview, shown)
}

fn root(side: &Side) -> String {
    let number = side.number.map(|number| format!("{number}: ")).unwrap_or_default();
    let version = side.os_version.as_ref().map(|version| format!("{version}, ")).unwrap_or_default();
    format!("{number}{version}{}", side.id.short())
}
