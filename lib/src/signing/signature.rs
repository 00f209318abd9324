//! A signature of an EFI binary, opened: PKCS#7 around the digest of the binary ("Windows Authenticode Portable Executable Signature Format").

use openssl::pkcs7::{Pkcs7, Pkcs7Flags};
use openssl::stack::Stack;
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509, X509PurposeId};

/// A signature that can be read.
pub(super) struct Signature {
    pkcs7: Pkcs7,
    /// What is signed: the content of an `SpcIndirectDataContent`, without its tag and length.
    content: Vec<u8>,
}

impl Signature {
    /// Opens one; `None` for bytes that are none.
    pub(super) fn open(der: &[u8]) -> Option<Self> {
        let pkcs7 = Pkcs7::from_der(der).ok()?;
        Some(Self { pkcs7, content: signed_content(der)?.to_vec() })
    }

    /// Whether it is of the binary with this SHA-256 digest. A signature of another digest is of no use here.
    pub(super) fn is_of(&self, digest: &[u8; 32]) -> bool {
        named_digest(&self.content) == Some(&digest[..])
    }

    /// Whether it holds, and was made with the key of `trusted` or of a certificate that `trusted` stands behind. The same question as firmware
    /// asks (EDK II, `Pkcs7Verify`): the chain ends at `trusted`, whatever that is for, and the time does not matter.
    pub(super) fn holds_by(&self, trusted: &X509) -> bool {
        let verify = |store: X509Store| {
            let none = Stack::new()?;
            self.pkcs7.verify(&none, &store, Some(&self.content), None, Pkcs7Flags::BINARY)
        };
        only(trusted).and_then(verify).is_ok()
    }

    /// Who says to have signed, for people.
    pub(super) fn signers(&self) -> Vec<String> {
        let found = Stack::new().and_then(|none| self.pkcs7.signers(&none, Pkcs7Flags::empty()));
        found.map(|signers| signers.iter().map(name).collect()).unwrap_or_default()
    }
}

/// The common name of a certificate's owner, or what there is of a name.
fn name(certificate: &openssl::x509::X509Ref) -> String {
    let text = |entry: &openssl::x509::X509NameEntryRef| entry.data().to_string().ok();
    let common = certificate.subject_name().entries_by_nid(openssl::nid::Nid::COMMONNAME).find_map(text);
    let any = || certificate.subject_name().entries().find_map(text);
    // It comes from the binary, and goes to terminals.
    format!("{:?}", common.or_else(any).unwrap_or_default())
}

fn only(trusted: &X509) -> Result<X509Store, openssl::error::ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    store.add_cert(trusted.clone())?;
    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::NO_CHECK_TIME)?;
    store.set_purpose(X509PurposeId::ANY)?;
    Ok(store.build())
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
/// `[0]`, around another value.
const EXPLICIT: u8 = 0xa0;

/// 1.3.6.1.4.1.311.2.1.4: `SPC_INDIRECT_DATA_OBJID`.
const INDIRECT_DATA: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04];
/// 2.16.840.1.101.3.4.2.1.
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];

/// What a PKCS#7 `SignedData` (RFC 2315) of the kind of Authenticode signs. PKCS#7 signs an OCTET STRING's content; Authenticode has a SEQUENCE
/// there, and signs the content of that.
fn signed_content(der: &[u8]) -> Option<&[u8]> {
    let (outer, _) = value(der, SEQUENCE)?;
    let (_type, rest) = value(outer, OBJECT_IDENTIFIER)?;
    let (explicit, _) = value(rest, EXPLICIT)?;
    let (signed_data, _) = value(explicit, SEQUENCE)?;
    let (_version, rest) = any(signed_data)?;
    let (_algorithms, rest) = any(rest)?;
    let (content_info, _) = value(rest, SEQUENCE)?;
    let (kind, rest) = value(content_info, OBJECT_IDENTIFIER)?;
    let (explicit, _) = value(rest, EXPLICIT)?;
    let (content, _) = value(explicit, SEQUENCE)?;
    (kind == INDIRECT_DATA).then_some(content)
}

/// The SHA-256 digest in an `SpcIndirectDataContent`.
fn named_digest(content: &[u8]) -> Option<&[u8]> {
    let (_data, rest) = value(content, SEQUENCE)?;
    let (digest_info, _) = value(rest, SEQUENCE)?;
    let (algorithm, rest) = value(digest_info, SEQUENCE)?;
    let (digest, _) = value(rest, OCTET_STRING)?;
    let (kind, _) = value(algorithm, OBJECT_IDENTIFIER)?;
    (kind == SHA256).then_some(digest)
}

/// The content of the first value in `der`, if it has this tag, and what follows.
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    if *der.first()? == tag { any(der) } else { None }
}

/// The same whatever the tag, of one byte. Lengths are definite, as DER has them.
fn any(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_short_or_long_and_never_beyond_the_end() {
        assert_eq!(value(&[0x30, 2, 1, 2, 3], SEQUENCE), Some((&[1, 2][..], &[3][..])));
        assert_eq!(value(&[0x30, 0x82, 0, 1, 9], SEQUENCE), Some((&[9][..], &[][..])));
        for bad in [&[][..], &[0x30], &[0x31, 0], &[0x30, 1], &[0x30, 0x80, 0, 0], &[0x30, 0x82, 0], &[0x30, 0x84, 255, 255, 255, 255]] {
            assert_eq!(value(bad, SEQUENCE), None, "{bad:?}");
        }
    }
}
