//! The log of everything that a machine wrote to its disk, as QEMU's filter `blklogwrites` keeps it. The format is that of Linux' dm-log-writes
//! (Documentation/admin-guide/device-mapper/log-writes.rst): a header of one sector, then for each request a sector that describes it and the
//! bytes that were written. All numbers are little-endian.

use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, Result, bail, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// Everything that was written, in the order in which the requests ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Log {
    pub(crate) records: Vec<Record>,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// Bytes were written.
    Write {
        /// Where to on the disk.
        to: u64,
        /// How many bytes.
        length: u64,
        /// Where the bytes are in the log.
        at: u64,
        /// Whether they were on the medium when the request ended, with no flush.
        durable: bool,
    },
    /// Whatever was written before is on the medium.
    Flush,
}

impl Record {
    /// The bytes of the disk that it changes.
    pub(crate) fn range(&self) -> std::ops::Range<u64> {
        match *self {
            Self::Write { to, length, .. } => to..to + length,
            Self::Flush => 0..0,
        }
    }
}

/// The header of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    entries: u64,
    sector: u64,
}

impl Header {
    fn read(log: &mut impl Read) -> Result<Self> {
        let mut bytes = [0; 28];
        log.read_exact(&mut bytes).context("reading the header of a write log")?;
        let (magic, version, sector) = (number(&bytes, 0), number(&bytes, 1), number(&bytes, 3) & 0xffff_ffff);
        ensure!(magic == MAGIC, "reading the header of a write log: magic {magic:#x} (expected {MAGIC:#x})");
        ensure!(version == VERSION, "reading the header of a write log: version {version} (expected {VERSION})");
        let usual = sector.is_power_of_two() && (512..=65536).contains(&sector);
        ensure!(usual, "reading the header of a write log: sectors of {sector} bytes (expected a power of two from 512)");
        Ok(Self { entries: number(&bytes, 2), sector })
    }
}

/// How many requests the log's header counts. QEMU writes that number with every flush, so after a flush it is a mark in the log.
pub(crate) fn count(log: &mut (impl Read + Seek)) -> Result<u64> {
    log.seek(SeekFrom::Start(0)).context("going to the header of a write log")?;
    Ok(Header::read(log)?.entries)
}

/// Reads a log. What lies behind the requests that the header counts was written after the last flush, and is no part of it.
///
/// # Errors
///
/// Something is no such log, or is cut off; it discards or marks, which machines of the lab do not.
pub(crate) fn read(log: &mut (impl Read + Seek)) -> Result<Log> {
    let end = log.seek(SeekFrom::End(0)).context("measuring a write log")?;
    log.seek(SeekFrom::Start(0)).context("going to the header of a write log")?;
    let header = Header::read(log)?;
    let mut records = Vec::new();
    let mut position = header.sector;
    for index in 0..header.entries {
        let reading = || format!("reading entry {index} of {} of a write log, at byte {position} of {end}", header.entries);
        log.seek(SeekFrom::Start(position)).with_context(reading)?;
        let mut bytes = [0; 32];
        log.read_exact(&mut bytes).with_context(reading)?;
        let (to, sectors, flags) = (number(&bytes, 0), number(&bytes, 1), number(&bytes, 2));
        if flags & !(FLUSH | FUA) != 0 {
            let known = format!("discard is {DISCARD}, mark {MARK}");
            bail!("{}: flags {flags:#x} (expected only flush {FLUSH} and forced unit access {FUA}; {known})", reading());
        }
        ensure!(sectors > 0 || flags != 0, "{}: no request is there (expected one; QEMU could not write it)", reading());
        let size = |sectors: u64| sectors.checked_mul(header.sector).with_context(|| format!("{}: {sectors} sectors", reading()));
        let (to, length, at) = (size(to)?, size(sectors)?, position + header.sector);
        let next = at.checked_add(length).filter(|next| *next <= end || length == 0);
        let cut_off = || format!("{}: {length} bytes of data are cut off", reading());
        position = next.with_context(cut_off)?;
        // A request with both first flushes what came before.
        if flags & FLUSH != 0 {
            records.push(Record::Flush);
        }
        if length > 0 {
            records.push(Record::Write { to, length, at, durable: flags & FUA != 0 });
        }
    }
    Ok(Log { records })
}

/// The number `index` of a row of 64-bit numbers; one that is cut short ends in zeros.
fn number(bytes: &[u8], index: usize) -> u64 {
    let mut word = [0; 8];
    let found = bytes.get(index * 8..).unwrap_or_default();
    let length = found.len().min(8);
    word[..length].copy_from_slice(&found[..length]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Cursor;

    use super::*;

    /// A log with sectors of 512 bytes and these requests: sector, flags, data.
    pub(in crate::replay) fn log(requests: &[(u64, u64, &[u8])]) -> Vec<u8> {
        let mut bytes = header(MAGIC, VERSION, requests.len() as u64, 512);
        for (sector, flags, data) in requests {
            let mut entry = [*sector, data.len() as u64 / 512, *flags, 0].map(u64::to_le_bytes).concat();
            entry.resize(512, 0);
            bytes.extend(entry);
            bytes.extend(*data);
        }
        bytes
    }

    fn header(magic: u64, version: u64, entries: u64, sector: u32) -> Vec<u8> {
        let mut bytes = [magic, version, entries].map(u64::to_le_bytes).concat();
        bytes.extend(sector.to_le_bytes());
        bytes.resize(512, 0);
        bytes
    }

    fn refused(bytes: &[u8]) -> String {
        format!("{:#}", read(&mut Cursor::new(bytes)).unwrap_err())
    }

    #[test]
    fn writes_and_flushes_are_read_in_order() {
        let bytes = log(&[(7, 0, &[1; 1024]), (0, FLUSH, &[]), (9, FUA, &[2; 512]), (1, FLUSH | FUA, &[3; 512])]);
        let write = |to, length, at, durable| Record::Write { to, length, at, durable };
        let expected =
            [write(3584, 1024, 1024, false), Record::Flush, write(4608, 512, 3072, true), Record::Flush, write(512, 512, 4096, true)];
        assert_eq!(read(&mut Cursor::new(&bytes)).unwrap(), Log { records: expected.into() });
        assert_eq!(count(&mut Cursor::new(&bytes)).unwrap(), 4);
        assert_eq!((expected[0].range(), expected[1].range()), (3584..4608, 0..0));
    }

    #[test]
    fn what_came_after_the_last_flush_is_no_part_of_it() {
        let mut bytes = log(&[(7, 0, &[1; 512]), (0, FLUSH, &[])]);
        let whole = read(&mut Cursor::new(&bytes)).unwrap();
        bytes.extend([0xff; 700]);
        assert_eq!(read(&mut Cursor::new(&bytes)).unwrap(), whole);
    }

    #[test]
    fn a_log_that_is_cut_off_is_an_error_wherever_that_is() {
        let whole = log(&[(7, 0, &[1; 1024]), (9, 0, &[2; 512]), (0, FLUSH, &[])]);
        for (length, expected) in [
            (0, "reading the header of a write log: failed to fill whole buffer"),
            (27, "reading the header of a write log: failed to fill whole buffer"),
            (512, "reading entry 0 of 3 of a write log, at byte 512 of 512: failed to fill whole buffer"),
            (1024, "reading entry 0 of 3 of a write log, at byte 512 of 1024: 1024 bytes of data are cut off"),
            (2047, "reading entry 0 of 3 of a write log, at byte 512 of 2047: 1024 bytes of data are cut off"),
            (2048, "reading entry 1 of 3 of a write log, at byte 2048 of 2048: failed to fill whole buffer"),
            (3071, "reading entry 1 of 3 of a write log, at byte 2048 of 3071: 512 bytes of data are cut off"),
            (3072, "reading entry 2 of 3 of a write log, at byte 3072 of 3072: failed to fill whole buffer"),
        ] {
            assert_eq!(refused(&whole[..length]), expected, "{length}");
        }
        // The last sector need not be there whole: nothing but its first bytes says anything.
        assert!(read(&mut Cursor::new(&whole[..3104])).is_ok());
    }

    #[test]
    fn what_is_no_log_of_ours_is_refused() {
        for (bytes, expected) in [
            (header(1, VERSION, 0, 512), "reading the header of a write log: magic 0x1 (expected 0x6a736677736872)"),
            (header(MAGIC, 2, 0, 512), "reading the header of a write log: version 2 (expected 1)"),
            (header(MAGIC, 1, 0, 500), "reading the header of a write log: sectors of 500 bytes (expected a power of two from 512)"),
            (
                log(&[(0, DISCARD, &[])]),
                "reading entry 0 of 1 of a write log, at byte 512 of 1024: flags 0x4 (expected only flush 1 and forced unit access 2; \
                 discard is 4, mark 8)",
            ),
        ] {
            assert_eq!(refused(&bytes), expected);
        }
        // What QEMU could not write is a hole, to which the header's number goes on counting.
        let hole = refused(&log(&[(7, 0, &[1; 512]), (0, 0, &[]), (9, 0, &[2; 512])]));
        let expected =
            "reading entry 1 of 3 of a write log, at byte 1536 of 3072: no request is there (expected one; QEMU could not write it)";
        assert_eq!(hole, expected);
        let mut endless = log(&[(0, 0, &[])]);
        endless[520..528].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(refused(&endless).ends_with("18446744073709551615 sectors"), "{}", refused(&endless));
    }
}
