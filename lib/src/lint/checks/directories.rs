//! `directories`

use anyhow::Result;

use super::mount_points::MADE;
use super::{Check, Found, Look, Severity, Subject};
use crate::store::{self, LayoutProblem};

pub(super) const CHECK: Check = Check {
    id: "directories",
    severity: Severity::Error,
    about: "a directory that the initramfs or systemd mounts on is missing, or is something else: /usr, /etc, /var, /run, /proc, /sys, /dev, /tmp",
    mend: "make it a plain directory in the Containerfile",
    look: Look::Tree(look),
};

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let problems = store::layout_problems(subject.tree)?.into_iter();
    let wrong = problems.filter(|problem| !(MADE.contains(&problem.path) && problem.found == LayoutProblem::MISSING));
    Ok(wrong.map(|problem| Found::new(format!("{} {}", problem.path, problem.found)).at(problem.path)).collect())
}
