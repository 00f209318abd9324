//! The lists by which firmware decides what it starts: `db`, what may, and `dbx`, what may not (UEFI specification, section 32.4.1 and 32.6).
//!
//! What firmware would answer can be known before a machine depends on the answer: a boot that is refused cannot be asked why.

use openssl::x509::X509;
use uuid::Uuid;

use super::signature::Signature;
use crate::uki::{UkiError, authenticode};

/// What one of the variables `db` and `dbx` lists. X.509 certificates and SHA-256 digests of binaries count; other types (digests of
/// certificates among them) are passed over.
#[derive(Debug, Clone, Default)]
pub struct Database {
    certificates: Vec<X509>,
    digests: Vec<[u8; 32]>,
}

/// Lists that contradict themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading signature lists: {0} (expected EFI_SIGNATURE_LIST)")]
pub struct DatabaseError(&'static str);

/// `EFI_CERT_X509_GUID`.
const X509_CERTIFICATE: Uuid = Uuid::from_u128(0xa5c0_59a1_94e4_4aa7_87b5_ab15_5c2b_f072);
/// `EFI_CERT_SHA256_GUID`.
const SHA256: Uuid = Uuid::from_u128(0xc1c4_1626_504c_4092_aca9_41f9_3693_4328);
/// `EFI_CERT_TYPE_PKCS7_GUID`.
const PKCS7: Uuid = Uuid::from_u128(0x4aaf_d29d_68df_49ee_8aa9_347d_3756_65a7);

/// A GUID, as the lists have it before each part.
const GUID: usize = 16;
/// Type, and the sizes of the list, of its header and of each signature.
const LIST: usize = GUID + 3 * 4;
/// An `EFI_TIME`.
const TIME: usize = 16;
/// A `WIN_CERTIFICATE_UEFI_GUID` without its data: length, revision, type, type of the data.
const CERTIFICATE: usize = 8 + GUID;

impl Database {
    /// Reads signature lists, one after the other: the value of a variable. A certificate that cannot be read is passed over, as firmware does.
    ///
    /// # Errors
    ///
    /// Sizes that contradict each other, or the length of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, DatabaseError> {
        let mut database = Self::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = database.take_list(rest)?;
        }
        Ok(database)
    }

    /// Reads the lists of a file that is written to a variable (`db.auth`). Whether firmware would take it is not looked at.
    ///
    /// # Errors
    ///
    /// No signed list, or lists that cannot be read.
    pub fn parse_signed(bytes: &[u8]) -> Result<Self, DatabaseError> {
        Self::parse(signed_value(bytes).ok_or(DatabaseError("no time and signature before them"))?)
    }

    /// A database with one certificate.
    pub(super) fn of(certificate: X509) -> Self {
        Self { certificates: vec![certificate], digests: Vec::new() }
    }

    fn take_list<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], DatabaseError> {
        let (kind, sizes) =
            bytes.get(..LIST).and_then(<[u8]>::split_first_chunk::<GUID>).ok_or(DatabaseError("a list that is cut short"))?;
        let size = |at: usize| u32::from_le_bytes([sizes[at], sizes[at + 1], sizes[at + 2], sizes[at + 3]]) as usize;
        let (list, header, each) = (size(0), size(4), size(8));
        let body =
            bytes.get(LIST..list).and_then(|body| body.get(header..)).ok_or(DatabaseError("a list with another size than it says"))?;
        if each <= GUID || body.len() % each != 0 {
            return Err(DatabaseError("a list that its signatures do not fill"));
        }
        let kind = Uuid::from_bytes_le(*kind);
        // Each begins with the GUID of its owner.
        for signature in body.chunks_exact(each).map(|owned| &owned[GUID..]) {
            match kind {
                X509_CERTIFICATE => self.certificates.extend(X509::from_der(signature).ok()),
                SHA256 => self.digests.extend(<[u8; 32]>::try_from(signature).ok()),
                _ => {}
            }
        }
        Ok(&bytes[list..])
    }

    /// Whether a firmware with this `db` would start `binary`: its digest is listed, or it has a signature that holds, by a certificate that
    /// is listed or that one which is listed stands behind.
    ///
    /// # Errors
    ///
    /// No EFI binary, or one with a certificate table that cannot be read.
    pub fn accepts(&self, binary: &[u8]) -> Result<bool, UkiError> {
        self.names(binary)
    }

    /// Whether a firmware with this `dbx` would refuse `binary`, whatever `db` says: the same as [`Self::accepts`] the other way around.
    ///
    /// # Errors
    ///
    /// As [`Self::accepts`].
    pub fn revokes(&self, binary: &[u8]) -> Result<bool, UkiError> {
        self.names(binary)
    }

    fn names(&self, binary: &[u8]) -> Result<bool, UkiError> {
        let digest = authenticode::digest(binary)?;
        let signatures = signatures(binary)?;
        let holds = |signature: &Signature| self.certificates.iter().any(|trusted| signature.holds_by(trusted));
        Ok(self.digests.contains(&digest) || signatures.iter().any(|signature| signature.is_of(&digest) && holds(signature)))
    }
}

/// What firmware goes by.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// What may start.
    pub db: Database,
    /// What may not, whatever `db` says.
    pub dbx: Database,
}

impl Trust {
    /// Why a firmware that enforces Secure Boot would not start `binary`, as the end of a sentence about it; `None` if it would.
    pub fn objection(&self, binary: &[u8]) -> Option<String> {
        let signers = || match signers(binary).as_slice() {
            [] => "not signed".to_owned(),
            names => format!("signed by {}", names.join(", ")),
        };
        match (self.dbx.revokes(binary), self.db.accepts(binary)) {
            (Err(error), _) | (_, Err(error)) => Some(format!("not to be read: {error}")),
            (Ok(true), _) => Some(format!("{}, and dbx revokes it", signers())),
            (_, Ok(false)) => Some(format!("{}, and db does not accept that", signers())),
            (Ok(false), Ok(true)) => None,
        }
    }
}

/// The value behind time and signature of an `EFI_VARIABLE_AUTHENTICATION_2` (UEFI specification, section 8.2.2); `None` where there is no such
/// thing, or nothing behind it. The signature itself is not looked at.
pub fn signed_value(bytes: &[u8]) -> Option<&[u8]> {
    let certificate = bytes.get(TIME..)?;
    let header = certificate.first_chunk::<CERTIFICATE>()?;
    let (revision, kind) = (0x0200_u16.to_le_bytes(), 0x0ef1_u16.to_le_bytes());
    if header[4..6] != revision || header[6..8] != kind || header[8..] != PKCS7.to_bytes_le() {
        return None;
    }
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    certificate.get(length..).filter(|value| length >= CERTIFICATE && !value.is_empty())
}

/// The signatures of a binary that can be read.
fn signatures(binary: &[u8]) -> Result<Vec<Signature>, UkiError> {
    Ok(authenticode::signatures(binary)?.into_iter().filter_map(Signature::open).collect())
}

/// Who says to have signed, quoted.
pub(super) fn signers(binary: &[u8]) -> Vec<String> {
    signatures(binary).unwrap_or_default().iter().flat_map(Signature::signers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list with one signature.
    fn list(kind: Uuid, signature: &[u8]) -> Vec<u8> {
        let mut bytes = kind.to_bytes_le().to_vec();
        for size in [LIST + GUID + signature.len(), 0, GUID + signature.len()] {
            bytes.extend((size as u32).to_le_bytes());
        }
        bytes.extend([9; GUID]);
        bytes.extend(signature);
        bytes
    }

    fn with_size(mut list: Vec<u8>, at: usize, size: u32) -> Vec<u8> {
        list[GUID + at..GUID + at + 4].copy_from_slice(&size.to_le_bytes());
        list
    }

    #[test]
    fn lists_are_read_one_after_the_other() {
        let bytes = [list(SHA256, &[1; 32]), list(Uuid::from_u128(7), b"?"), list(X509_CERTIFICATE, b"broken"), list(SHA256, &[2; 32])];
        let database = Database::parse(&bytes.concat()).unwrap();
        assert_eq!((database.digests, database.certificates.len()), (vec![[1; 32], [2; 32]], 0));
        assert!(Database::parse(b"").unwrap().digests.is_empty());
        assert_eq!(Database::parse(&list(SHA256, &[1; 31])).unwrap().digests.len(), 0);
    }

    #[test]
    fn lists_that_lie_are_errors() {
        let good = list(SHA256, &[1; 32]);
        for at in 1..good.len() {
            assert!(Database::parse(&good[..at]).is_err(), "{at} bytes");
        }
        for (at, size) in [(0, 0), (0, 27), (0, 77), (0, u32::MAX), (4, 1), (4, u32::MAX), (8, 0), (8, 16), (8, 47), (8, u32::MAX)] {
            assert!(Database::parse(&with_size(good.clone(), at, size)).is_err(), "{at}: {size}");
        }
    }

    #[test]
    fn a_signed_list_is_behind_time_and_signature() {
        let mut bytes = vec![0; TIME];
        bytes.extend((CERTIFICATE as u32 + 3).to_le_bytes());
        bytes.extend([0, 2, 0xf1, 0x0e]);
        bytes.extend(PKCS7.to_bytes_le());
        bytes.extend(b"sig");
        assert_eq!(signed_value(&bytes), None);
        let whole = [bytes.clone(), list(SHA256, &[1; 32])].concat();
        assert_eq!(Database::parse_signed(&whole).unwrap().digests, [[1; 32]]);
        for at in 0..whole.len() {
            assert!(Database::parse_signed(&whole[..at]).is_err(), "{at} bytes");
        }
        for length in [0, 23, u32::MAX] {
            let mut lying = whole.clone();
            lying[TIME..TIME + 4].copy_from_slice(&length.to_le_bytes());
            assert_eq!(signed_value(&lying), None, "{length}");
        }
    }
}
