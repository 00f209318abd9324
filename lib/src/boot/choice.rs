//! Choices of a boot entry that are stored in the firmware. systemd-boot puts them before `loader.conf` and before the order of the entries.

use super::Tries;

/// One of systemd-boot's variables that name an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variable {
    /// What boots next, once. It comes before everything.
    OneShot,
    /// What boots from now on.
    Default,
}

impl Variable {
    /// In the order in which the boot loader asks them.
    pub const ALL: [Self; 2] = [Self::OneShot, Self::Default];

    /// Its name in the firmware, without the vendor.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneShot => "LoaderEntryOneShot",
            Self::Default => "LoaderEntryDefault",
        }
    }
}

/// What the firmware holds. Nothing here is ever written by selkie: a human said so, with `bootctl` or in the boot menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Where it stands.
    pub variable: Variable,
    /// The id of an entry, or a shell pattern that it matches.
    pub entry: String,
}

impl Choice {
    /// Whether this chooses the entry in `file`. The id of an entry is the name of its file in lower case, without the counter.
    pub fn is(&self, file: &str) -> bool {
        let (id, _) = Tries::split(&file.to_lowercase());
        matches(&self.entry.to_lowercase().chars().collect::<Vec<_>>(), &id.chars().collect::<Vec<_>>())
    }

    /// What is wrong with it on a machine that is to boot the entry in `file`.
    pub fn problem(&self, file: Option<&str>) -> Option<String> {
        if file.is_some_and(|file| self.is(file)) {
            return None;
        }
        let (name, entry) = (self.variable.name(), &self.entry);
        Some(match self.variable {
            Variable::OneShot => format!(
                "the boot loader's variable {name} names {entry}: that boots next, once, whatever selkie staged; `bootctl set-oneshot ''` removes it"
            ),
            Variable::Default => format!(
                "the boot loader's variable {name} names {entry}: that boots next, whatever selkie staged; `bootctl set-default ''` removes it"
            ),
        })
    }
}

/// `*` and `?` as in a shell. Sets of characters are not known here: a pattern with one chooses none of ours, and so is told.
fn matches(pattern: &[char], text: &[char]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        (['*', rest @ ..], _) => (0..=text.len()).any(|skipped| matches(rest, &text[skipped..])),
        (['?', rest @ ..], [_, text @ ..]) => matches(rest, text),
        ([a, rest @ ..], [b, text @ ..]) => a == b && matches(rest, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_chosen_by_its_id_or_a_pattern() {
        for (entry, file, is) in [
            ("selkie-ab.conf", "selkie-ab.conf", true),
            ("Selkie-AB.conf", "selkie-ab.conf", true),
            ("selkie-ab.conf", "selkie-ab+3-1.conf", true),
            ("selkie-ab.conf", "selkie-ab+3.conf", true),
            ("selkie-ab.conf", "selkie-ab+x.conf", false),
            ("selkie-*", "selkie-ab.conf", true),
            ("s?lkie*.conf", "selkie-ab.conf", true),
            ("selkie-cd.conf", "selkie-ab.conf", false),
            ("selkie-ab", "selkie-ab.conf", false),
            ("@saved", "selkie-ab.conf", false),
            ("auto-windows", "selkie-ab.conf", false),
        ] {
            for variable in Variable::ALL {
                let choice = Choice { variable, entry: entry.into() };
                assert_eq!(choice.is(file), is, "{entry} {file}");
                assert_eq!(choice.problem(Some(file)).is_none(), is);
                assert!(choice.problem(None).unwrap().contains(variable.name()));
            }
        }
    }
}
