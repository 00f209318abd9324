//! Signed EFI binaries (Authenticode): what a signature adds to a binary, and that it adds nothing else.

use std::io::Cursor;
use std::ops::Range;

use super::UkiError;
use super::pe::Pe;

/// Certificates start at multiples of this many bytes.
const ALIGNMENT: usize = 8;

/// Checks that `signed` is `unsigned` with a certificate table: the same bytes but for checksum and the place of the table, zeros up to a
/// multiple of eight bytes, the table, and nothing behind it. Whether the signature holds is not looked at.
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
    Ok(())
}

fn wrong(why: impl std::fmt::Display) -> UkiError {
    UkiError::NotSignedForm(why.to_string())
}
