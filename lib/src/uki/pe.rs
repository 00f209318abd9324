//! EFI binaries: the headers and section table of PE32+ (PE/COFF specification), read from a file without reading all of it.
//!
//! The layout of the structures is the crate `object`'s; here is what may not be believed: every range is checked against the file before
//! anything is read or made room for.

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use object::LittleEndian as LE;
use object::pe::{
    IMAGE_DIRECTORY_ENTRY_SECURITY, IMAGE_DLLCHARACTERISTICS_NX_COMPAT, IMAGE_NT_OPTIONAL_HDR64_MAGIC, IMAGE_SIZEOF_SECTION_HEADER,
    ImageDataDirectory, ImageDosHeader, ImageFileHeader, ImageNtHeaders64, ImageOptionalHeader64, ImageSectionHeader,
};
use object::read::pe::ImageNtHeaders;

use super::UkiError;

/// Headers must end before this; those of a kernel or a stub end within a page.
const HEADERS: u64 = 64 * 1024;

/// The headers of an EFI binary, every range in them checked against the length of the file.
#[derive(Debug, Clone)]
pub struct Pe {
    pub(super) nt: ImageNtHeaders64,
    /// Where the PE signature is, in bytes from the start of the file.
    pub(super) nt_offset: usize,
    /// Where the section table starts.
    pub(super) table_offset: usize,
    sections: Vec<Section>,
    certificates: Option<Range<u64>>,
}

/// One section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    name: [u8; 8],
    /// Where it is in memory, from the start of the image.
    pub(super) memory: Range<u64>,
    /// Where it is in the file.
    pub(super) file: Range<u64>,
}

impl Pe {
    /// Reads the headers, from the start of the file wherever `file` stands.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is not PE32+, has headers beyond 64 KiB, or whose sections or certificates overlap or are not all there.
    pub fn read<R: Read + Seek>(file: &mut R) -> Result<Self, UkiError> {
        let len = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let mut head = Vec::new();
        file.take(HEADERS).read_to_end(&mut head)?;
        Self::parse(&head, len)
    }

    /// The first section called `name`.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections().find(|section| section.is(name))
    }

    /// All sections, in the order of their headers.
    pub fn sections(&self) -> impl Iterator<Item = &Section> {
        self.sections.iter()
    }

    /// Whether there is a certificate table, which holds the signatures.
    pub fn signed(&self) -> bool {
        self.certificates.is_some()
    }

    /// Where the certificate table is in the file.
    pub fn certificates(&self) -> Option<Range<u64>> {
        self.certificates.clone()
    }

    /// The processor: `IMAGE_FILE_MACHINE_*`.
    pub fn machine(&self) -> u16 {
        self.nt.file_header.machine.get(LE).0
    }

    /// Whether it promises to do without memory that is both writable and executable.
    pub(super) fn nx_compatible(&self) -> bool {
        self.nt.optional_header.dll_characteristics.get(LE).contains(IMAGE_DLLCHARACTERISTICS_NX_COMPAT)
    }

    /// Where the checksum is in the file.
    pub(super) fn checksum(&self) -> Range<usize> {
        let offset = self.optional_header() + std::mem::offset_of!(ImageOptionalHeader64, check_sum);
        offset..offset + 4
    }

    /// Where the header tells about the certificate table, if it has room to tell.
    pub(super) fn certificate_entry(&self) -> Option<Range<usize>> {
        let size = size_of::<ImageDataDirectory>();
        let entries = self.nt.optional_header.number_of_rva_and_sizes.get(LE) as usize;
        let offset = self.optional_header() + size_of::<ImageOptionalHeader64>() + IMAGE_DIRECTORY_ENTRY_SECURITY * size;
        (entries > IMAGE_DIRECTORY_ENTRY_SECURITY).then_some(offset..offset + size)
    }

    fn optional_header(&self) -> usize {
        self.nt_offset + size_of::<u32>() + size_of::<ImageFileHeader>()
    }

    /// Where the section table ends.
    pub(super) fn table_end(&self) -> usize {
        self.table_offset + self.sections.len() * IMAGE_SIZEOF_SECTION_HEADER
    }

    fn parse(head: &[u8], len: u64) -> Result<Self, UkiError> {
        let dos = ImageDosHeader::parse(head).map_err(malformed)?;
        let mut offset = u64::from(dos.nt_headers_offset());
        let nt_offset = offset as usize;
        let (nt, directories) = ImageNtHeaders64::parse(head, &mut offset).map_err(malformed)?;
        if nt.optional_header.magic.get(LE) != IMAGE_NT_OPTIONAL_HDR64_MAGIC {
            return Err(malformed("not PE32+"));
        }
        let table = nt.sections(head, offset).map_err(malformed)?;
        let sections = table.iter().map(|header| Section::parse(header, len)).collect::<Result<Vec<_>, _>>()?;
        let certificates = directories.iter().nth(IMAGE_DIRECTORY_ENTRY_SECURITY).filter(|entry| entry.size.get(LE) != 0);
        let certificates = certificates.map(|entry| range(entry.virtual_address.get(LE), entry.size.get(LE)));
        if certificates.as_ref().is_some_and(|table| table.end > len) {
            return Err(malformed("the certificate table ends beyond the file"));
        }
        let pe = Self { nt: *nt, nt_offset, table_offset: offset as usize, sections, certificates };
        pe.check_overlaps()?;
        Ok(pe)
    }

    /// Two views of the same bytes would let a signature or a reader see one thing and the firmware another.
    fn check_overlaps(&self) -> Result<(), UkiError> {
        let headers = 0..self.table_end() as u64;
        let in_file = self.sections().map(|s| s.file.clone()).chain(self.certificates());
        if overlap(in_file.chain([headers.clone()])) {
            return Err(malformed("headers, sections or certificates overlap in the file"));
        }
        if overlap(self.sections().map(|s| s.memory.clone()).chain([headers])) {
            return Err(malformed("sections overlap in memory"));
        }
        Ok(())
    }
}

impl Section {
    fn parse(header: &ImageSectionHeader, len: u64) -> Result<Self, UkiError> {
        let memory = range(header.virtual_address.get(LE), header.virtual_size.get(LE));
        let file = match header.size_of_raw_data.get(LE) {
            0 => 0..0,
            size => range(header.pointer_to_raw_data.get(LE), size),
        };
        let section = Self { name: header.name, memory, file };
        if section.file.end > len {
            return Err(malformed(format!("section {} ends beyond the file", section.name())));
        }
        Ok(section)
    }

    /// The name, at most eight bytes.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(self.bare_name()).into_owned()
    }

    /// Length of the content in bytes, without the padding in the file.
    pub fn size(&self) -> u64 {
        (self.file.end - self.file.start).min(self.memory.end - self.memory.start)
    }

    /// Reads the content, without the padding in the file.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or became shorter; content of more than `limit` bytes.
    pub fn content<R: Read + Seek>(&self, file: &mut R, limit: u64) -> Result<Vec<u8>, UkiError> {
        if self.size() > limit {
            let (name, size) = (self.name(), self.size());
            return Err(malformed(format!("section {name} has {size} bytes (expected at most {limit})")));
        }
        file.seek(SeekFrom::Start(self.file.start))?;
        let mut content = Vec::new();
        file.take(self.size()).read_to_end(&mut content)?;
        if content.len() as u64 != self.size() {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(content)
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.bare_name() == name.as_bytes()
    }

    fn bare_name(&self) -> &[u8] {
        let end = self.name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        &self.name[..end]
    }
}

pub(super) fn malformed(why: impl std::fmt::Display) -> UkiError {
    UkiError::Malformed(why.to_string())
}

fn range(start: u32, size: u32) -> Range<u64> {
    u64::from(start)..u64::from(start) + u64::from(size)
}

fn overlap(ranges: impl Iterator<Item = Range<u64>>) -> bool {
    let mut ranges: Vec<_> = ranges.filter(|range| !range.is_empty()).collect();
    ranges.sort_by_key(|range| range.start);
    ranges.windows(2).any(|pair| pair[0].end > pair[1].start)
}
