//! Appending sections to an EFI binary: behind its last one, in the file and in memory.

use std::io::Cursor;

use object::LittleEndian as LE;
use object::pe::{
    IMAGE_DLLCHARACTERISTICS_NX_COMPAT, IMAGE_SCN_CNT_CODE, IMAGE_SCN_CNT_INITIALIZED_DATA, IMAGE_SCN_MEM_READ,
    IMAGE_SIZEOF_SECTION_HEADER, ImageNtHeaders64, ImageSectionHeader,
};
use object::{U32, pod};

use super::UkiError;
use super::pe::{Pe, malformed};

/// A section to append.
pub(super) struct New<'a> {
    pub(super) name: &'static str,
    pub(super) content: &'a [u8],
}

/// `binary` with `sections` behind its own. Nothing else changes but the headers that tell of them.
pub(super) fn append(binary: &[u8], sections: &[New<'_>]) -> Result<Vec<u8>, UkiError> {
    let pe = Pe::read(&mut Cursor::new(binary))?;
    let mut place = Place::behind(&pe, binary)?;
    let headers_end = room_for_headers(&pe, binary, sections.len(), place.file_alignment)?;

    let total: usize = sections.iter().map(|s| s.content.len() + place.file_alignment as usize).sum();
    let mut bytes = Vec::with_capacity(binary.len() + total);
    bytes.extend_from_slice(binary);
    let mut nt = pe.nt;
    let mut table = Vec::new();
    for section in sections {
        let header = place.take(section)?;
        bytes.resize(header.pointer_to_raw_data.get(LE) as usize, 0);
        bytes.extend_from_slice(section.content);
        bytes.resize(place.file as usize, 0);
        table.extend_from_slice(pod::bytes_of(&header));
        promise_no_more_than(section, &mut nt);
    }

    let contents: u64 = sections.iter().map(|s| s.content.len() as u64).sum();
    let count = nt.file_header.number_of_sections.get(LE).checked_add(sections.len() as u16).ok_or(UkiError::TooLarge)?;
    nt.file_header.number_of_sections.set(LE, count);
    let optional = &mut nt.optional_header;
    optional.size_of_headers.set(LE, headers_end);
    optional.size_of_image.set(LE, narrow(place.memory)?);
    optional.size_of_initialized_data.set(LE, narrow(u64::from(optional.size_of_initialized_data.get(LE)) + contents)?);
    put(&mut bytes, pe.table_end(), &table)?;
    nt.optional_header.check_sum.set(LE, 0);
    put(&mut bytes, pe.nt_offset, pod::bytes_of(&nt))?;
    let sum = checksum(&bytes);
    put(&mut bytes, pe.checksum().start, &sum.to_le_bytes())?;
    Ok(bytes)
}

/// Where the next section goes.
struct Place {
    file: u64,
    memory: u64,
    file_alignment: u64,
    section_alignment: u64,
}

impl Place {
    fn behind(pe: &Pe, binary: &[u8]) -> Result<Self, UkiError> {
        let optional = &pe.nt.optional_header;
        let (file_alignment, section_alignment) = (optional.file_alignment.get(LE).into(), optional.section_alignment.get(LE).into());
        // The specification's bounds; a page of 64 KiB is the largest.
        if ![file_alignment, section_alignment].iter().all(|a: &u64| a.is_power_of_two() && (512..=65536).contains(a)) {
            return Err(malformed(format!("sections are aligned to {file_alignment} and {section_alignment} bytes")));
        }
        let end = pe.sections().map(|section| section.memory.end).max().unwrap_or_default();
        let end = end.max(optional.size_of_headers.get(LE).into());
        Ok(Self {
            file: (binary.len() as u64).next_multiple_of(file_alignment),
            memory: end.next_multiple_of(section_alignment),
            file_alignment,
            section_alignment,
        })
    }

    /// Gives a section its place, and moves on.
    fn take(&mut self, section: &New<'_>) -> Result<ImageSectionHeader, UkiError> {
        let mut name = [0; 8];
        name[..section.name.len()].copy_from_slice(section.name.as_bytes());
        let size = section.content.len() as u64;
        let raw = size.next_multiple_of(self.file_alignment);
        let kind = if section.name == LINUX { IMAGE_SCN_CNT_CODE } else { IMAGE_SCN_CNT_INITIALIZED_DATA };
        let header = ImageSectionHeader {
            name,
            virtual_size: U32::new(LE, narrow(size)?),
            virtual_address: U32::new(LE, narrow(self.memory)?),
            size_of_raw_data: U32::new(LE, narrow(raw)?),
            pointer_to_raw_data: U32::new(LE, narrow(self.file)?),
            characteristics: U32::new(LE, kind | IMAGE_SCN_MEM_READ),
            ..ImageSectionHeader::default()
        };
        self.file += raw;
        self.memory = (self.memory + size).next_multiple_of(self.section_alignment);
        Ok(header)
    }
}

/// The section of the kernel.
pub(super) const LINUX: &str = ".linux";

/// Firmware that enforces it wants kernel and stub to agree on memory that is never both writable and executable: a kernel that does not
/// promise it takes the promise from the whole.
fn promise_no_more_than(section: &New<'_>, nt: &mut ImageNtHeaders64) {
    if section.name != LINUX || !Pe::read(&mut Cursor::new(section.content)).is_ok_and(|kernel| !kernel.nx_compatible()) {
        return;
    }
    let mut flags = nt.optional_header.dll_characteristics.get(LE);
    flags.0 &= !IMAGE_DLLCHARACTERISTICS_NX_COMPAT.0;
    nt.optional_header.dll_characteristics.set(LE, flags);
}

/// Where the headers end with `count` more sections: still before the first section, in the file and in memory, and over nothing else.
fn room_for_headers(pe: &Pe, binary: &[u8], count: usize, file_alignment: u64) -> Result<u32, UkiError> {
    let wanted = pe.table_end() + count * IMAGE_SIZEOF_SECTION_HEADER;
    let starts = pe.sections().flat_map(|s| [&s.file, &s.memory]).filter(|range| !range.is_empty()).map(|range| range.start);
    let limit = starts.min().unwrap_or(binary.len() as u64);
    let declared = u64::from(pe.nt.optional_header.size_of_headers.get(LE));
    let end = declared.max(wanted as u64).next_multiple_of(file_alignment);
    let free = binary.get(pe.table_end()..wanted).is_some_and(|gap| gap.iter().all(|byte| *byte == 0));
    if end > limit || !free {
        return Err(UkiError::NoRoom { sections: count });
    }
    narrow(end)
}

/// The checksum of a binary whose checksum is zero, as `CheckSumMappedFile` computes it: 16-bit words added up with their carry, plus the
/// length of the file.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut sum: u64 = bytes.chunks(2).map(|w| u64::from(w[0]) | u64::from(w.get(1).copied().unwrap_or(0)) << 8).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (sum + bytes.len() as u64) as u32
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) -> Result<(), UkiError> {
    let place = bytes.get_mut(at..at + what.len()).ok_or(UkiError::TooLarge)?;
    place.copy_from_slice(what);
    Ok(())
}

fn narrow(size: u64) -> Result<u32, UkiError> {
    size.try_into().map_err(|_| UkiError::TooLarge)
}
