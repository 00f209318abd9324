//! `selkie fsck`

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use selkie::ops::fsck::{self, Fetched, Finding, Means, Options, Outcome, Remedy, Report, Target, Verdict};
use selkie::ops::host::{Access, Host};
use selkie::ops::standalone::{Standalone, Verb};
use selkie::reference::ImageReference;

use crate::output::{Answer, Output, bytes};
use crate::progress::renderer;
use crate::source::SourceArguments;

/// Check that everything is there and is what its name says: repository, deployments, boot entries, kernels. With --repair, make it so again.
///
/// Exit code 0: clean. 1: damage was found and is still there, or a part could not be looked at. 20: damage was found, and all of it repaired.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Repair what was found: fetch what is damaged from where the image came from, rebuild what can be rebuilt, remove leftovers.
    #[arg(long)]
    repair: bool,
    /// Fetch from this image; it must be the damaged one, wherever it is kept now, or share layers with it.
    #[arg(long, value_name = "IMAGE", requires = "repair")]
    image: Option<ImageReference>,
    /// Check a repository that is no machine's, as `selkie pull --repo DIR` makes it, on any machine.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["sysroot", "esp"])]
    repo: Option<PathBuf>,
    /// Check a machine that does not run: the directory where its root file system is mounted.
    #[arg(long, value_name = "DIR")]
    sysroot: Option<PathBuf>,
    /// Where its EFI system partition is mounted (default: where it is found in or beside --sysroot).
    #[arg(long, value_name = "DIR", requires = "sysroot")]
    esp: Option<PathBuf>,
    /// Where a scratch directory is made for what is built before it takes its place; it is removed at the end.
    #[arg(long, env = "TMPDIR", value_name = "DIR", default_value = "/tmp")]
    scratch: PathBuf,
    #[command(flatten)]
    source: SourceArguments,
}

pub fn run(arguments: &Arguments, output: &Output) -> Result<Answer> {
    let target = match (&arguments.repo, &arguments.sysroot) {
        (Some(repo), _) => Target::standalone(Standalone::open(repo, Verb::Fsck)?),
        (None, Some(sysroot)) => Target::outside(sysroot, arguments.esp.as_deref())?,
        (None, None) => Target::running(Host::running(if arguments.repair { Access::Write } else { Access::Read })?),
    };
    let options = Options {
        repair: arguments.repair,
        image: arguments.image.clone(),
        source: arguments.source.options(),
        scratch: arguments.scratch.clone(),
    };
    let report = fsck::run(&target, &options, &renderer(output))?;
    output.print(&report, |report| human(report, target.is_machine()))?;
    Ok(match report.verdict {
        Verdict::Clean => Answer::Done,
        Verdict::Repaired => Answer::Repaired,
        Verdict::Damaged | Verdict::Unchecked => Answer::No,
    })
}

fn human(report: &Report, of_machine: bool) -> String {
    let mut text: String = report.findings.iter().map(finding).collect();
    text.extend(report.unchecked.iter().map(|reason| format!("not checked: {reason}\n")));
    text.extend(report.fetched.iter().map(fetched));
    let checked = &report.checked;
    let machine = if of_machine { format!(", {} deployments, {} entries", checked.deployments, checked.entries) } else { String::new() };
    text.push_str(&format!(
        "Checked {} objects ({}), {} images, {} streams, {} tags{machine}.\n",
        checked.objects,
        bytes(checked.bytes),
        checked.images,
        checked.streams,
        checked.tags
    ));
    let left = report.findings.iter().filter(|finding| finding.outcome != Outcome::Repaired).count();
    text.push_str(&match report.verdict {
        Verdict::Clean => "clean: everything is there and is what its name says\n".to_owned(),
        Verdict::Repaired => format!("repaired: {} findings, none is left\n", report.findings.len()),
        Verdict::Unchecked => "not clean: a part could not be looked at\n".to_owned(),
        // No repair was asked for.
        Verdict::Damaged if report.findings.iter().all(|finding| finding.outcome == Outcome::Found) => {
            format!("damaged: {} findings; `selkie fsck --repair`, with the same options, repairs what can be\n", report.findings.len())
        }
        Verdict::Damaged => format!("damaged: {left} of {} findings are left\n", report.findings.len()),
    });
    text
}

fn finding(finding: &Finding) -> String {
    let line = format!("{} {}: {}: {}\n", word(&finding.kind), finding.name, word(&finding.damage), finding.message);
    line + &match &finding.outcome {
        Outcome::Found => String::new(),
        Outcome::Repaired => match finding.remedy {
            Remedy::Fetch => "  repaired: fetched again\n".to_owned(),
            Remedy::Rebuild => "  repaired: made again\n".to_owned(),
            Remedy::Remove => "  repaired: removed, as nothing needs it\n".to_owned(),
            Remedy::Follows | Remedy::None => "  repaired\n".to_owned(),
        },
        Outcome::Left { reason } => format!("  left as it was: {reason}\n"),
    }
}

/// The same word as in JSON.
fn word(of: &impl serde::Serialize) -> String {
    serde_json::to_value(of).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn fetched(fetched: &Fetched) -> String {
    let how = match fetched.means {
        Means::Ranges => "parts",
        Means::WholeLayer => "the whole",
    };
    let why = fetched.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("fetched {} ({how} of layer {} of {}{why})\n", bytes(fetched.bytes), fetched.layer, fetched.image)
}
