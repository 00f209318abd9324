//! `selkie list`

use anyhow::Result;
use clap::Args;
use selkie::ops::host::{Access, Host};
use selkie::ops::list::{self, Generation, List, State};

use crate::output::{Answer, Output, columns, local};

/// List every root on this machine, newest first.
#[derive(Debug, Args)]
pub struct Arguments {}

pub fn run(_arguments: &Arguments, output: &Output) -> Result<Answer> {
    let host = Host::running(Access::Read)?;
    output.print(&list::run(&host), human)?;
    Ok(Answer::Done)
}

fn human(list: &List) -> String {
    let heads = ["NUMBER", "ROOT", "STATE", "STAGED", "VERSION", "IMAGE"].map(str::to_owned);
    let mut text = columns(std::iter::once(heads).chain(list.generations.iter().map(row)));
    text.extend(list.problems.iter().map(|problem| format!("Problem: {problem}\n")));
    text
}

fn row(generation: &Generation) -> [String; 6] {
    let unknown = || "-".to_owned();
    let state = generation.state.iter().copied().map(State::name).map(str::to_owned);
    let tries = generation.tries.map(|tries| format!("{} tries left of {}", tries.left, tries.left + tries.done));
    let state: Vec<String> = state.chain(tries).collect();
    [
        generation.number.map_or_else(unknown, |number| number.to_string()),
        generation.id.short().to_owned(),
        if state.is_empty() { unknown() } else { state.join(", ") },
        generation.date.as_deref().map_or_else(unknown, |date| local(date).chars().take(10).collect()),
        generation.os_version.clone().unwrap_or_else(unknown),
        generation.image.clone().unwrap_or_else(unknown),
    ]
}
