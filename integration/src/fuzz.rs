//! `cargo xtask fuzz`: searches for bytes that one of selkie's readers does not bear, with libFuzzer and the targets of `lib/fuzz`.
//!
//! On stable Rust: the compiler's own passes count what is reached, and nothing watches memory, as there is hardly any unsafe code to watch.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{build::cargo, cli::FuzzOptions, command::Argv, lab::Lab, packages, story::Story};

/// What libFuzzer needs in the code that it is to explore.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Runs the verb.
pub(crate) fn run(options: &FuzzOptions) -> Result<()> {
    let lab = Lab::open()?;
    let targets = select(&targets(&lab)?, &options.target)?;
    let mut story = Story::new("Looking for bytes that selkie does not bear");
    story.step("installing what is missing", |tell| packages::install_missing(&lab, tell))?;
    let programs = story.step("building the targets", |_| build(&lab))?;
    let corpus = lab.subdir("fuzz/corpus")?;
    let seeds = Argv::new(["env", &format!("SELKIE_FUZZ_SEEDS={}", corpus.display())]).with([programs.join("seeds")]).with(["-runs=0"]);
    seeds.read().context("writing what to begin with")?;
    let mut failed = Vec::new();
    for target in &targets {
        story.step(target, |tell| {
            let log = lab.log(&format!("fuzz-{target}"));
            let found = lab.subdir(&format!("fuzz/found/{target}"))?;
            match search(&found, &programs, &corpus, target, options.seconds).log(&log) {
                Ok(()) => tell.say(format!("nothing found; {}", last_status(&log))),
                Err(error) => {
                    tell.say(format!("{error:#}"));
                    failed.push(target.as_str());
                }
            }
            Ok(())
        })?;
    }
    story.table();
    if failed.is_empty() {
        return Ok(());
    }
    bail!("looking for bytes: {} failed; the bytes are in {}", failed.join(", "), lab.dir.join("fuzz/found").display())
}

/// All targets, by their files.
fn targets(lab: &Lab) -> Result<Vec<String>> {
    let folder = lab.file("lib/fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let stem = |entry: fs::DirEntry| entry.path().file_stem().map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = entries.flatten().filter_map(stem).collect();
    names.sort();
    Ok(names)
}

fn select(known: &[String], asked: &[String]) -> Result<Vec<String>> {
    if let Some(unknown) = asked.iter().find(|name| !known.contains(name)) {
        bail!("choosing targets: {unknown:?} is none (expected some of {})", known.join(", "));
    }
    Ok(if asked.is_empty() { known } else { asked }.to_vec())
}

/// Builds all targets; the result is where they are. A target triple keeps build scripts free of the flags.
fn build(lab: &Lab) -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let argv =
        cargo(lab, ["build", "--release", "--manifest-path", "lib/fuzz/Cargo.toml", "--target-dir", "target/fuzz", "--target", &triple]);
    Argv::new(["env", &format!("RUSTFLAGS={FLAGS}")]).with(argv.0).show()?;
    Ok(lab.file("target/fuzz").join(triple).join("release"))
}

/// Searches for so many seconds, with what was found before as a beginning. An input of a few KiB takes no reader long.
fn search(found: &Path, programs: &Path, corpus: &Path, target: &str, seconds: u64) -> Argv {
    let words = [
        format!("-max_total_time={seconds}"),
        "-timeout=20".to_owned(),
        "-rss_limit_mb=4096".to_owned(),
        "-max_len=16384".to_owned(),
        "-print_final_stats=1".to_owned(),
        format!("-artifact_prefix={}/", found.display()),
    ];
    Argv::new(["nice", "-n", "19"]).with([programs.join(target)]).with(words).with([corpus.join(target)]).dying_with_us()
}

/// What libFuzzer said last of how far it was.
fn last_status(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let line = text.lines().rev().find(|line| line.contains(" cov: "));
    line.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_chosen_by_name() {
        let known = ["tar", "uki"].map(str::to_owned);
        assert_eq!(select(&known, &[]).unwrap(), known);
        assert_eq!(select(&known, &["uki".to_owned()]).unwrap(), ["uki"]);
        let error = select(&known, &["elf".to_owned()]).unwrap_err().to_string();
        assert_eq!(error, "choosing targets: \"elf\" is none (expected some of tar, uki)");
    }
}
