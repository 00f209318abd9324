use std::io::Cursor;

use super::fixture::{ADDON, CERTIFICATE_ENTRY, CHECKSUM, STUB, TABLE, TEXT, binary, stub, with_certificates};
use super::pe::Pe;
use super::*;

const OS: &str = "ID=debian\nPRETTY_NAME=\"Debian 13\"\n";
const ROOT: &str = "composefs.digest=v1-sha256-12:abababababababababababababababababababababababababababababababab";

fn read(bytes: &[u8]) -> Result<Uki, UkiError> {
    Uki::read(&mut Cursor::new(bytes))
}

fn section(bytes: &[u8], name: &str) -> Vec<u8> {
    let pe = Pe::read(&mut Cursor::new(bytes)).unwrap();
    pe.section(name).unwrap().content(&mut Cursor::new(bytes), u64::MAX).unwrap()
}

fn parts(stub: &[u8]) -> Parts<'_> {
    let cmdline = concat!("quiet rw composefs.digest=v1-sha256-12:", "abababababababababababababababababababababababababababababababab");
    Parts { stub, os_release: OS, cmdline, uname: "6.12.0", linux: b"kernel", initrd: &[7; 5000] }
}

#[test]
fn what_is_put_in_is_read_again() {
    let image = assemble(&parts(&stub())).unwrap();
    let uki = read(&image).unwrap();
    let expected = Uki {
        kind: Kind::Image,
        os_release: Some(OsRelease::parse(OS)),
        cmdline: Some(format!("quiet rw {ROOT}")),
        uname: Some("6.12.0".into()),
        has_initrd: true,
        signed: false,
    };
    assert_eq!(uki, expected);
    assert_eq!(uki.root_images().unwrap(), Cmdline::parse(ROOT).root_images().unwrap());
    for (name, content) in [(".linux", &b"kernel"[..]), (".initrd", &[7; 5000]), (".osrel", OS.as_bytes()), STUB, TEXT] {
        assert_eq!(section(&image, name), content, "{name}");
    }
    let names: Vec<_> = Pe::read(&mut Cursor::new(&image)).unwrap().sections().map(pe::Section::name).collect();
    assert_eq!(names, [".text", ".sdmagic", ".osrel", ".cmdline", ".uname", ".linux", ".initrd"]);
    assert_eq!(assemble(&parts(&stub())).unwrap(), image, "the same parts give the same bytes");
}

#[test]
fn the_stub_itself_is_left_alone() {
    let stub = stub();
    let image = assemble(&parts(&stub)).unwrap();
    let changed: Vec<usize> = (0..stub.len()).filter(|at| stub[*at] != image[*at]).collect();
    let new_headers = TABLE + 2 * 40..TABLE + 7 * 40;
    let fields = [0x46, 0x60, 0x61, 0x90, 0x91, CHECKSUM, CHECKSUM + 1]; // sections, initialized data, size of the image, checksum
    let other: Vec<_> = changed.into_iter().filter(|at| !new_headers.contains(at) && !fields.contains(at)).collect();
    assert_eq!(other, [] as [usize; 0]);
}

#[test]
fn an_addon_has_a_command_line_and_nothing_to_boot() {
    let stub = binary(&[TEXT, ADDON]);
    let addon = assemble_addon(&stub, "console=ttyS0", "6.1").unwrap();
    let uki = read(&addon).unwrap();
    assert_eq!((uki.kind, uki.cmdline.as_deref(), uki.uname.as_deref()), (Kind::Addon, Some("console=ttyS0"), Some("6.1")));
    assert_eq!(section(&addon, ".uname"), b"6.1\0", "the stub of a kernel 6.10 would be content with 6.1");
    for bad in ["", "6.1\x006"] {
        assert!(assemble_addon(&stub, "console=ttyS0", bad).is_err(), "{bad:?}");
    }
    assert_eq!(uki.root_images(), Ok(vec![]));
    assert!(section(&addon, ".sbat").starts_with(b"sbat,1,"));
    assert_eq!(read(&stub).unwrap().kind, Kind::Other);
}

#[test]
fn a_kernel_that_promises_less_takes_the_promise_from_the_whole() {
    let careful = binary(&[TEXT]);
    let mut careless = careful.clone();
    careless[CHECKSUM + 7] &= !1;
    for (kernel, promised) in [(&careful, true), (&careless, false), (&b"no EFI binary".to_vec(), true)] {
        let image = assemble(&Parts { linux: kernel, ..parts(&stub()) }).unwrap();
        assert_eq!(Pe::read(&mut Cursor::new(&image)).unwrap().nx_compatible(), promised);
    }
}

#[test]
fn unfit_stubs_are_refused_with_a_reason() {
    let mut full = stub();
    full[TABLE + 2 * 40 + 39] = 1;
    let table: [(&str, Vec<u8>, &str); 8] = [
        ("empty", vec![], "reading an EFI binary"),
        ("text", b"#!/bin/sh\n".repeat(100), "DOS"),
        ("no magic", binary(&[TEXT]), "no section .sdmagic"),
        ("boot loader", binary(&[TEXT, (".sdmagic", b"#### LoaderInfo: systemd-boot 257 ####")]), "systemd-boot 257"),
        ("addon stub", binary(&[TEXT, ADDON]), "systemd-addon 257"),
        ("signed", with_certificates(&stub(), &[1; 16]), "is signed"),
        ("no bare one", assemble(&parts(&stub())).unwrap(), "has a section .osrel already"),
        ("something behind the section table", full, "no room for 5 more sections"),
    ];
    for (what, stub, reason) in table {
        let error = assemble(&parts(&stub)).unwrap_err().to_string();
        assert!(error.contains(reason), "{what}: {error}");
    }
    let many: Vec<(String, &[u8])> = (0..12).map(|i| (format!(".s{i}"), &b"x"[..])).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(name, content)| (name.as_str(), *content)).chain([STUB]).collect();
    assert!(matches!(assemble(&parts(&binary(&many))), Err(UkiError::NoRoom { sections: 5 })));
    assert!(assemble(&parts(&binary(&many[1..]))).is_ok(), "headers of 1 KiB have room for 17 sections");
}

#[test]
fn the_checksum_is_that_of_the_specification() {
    // The words 1, 2 and 0xffff add up to 0x10002, with the carry 3; and six bytes.
    assert_eq!(append::checksum(&[1, 0, 2, 0, 0xff, 0xff]), 9);
    assert_eq!(append::checksum(&[0, 0, 5]), 8);
}

#[test]
fn unfit_parts_are_refused() {
    let stub = stub();
    assert!(matches!(assemble(&Parts { cmdline: " \n", ..parts(&stub) }), Err(UkiError::Empty(".cmdline"))));
    assert!(matches!(assemble(&Parts { initrd: b"", ..parts(&stub) }), Err(UkiError::Empty(".initrd"))));
    assert!(matches!(assemble(&Parts { cmdline: "a\0b", ..parts(&stub) }), Err(UkiError::NotText(".cmdline"))));
    let mut foreign = binary(&[TEXT]);
    foreign[0x44..0x46].copy_from_slice(&0xaa64_u16.to_le_bytes());
    let error = assemble(&Parts { linux: &foreign, ..parts(&stub) }).unwrap_err();
    assert!(matches!(error, UkiError::OtherMachine { kernel: 0xaa64, stub: 0x8664 }), "{error}");
}

#[test]
fn text_is_trimmed_and_must_be_text() {
    let cmdline = |content: &[u8]| read(&binary(&[TEXT, (".cmdline", content)]));
    for content in [&b"quiet"[..], b"quiet\n", b"quiet\0", b" quiet \n\0\0\0"] {
        assert_eq!(cmdline(content).unwrap().cmdline.as_deref(), Some("quiet"));
    }
    for content in [&b"quiet\0splash"[..], b"\xff"] {
        assert!(matches!(cmdline(content), Err(UkiError::NotText(".cmdline"))));
    }
    let error = cmdline(&vec![b'a'; 1024 * 1024 + 1]).unwrap_err().to_string();
    assert!(error.contains("1048577 bytes (expected at most 1048576)"), "{error}");
}

#[test]
fn what_the_menu_would_decide_is_refused() {
    let one: (&str, &[u8]) = (".cmdline", b"a");
    assert!(matches!(read(&binary(&[TEXT, one, one])), Err(UkiError::Twice(".cmdline"))));
    let profile: (&str, &[u8]) = (".profile", b"ID=a");
    assert!(read(&binary(&[TEXT, one, profile])).is_ok());
    assert!(matches!(read(&binary(&[TEXT, one, profile, profile])), Err(UkiError::Twice(".profile"))));
}

#[test]
fn a_certificate_table_makes_it_signed() {
    let image = assemble(&parts(&stub())).unwrap();
    let signed = with_certificates(&image, &[0xaa; 24]);
    assert_eq!(read(&signed).unwrap(), Uki { signed: true, ..read(&image).unwrap() });
}

#[test]
fn headers_that_lie_are_errors() {
    let image = assemble(&parts(&stub())).unwrap();
    let signed = with_certificates(&image, &[0xaa; 24]);
    let word = |at: usize, value: u32| (at, value.to_le_bytes().to_vec());
    let header = |section: usize, field: usize| TABLE + section * 40 + field;
    let table = [
        ("signature beyond the file", word(0x3c, u32::MAX)),
        ("signature at the end", word(0x3c, signed.len() as u32 - 2)),
        ("32 bits", (0x58, vec![0x0b, 0x01])),
        ("65535 sections", (0x46, vec![0xff, 0xff])),
        ("optional header too small", (0x54, vec![0x10, 0])),
        ("optional header too large", (0x54, vec![0xff, 0xff])),
        ("countless directories", word(TABLE - 16 * 8 - 4, u32::MAX)),
        ("content beyond the file", word(header(3, 20), signed.len() as u32)),
        ("more content than file", word(header(3, 16), u32::MAX)),
        ("content over that of another", word(header(3, 20), 0x400)),
        ("content over the headers", word(header(3, 20), 0)),
        ("memory of another", word(header(3, 12), 0x1000)),
        ("more memory than up to the next", word(header(3, 8), u32::MAX)),
        ("memory over the headers", word(header(3, 12), 0)),
        ("certificates beyond the file", word(CERTIFICATE_ENTRY, signed.len() as u32)),
        ("endless certificates", word(CERTIFICATE_ENTRY + 4, u32::MAX)),
        ("certificates over a section", word(CERTIFICATE_ENTRY, 0x400)),
        ("certificates at the start", word(CERTIFICATE_ENTRY, 0)),
    ];
    read(&signed).unwrap();
    for (what, (at, bytes)) in table {
        let mut lying = signed.clone();
        lying[at..at + bytes.len()].copy_from_slice(&bytes);
        let error = read(&lying).err().unwrap_or_else(|| panic!("{what}: was read"));
        assert!(matches!(error, UkiError::Malformed(_)), "{what}: {error}");
    }
}

#[test]
fn a_binary_cut_short_is_an_error_and_never_a_panic() {
    let image = with_certificates(&assemble(&parts(&stub())).unwrap(), &[0xaa; 24]);
    for len in 0..image.len() {
        assert!(read(&image[..len]).is_err(), "{len} of {} bytes were read", image.len());
        assert!(assemble(&parts(&image[..len])).is_err());
    }
}

#[test]
fn no_byte_of_the_headers_makes_a_panic() {
    let stub = stub();
    for at in 0..TABLE + 3 * 40 {
        for value in [0, 1, 0x7f, 0x80, 0xff, stub[at] ^ 1, stub[at].wrapping_add(1)] {
            let mut odd = stub.clone();
            odd[at] = value;
            let _ = read(&odd);
            let _ = authenticode::digest(&odd);
            let _ = authenticode::signatures(&odd);
            if let Ok(image) = assemble(&parts(&odd)) {
                read(&image).unwrap_or_else(|e| panic!("byte {at} is {value}: assembled, and then {e}"));
            }
        }
    }
}

#[test]
fn a_signature_may_add_itself_and_nothing_else() {
    let unsigned = &assemble(&parts(&stub())).unwrap()[..];
    let table = |unsigned: &[u8]| [&[0xaa; 6], &[4, 32][..], &authenticode::digest(unsigned).unwrap()].concat();
    let signed = with_certificates(unsigned, &table(unsigned));
    let check = |signed: &[u8]| authenticode::check_signed_form(unsigned, signed);
    check(&signed).unwrap();
    let mut resummed = signed.clone();
    resummed[CHECKSUM..CHECKSUM + 4].fill(9);
    check(&resummed).unwrap();

    let odd = [unsigned, b"abc"].concat();
    let signed_odd = with_certificates(&odd, &table(&odd));
    authenticode::check_signed_form(&odd, &signed_odd).unwrap();
    let mut padded_with_more = signed_odd.clone();
    padded_with_more[odd.len()] = 1;
    assert!(authenticode::check_signed_form(&odd, &padded_with_more).is_err());

    let other = |at: usize| {
        let mut other = signed.clone();
        other[at] ^= 1;
        other
    };
    let refused = [
        ("not signed", unsigned.to_vec(), "no certificate table"),
        ("another time stamp", other(0x48), "differ at byte 72"),
        ("another kernel", other(0x1000), "differ at byte 4096"),
        ("more at the end", [&signed[..], b"12345678"].concat(), "certificate table is at"),
        ("more in between", with_certificates(&[unsigned, &[0; 8]].concat(), &table(unsigned)), "certificate table is at"),
        ("signature of another", with_certificates(unsigned, &table(&odd)), "not of this binary's SHA-256 digest"),
        ("nothing", vec![], "reading an EFI binary"),
    ];
    for (what, signed, reason) in refused {
        let error = check(&signed).unwrap_err().to_string();
        assert!(error.contains(reason), "{what}: {error}");
    }
    assert!(authenticode::check_signed_form(&signed, &signed).unwrap_err().to_string().contains("signed already"));
}

#[test]
fn the_digest_leaves_out_what_signing_changes() {
    let binary = stub();
    let digest = |change: usize| {
        let mut changed = binary.clone();
        changed[change] ^= 1;
        authenticode::digest(&changed).unwrap()
    };
    let unchanged = authenticode::digest(&binary).unwrap();
    for at in [CHECKSUM, CHECKSUM + 3] {
        assert_eq!(digest(at), unchanged, "byte {at}");
    }
    for at in [CHECKSUM - 5, CHECKSUM + 4, CERTIFICATE_ENTRY - 1, CERTIFICATE_ENTRY + 8, TABLE + 39, 0x3ff, 0x400, binary.len() - 1] {
        assert_ne!(digest(at), unchanged, "byte {at}");
    }
}

#[test]
fn the_digest_is_the_same_when_it_is_signed() {
    for content in [&[7; 24][..], &[7; 29]] {
        let binary = [&stub(), content].concat();
        let signed = with_certificates(&binary, &[1; 16]);
        assert_eq!(authenticode::digest(&signed).unwrap(), authenticode::digest(&binary).unwrap());
        assert!(authenticode::digest(&[&signed[..], b"more"].concat()).is_err());
    }
}

/// One certificate of a table.
fn certificate(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut bytes = (8 + content.len() as u32).to_le_bytes().to_vec();
    bytes.extend(0x200_u16.to_le_bytes());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

#[test]
fn a_certificate_table_is_taken_apart() {
    let table = [certificate(2, b"first one"), certificate(1, b"of another type"), certificate(2, b"second")].concat();
    let signed = with_certificates(&stub(), &table);
    assert_eq!(authenticode::signatures(&signed).unwrap(), [&b"first one"[..], b"second"]);
    assert!(authenticode::signatures(&stub()).unwrap().is_empty());
    let endless = [&[0xff; 4][..], &table[4..]].concat();
    let standing = [&[0; 4][..], &table[4..]].concat();
    let short = [&[7, 0, 0, 0][..], &table[4..]].concat();
    for torn in [&table[..4], &table[..10], &endless, &standing, &short] {
        assert!(authenticode::signatures(&with_certificates(&stub(), torn)).is_err(), "{torn:?}");
    }
}
