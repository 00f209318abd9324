//! Random stacks of layers.

pub use super::numbers::Random;
use super::*;

impl Random {
    /// A path of one to three of few names, so that layers meet.
    fn path(&mut self) -> String {
        let mut path = self.pick(&["a", "b", "usr/a", "c"]).to_owned();
        for _ in 0..self.below(3) {
            path = format!("{path}/{}", self.pick(&["a", "b", "d"]));
        }
        path
    }

    fn entry(&mut self, whiteouts: bool, links: bool) -> Entry {
        let path = self.path();
        let made = match self.below(if whiteouts { 13 } else { 10 }) {
            0..4 => dir(&path),
            4..6 => file(&path, vec![self.below(250) as u8; self.pick(&[0, 1, 64, 65, 600])]),
            6 if links => symlink(&path, self.pick(&["a", "../b", "/usr/a", "nowhere/at/all", ".."])),
            7 if links => symlink(&path, self.path()),
            8 => hardlink(&path, self.path()),
            9 => special(&path, Kind::Fifo),
            10 => file(format!("{path}/.wh..wh..opq"), ""),
            11 | 12 => {
                let (parent, name) = path.rsplit_once('/').unwrap_or((".", &path));
                file(format!("{parent}/.wh.{name}"), "")
            }
            _ => file(&path, "x"),
        };
        made.mode(self.pick(&[0o755, 0o644, 0o4711])).owner(self.below(3) as u32, 0).mtime(self.below(5) as u64, self.pick(&[0, 1]))
    }

    /// Layers to put on the base.
    pub fn stack(&mut self) -> Vec<Vec<Entry>> {
        // A whiteout through a symbolic link of its layer is not in the plain reading: a layer has the one or the other.
        // Half of the stacks name all directories, as good builders do.
        let tidy = self.below(2) == 0;
        let layer = |random: &mut Self| {
            let links = random.below(2) == 0;
            let entries = (0..random.below(9)).map(|_| random.entry(!links, links));
            entries.collect::<Vec<_>>().into_iter().flat_map(|entry| if tidy { with_parents(entry) } else { vec![entry] }).collect()
        };
        (0..self.below(3) + 1).map(|_| layer(self)).collect()
    }
}

fn with_parents(entry: Entry) -> Vec<Entry> {
    let slashes = entry.path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let parents: Vec<_> = slashes.map(|at| dir(&entry.path[..at])).collect();
    parents.into_iter().chain([entry]).collect()
}
