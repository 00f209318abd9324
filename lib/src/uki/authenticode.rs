//! Signed EFI binaries (Authenticode): what a signature adds to a binary, and that it adds nothing else.

use std::io::Cursor;
use std::ops::Range;

use object::LittleEndian as LE;
use sha2::{Digest, Sha256};

use super::UkiError;
use super::pe::{Pe, malformed};

/// Certificates start at multiples of this many bytes.
const ALIGNMENT: usize = 8;

/// Checks that `signed` is `unsigned` with a certificate table: the same bytes but for checksum and the place of the table, zeros up to a
/// multiple of eight bytes, the table, and nothing behind it; and that the table names the digest of `unsigned`. Whose signature it is, and
/// whether it holds, is not looked at.
///
/// # Errors
///
/// Either is no PE32+ binary, `unsigned` is signed, or `signed` is something else.
pub fn check_signed_form(unsigned: &[u8], signed: &[u8]) -> Result<(), UkiError> {
    let before = Pe::read(&mut Cursor::new(unsigned))?;
    if before.signed() {
        return Err(wrong("the unsigned one is signed already"));
    }
    let entry = before.certificate_entry().ok_or_else(|| wrong("the unsigned one has no room in its headers for a signature"))?;
    let table = Pe::read(&mut Cursor::new(signed))?.certificates().ok_or_else(|| wrong("the signed one has no certificate table"))?;
    let start = unsigned.len().next_multiple_of(ALIGNMENT);
    if (table.start, table.end) != (start as u64, signed.len() as u64) {
        let (from, len) = (table.start, signed.len());
        return Err(wrong(format!("the certificate table is at {from}..{} of {len} bytes, not at {start} to the end", table.end)));
    }
    let may_differ = |at: usize| [&before.checksum(), &entry].iter().any(|range: &&Range<usize>| range.contains(&at));
    let (body, padding) = signed[..start].split_at(unsigned.len());
    if let Some(at) = unsigned.iter().zip(body).enumerate().position(|(at, (a, b))| a != b && !may_differ(at)) {
        return Err(wrong(format!("they differ at byte {at}")));
    }
    if padding.iter().any(|byte| *byte != 0) {
        return Err(wrong("there is something between the binary and the certificate table"));
    }
    // An OCTET STRING of 32 bytes: the digest stands in the signed content in the clear (SpcIndirectDataContent).
    let named = [&[0x04, 0x20], &digest(unsigned)?[..]].concat();
    if !signed[start..].windows(named.len()).any(|window| window == named) {
        return Err(wrong("the signature is not of this binary's SHA-256 digest"));
    }
    Ok(())
}

/// The digest of a binary that a signature signs and a firmware's lists of hashes name ("Windows Authenticode Portable Executable Signature
/// Format"): headers without checksum and certificate entry, sections in the order of the file, and what follows up to the certificate table.
/// Signing does not change it.
///
/// # Errors
///
/// No PE32+ binary, one without room for signatures or with something behind them, or headers that contradict themselves.
pub fn digest(binary: &[u8]) -> Result<[u8; 32], UkiError> {
    let pe = Pe::read(&mut Cursor::new(binary))?;
    let entry = pe.certificate_entry().ok_or_else(|| malformed("no room in the headers for a signature"))?;
    let unsigned = match pe.certificates() {
        None => binary,
        Some(table) if table.end == binary.len() as u64 => &binary[..table.start as usize],
        Some(table) => return Err(malformed(format!("the certificate table ends at {} of {} bytes", table.end, binary.len()))),
    };
    let headers = pe.nt.optional_header.size_of_headers.get(LE) as usize;
    let mut sections: Vec<_> =
        pe.sections().map(|s| s.file.start as usize..s.file.end as usize).filter(|range| !range.is_empty()).collect();
    sections.sort_by_key(|range| range.start);
    // As firmware does it: what follows starts where the sum of all lengths points to, even if there are gaps between sections.
    let hashed = headers + sections.iter().map(ExactSizeIterator::len).sum::<usize>();
    let pieces = [0..pe.checksum().start, pe.checksum().end..entry.start, entry.end..headers];
    let mut hash = Sha256::new();
    let rest = std::iter::once(hashed..unsigned.len().max(hashed));
    for piece in pieces.into_iter().chain(sections).chain(rest) {
        hash.update(unsigned.get(piece).ok_or_else(|| malformed("headers that end beyond the file, or before themselves"))?);
    }
    hash.update(&[0; ALIGNMENT][..unsigned.len().next_multiple_of(ALIGNMENT) - unsigned.len()]);
    Ok(hash.finalize().into())
}

/// The signatures in the certificate table of a binary, each in PKCS#7 (DER, possibly with a few zeros behind it); none where it is not
/// signed. Certificates of other types are passed over.
///
/// # Errors
///
/// No PE32+ binary; a table whose parts do not fill it (UEFI specification, section 32.5.1): firmware refuses that.
pub fn signatures(binary: &[u8]) -> Result<Vec<&[u8]>, UkiError> {
    let Some(table) = Pe::read(&mut Cursor::new(binary))?.certificates() else { return Ok(Vec::new()) };
    let mut rest = binary.get(table.start as usize..table.end as usize).unwrap_or_default();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let torn = || malformed("the certificate table is not made of certificates");
        let (header, _) = rest.split_first_chunk::<CERTIFICATE>().ok_or_else(torn)?;
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let content = rest.get(CERTIFICATE..length).ok_or_else(torn)?;
        if header[4..] == PKCS_SIGNED_DATA {
            found.push(content);
        }
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    Ok(found)
}

/// Length of the header of a `WIN_CERTIFICATE`: length, revision, type.
const CERTIFICATE: usize = 8;

/// Revision 2.0 and type `WIN_CERT_TYPE_PKCS_SIGNED_DATA`, as they stand in the header.
const PKCS_SIGNED_DATA: [u8; 4] = [0x00, 0x02, 0x02, 0x00];

fn wrong(why: impl std::fmt::Display) -> UkiError {
    UkiError::NotSignedForm(why.to_string())
}
