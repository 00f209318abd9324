//! What selkie is to reach, beside what it reached.

use super::{
    Contest, Sample,
    pair::Form,
    report::Figures,
    tools::{Bench, From, Task, Tool},
};

/// One goal, with the figure and its limit.
struct Goal {
    what: String,
    found: f64,
    limit: f64,
}

impl Goal {
    fn line(&self) -> String {
        let met = if self.found <= self.limit { "yes" } else { "**no**" };
        format!("| {} | {:.2} | {:.2} | {met} |\n", self.what, self.found, self.limit)
    }
}

/// The table of all goals.
pub(super) fn table(contests: &[Contest], figures: &Figures, bench: &Bench<'_>) -> String {
    let mut text = "\n## Goals\n\n| goal | found | limit | reached |\n|---|---|---|---|\n".to_owned();
    for contest in contests {
        let Some(selkie) = figures.of(contest, Tool::Selkie) else { continue };
        text.extend(goals(contest, &selkie, figures, bench).iter().map(Goal::line));
    }
    text
}

fn goals(contest: &Contest, selkie: &Sample, figures: &Figures, bench: &Bench<'_>) -> Vec<Goal> {
    let goal = |what: &str, found: f64, limit: f64| Goal { what: format!("{}: {what}", contest.title), found, limit };
    let peer = figures.of(contest, Tool::Composefs);
    let mut goals = Vec::new();
    match contest.task {
        Task::Pull { from, form, before: [], .. } => {
            if let Some(peer) = peer {
                let limit = if (from, form) == (From::Registry, Form::Gzip) { 0.5 } else { 0.4 };
                goals.push(goal("wall time, of composefs-ctl's", selkie.wall / peer.wall, limit));
                goals.push(goal("CPU time, of composefs-ctl's", selkie.cpu / peer.cpu, 0.5));
            }
            goals.push(goal("peak RSS, MiB", selkie.memory as f64 / 1024.0, 96.0));
            if let Some(floor) = figures.of(contest, Tool::Floor) {
                goals.push(goal("wall time, of the floor's", selkie.wall / floor.wall, 1.6));
            }
        }
        Task::Pull { form, version, .. } => {
            goals.push(goal("peak RSS, MiB", selkie.memory as f64 / 1024.0, 96.0));
            let share = bench.pair.missing.get(&(form.layers(), version)).map(|missing| selkie.received as f64 / *missing as f64);
            match (share, form) {
                (Some(share), Form::Delta) => goals.push(goal("bytes received, of those that parts cannot leave out", share, 1.0)),
                (Some(share), _) => {
                    goals.push(goal("bytes received, of those that cannot be left out", share, 1.05));
                    goals.extend(peer.map(|peer| goal("wall time, of composefs-ctl's", selkie.wall / peer.wall, 1.0 / 3.0)));
                }
                (None, _) => {}
            }
        }
        Task::Status(count) if count > 1 => goals.push(goal("wall time, ms", selkie.wall * 1000.0, 20.0)),
        Task::Check => {
            goals.push(goal("requests for the manifest", selkie.manifests as f64, 1.0));
            goals.push(goal("wall time, ms", selkie.wall * 1000.0, 100.0));
        }
        _ => {}
    }
    goals
}
