//! Each target reads its seeds, and what a few mutations make of them; the same every time. The long search is `cargo xtask fuzz`.

use std::path::Path;

use super::*;

/// How many mutations of a seed.
const ROUNDS: usize = 100;

/// Numbers that look random, the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

/// Flips a bit, sets a byte, cuts, repeats, or goes on with a part of another.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
    let at = numbers.below(bytes.len());
    let length = 1 + numbers.below(bytes.len() - at).min(64);
    match numbers.below(6) {
        _ if bytes.is_empty() => bytes.push(0xff),
        0 => bytes[at] ^= 1 << numbers.below(8),
        1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'9', b'"', b'\n'][numbers.below(8)],
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..(at + length).min(bytes.len()))),
        4 => {
            let again = bytes[at..(at + length).min(bytes.len())].to_vec();
            bytes.splice(at..at, again);
        }
        _ => {
            let from = numbers.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

#[test]
fn every_target_reads_what_is_nearly_good() {
    let mut numbers = Numbers(7);
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        (target.run)(b"");
        for seed in &seeds {
            (target.run)(seed);
            for _ in 0..ROUNDS {
                let mut bytes = seed.clone();
                for _ in 0..1 + numbers.below(3) {
                    let other = numbers.below(seeds.len());
                    mutate(&mut bytes, &seeds[other], &mut numbers);
                }
                (target.run)(&bytes);
            }
        }
    }
}

#[test]
fn every_target_has_a_file_for_the_fuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for target in TARGETS {
        let text = std::fs::read_to_string(folder.join("fuzz_targets").join(target.name).with_extension("rs")).unwrap();
        assert!(text.contains(&format!("run({:?}, ", target.name)), "{text}");
        assert!(manifest.contains(&format!("name = {:?}", target.name)), "{} is no program of lib/fuzz/Cargo.toml", target.name);
    }
    assert_eq!(std::fs::read_dir(folder.join("fuzz_targets")).unwrap().count(), TARGETS.len());
}

#[test]
fn inputs_are_joined_and_split() {
    let joined = join(&[b"a", b"", b"c\xff--\xffd"]);
    assert_eq!(split::<3>(&joined), [&b"a"[..], b"", b"c\xff--\xffd"]);
    assert_eq!(split::<2>(b"a"), [&b"a"[..], b""]);
}

/// From bytes that no reader takes, a search begins at the beginning.
#[test]
fn seeds_are_good() {
    use crate::deploy::{AutoUpdate, FailedBoot};
    use crate::origin::Origin;
    use crate::signing::database::Database;
    let rpm = crate::packages::rpm(&seeds::rpms()[0]).unwrap();
    assert_eq!((rpm[0].name.as_str(), rpm[0].version.as_str(), rpm[0].files[0].len()), ("alpha", "1.2-3", 410));
    let records = seeds::records();
    crate::record::read::<Origin>(&records[0]).unwrap();
    crate::record::read::<FailedBoot>(&records[1]).unwrap();
    crate::record::read::<AutoUpdate>(&records[2]).unwrap();
    for reference in seeds::references() {
        std::str::from_utf8(&reference).unwrap().parse::<crate::reference::ImageReference>().unwrap();
    }
    for binary in seeds::ukis() {
        crate::uki::Uki::read(&mut std::io::Cursor::new(split::<2>(&binary)[0])).unwrap();
    }
    let databases = seeds::signature_databases();
    Database::parse(split::<2>(&databases[0])[0]).unwrap();
    Database::parse_signed(split::<2>(&databases[1])[0]).unwrap();
    for tree in seeds::trees() {
        crate::store::fuzz::makes_images(&tree).unwrap();
    }
    let zones = |_: Option<&str>| Some(jiff::tz::TimeZone::UTC);
    let configs = seeds::configs().into_iter().map(|text| String::from_utf8(text).unwrap()).collect::<Vec<_>>();
    crate::config::read(&[crate::config::File { path: "a.toml".into(), text: configs[0].clone() }], &zones).unwrap();
    let (windows, durations): (Vec<&str>, Vec<&str>) = configs[1].lines().partition(|line| line.contains(':'));
    assert!(windows.iter().all(|line| crate::config::Window::parse(line, &zones).is_ok()), "{windows:?}");
    assert!(durations.iter().all(|line| crate::config::duration(line).is_ok()), "{durations:?}");
    crate::kargs::parse(&configs[2], "x86_64").unwrap();
}
