//! Partitions of the machine's disks: what sysfs says about them, and the partition table of the disk itself. Types are read from the table, not from
//! a database that some other program keeps.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use gpt::disk::LogicalBlockSize;
use uuid::Uuid;

use super::dir;
use crate::error::{Failure, FailureKind};

/// The type of an EFI system partition.
pub const ESP: Uuid = Uuid::from_u128(0xc12a_7328_f81f_11d2_ba4b_00a0_c93e_c93b);
/// The type of an extended boot loader partition (Boot Loader Specification).
pub const XBOOTLDR: Uuid = Uuid::from_u128(0xbc13_c2ff_59e6_4262_a352_b275_fd6f_7172);

/// A partition of a disk with a GPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its own UUID, in lower case.
    pub uuid: String,
    /// Its type.
    pub kind: Uuid,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its number on the disk.
    pub number: u32,
    /// The name of the disk, as the kernel has it.
    pub disk: String,
}

/// Where devices are told of.
#[derive(Debug, Clone)]
pub struct Devices {
    dev: PathBuf,
    sys: PathBuf,
}

impl Devices {
    /// Those of this machine.
    pub fn running() -> Self {
        Self::at(Path::new("/dev"), Path::new("/sys"))
    }

    /// Those that are told of in `dev` and `sys`.
    pub fn at(dev: &Path, sys: &Path) -> Self {
        Self { dev: dev.to_owned(), sys: sys.to_owned() }
    }

    /// The partition with this UUID; `None` where no disk has one.
    ///
    /// # Errors
    ///
    /// There is one, and its disk cannot be read.
    pub fn find(&self, uuid: &str) -> Result<Option<Partition>> {
        let link = self.dev.join("disk/by-partuuid").join(uuid.to_lowercase());
        match std::fs::canonicalize(&link) {
            Ok(device) => self.partition(&device).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("looking for {}", link.display())),
        }
    }

    /// The partition that a device node, or a link to one, stands for.
    ///
    /// # Errors
    ///
    /// [`FailureKind::NotFound`] where there is no such node, [`FailureKind::Unsuitable`] for what is no partition of a disk with a GPT.
    pub fn partition(&self, device: &Path) -> Result<Partition> {
        let shown = device.display();
        let missing = |_| Failure::new(FailureKind::NotFound, format!("looking at {shown}: there is no such device"));
        let device = std::fs::canonicalize(device).map_err(missing)?;
        let name = device.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let block = std::fs::canonicalize(self.sys.join("class/block").join(name)).ok();
        let number = block.as_ref().and_then(|block| number(block));
        let disk = block.as_ref().and_then(|block| block.parent()?.file_name()?.to_str());
        let (Some(number), Some(disk)) = (number, disk) else {
            let message = format!("looking at {shown}: it is no partition (expected one of a disk with a GPT)");
            return Err(Failure::new(FailureKind::Unsuitable, message).into());
        };
        let found = self.table(disk)?.into_iter().find(|partition| partition.number == number);
        found.with_context(|| format!("looking for partition {number} in the table of {disk}: it is not there"))
    }

    /// All partitions in the table of a disk, by number.
    ///
    /// # Errors
    ///
    /// The table cannot be read.
    pub fn table(&self, disk: &str) -> Result<Vec<Partition>> {
        let reading = || format!("reading the partition table of {disk} (expected a GPT)");
        let size = std::fs::read_to_string(self.sys.join("class/block").join(disk).join("queue/logical_block_size")).unwrap_or_default();
        let sector = if size.trim() == "4096" { LogicalBlockSize::Lb4096 } else { LogicalBlockSize::Lb512 };
        let file = std::fs::File::open(self.dev.join(disk)).with_context(reading)?;
        let table = gpt::GptConfig::new().logical_block_size(sector).open_from_device(file).with_context(reading)?;
        let partitions = table.partitions().iter().map(|(number, partition)| {
            let bytes = partition.bytes_len(sector).with_context(reading)?;
            let (uuid, kind) = (partition.part_guid.to_string(), partition.part_type_guid.guid);
            Ok(Partition { uuid, kind, bytes, number: *number, disk: disk.to_owned() })
        });
        partitions.collect()
    }

    /// The node of a partition.
    ///
    /// # Errors
    ///
    /// The kernel does not know it: the table was changed, and it has not read it again.
    pub fn node(&self, partition: &Partition) -> Result<PathBuf> {
        let looking = || format!("looking for the device of partition {} of {}", partition.number, partition.disk);
        let block = dir::open_path(self.sys.join("class/block").join(&partition.disk)).with_context(looking)?;
        for name in dir::names(&block).with_context(looking)? {
            if number(&self.sys.join("class/block").join(&partition.disk).join(&name)) == Some(partition.number) {
                return Ok(self.dev.join(name));
            }
        }
        anyhow::bail!("{}: the kernel has none (expected it to have read the table)", looking())
    }
}

/// What sysfs says in the directory of a partition, and of nothing else.
fn number(block: &Path) -> Option<u32> {
    std::fs::read_to_string(block.join("partition")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    use super::*;

    const UUIDS: [u128; 3] = [0xa1, 0xb2, 0xc3];

    fn uuid(n: usize) -> String {
        Uuid::from_u128(UUIDS[n]).to_string()
    }

    /// A disk `vda` with an ESP, a partition of another type, and an XBOOTLDR partition that the kernel knows as `vda3`.
    fn devices(temp: &Path) -> Devices {
        let (dev, sys) = (temp.join("dev"), temp.join("sys"));
        let links = dev.join("disk/by-partuuid");
        std::fs::create_dir_all(&links).unwrap();
        let disk = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(dev.join("vda")).unwrap();
        disk.set_len(64 << 20).unwrap();
        let mut table =
            gpt::GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512).create_from_device(&disk, None).unwrap();
        let kinds = [(1, ESP), (2, Uuid::from_u128(7)), (3, XBOOTLDR)];
        let partition = |n: usize, guid: Uuid| gpt::partition::Partition {
            part_type_guid: gpt::partition_types::Type { guid, os: gpt::partition_types::OperatingSystem::None },
            part_guid: Uuid::from_u128(UUIDS[n]),
            first_lba: 2048 * (n as u64 + 1),
            last_lba: 2048 * (n as u64 + 2) - 1,
            flags: 0,
            name: String::new(),
        };
        let all: BTreeMap<u32, _> = kinds.into_iter().enumerate().map(|(n, (number, kind))| (number, partition(n, kind))).collect();
        table.update_partitions(all).unwrap();
        table.write().unwrap();
        let block = sys.join("devices/pci/block/vda");
        std::fs::create_dir_all(sys.join("class/block")).unwrap();
        symlink(&block, sys.join("class/block/vda")).unwrap();
        for (n, (number, _)) in kinds.into_iter().enumerate() {
            let name = format!("vda{number}");
            std::fs::create_dir_all(block.join(&name)).unwrap();
            std::fs::write(block.join(&name).join("partition"), format!("{number}\n")).unwrap();
            symlink(block.join(&name), sys.join("class/block").join(&name)).unwrap();
            std::fs::write(dev.join(&name), "").unwrap();
            symlink(format!("../../{name}"), links.join(uuid(n))).unwrap();
        }
        Devices::at(&dev, &sys)
    }

    #[test]
    fn a_partition_is_what_the_table_says_at_the_number_that_the_kernel_says() {
        let temp = tempfile::tempdir().unwrap();
        let devices = devices(temp.path());
        let esp = Partition { uuid: uuid(0), kind: ESP, bytes: 1 << 20, number: 1, disk: "vda".into() };
        assert_eq!(devices.find(&uuid(0).to_uppercase()).unwrap(), Some(esp.clone()));
        assert_eq!(devices.partition(&temp.path().join("dev/vda1")).unwrap(), esp);
        assert_eq!(devices.find(&Uuid::from_u128(9).to_string()).unwrap(), None);
        let kinds: Vec<(u32, Uuid)> = devices.table("vda").unwrap().into_iter().map(|p| (p.number, p.kind)).collect();
        assert_eq!(kinds, [(1, ESP), (2, Uuid::from_u128(7)), (3, XBOOTLDR)]);
        let xbootldr = devices.find(&uuid(2)).unwrap().unwrap();
        assert_eq!(devices.node(&xbootldr).unwrap(), temp.path().join("dev/vda3"));
    }

    #[test]
    fn what_cannot_be_read_is_not_absent() {
        let temp = tempfile::tempdir().unwrap();
        let devices = devices(temp.path());
        let kind = |device: &str| Failure::find(&devices.partition(&temp.path().join(device)).unwrap_err()).map(|failure| failure.kind);
        assert_eq!((kind("dev/vda"), kind("dev/vdz")), (Some(FailureKind::Unsuitable), Some(FailureKind::NotFound)));
        std::fs::remove_file(temp.path().join("sys/devices/pci/block/vda/vda3/partition")).unwrap();
        let xbootldr = devices.table("vda").unwrap().remove(2);
        assert!(devices.node(&xbootldr).unwrap_err().to_string().contains("the kernel has none"));
        std::fs::write(temp.path().join("dev/vda"), vec![0; 1 << 20]).unwrap();
        assert!(devices.find(&uuid(0)).unwrap_err().to_string().contains("partition table of vda"));
    }
}
