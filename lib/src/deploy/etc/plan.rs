//! The three-way decision: what of the local changes of one /etc goes on top of another image's /etc. Pure: it looks at three views,
//! and returns the contents of a fresh upper directory.
//!
//! *base* is the image that was changed, *local* the changed tree, *new* the image to carry to. What is the same in base and local is the
//! image's and becomes the new image's. What differs is local and wins; where the new image changed it too, that is a [`Conflict`].

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::entry::{Entry, View};
use super::touched::{Below, Touched};

/// One thing in the fresh upper directory. A directory comes before what is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make a directory with this metadata; `opaque` hides what the image has there.
    Directory {
        /// Where; the empty path is the upper directory itself.
        path: PathBuf,
        /// Its metadata.
        entry: Entry,
        /// Whether the image's directory stays hidden.
        opaque: bool,
    },
    /// Copy this entry from the local tree, whole.
    Put {
        /// Where.
        path: PathBuf,
        /// What.
        entry: Entry,
    },
    /// Hide what the image has there.
    Whiteout {
        /// Where.
        path: PathBuf,
    },
}

/// A local change that the new image contradicts. The local state was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Where, below /etc.
    pub path: PathBuf,
    /// What was done on both sides.
    pub what: Clash,
}

/// How two changes contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clash {
    /// Both have something new there.
    BothAdded,
    /// Both changed it.
    BothChanged,
    /// Changed here, and the new image has it no more.
    RemovedInImage,
    /// Deleted or replaced here, and the new image changed it.
    RemovedHere,
    /// A directory on one side and not on the other.
    Kinds,
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BothAdded => "added here, and differently in the new image",
            Self::BothChanged => "changed here, and differently in the new image",
            Self::RemovedInImage => "changed here, and gone from the new image",
            Self::RemovedHere => "deleted or replaced here, and changed in the new image",
            Self::Kinds => "a directory on one side, and none on the other",
        })
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/etc/{}: {}; kept as it was here", self.path.display(), self.what)
    }
}

/// What a carry does, and what it could not do without taking a side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The contents of the fresh upper directory.
    pub actions: Vec<Action>,
    /// Where both sides changed something.
    pub conflicts: Vec<Conflict>,
}

/// What is made from the image that runs, and would be wrong, or keep it from being made anew, on top of another: the time stamp by which
/// systemd knows that /etc was brought up to date with /usr (systemd-update-done.service(8)), and the caches of ldconfig and udev, which
/// systemd rebuilds at the first boot of an image when that stamp is missing.
const NEVER_CARRIED: [&str; 3] = [".updated", "ld.so.cache", "udev/hwdb.bin"];

/// Decides. `touched` says where local may differ from base.
pub fn plan(base: &dyn View, local: &dyn View, new: &dyn View, touched: &Touched) -> Result<Plan> {
    let mut planner = Planner { base, local, new, conflicts: Vec::new() };
    let mut actions = planner.node(Path::new(""), touched)?;
    if actions.is_empty()
        && let Some(entry) = new.entry(Path::new(""))?
    {
        // The upper directory itself: its metadata is what the merged directory shows.
        actions.push(Action::Directory { path: PathBuf::new(), entry, opaque: false });
    }
    Ok(Plan { actions, conflicts: planner.conflicts })
}

struct Planner<'a> {
    base: &'a dyn View,
    local: &'a dyn View,
    new: &'a dyn View,
    conflicts: Vec<Conflict>,
}

impl Planner<'_> {
    fn node(&mut self, path: &Path, touched: &Touched) -> Result<Vec<Action>> {
        if NEVER_CARRIED.iter().any(|name| path == Path::new(name)) {
            return Ok(Vec::new());
        }
        let (base, new) = (self.base.entry(path)?, self.new.entry(path)?);
        match self.local.entry(path)? {
            None => self.deleted(path, base.is_some(), new.is_some()),
            Some(local) if local.is_directory() => self.directory(path, base, local, new, touched),
            Some(local) => self.leaf(path, base, local, new),
        }
    }

    fn deleted(&mut self, path: &Path, in_base: bool, in_new: bool) -> Result<Vec<Action>> {
        if !in_base || !in_new {
            return Ok(Vec::new());
        }
        self.clash_if_image_changed(path)?;
        Ok(vec![Action::Whiteout { path: path.to_owned() }])
    }

    fn leaf(&mut self, path: &Path, base: Option<Entry>, local: Entry, new: Option<Entry>) -> Result<Vec<Action>> {
        let equal = |other: &Option<Entry>| other.as_ref().is_some_and(|other| local.same(other));
        if equal(&base) || equal(&new) {
            return Ok(Vec::new());
        }
        match (&base, &new) {
            (None, None) => {}
            (None, Some(new)) => self.clash(path, if new.is_directory() { Clash::Kinds } else { Clash::BothAdded }),
            (Some(_), None) => self.clash(path, Clash::RemovedInImage),
            (Some(base), Some(_)) if base.is_directory() => self.clash_if_image_changed(path)?,
            (Some(_), Some(new)) if new.is_directory() => self.clash(path, Clash::Kinds),
            (Some(base), Some(new)) if base.same(new) => {}
            (Some(_), Some(_)) => self.clash(path, Clash::BothChanged),
        }
        Ok(vec![Action::Put { path: path.to_owned(), entry: local }])
    }

    fn directory(&mut self, path: &Path, base: Option<Entry>, local: Entry, new: Option<Entry>, touched: &Touched) -> Result<Vec<Action>> {
        let new_directory = new.as_ref().filter(|e| e.is_directory());
        let replaced = match &base {
            Some(base) if base.is_directory() => touched.own,
            // A file became a directory: on both sides, the two merge; only here, it hides the file.
            Some(_) => new_directory.is_none(),
            None => false,
        };
        if replaced {
            self.clash_if_image_changed(path)?;
            return self.whole(path, local, new.is_some());
        }
        let base = base.filter(Entry::is_directory);
        let carried = self.directory_metadata(path, base.as_ref(), &local, new.as_ref());
        let below = self.below(path, &touched.below)?;
        if !carried && below.is_empty() {
            return Ok(Vec::new());
        }
        if !carried && new.is_some() && new_directory.is_none() {
            self.clash(path, Clash::Kinds);
        }
        let opaque = new.is_some() && new_directory.is_none();
        let entry = new_directory.filter(|_| !carried).cloned().unwrap_or(local);
        let mut actions = vec![Action::Directory { path: path.to_owned(), entry, opaque }];
        actions.extend(below);
        Ok(actions)
    }

    /// Whether the metadata of a directory that exists in its own right is local.
    fn directory_metadata(&mut self, path: &Path, base: Option<&Entry>, local: &Entry, new: Option<&Entry>) -> bool {
        let equal = |other: Option<&Entry>| other.is_some_and(|other| local.same(other));
        if equal(base) || equal(new) {
            return false;
        }
        match (base, new) {
            (None, None) => {}
            (_, Some(new)) if !new.is_directory() => self.clash(path, Clash::Kinds),
            (None, Some(_)) => self.clash(path, Clash::BothAdded),
            (Some(_), None) => self.clash(path, Clash::RemovedInImage),
            (Some(base), Some(new)) if base.same(new) => {}
            (Some(_), Some(_)) => self.clash(path, Clash::BothChanged),
        }
        true
    }

    fn below(&mut self, path: &Path, below: &Below) -> Result<Vec<Action>> {
        let mut actions = Vec::new();
        match below {
            Below::Names(names) => {
                for (name, touched) in names {
                    actions.extend(self.node(&path.join(name), touched)?);
                }
            }
            Below::Anything => {
                let anything = Touched { own: false, below: Below::Anything };
                let names: BTreeSet<_> = self.local.names(path)?.into_iter().chain(self.base.names(path)?).collect();
                for name in names {
                    actions.extend(self.node(&path.join(name), &anything)?);
                }
            }
        }
        Ok(actions)
    }

    /// A local directory that has nothing to do with the image's: all of it, and nothing of theirs.
    fn whole(&mut self, path: &Path, local: Entry, opaque: bool) -> Result<Vec<Action>> {
        let mut actions = vec![Action::Directory { path: path.to_owned(), entry: local, opaque }];
        for name in self.local.names(path)? {
            let path = path.join(name);
            match self.local.entry(&path)? {
                None => {}
                Some(entry) if entry.is_directory() => actions.extend(self.whole(&path, entry, false)?),
                Some(entry) => actions.push(Action::Put { path, entry }),
            }
        }
        Ok(actions)
    }

    fn clash(&mut self, path: &Path, what: Clash) {
        self.conflicts.push(Conflict { path: path.to_owned(), what });
    }

    fn clash_if_image_changed(&mut self, path: &Path) -> Result<()> {
        if !same_tree(self.base, self.new, path)? {
            self.clash(path, Clash::RemovedHere);
        }
        Ok(())
    }
}

/// Whether the two views have the same at `path` and below.
fn same_tree(one: &dyn View, other: &dyn View, path: &Path) -> Result<bool> {
    let equal = match (one.entry(path)?, other.entry(path)?) {
        (None, None) => return Ok(true),
        (Some(one), Some(other)) => one.same(&other),
        _ => false,
    };
    let names = one.names(path)?;
    if !equal || names != other.names(path)? {
        return Ok(false);
    }
    for name in names {
        if !same_tree(one, other, &path.join(name))? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
