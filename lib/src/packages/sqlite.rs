//! The rows of one table of an SQLite database, out of its bytes (<https://sqlite.org/fileformat2.html>). Reads, and only what rpm's database needs: tables
//! with row numbers, no indexes, no query.
//!
//! The bytes are foreign. Each page is visited at most once and rows have no more bytes than the file, so work and memory are bounded by its size.

use super::DatabaseError;

/// A column of a row, as far as anybody asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Text or bytes.
    Bytes(Vec<u8>),
    /// A whole number.
    Number(i64),
    /// Nothing, or a number with a fraction.
    Other,
}

/// The root of the table that lists the tables.
const SCHEMA: u32 = 1;
/// What stands before the tree of the first page.
const HEADER: usize = 100;
const LEAF: u8 = 0x0d;
const INTERIOR: u8 = 0x05;
/// Rows of a database have few columns.
const MAX_COLUMNS: usize = 100;

/// Hands each row of the table `name` to `each`, in the order of row numbers.
pub(super) fn rows(bytes: &[u8], name: &str, each: &mut dyn FnMut(Vec<Value>) -> Result<(), DatabaseError>) -> Result<(), DatabaseError> {
    let mut root = None;
    File::open(bytes)?.walk(SCHEMA, &mut |row| {
        // type, name, tbl_name, rootpage, sql
        if let [Value::Bytes(kind), Value::Bytes(found), _, Value::Number(page), ..] = row.as_slice()
            && (kind.as_slice(), found.as_slice()) == (b"table", name.as_bytes())
        {
            root = u32::try_from(*page).ok();
        }
        Ok(())
    })?;
    let root = root.ok_or_else(|| wrong(format!("it has no table {name}")))?;
    File::open(bytes)?.walk(root, each)
}

fn wrong(found: impl Into<String>) -> DatabaseError {
    DatabaseError(found.into())
}

struct File<'a> {
    bytes: &'a [u8],
    page: usize,
    /// Bytes of a page that are of use.
    usable: usize,
    /// By number, counted from 0: whether a page was visited.
    seen: Vec<bool>,
    /// Bytes of rows that may still come.
    left: usize,
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, DatabaseError> {
        let header = bytes.first_chunk::<HEADER>().filter(|header| header.starts_with(b"SQLite format 3\0"));
        let header = header.ok_or_else(|| wrong("it is no SQLite database"))?;
        let page = match u16::from_be_bytes([header[16], header[17]]) {
            1 => 65536,
            size => usize::from(size),
        };
        let usable = page.saturating_sub(usize::from(header[20]));
        if !page.is_power_of_two() || page < 512 || usable < 480 {
            return Err(wrong(format!("its pages have {page} bytes")));
        }
        if header[19] > 2 || u32::from_be_bytes([header[56], header[57], header[58], header[59]]) > 1 {
            return Err(wrong("it is of another version, or its text is not UTF-8"));
        }
        Ok(Self { bytes, page, usable, seen: vec![false; bytes.len() / page], left: bytes.len() })
    }

    /// A page by its number, counted from 1. Each is handed out once.
    fn visit(&mut self, number: u32) -> Result<&'a [u8], DatabaseError> {
        let index = (number as usize).checked_sub(1);
        let seen = index.and_then(|index| self.seen.get_mut(index)).ok_or_else(|| wrong(format!("it has no page {number}")))?;
        if std::mem::replace(seen, true) {
            return Err(wrong(format!("page {number} is in two places")));
        }
        let start = (number as usize - 1) * self.page;
        Ok(&self.bytes[start..start + self.usable])
    }

    fn walk(&mut self, root: u32, each: &mut dyn FnMut(Vec<Value>) -> Result<(), DatabaseError>) -> Result<(), DatabaseError> {
        let mut open = vec![root];
        while let Some(number) = open.pop() {
            let page = self.visit(number)?;
            let at = if number == SCHEMA { HEADER } else { 0 };
            let kind = page[at];
            let (count, cells) = (usize::from(word(page, at + 3)?), at + if kind == INTERIOR { 12 } else { 8 });
            let cell = |index: usize| word(page, cells + 2 * index).map(usize::from);
            match kind {
                LEAF => {
                    for index in 0..count {
                        let payload = self.payload(page, cell(index)?)?;
                        each(record(&payload)?)?;
                    }
                }
                INTERIOR => {
                    // The last comes first off the stack.
                    open.push(long(page, at + 8)?);
                    for index in (0..count).rev() {
                        open.push(long(page, cell(index)?)?);
                    }
                }
                other => return Err(wrong(format!("page {number} is of kind {other} (expected one of a table)"))),
            }
        }
        Ok(())
    }

    /// The bytes of a row: at `at` in a leaf, and where they do not fit there, in a chain of pages.
    fn payload(&mut self, page: &[u8], mut at: usize) -> Result<Vec<u8>, DatabaseError> {
        let size = usize::try_from(varint(page, &mut at)?).unwrap_or(usize::MAX);
        varint(page, &mut at)?;
        self.left = self.left.checked_sub(size).ok_or_else(|| wrong("its rows have more bytes than it"))?;
        let (most, least) = (self.usable - 35, (self.usable - 12) * 32 / 255 - 23);
        let fitting = |size: usize| least + (size - least) % (self.usable - 4);
        let local = if size <= most { size } else { Some(fitting(size)).filter(|local| *local <= most).unwrap_or(least) };
        let mut payload = page.get(at..at + local).ok_or_else(short)?.to_vec();
        let mut next = if local < size { long(page, at + local)? } else { 0 };
        while payload.len() < size {
            let page = self.visit(next)?;
            next = long(page, 0)?;
            let rest = &page[4..];
            payload.extend_from_slice(&rest[..rest.len().min(size - payload.len())]);
        }
        Ok(payload)
    }
}

/// The columns of a row.
fn record(bytes: &[u8]) -> Result<Vec<Value>, DatabaseError> {
    let mut at = 0;
    let mut content = usize::try_from(varint(bytes, &mut at)?).unwrap_or(usize::MAX);
    let header = bytes.get(..content).ok_or_else(short)?;
    let mut values = Vec::new();
    while at < header.len() {
        if values.len() == MAX_COLUMNS {
            return Err(wrong(format!("a row has more than {MAX_COLUMNS} columns")));
        }
        let kind = varint(header, &mut at)?;
        let size = match kind {
            0 | 8 | 9 => 0,
            1..=4 => kind as usize,
            5 => 6,
            6 | 7 => 8,
            10 | 11 => return Err(wrong(format!("a column of type {kind}"))),
            _ => usize::try_from((kind - 12) / 2).unwrap_or(usize::MAX),
        };
        let end = content.checked_add(size).ok_or_else(short)?;
        let value = bytes.get(content..end).ok_or_else(short)?;
        content = end;
        values.push(match kind {
            8 => Value::Number(0),
            9 => Value::Number(1),
            1..=6 => Value::Number(number(value)),
            0 | 7 => Value::Other,
            _ => Value::Bytes(value.to_vec()),
        });
    }
    Ok(values)
}

/// A whole number of up to eight bytes, the highest first, with a sign.
fn number(bytes: &[u8]) -> i64 {
    let sign = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { -1 } else { 0 };
    bytes.iter().fold(sign, |number, byte| number << 8 | i64::from(*byte))
}

fn short() -> DatabaseError {
    wrong("a row ends early")
}

fn word(page: &[u8], at: usize) -> Result<u16, DatabaseError> {
    let bytes = page.get(at..).and_then(|rest| rest.first_chunk::<2>()).ok_or_else(short)?;
    Ok(u16::from_be_bytes(*bytes))
}

fn long(page: &[u8], at: usize) -> Result<u32, DatabaseError> {
    let bytes = page.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or_else(short)?;
    Ok(u32::from_be_bytes(*bytes))
}

/// A number of one to nine bytes: seven bits of each, all of the ninth.
fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, DatabaseError> {
    let mut value = 0;
    for index in 0..9 {
        let byte = *bytes.get(*at).ok_or_else(short)?;
        *at += 1;
        if index == 8 {
            return Ok(value << 8 | u64::from(byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_to_nine_bytes() {
        for (bytes, expected) in [
            (&[0x07][..], 7),
            (&[0x81, 0x00], 128),
            (&[0xff, 0x7f], 0x3fff),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], u64::MAX),
        ] {
            let mut at = 0;
            assert_eq!((varint(bytes, &mut at), at), (Ok(expected), bytes.len()));
            assert!(varint(&bytes[..bytes.len() - 1], &mut 0).is_err());
        }
        assert_eq!((number(&[0xff]), number(&[0x01, 0x00]), number(&[]), number(&[0x80, 0])), (-1, 256, 0, -32768));
    }

    #[test]
    fn rows_are_columns() {
        let row = [&[6, 0, 1, 8, 0x0f, 0x10][..], &[0xfe], b"a", &[1, 2]].concat();
        let expected = [Value::Other, Value::Number(-2), Value::Number(0), Value::Bytes(b"a".to_vec()), Value::Bytes(vec![1, 2])];
        assert_eq!(record(&row).unwrap(), expected);
        for length in 1..row.len() {
            assert!(record(&row[..length]).is_err(), "{length} bytes");
        }
        assert!(record(&[2, 10]).is_err() && record(&[10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    #[test]
    fn what_is_no_database_is_told() {
        let mut each = |_: Vec<Value>| Ok(());
        for bytes in [&b""[..], b"SQLite format 3\0", &[0; 4096]] {
            assert_eq!(rows(bytes, "a", &mut each).unwrap_err().to_string(), "it is no SQLite database");
        }
        let mut odd = b"SQLite format 3\0".to_vec();
        odd.resize(4096, 0);
        assert!(rows(&odd, "a", &mut each).unwrap_err().to_string().contains("pages have 0 bytes"));
        odd[16] = 0x10;
        assert!(rows(&odd, "a", &mut each).unwrap_err().to_string().contains("page 1 is of kind 0"));
        // A page that is its own child.
        (odd[100], odd[111]) = (INTERIOR, 1);
        assert!(rows(&odd, "a", &mut each).unwrap_err().to_string().contains("page 1 is in two places"));
        (odd[100], odd[111]) = (LEAF, 0);
        assert!(rows(&odd, "a", &mut each).unwrap_err().to_string().contains("it has no table a"));
    }
}
