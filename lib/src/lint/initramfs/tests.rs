use std::io::Write;

use super::*;

fn entry(name: &str, content: &[u8]) -> Vec<u8> {
    let numbers = [1, 0o100_644, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
    let mut bytes = b"070701".to_vec();
    numbers.iter().for_each(|number| write!(bytes, "{number:08X}").unwrap());
    bytes.extend(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes: Vec<u8> = entries.iter().flat_map(|(name, content)| entry(name, content)).collect();
    bytes.extend(entry("TRAILER!!!", b""));
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn lz4(bytes: &[u8]) -> Vec<u8> {
    let mut packed = 0x184c_2102_u32.to_le_bytes().to_vec();
    for chunk in bytes.chunks(8 << 20) {
        let block = lz4_flex::block::compress(chunk);
        packed.extend((block.len() as u32).to_le_bytes());
        packed.extend(block);
    }
    packed
}

/// `printf hello > usr/x; find usr | cpio -o -H newc | xz --check=crc32 --lzma2=dict=1MiB`: made once, because nothing here packs xz.
const XZ: &str = include_str!("tests/xz.hex");

fn xz() -> Vec<u8> {
    hex::decode(XZ.split_whitespace().collect::<String>()).unwrap()
}

#[test]
fn every_compression_is_read_alone_and_after_an_early_archive() {
    let dep = b"kernel/fs/a.ko: kernel/fs/b.ko\n".repeat(1000);
    let main = archive(&[("usr", b""), ("usr/x", b"hello"), ("lib/modules/6.1/modules.dep", &dep), (PROGRAM, b"program")]);
    let early = [archive(&[("kernel/x86/microcode/AuthenticAMD.bin", &[7; 5000])]), vec![0; 300]].concat();
    let table = [
        ("plain", main.clone()),
        ("gzip", gzip(&main)),
        ("zstd", zstd::encode_all(&main[..], 3).unwrap()),
        ("lz4", lz4(&main)),
        ("two archives in one part", zstd::encode_all(&[&main[..], &[0; 512], &archive(&[("more", b"")])].concat()[..], 3).unwrap()),
    ];
    for (name, packed) in table {
        let contents = read(&packed[..]).unwrap();
        assert!(contents.has("usr/x") && !contents.has("usr/y"), "{name}");
        assert_eq!(contents.text("usr/lib/modules/6.1/modules.dep").unwrap().as_bytes(), dep, "{name}");
        assert_eq!(contents.program(), Some(openssl::sha::sha256(b"program")), "{name}");
        let after = read(&[&early[..], &packed, &[0; 9]].concat()[..]).unwrap();
        assert!(after.has("usr/x") && after.has("kernel/x86/microcode/AuthenticAMD.bin"), "{name} after an early archive");
        // What ends by itself can be followed by another part.
        if name != "lz4" {
            let followed = read(&[&packed[..], &gzip(&archive(&[("last", b"")]))].concat()[..]).unwrap();
            assert!(followed.has("usr/x") && followed.has("last"), "{name} before another part");
        }
    }
}

#[test]
fn xz_is_read() {
    let contents = read(&xz()[..]).unwrap();
    assert!(contents.has("usr/x"), "{contents:?}");
    let followed = read(&[xz(), gzip(&archive(&[("last", b"")]))].concat()[..]).unwrap();
    assert!(followed.has("usr/x") && followed.has("last"));
}

#[test]
fn names_are_listed_by_directory() {
    let contents = read(&archive(&[("./a/b", b""), ("/a/c", b""), ("ab", b"")])[..]).unwrap();
    assert!(contents.below("a/").eq(["a/b", "a/c"]));
}

#[test]
fn what_is_broken_is_told_and_never_panics() {
    let good = archive(&[("usr/x", b"hello"), (PROGRAM, &[3; 70_000])]);
    assert_eq!(read(&b""[..]), Err(Unreadable::Empty));
    assert_eq!(read(&[0; 100][..]), Err(Unreadable::Empty));
    assert_eq!(read(&b"not an archive"[..]), Err(Unreadable::Unknown(1)));
    assert_eq!(read(&[&good[..], b"garbage"].concat()[..]), Err(Unreadable::Unknown(2)));
    assert_eq!(read(&b"0707"[..]), Err(Unreadable::Part(1, Broken::Truncated)));
    assert_eq!(read(&good[..good.len() - 30]), Err(Unreadable::Part(1, Broken::Truncated)));
    let mut long = entry("x", b"");
    long[6 + 8 * 11..][..8].copy_from_slice(b"FFFFFFFF");
    assert_eq!(read(&long[..]), Err(Unreadable::Part(1, Broken::Header)));
    let mut sign = entry("x", b"");
    sign[6 + 8 * 6..][..8].copy_from_slice(b"+0000001");
    assert_eq!(read(&sign[..]), Err(Unreadable::Part(1, Broken::Header)));
    let mut huge = entry("x", b"");
    huge[6 + 8 * 6..][..8].copy_from_slice(b"FFFFFFFF");
    assert_eq!(read(&huge[..]), Err(Unreadable::Part(1, Broken::Truncated)));
    for packed in [gzip(&good), zstd::encode_all(&good[..], 3).unwrap(), lz4(&good), xz(), good] {
        for cut in (0..packed.len()).step_by(1 + packed.len() / 50) {
            _ = read(&packed[..cut]);
            let mut flipped = packed.clone();
            flipped[cut] ^= 0x41;
            _ = read(&flipped[..]);
        }
    }
}

/// An endless file of zeros, behind one header.
#[test]
fn a_bomb_is_left_when_it_gets_too_large() {
    let mut header = entry(PROGRAM, b"");
    header[6 + 8 * 6..][..8].copy_from_slice(b"FFFFFFF0");
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(&header).unwrap();
    let zeros = vec![0; 16 << 20];
    for _ in 0..130 {
        encoder.write_all(&zeros).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert_eq!(read(&bomb[..]), Err(Unreadable::Part(1, Broken::TooLarge)));
}
