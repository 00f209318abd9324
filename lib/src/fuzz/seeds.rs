//! Good bytes of every kind, small.

use super::join;
use crate::uki::fixture;

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::read::GzEncoder::new(bytes, flate2::Compression::default());
    let mut packed = Vec::new();
    std::io::Read::read_to_end(&mut encoder, &mut packed).expect("packing");
    packed
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(bytes, 3).expect("packing")
}

/// Small and larger files, long names, extended attributes, links.
pub(super) fn tars() -> Vec<Vec<u8>> {
    let header = |kind, size| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header
    };
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind, content: &[u8]| {
        builder.append_data(&mut header(kind, content.len() as u64), name, content).expect("writing");
    };
    add("d", tar::EntryType::Directory, b"");
    add("d/small", tar::EntryType::Regular, &[7; 60]);
    add("d/large", tar::EntryType::Regular, &[7; 700]);
    add(&("d/".repeat(70) + "long"), tar::EntryType::Regular, b"x");
    builder.append_link(&mut header(tar::EntryType::Symlink, 0), "link", "d/".repeat(70)).expect("writing");
    builder.append_pax_extensions([("SCHILY.xattr.user.a", &b"b"[..]), ("size", b"3")]).expect("writing");
    builder.append_data(&mut header(tar::EntryType::Regular, 3), "pax", &b"abc"[..]).expect("writing");
    vec![builder.into_inner().expect("writing"), vec![0; 1024]]
}

/// Roots of one layer and of two: all kinds of entries, attributes that several files have, a policy for labels; whiteouts, an opaque directory, a file in place of a directory
/// and the reverse.
pub(super) fn trees() -> Vec<Vec<u8>> {
    use tar::EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
    let archive = |entries: &[(&str, tar::EntryType, &[u8])]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(if *kind == Directory { 0o755 } else { 0o644 });
            header.set_device_major(1).and_then(|()| header.set_device_minor(3)).expect("writing");
            if matches!(kind, Link | Symlink) {
                header.set_link_name_literal(content).expect("writing");
                header.set_size(0);
                builder.append_data(&mut header, name, &b""[..]).expect("writing");
                continue;
            }
            if *kind == Regular {
                builder
                    .append_pax_extensions([("SCHILY.xattr.user.a", &b"b"[..]), ("SCHILY.xattr.security.capability", name.as_bytes())])
                    .expect("writing");
            }
            header.set_size(content.len() as u64);
            builder.append_data(&mut header, name, *content).expect("writing");
        }
        builder.into_inner().expect("writing")
    };
    let below = archive(&[
        ("usr", Directory, b""),
        ("usr/d/small", Regular, &[7; 60]),
        ("usr/d/large", Regular, &[7; 700]),
        ("usr/link", Link, b"usr/d/large"),
        ("sbin", Symlink, b"usr/d"),
        ("dev/null", Char, b""),
    ]);
    let above = archive(&[
        ("usr/.wh.link", Regular, b""),
        ("usr/d/.wh..wh..opq", Regular, b""),
        ("usr/d/small/now", Directory, b""),
        ("sbin", Fifo, b""),
        ("dev", Block, b""),
    ]);
    let policy = archive(&[
        ("usr", Directory, b""),
        ("etc/selinux/config", Regular, b"SELINUXTYPE=a\n"),
        ("etc/selinux/a/contexts/files/file_contexts", Regular, b"/usr(/.*)? system_u:object_r:usr_t:s0\n/etc -d a:b:c:s0\n/.* a:b:d:s0\n"),
    ]);
    let [files, config] = ["etc/selinux/b/contexts/files/", "etc/selinux/config"];
    let patterns =
        policies().concat().split(|byte| *byte == b'\n').fold(Vec::new(), |lines, line| [&lines[..], line, b" -d a:b:c:s0\n"].concat());
    let policy_of_files = archive(&[
        ("usr/lib/x/y", Directory, b""),
        (config, Regular, b"# SELINUXTYPE=a\nSELINUX=enforcing\nselinuxtype = b \n"),
        (&format!("{files}file_contexts"), Regular, &patterns),
        (&format!("{files}file_contexts.local"), Regular, b"\n# none\n/usr/lib/x/.{0,9} <<none>>\n"),
        (&format!("{files}file_contexts.homedirs"), Regular, b"/home/[^/]+(/.*)? a:b:e:s0\n"),
        (&format!("{files}file_contexts.subs"), Regular, b"/usr/lib/x /usr/y\n"),
        (&format!("{files}file_contexts.subs_dist"), Regular, b"# none\n/usr/y /home\n"),
    ]);
    vec![below.clone(), join(&[&below, &above]), policy, policy_of_files]
}

/// Patterns for automata, and such that have to be tried.
pub(super) fn policies() -> Vec<Vec<u8>> {
    texts(&[
        "/.*\n/usr(/.*)?\n/usr/lib/.*/lib(a|bc|bd)\\.so(\\.[^/]*)*\n/dev/[0-9].*\n/run/a[0-9]{0,9}\\.sock\n/[[:alpha:]]{2}+",
        "/run/a-(?!b).*\n/srv/(?<!x)[^/]+/y?\n/run/user/%{USERID}/z(/.*)?",
    ])
}

pub(super) fn layers() -> Vec<Vec<u8>> {
    let tar = &tars()[0];
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(tar)].concat();
    vec![tar.clone(), gzip(tar), zstd(tar), [gzip(&tar[..600]), gzip(&tar[600..])].concat(), skippable]
}

pub(super) fn manifests() -> Vec<Vec<u8>> {
    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let oci = |kind: &str| format!("application/vnd.oci.image.{kind}");
    let manifest = |media: &str, config: &str, layer: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{media}","config":{{"mediaType":"{config}","digest":"{DIGEST}","size":2}},"layers":[{{"mediaType":"{layer}","digest":"{DIGEST}","size":7,"annotations":{{"io.github.containers.zstd-chunked.manifest-position":"1:2:3:1"}}}}],"annotations":{{"a":"b"}}}}"#
        )
    };
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Labels":{{"a":"b"}}}},"rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"history":[{{"created_by":"a"}},{{"empty_layer":true}}]}}"#
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{DIGEST}","size":2,"platform":{{"architecture":"amd64","os":"linux","variant":"v3"}}}}]}}"#,
        oci("manifest.v1+json")
    );
    let docker = "application/vnd.docker";
    let manifests = [
        manifest(&oci("manifest.v1+json"), &oci("config.v1+json"), &oci("layer.v1.tar+zstd")),
        manifest(
            &format!("{docker}.distribution.manifest.v2+json"),
            &format!("{docker}.container.image.v1+json"),
            &format!("{docker}.image.rootfs.diff.tar.gzip"),
        ),
    ];
    // Lists of values in place of objects, which typed readers take.
    let listed = format!(
        r#"[2,"{docker}.distribution.manifest.v2+json",null,["{docker}.container.image.v1+json","{DIGEST}",2,null,null,null,null,null],[["{docker}.image.rootfs.diff.tar.gzip","{DIGEST}",7,null,null,null,null,null]],null,null]"#
    );
    let manifests = [&manifests[..], &[listed]].concat();
    manifests.iter().map(|manifest| join(&[manifest.as_bytes(), config.as_bytes(), index.as_bytes()])).collect()
}

pub(super) fn registries_confs() -> Vec<Vec<u8>> {
    let conf = "unqualified-search-registries = ['a.test']\n[[registry]]\nprefix = '*.test'\nlocation = 'registry.test:5000/a'\ninsecure = true\n\
                mirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'mirror.test/b'\npull-from-mirror = 'tag-only'\n\
                [[registry]]\nlocation = 'registry.test/a'\nblocked = true\n";
    vec![join(&[conf.as_bytes(), b"registry.test/a/os:stable"]), join(&[b"[[registry]]\nlocation = 'registry.test'\n", b"registry.test/a"])]
}

pub(super) fn credentials() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"auths":{"registry.test":{"auth":"dXNlcjpwYXNz"},"registry.test/a":{"auth":"YTpiAAA="}}}"#,
        r#"{"auths":{"https://registry.test/v1/":{"auth":"dXNlcjpwYXNz","identitytoken":""}},"credHelpers":{"other.test":"x"}}"#,
    ])
}

pub(super) fn challenges() -> Vec<Vec<u8>> {
    texts(&[
        r#"Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/os:pull""#,
        r#"Basic realm="a \"b\" c", Bearer realm=x"#,
        "Negotiate, Basic realm=a",
    ])
}

/// An archive in the form newc.
fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files.iter().chain([&("TRAILER!!!", &b""[..])]) {
        let fields = [1, 0o100644, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend(b"070701");
        fields.iter().for_each(|field| archive.extend(format!("{field:08x}").bytes()));
        archive.extend(name.bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

pub(super) fn initramfses() -> Vec<Vec<u8>> {
    let plain = cpio(&[("init", b"#!/bin/sh\n"), ("lib/a", b"abc"), ("usr/lib/modules/6/modules.dep", b"a: b\n")]);
    let program = cpio(&[("usr/lib/selkie/selkie-initramfs", b"ELF")]);
    // lz4 -l: the magic number, and a chunk with nothing but literals.
    let length = program.len() - 15;
    let literals = [&[0xf0][..], &vec![255; length / 255], &[(length % 255) as u8], &program].concat();
    let lz4 = [&0x184c_2102_u32.to_le_bytes()[..], &(literals.len() as u32).to_le_bytes(), &literals].concat();
    vec![plain.clone(), gzip(&plain), [plain.clone(), vec![0; 512], zstd(&program)].concat(), lz4, b"L+ /run/a - - - - \"b c\"\n".to_vec()]
}

pub(super) fn ukis() -> Vec<Vec<u8>> {
    let kernel = fixture::binary(&[fixture::TEXT]);
    let sections: [(&str, &[u8]); 5] =
        [fixture::TEXT, (".osrel", b"ID=a\n"), (".cmdline", b"quiet composefs=00"), (".uname", b"6.12\0"), (".linux", &kernel)];
    let image = fixture::binary(&sections);
    let table = [&12_u32.to_le_bytes()[..], &[0, 2, 2, 0], &[0x30, 2, 5, 0, 0, 0, 0, 0]].concat();
    let signed = fixture::with_certificates(&image, &table);
    let addon = fixture::binary(&[fixture::TEXT, fixture::ADDON]);
    vec![join(&[&fixture::stub(), &kernel]), join(&[&image, &signed]), join(&[&signed, &signed]), addon]
}

pub(super) fn signature_databases() -> Vec<Vec<u8>> {
    // A list of SHA-256 digests (UEFI specification, 32.4.1), with one.
    let kind = [0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28];
    let numbers: Vec<u8> = [28 + 48_u32, 0, 48].into_iter().flat_map(u32::to_le_bytes).collect();
    let list = [&kind[..], &numbers, &[1; 16], &[2; 32]].concat();
    let pkcs7 = [0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7];
    let signed = [&[0; 16][..], &24_u32.to_le_bytes(), &[0, 2, 0xf1, 0x0e], &pkcs7, &list].concat();
    let binary = &ukis()[2];
    vec![join(&[&list, binary]), join(&[&signed, binary])]
}

pub(super) fn packages() -> Vec<Vec<u8>> {
    texts(&[
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nMulti-Arch: same\nSource: glibc (2.41-1)\nVersion: 2.41\n\nPackage: a\n",
        "C:Q1x=\nP:musl\nV:1.2.5-r0\nF:lib\nR:ld.so\na:0:0:755\nF:\nR:top\no:musl-origin\n\nP:busybox\nV:1\n",
        "/.\n/bin\n/bin/sh\n/usr\n/usr/bin\n",
    ])
}

/// A database of two pages of 512 bytes: the list of tables, and a table with one package whose header goes on in a third page.
pub(super) fn rpms() -> Vec<Vec<u8>> {
    let tags: [(u32, u32, u32, &[u8]); 7] = [
        (1000, 6, 1, b"alpha\0"),
        (1001, 6, 1, b"1.2\0"),
        (1002, 6, 1, b"3\0"),
        (1030, 3, 1, &[0x81, 0xa4]),
        (1116, 4, 1, &[0; 4]),
        (1117, 8, 1, b"alpha\0"),
        (1118, 8, 1, &[&b"/usr/"[..], &[b'd'; 400], b"/\0"].concat()),
    ];
    let (mut index, mut data) = (Vec::new(), Vec::new());
    for (tag, kind, count, bytes) in tags {
        [tag, kind, data.len() as u32, count].iter().for_each(|number| index.extend(number.to_be_bytes()));
        data.extend_from_slice(bytes);
    }
    let header = [&(tags.len() as u32).to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), &index, &data].concat();
    let varint = |number: usize| [0x80 | (number >> 7) as u8, (number & 0x7f) as u8];
    // The length of the record's header, no row number, bytes.
    let row = [&[4, 0][..], &varint(12 + 2 * header.len()), &header].concat();
    let schema = [&[6, 23, 29, 29, 1, 13][..], b"table", b"Packages", b"Packages", &[2]].concat();
    let page = |start: &[u8], cell: &[u8]| {
        let mut page = [start, &[0x0d, 0, 0, 0, 1]].concat();
        let at = 512 - cell.len();
        page.extend([(at >> 8) as u8, at as u8, 0, (at >> 8) as u8, at as u8]);
        page.resize(at, 0);
        page.extend_from_slice(cell);
        page
    };
    let mut first = b"SQLite format 3\0\x02\x00\x01\x01\x00\x40\x20\x20".to_vec();
    first.resize(56, 0);
    first.extend([0, 0, 0, 1]);
    first.resize(100, 0);
    let least = (512 - 12) * 32 / 255 - 23;
    let local = Some(least + (row.len() - least) % 508).filter(|local| *local <= 512 - 35).unwrap_or(least);
    let (here, rest) = row.split_at(local);
    let mut third = [&[0; 4][..], rest].concat();
    third.resize(512, 0);
    let cell = [&varint(row.len())[..], &[1], here, &[0, 0, 0, 3]].concat();
    let schema = [&[schema.len() as u8, 1][..], &schema].concat();
    vec![[page(&first, &schema), page(&[], &cell), third].concat()]
}

pub(super) fn boot_entries() -> Vec<Vec<u8>> {
    texts(&[
        "title Debian\nversion 13\nsort-key selkie-9999999992\nlinux /EFI/selkie/a.linux\ninitrd /ucode\noptions quiet composefs=?00\n# end\n",
        "selkie-00+3-1.conf",
    ])
}

pub(super) fn references() -> Vec<Vec<u8>> {
    texts(&[
        "registry.test:5000/a/os:stable",
        "docker://registry.test/os@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "oci:/srv/layout:tag",
        "oci-archive:/srv/a.tar:tag",
        "docker-archive:/srv/a.tar:os:tag",
        "containers-storage:[overlay@/root+/run]localhost/os:tag",
    ])
}

pub(super) fn records() -> Vec<Vec<u8>> {
    texts(&[
        r#"{"version":1,"image":"registry.test/os:stable","manifest-digest":"sha256:00","config-digest":"sha256:00","kernel-arguments":"quiet","number":7}"#,
        r#"{"version":1,"id":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","cause":"did-not-come-up","manifest-digest":"sha256:00","tries-left":1}"#,
        r#"{"version":1,"last-try":7,"failures":1,"spread":9,"image":"registry.test/os:stable","staging":"sha256:00"}"#,
    ])
}

pub(super) fn configs() -> Vec<Vec<u8>> {
    texts(&[
        "[update]\npolicy = \"apply\"\ninterval = \"1d 2h\"\nrandomized-delay = \"0s\"\nwindow = [\"Sat,Sun 02:00-04:30 Europe/Berlin\"]\n",
        "Mon..Fri 22:00-06:00 UTC\n02:00-04:30\nSat 00:00-24:00\n1d12h\n90s\n",
        "kargs = [\"quiet\", 'a=\"b c\"']\nmatch-architectures = [\"x86_64\"]\n",
        "NAME=\"Debian\"\nPRETTY_NAME='a b'\nquiet \"a b\" composefs=?00\n",
    ])
}
