//! Small EFI binaries for tests, written field by field after the PE/COFF specification, without the code under test.

/// Where the section table starts.
pub(crate) const TABLE: usize = 0x40 + 4 + 20 + 240;

/// Where the checksum is.
#[cfg(test)]
pub(crate) const CHECKSUM: usize = 0x40 + 4 + 20 + 64;

/// Where the entry of the certificate table is among the data directories.
pub(crate) const CERTIFICATE_ENTRY: usize = 0x40 + 4 + 20 + 112 + 4 * 8;

/// What a systemd stub says that it is.
pub(crate) const STUB: (&str, &[u8]) = (".sdmagic", b"#### LoaderInfo: systemd-stub 257 ####\0");

/// What the stub of an addon says that it is.
pub(crate) const ADDON: (&str, &[u8]) = (".sdmagic", b"#### LoaderInfo: systemd-addon 257 ####\0");

/// The smallest program: `ret`.
pub(crate) const TEXT: (&str, &[u8]) = (".text", b"\xc3");

/// A stub for unified kernel images.
pub(crate) fn stub() -> Vec<u8> {
    binary(&[TEXT, STUB])
}

/// A binary for x86-64 with these sections, headers of 1 KiB, and sections aligned to a page in memory and to 512 bytes in the file.
pub(crate) fn binary(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut table = Vec::new();
    let mut body = Vec::new();
    let mut memory = 0x1000_u32;
    for (name, content) in sections {
        let raw = content.len().next_multiple_of(512);
        let mut header = name.as_bytes().to_vec();
        header.resize(8, 0);
        for field in [content.len() as u32, memory, raw as u32, 0x400 + body.len() as u32, 0, 0, 0, 0x6000_0020] {
            header.extend(field.to_le_bytes());
        }
        table.extend(header);
        body.extend_from_slice(content);
        body.resize(body.len().next_multiple_of(512), 0);
        memory += (content.len() as u32).next_multiple_of(0x1000);
    }

    let mut file = b"MZ".to_vec();
    file.resize(0x3c, 0);
    file.extend(0x40_u32.to_le_bytes());
    file.extend(b"PE\0\0");
    file.extend(0x8664_u16.to_le_bytes());
    file.extend((sections.len() as u16).to_le_bytes());
    file.extend([0x78, 0x56, 0x34, 0x12]); // TimeDateStamp
    file.extend([0; 8]);
    file.extend(240_u16.to_le_bytes());
    file.extend(0x22e_u16.to_le_bytes());
    // The optional header.
    file.extend(0x20b_u16.to_le_bytes());
    file.extend([0, 0]);
    for field in [0x200_u32, 0, 0, 0x1000, 0x1000] {
        file.extend(field.to_le_bytes());
    }
    file.extend(0_u64.to_le_bytes());
    for field in [0x1000_u32, 0x200, 0, 0, 0x10001, 0, memory, 0x400, 0] {
        file.extend(field.to_le_bytes());
    }
    file.extend(10_u16.to_le_bytes()); // an EFI application
    file.extend(0x160_u16.to_le_bytes()); // among others NX_COMPAT
    for field in [0x10_0000_u64, 0x1000, 0x10_0000, 0x1000] {
        file.extend(field.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 16, 0, 0, 0]);
    file.resize(TABLE, 0);
    file.extend(table);
    file.resize(0x400, 0);
    file.extend(body);
    file
}

/// `binary` with a certificate table that has nothing of use in it.
pub(crate) fn with_certificates(binary: &[u8], table: &[u8]) -> Vec<u8> {
    let mut signed = binary.to_vec();
    signed.resize(signed.len().next_multiple_of(8), 0);
    let place = [signed.len() as u32, table.len() as u32];
    signed.extend(table);
    for (entry, value) in signed[CERTIFICATE_ENTRY..].chunks_mut(4).zip(place) {
        entry.copy_from_slice(&value.to_le_bytes());
    }
    signed
}
