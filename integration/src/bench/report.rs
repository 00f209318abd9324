//! Medians and ratios, as a page of documentation.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{
    Contest, Sample,
    contest::Contestant,
    pair::{COMPRESSIONS, Pair},
};

/// All samples, by contest and contestant.
#[derive(Debug)]
pub(crate) struct Figures {
    order: Vec<(&'static str, Vec<&'static str>)>,
    samples: BTreeMap<(&'static str, &'static str), Vec<Sample>>,
}

impl Figures {
    /// No samples yet.
    pub(crate) fn new(contests: &[Contest]) -> Self {
        let names = |contest: &Contest| contest.contestants.iter().map(|contestant| contestant.name).collect();
        Self { order: contests.iter().map(|contest| (contest.title, names(contest))).collect(), samples: BTreeMap::new() }
    }

    /// One more.
    pub(crate) fn add(&mut self, contest: &Contest, contestant: &Contestant, sample: Sample) {
        self.samples.entry((contest.title, contestant.name)).or_default().push(sample);
    }

    /// The page.
    pub(crate) fn markdown(&self, pair: &Pair, runs: usize) -> Result<String> {
        let mut text = String::from("# Benchmarks\n\nWritten by `cargo xtask bench --write`; do not edit.\n\n");
        text += &format!(
            "Medians of {runs} runs that took turns, on {} processors, Linux {}; the registry on loopback. A ratio is the figure divided by selkie's of the same \
             table: above 1, selkie needs less. Figures of different runs of this command do not compare.\n\n",
            std::thread::available_parallelism().map_or(0, usize::from),
            std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim()
        );
        for (compression, sizes) in COMPRESSIONS.iter().zip(pair.sizes) {
            text += &format!("- {compression}: v1 {} MB, v2 {} MB, one layer each\n", sizes[0] / 1_000_000, sizes[1] / 1_000_000);
        }
        for (title, names) in &self.order {
            text += &self.table(title, names)?;
        }
        Ok(text)
    }

    fn table(&self, title: &'static str, names: &[&'static str]) -> Result<String> {
        let median = |name: &'static str| {
            let samples = self.samples.get(&(title, name)).filter(|samples| !samples.is_empty());
            samples.map(|samples| median(samples)).with_context(|| format!("looking for figures of {name} at {title}"))
        };
        let first = median(names.first().context("looking for contestants")?)?;
        let mut text =
            format!("\n## {title}\n\n| | wall s | ratio | CPU s | ratio | peak RSS MiB | MB received |\n|---|---|---|---|---|---|---|\n");
        for name in names {
            let m = median(name)?;
            let (memory, received) = (m.memory / 1024, m.received as f64 / 1e6);
            let (wall, cpu) = (m.wall / first.wall, m.cpu / first.cpu);
            text += &format!("| {name} | {:.2} | {wall:.2} | {:.2} | {cpu:.2} | {memory} | {received:.1} |\n", m.wall, m.cpu);
        }
        Ok(text)
    }
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
        received: middle(|s| s.received as f64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_its_own_median() {
        let sample = |wall: f64, memory: u64| Sample { wall, cpu: 10.0 - wall, memory, received: 5 };
        let samples = [sample(3.0, 10), sample(1.0, 30), sample(2.0, 20)];
        assert_eq!(median(&samples), sample(2.0, 20));
        assert_eq!(median(&samples[..2]), Sample { wall: 1.0, cpu: 7.0, memory: 10, received: 5 });
    }
}
