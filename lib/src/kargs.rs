//! Kernel arguments that an image brings: the drop-in files of `/usr/lib/bootc/kargs.d`, so that one image serves both tools.
//!
//! ```toml
//! kargs = ["console=ttyS0", "mitigations=auto,nosmt"]
//! match-architectures = ["x86_64"]    # optional; all of them without it
//! ```

use serde::Deserialize;

use crate::cmdline::Cmdline;

/// Where they are in an image, one TOML file (`*.toml`) beside another, applied in the order of their names.
pub const DIRECTORY: &str = "/usr/lib/bootc/kargs.d";

/// A drop-in file that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KargsError {
    /// Not TOML of the right shape.
    #[error("reading kernel arguments: {0} (expected kargs = [\"…\"] and optionally match-architectures = [\"…\"])")]
    Malformed(String),
    /// What is in the list is not one argument.
    #[error("reading kernel arguments: {0:?} is not one argument (expected one word, or one with its white space in double quotes)")]
    Argument(String),
    /// It names a root image.
    #[error("reading kernel arguments: {0:?} names a root image, which is not for an image to say")]
    RootImage(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct DropIn {
    kargs: Vec<String>,
    match_architectures: Option<Vec<String>>,
}

/// The arguments that a drop-in file has for an architecture, given as OCI names it (`amd64`). The file may use the kernel's
/// words for it (`x86_64`) or OCI's.
pub fn parse(text: &str, architecture: &str) -> Result<Vec<String>, KargsError> {
    let drop_in: DropIn = toml::from_str(text).map_err(|e| KargsError::Malformed(e.message().to_owned()))?;
    for argument in &drop_in.kargs {
        check(argument)?;
    }
    let names = [architecture, kernel_name(architecture)];
    let matches = drop_in.match_architectures.is_none_or(|wanted| wanted.iter().any(|name| names.contains(&name.as_str())));
    Ok(if matches { drop_in.kargs } else { Vec::new() })
}

fn check(argument: &str) -> Result<(), KargsError> {
    let line = Cmdline::parse(argument);
    let whole = line.args().eq([argument]) && argument.matches('"').count().is_multiple_of(2) && !argument.contains(char::is_control);
    if !whole {
        return Err(KargsError::Argument(argument.to_owned()));
    }
    if line.without_root_image() == line { Ok(()) } else { Err(KargsError::RootImage(argument.to_owned())) }
}

fn kernel_name(oci: &str) -> &str {
    match oci {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        "386" => "x86",
        "ppc64le" => "powerpc64",
        "loong64" => "loongarch64",
        other => other,
    }
}

/// What a machine with `current` arguments has after an upgrade from an image that brought `old` ones to an image that brings
/// `new` ones: what is the machine's own stays, in place.
pub fn carry(current: &Cmdline, old: &[String], new: &[String]) -> Cmdline {
    let mut dropped: Vec<&String> = old.iter().filter(|argument| !new.contains(argument)).collect();
    let mut kept = Vec::new();
    for argument in current.args() {
        match dropped.iter().position(|gone| *gone == argument) {
            Some(place) => drop(dropped.remove(place)),
            None => kept.push(argument.to_owned()),
        }
    }
    let added: Vec<String> = new.iter().filter(|argument| !old.contains(argument) && !kept.contains(argument)).cloned().collect();
    kept.into_iter().chain(added).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_drop_in_may_be_for_some_architectures() {
        let text = "kargs = ['console=ttyS0', 'dyndbg=\"file a +p\"']\nmatch-architectures = ['x86_64', 'arm64']";
        for (architecture, count) in [("amd64", 2), ("arm64", 2), ("riscv64", 0)] {
            assert_eq!(parse(text, architecture).unwrap().len(), count, "{architecture}");
        }
        assert_eq!(parse("kargs = ['quiet']", "s390x"), Ok(list(&["quiet"])));
    }

    #[test]
    fn nonsense_is_named() {
        for (text, said) in [
            ("kargs = 'quiet'", "expected kargs"),
            ("kargs = []\nmatch-arch = []", "unknown field"),
            ("", "missing field"),
            ("kargs = ['two words']", "not one argument"),
            ("kargs = ['']", "not one argument"),
            ("kargs = ['a=\"b']", "not one argument"),
            ("kargs = ['composefs=?ab']", "root image"),
        ] {
            let error = parse(text, "amd64").unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn an_upgrade_keeps_what_is_the_machines_own() {
        for (current, old, new, after) in [
            ("root=x rw a mine", &["a"][..], &["a"][..], "root=x rw a mine"),
            ("root=x rw a mine", &["a"], &["b"], "root=x rw mine b"),
            ("rw a a", &["a"], &[], "rw a"),
            ("rw", &["a"], &["a"], "rw"),
            ("rw b", &[], &["b"], "rw b"),
            ("rw", &[], &["b", "c"], "rw b c"),
        ] {
            assert_eq!(carry(&Cmdline::parse(current), &list(old), &list(new)).to_string(), after, "{current} {old:?} {new:?}");
        }
    }
}
