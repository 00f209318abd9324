//! Medians and ratios, as a page of documentation.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{
    Contest, Sample,
    contest::Contestant,
    pair::{Form, Pair},
    tools::{Bench, Tool},
    verdict,
};
use crate::command::Argv;

/// All samples, by contest and contestant.
#[derive(Debug, Default)]
pub(super) struct Figures(BTreeMap<(String, &'static str), Vec<Sample>>);

impl Figures {
    /// One more.
    pub(super) fn add(&mut self, contest: &Contest, contestant: &Contestant, sample: Sample) {
        self.0.entry((contest.title.clone(), contestant.name)).or_default().push(sample);
    }

    /// The median of each figure by itself.
    pub(super) fn median(&self, contest: &Contest, contestant: &Contestant) -> Result<Sample> {
        let samples = self.0.get(&(contest.title.clone(), contestant.name)).filter(|samples| !samples.is_empty());
        samples.map(|samples| median(samples)).with_context(|| format!("looking for figures of {} at {}", contestant.name, contest.title))
    }

    /// The same by a tool, where it takes part.
    pub(super) fn of(&self, contest: &Contest, tool: Tool) -> Option<Sample> {
        let contestant = contest.contestants.iter().find(|contestant| contestant.tool == tool)?;
        self.median(contest, contestant).ok()
    }
}

/// The page.
pub(super) fn page(contests: &[Contest], figures: &Figures, bench: &Bench<'_>, runs: usize) -> Result<String> {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `cargo xtask bench --write` on a machine with Debian; do not edit. It installs what it needs, makes the images from the Debian archive, builds \
         peers that are no packages from their crates, and takes some 30 GB of room; the first run takes long, later ones can `--reuse` the images.\n\n",
    );
    text += &format!(
        "Medians of {runs} runs that took turns, each in a new directory; the registry on loopback. A ratio is the figure divided by selkie's of the same table: above 1, selkie \
         needs less. Goals are the other way round: selkie's figure divided by the other's, the less the better. The floor is a program of our own that only does what cannot be left \
         out (hashing, decompressing, writing), from a layout, wherever the others have the image from. Figures of different runs of this command do not compare. \"Written\" is what a \
         program and its children gave a disk to write, so what goes to a tmpfs does not count, \"received\" what the registry sent. A delta, where a contest has one, was made by `selkie delta` and lies beside the image in the registry; only selkie takes it.\n\n",
    );
    text += &machine(bench);
    text += &images(bench.pair);
    text += &verdict::table(contests, figures, bench);
    for contest in contests {
        text += &table(contest, figures)?;
    }
    Ok(text)
}

fn machine(bench: &Bench<'_>) -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |(_, model)| model);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let verity = if bench.verity { "with" } else { "without" };
    let mut text =
        format!("- Machine: {processors} processors ({model}), Linux {}, {} {verity} fs-verity\n", kernel.trim(), bench.written_to);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').nth(2).unwrap_or("unknown");
    text += &format!(
        "- Load average of the last quarter of an hour: {load}. What is more than 2 or so came from elsewhere: then only ratios mean anything\n"
    );
    text += "- composefs-ctl: the version in `Cargo.lock`, fs-verity SHA-256, as selkie\n";
    for peer in ["podman", "skopeo", "tar"] {
        let version = Argv::new([peer, "--version"]).read().unwrap_or_default();
        text += &format!("- {}\n", version.lines().next().unwrap_or("unknown"));
    }
    text
}

fn images(pair: &Pair) -> String {
    let mut text =
        format!("- Images: {}\n\n| | layers | MB | MB that an update from v1 cannot do without |\n|---|---|---|---|\n", pair.note);
    for ((form, version), (layers, bytes)) in &pair.sizes {
        let name = match form {
            Form::Delta => format!("delta from v1 to {version}"),
            _ => format!("{version}, {}", form.name()),
        };
        let missing = pair.missing.get(&(*form, *version)).map_or(String::new(), |bytes| megabytes(*bytes));
        text += &format!("| {name} | {layers} | {} | {missing} |\n", megabytes(*bytes));
    }
    text
}

fn table(contest: &Contest, figures: &Figures) -> Result<String> {
    let first = figures.median(contest, contest.contestants.first().context("looking for contestants")?)?;
    let mut text = format!(
        "\n## {}\n\n| | wall s | ratio | CPU s | ratio | peak RSS MiB | MB written | MB received | manifests asked for |\n|---|---|---|---|---|---|---|---|---|\n",
        contest.title
    );
    for contestant in &contest.contestants {
        let m = figures.median(contest, contestant)?;
        let (wall, cpu) = (ratio(m.wall, first.wall), ratio(m.cpu, first.cpu));
        let (written, received) = (megabytes(m.written), megabytes(m.received));
        text += &format!("| {} | {:.3} | {wall} | {:.2} | {cpu} |", contestant.name, m.wall, m.cpu);
        text += &format!(" {} | {written} | {received} | {} |\n", m.memory / 1024, m.manifests);
    }
    Ok(text)
}

/// What divides by nothing is no figure.
fn ratio(of: f64, to: f64) -> String {
    if to > 0.0 { format!("{:.2}", of / to) } else { "-".to_owned() }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}

/// The median of each figure by itself; of an even number of samples, the lower of the two in the middle.
fn median(samples: &[Sample]) -> Sample {
    let middle = |of: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[(values.len() - 1) / 2]
    };
    Sample {
        wall: middle(|s| s.wall),
        cpu: middle(|s| s.cpu),
        memory: middle(|s| s.memory as f64) as u64,
        written: middle(|s| s.written as f64) as u64,
        received: middle(|s| s.received as f64) as u64,
        manifests: middle(|s| s.manifests as f64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_its_own_median() {
        let sample = |wall: f64, memory: u64| Sample { wall, cpu: 10.0 - wall, memory, written: 3, received: 5, manifests: 1 };
        let samples = [sample(3.0, 10), sample(1.0, 30), sample(2.0, 20)];
        assert_eq!(median(&samples), sample(2.0, 20));
        assert_eq!(median(&samples[..2]), Sample { wall: 1.0, cpu: 7.0, ..sample(2.0, 10) });
    }
}
