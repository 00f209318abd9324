//! Every identifier of an image, derived from one seed: the same seed gives the same image. Pure.

use sha2::{Digest, Sha256};
use uuid::Uuid;

/// The identifiers that partitions and file systems of an image have. Known before the image is written, because kernel
/// arguments name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identifiers {
    /// The disk's GUID.
    pub disk: Uuid,
    /// The ESP's partition GUID.
    pub esp_partition: Uuid,
    /// The root partition's GUID.
    pub root_partition: Uuid,
    /// The root file system's UUID.
    pub root: Uuid,
    /// The seed of ext4's directory hashes.
    pub(super) root_hash_seed: Uuid,
    /// The FAT volume id.
    pub(super) esp_volume: u32,
}

impl Identifiers {
    /// All identifiers that follow from `seed`.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let volume = derive(seed, "esp volume");
        Self {
            disk: uuid(seed, "disk"),
            esp_partition: uuid(seed, "esp partition"),
            root_partition: uuid(seed, "root partition"),
            root: uuid(seed, "root"),
            root_hash_seed: uuid(seed, "root hash seed"),
            esp_volume: u32::from_le_bytes([volume[0], volume[1], volume[2], volume[3]]),
        }
    }
}

/// A version 8 UUID (RFC 9562): the bits are ours to choose.
fn uuid(seed: &[u8; 32], purpose: &str) -> Uuid {
    Uuid::new_v8(derive(seed, purpose))
}

fn derive(seed: &[u8; 32], purpose: &str) -> [u8; 16] {
    let hash = Sha256::new().chain_update(b"selkie disk v1\0").chain_update(seed).chain_update(purpose).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes
}

/// The partition type of a root file system for an architecture as OCI names it, by the Discoverable Partitions Specification.
pub fn root_partition_type(architecture: &str) -> Option<Uuid> {
    let text = match architecture {
        "386" => "44479540-f297-41b2-9af7-d131d5f0458a",
        "amd64" => "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
        "arm" => "69dad710-2ce4-4e3c-b16c-21a1d49abed3",
        "arm64" => "b921b045-1df0-41c3-af44-4c6f280d3fae",
        "loong64" => "77055800-792c-4f94-b39a-98c91b762bb6",
        "ppc64le" => "c31c45e6-3f39-412e-80fb-4809c4980599",
        "riscv64" => "72ec70a6-cf74-40e6-bd49-4bda08e8f224",
        "s390x" => "5eead9a9-fe09-4a1e-a1d7-520d00531306",
        _ => return None,
    };
    Uuid::parse_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_follow_from_the_seed_and_differ_from_each_other() {
        let one = Identifiers::from_seed(&[1; 32]);
        assert_eq!(one, Identifiers::from_seed(&[1; 32]));
        let other = Identifiers::from_seed(&[2; 32]);
        let all = |i: &Identifiers| [i.disk, i.esp_partition, i.root_partition, i.root, i.root_hash_seed];
        let mut distinct: Vec<Uuid> = all(&one).into_iter().chain(all(&other)).collect();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 10);
        assert!(distinct.iter().all(|id| id.get_version_num() == 8));
        assert_ne!(one.esp_volume, other.esp_volume);
    }

    #[test]
    fn root_types_are_those_of_the_specification() {
        for known in ["386", "amd64", "arm", "arm64", "loong64", "ppc64le", "riscv64", "s390x"] {
            assert!(root_partition_type(known).is_some(), "{known}");
        }
        assert_eq!(root_partition_type("pdp11"), None);
    }
}
