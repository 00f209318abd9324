//! The GPT of an image: protective MBR, primary and backup table; the ESP first, root last so that it can grow.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;

use anyhow::{Context, Result};
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{self, OperatingSystem, Type};
use uuid::Uuid;

use super::identifiers::Identifiers;
use super::size::MIB;
use crate::error::{Failure, FailureKind};

/// The sector of a disk image.
const SECTOR: u64 = 512;

/// Where things are, in bytes. Everything begins and ends at whole mebibytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Geometry {
    /// The EFI system partition.
    pub(super) esp: Range<u64>,
    /// The root partition.
    pub(super) root: Range<u64>,
    /// The whole image; the last mebibyte has the backup table.
    pub(super) size: u64,
}

impl Geometry {
    /// ESP and root of these sizes; `size` may be larger than both need.
    pub(super) fn new(esp: u64, root: u64, size: Option<u64>) -> Result<Self> {
        let esp = MIB..MIB + esp.next_multiple_of(MIB);
        let root = esp.end..esp.end + root.next_multiple_of(MIB);
        let needed = root.end + MIB;
        let size = size.unwrap_or(needed) / MIB * MIB;
        if size < needed {
            return Err(too_small(needed, size).into());
        }
        Ok(Self { esp, root, size })
    }

    /// The largest root file system beside an ESP of `esp` bytes in an image of `size` bytes.
    pub(super) fn room_for_root(esp: u64, size: u64) -> u64 {
        (size / MIB * MIB).saturating_sub(2 * MIB + esp.next_multiple_of(MIB))
    }
}

fn too_small(needed: u64, size: u64) -> Failure {
    let message =
        format!("laying out the disk image: its partitions do not fit (need {} MiB, size {} MiB)", needed.div_ceil(MIB), size / MIB);
    Failure::new(FailureKind::NoSpace, message).hint("give a larger size, or smaller partitions")
}

/// Writes the partition table.
pub(super) fn write(file: &File, geometry: &Geometry, identifiers: &Identifiers, root_type: Uuid) -> Result<()> {
    let mut device = file;
    let sectors = u32::try_from(geometry.size / SECTOR - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(&mut device).context("writing the protective master boot record")?;
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(device, Some(identifiers.disk))
        .context("laying out the partition table")?;
    let root_type = Type { guid: root_type, os: OperatingSystem::Linux };
    let partitions = BTreeMap::from([
        (1, partition("ESP", partition_types::EFI, identifiers.esp_partition, &geometry.esp)),
        (2, partition("root", root_type, identifiers.root_partition, &geometry.root)),
    ]);
    table.update_partitions(partitions).context("laying out the partition table")?;
    table.write().context("writing the partition table")?;
    Ok(())
}

fn partition(name: &str, part_type_guid: Type, part_guid: Uuid, bytes: &Range<u64>) -> Partition {
    let (first_lba, last_lba) = (bytes.start / SECTOR, bytes.end / SECTOR - 1);
    Partition { part_type_guid, part_guid, first_lba, last_lba, flags: 0, name: name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_each_other_on_whole_mebibytes() {
        let geometry = Geometry::new(64 * MIB, 100 * MIB + 1, None).unwrap();
        assert_eq!(geometry, Geometry { esp: MIB..65 * MIB, root: 65 * MIB..166 * MIB, size: 167 * MIB });
        assert_eq!(Geometry::room_for_root(64 * MIB, geometry.size), 101 * MIB);
        assert_eq!(Geometry::new(64 * MIB, 10 * MIB, Some(200 * MIB + 5)).unwrap().size, 200 * MIB);
    }

    #[test]
    fn what_does_not_fit_is_told_in_numbers() {
        let error = Geometry::new(64 * MIB, 100 * MIB, Some(100 * MIB)).unwrap_err();
        let failure = Failure::find(&error).unwrap();
        assert_eq!(failure.kind, FailureKind::NoSpace);
        assert!(failure.message.ends_with("(need 166 MiB, size 100 MiB)"), "{failure}");
    }
}
