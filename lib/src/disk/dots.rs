//! A correction of new FAT directories: fatfs 0.3 gives `.` and `..` long names, which they must not have, and lets `..` of a
//! directory in the root directory name the root's cluster instead of none. Firmware may trip over it, and fsck.vfat complains.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};

/// The size of a slot of a directory.
const SLOT: usize = 32;
/// The attributes of a slot that is a part of a long name.
const LONG_NAME: u8 = 0x0f;
/// What a slot begins with that is free again.
const FREE: u8 = 0xe5;
/// A directory's cluster is looked for in so many clusters after the one before: its parent may have grown in between.
const REACH: u64 = 64;

/// Finds new directories of one file system, in the order in which they are made.
#[derive(Debug)]
pub(super) struct Dots<'a> {
    image: &'a File,
    /// Where in the image the first cluster (which has the number 2) begins.
    first: u64,
    cluster: u64,
    root: u32,
    next: u64,
}

impl<'a> Dots<'a> {
    /// For the formatted, empty file system at byte `start` of `image`.
    pub(super) fn new(image: &'a File, start: u64) -> Result<Self> {
        let mut boot = [0; 512];
        image.read_exact_at(&mut boot, start).context("reading the boot sector of the ESP")?;
        let short = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let long = |at: usize| u32::from_le_bytes([boot[at], boot[at + 1], boot[at + 2], boot[at + 3]]);
        let (sector, reserved, fats) = (short(11), short(14), u64::from(boot[16]));
        let first = start + (reserved + fats * u64::from(long(36))) * sector;
        Ok(Self { image, first, cluster: sector * u64::from(boot[13]), root: long(44), next: u64::from(long(44)) })
    }

    /// Corrects the directory that was made last.
    pub(super) fn correct(&mut self) -> Result<()> {
        for number in self.next..self.next + REACH {
            let at = self.first + (number - 2) * self.cluster;
            let mut slots = [0; 4 * SLOT];
            self.image.read_exact_at(&mut slots, at).context("reading a directory of the ESP")?;
            if let Some(corrected) = corrected(&slots, number as u32, self.root) {
                self.next = number + 1;
                return self.image.write_all_at(&corrected, at).context("correcting a directory of the ESP");
            }
        }
        bail!("correcting a directory of the ESP: not found from cluster {} on", self.next)
    }
}

/// The first four slots of the directory in cluster `number` as they have to be; `None` if that is not a new directory.
fn corrected(slots: &[u8; 4 * SLOT], number: u32, root: u32) -> Option<[u8; 4 * SLOT]> {
    let slot = |i: usize| &slots[i * SLOT..(i + 1) * SLOT];
    let long = |i: usize| slot(i)[11] == LONG_NAME;
    let new = long(0) && slot(1).starts_with(b".          ") && long(2) && slot(3).starts_with(b"..         ");
    if !new || cluster(slot(1)) != number {
        return None;
    }
    let mut parent = slot(3).to_vec();
    if cluster(&parent) == root {
        parent[20..22].fill(0);
        parent[26..28].fill(0);
    }
    let mut corrected = [0; 4 * SLOT];
    corrected[..SLOT].copy_from_slice(slot(1));
    corrected[SLOT..2 * SLOT].copy_from_slice(&parent);
    corrected[2 * SLOT] = FREE;
    corrected[3 * SLOT] = FREE;
    Some(corrected)
}

/// The first cluster of what a slot names.
fn cluster(slot: &[u8]) -> u32 {
    u32::from_le_bytes([slot[26], slot[27], slot[20], slot[21]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &[u8; 11], attributes: u8, cluster: u8) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        slot[..11].copy_from_slice(name);
        slot[11] = attributes;
        slot[26] = cluster;
        slot
    }

    fn slots(slots: [[u8; SLOT]; 4]) -> [u8; 4 * SLOT] {
        slots.concat().try_into().unwrap()
    }

    #[test]
    fn dots_come_first_and_have_no_long_names() {
        let long = slot(b"A\0\0\0\0\0\0\0\0\0\0", LONG_NAME, 0);
        let (own, up) = (slot(b".          ", 0x10, 9), |cluster| slot(b"..         ", 0x10, cluster));
        let (mut free, new) = ([0; SLOT], |parent| slots([long, own, long, up(parent)]));
        free[0] = FREE;
        assert_eq!(corrected(&new(5), 9, 2), Some(slots([own, up(5), free, free])));
        assert_eq!(corrected(&new(2), 9, 2), Some(slots([own, up(0), free, free])));
        assert_eq!(corrected(&new(5), 8, 2), None);
        assert_eq!(corrected(&slots([own, up(5), free, free]), 9, 2), None);
    }
}
