//! Boot counting in the names of entry files (Boot Loader Specification, "Boot counting"): `NAME+LEFT-DONE.conf`. The boot loader counts down
//! before each try, a boot that went well takes the counter away, and an entry with none left is sorted last.

use serde::Serialize;

/// How often the boot loader tries an entry that has not proven itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Tries {
    /// Tries that are left.
    pub left: u32,
    /// Tries that were made.
    pub done: u32,
}

impl Tries {
    /// What a new entry has.
    pub fn new(left: u32) -> Self {
        Self { left, done: 0 }
    }

    /// Whether the boot loader has given the entry up.
    pub fn is_bad(self) -> bool {
        self.left == 0
    }

    /// Takes the counter out of a file name: the id of the entry, which stays the same all along, and the counter, where there is one. Upper
    /// and lower case are kept.
    pub fn split(file: &str) -> (String, Option<Self>) {
        let counted = file.strip_suffix(SUFFIX).and_then(|stem| stem.rsplit_once('+'));
        let parsed = counted.and_then(|(name, counter)| {
            let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
            Some((name, Self { left: number(left)?, done: number(done)? }))
        });
        match parsed {
            Some((name, tries)) => (format!("{name}{SUFFIX}"), Some(tries)),
            None => (file.to_owned(), None),
        }
    }

    /// The file name of the entry `id` with this counter.
    pub(super) fn file(self, id: &str) -> String {
        let stem = id.strip_suffix(SUFFIX).unwrap_or(id);
        match self.done {
            0 => format!("{stem}+{}{SUFFIX}", self.left),
            done => format!("{stem}+{}-{done}{SUFFIX}", self.left),
        }
    }
}

const SUFFIX: &str = ".conf";

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_the_end_of_a_name() {
        for (file, id, tries) in [
            ("a.conf", "a.conf", None),
            ("a+3.conf", "a.conf", Some((3, 0))),
            ("a+2-1.conf", "a.conf", Some((2, 1))),
            ("a+0-3.conf", "a.conf", Some((0, 3))),
            ("a+b+1.conf", "a+b.conf", Some((1, 0))),
            ("a+.conf", "a+.conf", None),
            ("a+x.conf", "a+x.conf", None),
            ("a+1-.conf", "a+1-.conf", None),
            ("a+99999999999.conf", "a+99999999999.conf", None),
            ("a+3", "a+3", None),
        ] {
            let tries = tries.map(|(left, done)| Tries { left, done });
            assert_eq!(Tries::split(file), (id.to_owned(), tries), "{file}");
            if let Some(tries) = tries {
                assert_eq!(tries.file(id), file);
            }
        }
    }
}
