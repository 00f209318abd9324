//! `cargo xtask`: the demo and the tests of selkie, on real images, a real registry and real (virtual) machines.
//!
//! Owns everything below `target/lab/`. It never changes selkie's own state; it uses selkie as a user would, by its command line.

mod bench;
mod build;
mod cli;
mod command;
mod demo;
mod digests;
mod disk;
mod fuzz;
mod images;
mod keys;
mod lab;
mod memory;
mod packages;
mod registry;
mod relay;
mod replay;
mod room;
mod scenarios;
mod selkie;
mod story;
mod test;
mod vm;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let outcome = match cli::Cli::parse().verb {
        cli::Verb::Demo(options) => demo::run(&options),
        cli::Verb::Test(options) => test::run(&options),
        cli::Verb::Images(options) => images::run(&options),
        cli::Verb::Vm(options) => vm::run(&options),
        cli::Verb::Bench(options) => bench::run(&options),
        cli::Verb::Fuzz(options) => fuzz::run(&options),
        cli::Verb::Packages => packages::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            story::complain(&error);
            ExitCode::FAILURE
        }
    }
}
