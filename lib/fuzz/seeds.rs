//! Writes good inputs of every target below the folder that the variable `SELKIE_FUZZ_SEEDS` names. Run it with `-runs=0`: it is a target itself, because
//! nothing that is built for the search can be linked without it.

#![no_main]

use std::path::PathBuf;

libfuzzer_sys::fuzz_target!(init: write().expect("writing good inputs"), |_bytes: &[u8]| {});

fn write() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::var_os("SELKIE_FUZZ_SEEDS").expect("the variable SELKIE_FUZZ_SEEDS"));
    for target in selkie::fuzz::TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
