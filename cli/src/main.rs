//! `selkie`: arguments, rendering and exit codes. What the verbs do is in the `selkie` crate.

mod auto_update;
mod boot_once;
mod changes;
mod config;
mod delta;
mod diff;
mod digest;
mod disk;
mod esp;
mod fsck;
mod gc;
mod health;
mod lint;
mod list;
mod loader;
mod output;
mod pin;
mod progress;
mod pull;
mod rechunk;
mod rollback;
mod scratch;
mod seal;
mod signals;
mod source;
mod status;
mod switch;
mod untag;
mod upgrade;
mod usage;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use output::{Answer, Output};

/// Boot machines from OCI container images: verified, atomic, reversible.
///
/// Exit codes: 0 done; 1 a question answered "no"; 2 usage; 3 not found; 4 access denied; 5 registry unreachable; 6 corrupt data;
/// 7 unsuitable image; 8 no space; 9 not permitted; 10 not a selkie host; 11 busy; 12 repository mismatch; 20 damage was found and repaired;
/// 70 anything else; 129, 130, 143 stopped by SIGHUP, SIGINT (^C), SIGTERM.
#[derive(Debug, Parser)]
#[command(name = "selkie", version, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Status(status::Arguments),
    List(list::Arguments),
    Diff(diff::Arguments),
    Upgrade(upgrade::Arguments),
    Switch(switch::Arguments),
    Rollback(rollback::Arguments),
    BootOnce(boot_once::Arguments),
    /// Keep a root until it is unpinned, however many come after it.
    Pin(pin::Arguments),
    /// Let a pinned root go when its time has come.
    Unpin(pin::Arguments),
    Gc(gc::Arguments),
    Esp(esp::Arguments),
    Loader(loader::Arguments),
    AutoUpdate(auto_update::Arguments),
    Config(config::Arguments),
    Health(health::Arguments),
    Pull(pull::Arguments),
    Untag(untag::Arguments),
    Seal(seal::Arguments),
    Rechunk(rechunk::Arguments),
    Delta(delta::Arguments),
    Digest(digest::Arguments),
    Disk(disk::Arguments),
    Lint(lint::Arguments),
    Verify(verify::Arguments),
    Fsck(fsck::Arguments),
}

fn main() -> ExitCode {
    selkie::sys::memory::give_back();
    let arguments: Arguments = usage::parse();
    let output = &arguments.output;
    if let Err(error) = signals::catch(output) {
        return output.fail(&error);
    }
    let answer = match &arguments.verb {
        Verb::Status(verb) => status::run(verb, output),
        Verb::List(verb) => list::run(verb, output),
        Verb::Diff(verb) => diff::run(verb, output),
        Verb::Upgrade(verb) => upgrade::run(verb, output),
        Verb::Switch(verb) => switch::run(verb, output),
        Verb::Rollback(verb) => rollback::run(verb, output),
        Verb::BootOnce(verb) => boot_once::run(verb, output),
        Verb::Pin(verb) => pin::run(verb, true, output),
        Verb::Unpin(verb) => pin::run(verb, false, output),
        Verb::Gc(verb) => gc::run(verb, output),
        Verb::Esp(verb) => esp::run(verb, output),
        Verb::Loader(verb) => loader::run(verb, output),
        Verb::AutoUpdate(verb) => auto_update::run(verb, output),
        Verb::Config(verb) => config::run(verb, output),
        Verb::Health(verb) => health::run(verb, output),
        Verb::Pull(verb) => pull::run(verb, output),
        Verb::Untag(verb) => untag::run(verb, output),
        Verb::Seal(verb) => seal::run(verb, output),
        Verb::Rechunk(verb) => rechunk::run(verb, output),
        Verb::Delta(verb) => delta::run(verb, output),
        Verb::Digest(verb) => digest::run(verb, output),
        Verb::Disk(verb) => disk::run(verb, output),
        Verb::Lint(verb) => lint::run(verb, output),
        Verb::Verify(verb) => verify::run(verb, output),
        Verb::Fsck(verb) => fsck::run(verb, output),
    };
    match answer {
        Ok(Answer::Done) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Ok(Answer::Repaired) => ExitCode::from(20),
        Err(error) => output.fail(&error),
    }
}
