//! Generations: every root that has a deployment or an entry, by a number, and how people name one.
//!
//! The number of a generation is the serial of its first activation. Serials only go up, so the newest generation has the highest number; a
//! rollback gives an entry another serial and leaves the number alone, because that is kept with the deployment.

use super::System;
use crate::error::{Failure, FailureKind};
use crate::image_id::ImageId;

/// Fewer digits of a digest name nothing: they are too easily those of another.
const LEAST_DIGITS: usize = 4;

impl System {
    /// The serial of the next activation, and the number of a root that has none yet.
    pub fn next_serial(&self) -> u64 {
        let numbers = self.deployments.iter().filter_map(|d| d.origin.as_ref().ok()?.number);
        numbers.chain([self.last_serial]).max().unwrap_or(0) + 1
    }

    /// The number of a generation. Where an older selkie kept none, its entry's serial is as good.
    pub fn number(&self, id: &ImageId) -> Option<u64> {
        self.origin(id).ok().and_then(|origin| origin.number).or_else(|| self.entry(id).map(|e| e.serial))
    }

    /// Every root that has a deployment or an entry, newest first, and last those without a number.
    pub fn generations(&self) -> Vec<&ImageId> {
        let mut ids: Vec<&ImageId> = self.deployments.iter().map(|d| &d.id).chain(self.entries.iter().map(|e| &e.image)).collect();
        ids.sort_by(|a, b| self.number(b).cmp(&self.number(a)).then_with(|| a.hex().cmp(b.hex())));
        ids.dedup();
        ids
    }

    /// The generation that `asked` names: a number, an image id, or at least four of its first digits.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] where nothing has that name, [`FailureKind::Usage`] where several have.
    pub fn find(&self, asked: &str) -> Result<&ImageId, Failure> {
        let generations = self.generations();
        let by_number = asked.parse().ok().and_then(|number: u64| generations.iter().find(|id| self.number(id) == Some(number)));
        if let Some(id) = by_number {
            return Ok(id);
        }
        let lower = asked.to_ascii_lowercase();
        let named = |id: &&&ImageId| lower.len() >= LEAST_DIGITS && id.hex().starts_with(&lower);
        let found: Vec<&ImageId> = generations.iter().filter(named).copied().collect();
        let finding = format!("finding generation {asked:?}");
        match found.as_slice() {
            [id] => Ok(id),
            [] => {
                Err(Failure::new(FailureKind::NotFound, format!("{finding}: there is none (expected one of {})", self.names(&generations)))
                    .hint("`selkie list` shows them; a number, or at least four digits of the root, names one"))
            }
            several => {
                let message = format!("{finding}: it may be any of {} (expected one)", self.names(several));
                Err(Failure::new(FailureKind::Usage, message).hint("give more digits, or the number"))
            }
        }
    }

    /// Some generations, for people.
    fn names(&self, ids: &[&ImageId]) -> String {
        let name = |id: &&ImageId| self.number(id).map_or_else(|| id.short().to_owned(), |number| format!("{number} ({})", id.short()));
        ids.iter().map(name).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::BootEntry;
    use crate::cmdline::Cmdline;
    use crate::deploy::Found;
    use crate::origin::Origin;

    fn id(byte: &str) -> ImageId {
        byte.repeat(32).parse().unwrap()
    }

    fn found(byte: &str, number: Option<u64>) -> Found {
        let origin = Origin {
            version: Origin::VERSION,
            image: "x".into(),
            manifest_digest: "sha256:aa".into(),
            index_digest: None,
            config_digest: "sha256:bb".into(),
            kernel_arguments: String::new(),
            image_arguments: vec![],
            os_version: None,
            os_name: None,
            made_under: None,
            number,
            staged: None,
        };
        Found { id: id(byte), origin: Ok(origin), etc_from: None, pinned: false }
    }

    fn entry(byte: &str, serial: u64) -> BootEntry {
        BootEntry {
            file: format!("selkie-{byte}.conf"),
            image: id(byte),
            verity_required: true,
            serial,
            tries: None,
            title: "x".into(),
            arguments: Cmdline::default(),
            uki: None,
            offered: true,
            missing: vec![],
        }
    }

    /// Six: from an older selkie, rolled back to, pinned without an entry, with a damaged origin, with an entry alone, and one that nothing is
    /// known of.
    fn system() -> System {
        let mut damaged = found("dd", None);
        damaged.origin = Err("damaged".into());
        let unknown = Found { id: id("ff"), ..damaged.clone() };
        System {
            failed: vec![],
            failed_unreadable: vec![],
            booted: id("aa"),
            entries: vec![entry("bb", 9), entry("dd", 7), entry("aa", 3), entry("ee", 2)],
            deployments: vec![found("aa", None), found("bb", Some(4)), found("cc", Some(1234)), damaged, unknown],
            foreign: vec![],
            once: None,
            preferred: None,
            problems: vec![],
            elsewhere: vec![],
            last_serial: 9,
        }
    }

    #[test]
    fn numbers_stay_and_order() {
        let system = system();
        let numbers: Vec<_> = system.generations().into_iter().map(|id| (id.short()[..2].to_owned(), system.number(id))).collect();
        let expected = [("cc", Some(1234)), ("dd", Some(7)), ("bb", Some(4)), ("aa", Some(3)), ("ee", Some(2)), ("ff", None)];
        assert_eq!(numbers, expected.map(|(name, number)| (name.to_owned(), number)));
        assert_eq!(system.next_serial(), 1235);
    }

    #[test]
    fn one_is_named_by_number_or_digits() {
        let system = system();
        let mut similar = system.clone();
        similar.deployments.push(Found { id: format!("{}{}", "aa".repeat(3), "bb".repeat(29)).parse().unwrap(), ..found("aa", Some(8)) });
        for (asked, expected) in [
            ("4", Ok("bb")),
            ("1234", Ok("cc")),
            ("eeee", Ok("ee")),
            ("EEEE", Ok("ee")),
            ("ffffffffffff", Ok("ff")),
            ("aaaaaaa", Ok("aa")),
            ("aaaa", Err(FailureKind::Usage)),
            ("eee", Err(FailureKind::NotFound)),
            ("", Err(FailureKind::NotFound)),
            ("9", Err(FailureKind::NotFound)),
            ("-1", Err(FailureKind::NotFound)),
            ("99999999999999999999", Err(FailureKind::NotFound)),
            ("latest", Err(FailureKind::NotFound)),
        ] {
            let found = similar.find(asked).map(|id| id.short()[..2].to_owned()).map_err(|failure| failure.kind);
            assert_eq!(found, expected.map(str::to_owned), "{asked}");
        }
        assert_eq!(system.find(id("aa").hex()).unwrap(), &id("aa"));
        let message = system.find("8").unwrap_err().message;
        assert!(message.contains("4 (bbbbbbbbbbbb)") && message.contains("ffffffffffff"), "{message}");
    }
}
