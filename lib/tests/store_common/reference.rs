//! An independent reading of layers: the `tar` crate, a map by path, and the rules of the OCI image layer specification in
//! the plainest form, one entry after the other. No code of the store and none of composefs.

use std::collections::BTreeMap;
use std::io::Read;

use super::{Flat, FlatKind, FlatTree};

/// A thing in the map. Names of one file share `inode`.
#[derive(Clone, Debug)]
struct Item {
    flat: Flat,
    inode: usize,
    /// The layer that put it there.
    layer: usize,
}

type Map = BTreeMap<Vec<u8>, Item>;

/// The tree of the layers after the recipe that `cfsctl` and the store apply for the plain image, or what is wrong.
pub fn image(layers: &[Vec<u8>]) -> Result<FlatTree, String> {
    let mut map = Map::new();
    map.insert(vec![], Item { flat: implied(), inode: 0, layer: 0 });
    let mut inodes = 1;
    for (number, layer) in layers.iter().enumerate() {
        apply(&mut map, number, read(layer)?, &mut inodes)?;
    }
    finish(map)
}

struct Entry {
    path: Vec<u8>,
    flag: u8,
    flat: Flat,
    link: Vec<u8>,
}

fn read(layer: &[u8]) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for entry in tar::Archive::new(layer).entries().map_err(|e| e.to_string())? {
        let mut entry = entry.map_err(|e| e.to_string())?;
        let header = entry.header().clone();
        let mut mtime = (header.mtime().unwrap() as i64, 0);
        let mut xattrs = BTreeMap::new();
        for extension in entry.pax_extensions().map_err(|e| e.to_string())?.into_iter().flatten() {
            let extension = extension.map_err(|e| e.to_string())?;
            let key = extension.key().unwrap();
            if key == "mtime" {
                let (seconds, fraction) = extension.value().unwrap().split_once('.').unwrap();
                mtime = (seconds.parse().unwrap(), fraction.parse().unwrap());
            } else if key == "SCHILY.xattr.security.capability" {
                xattrs.insert(b"security.capability".to_vec(), extension.value_bytes().to_vec());
            }
        }
        let link = entry.link_name_bytes().map(|link| link.to_vec()).unwrap_or_default();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        let device = || u64::from(header.device_major().unwrap().unwrap()) << 8 | u64::from(header.device_minor().unwrap().unwrap());
        let flag = header.entry_type().as_byte();
        let kind = match flag {
            b'0' | b'1' => FlatKind::File(bytes),
            b'2' => FlatKind::Symlink(link.clone()),
            b'3' => FlatKind::Char(device()),
            b'4' => FlatKind::Block(device()),
            b'5' => FlatKind::Dir,
            b'6' => FlatKind::Fifo,
            other => return Err(format!("flag {other}")),
        };
        let owner = (header.uid().unwrap() as u32, header.gid().unwrap() as u32);
        let flat = Flat { mode: header.mode().unwrap() & 0o7777, owner, mtime, xattrs, kind, same_as: vec![] };
        entries.push(Entry { path: entry.path_bytes().to_vec(), flag, flat, link });
    }
    Ok(entries)
}

fn apply(map: &mut Map, layer: usize, entries: Vec<Entry>, inodes: &mut usize) -> Result<(), String> {
    let below = map.clone();
    for entry in &entries {
        let (parent, name) = split(&clean(&entry.path)?);
        if name == b".wh..wh..opq" {
            let all = if parent.is_empty() { vec![] } else { [&parent[..], b"/"].concat() };
            map.retain(|path, _| path.is_empty() || !path.starts_with(&all));
        } else if let Some(hidden) = name.strip_prefix(b".wh.") {
            remove(map, &join(&parent, hidden));
        }
    }
    for entry in entries {
        let path = clean(&entry.path)?;
        let (parent, name) = split(&path);
        if path.split(|b| *b == b'/').any(|part| part.starts_with(b".wh.")) {
            continue;
        }
        if path.is_empty() {
            map.get_mut(&vec![]).unwrap().flat = entry.flat;
            continue;
        }
        let linked = if entry.flag == b'1' { Some(linked(map, &below, layer, &clean(&entry.link)?)?) } else { None };
        let path = join(&walk(map, layer, &parent, true)?, &name);
        if let (FlatKind::Dir, Some(existing)) = (&entry.flat.kind, map.get_mut(&path))
            && existing.flat.kind == FlatKind::Dir
        {
            existing.flat = entry.flat;
            continue;
        }
        remove(map, &path);
        *inodes += 1;
        let (flat, inode) = linked.unwrap_or((entry.flat, *inodes));
        map.insert(path, Item { flat, inode, layer });
    }
    Ok(())
}

/// What a hard link leads to.
fn linked(map: &Map, below: &Map, layer: usize, target: &[u8]) -> Result<(Flat, usize), String> {
    let (parent, name) = split(target);
    let path = join(&walk(&mut map.clone(), layer, &parent, false)?, &name);
    let own = map.get(&path).filter(|item| item.layer == layer || item.flat.kind == FlatKind::Dir);
    match own.or_else(|| below.get(&path)) {
        Some(item) if item.flat.kind != FlatKind::Dir => Ok((item.flat.clone(), item.inode)),
        _ => Err(format!("bad link to {}", String::from_utf8_lossy(target))),
    }
}

/// Follows the symbolic links of this layer; makes the directories that are missing, and those that take the place of
/// something in a lower layer.
fn walk(map: &mut Map, layer: usize, path: &[u8], make: bool) -> Result<Vec<u8>, String> {
    let mut todo: Vec<Vec<u8>> = path.split(|b| *b == b'/').filter(|p| !p.is_empty()).map(<[u8]>::to_vec).rev().collect();
    let mut at = vec![];
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == b".." {
            at = split(&at).0;
            continue;
        }
        let next = join(&at, &part);
        match map.get(&next) {
            Some(item) if item.flat.kind == FlatKind::Dir => at = next,
            Some(Item { flat: Flat { kind: FlatKind::Symlink(target), .. }, layer: own, .. }) if *own == layer => {
                links += 1;
                if links > 40 {
                    return Err("circle".into());
                }
                if target.starts_with(b"/") {
                    at = vec![];
                }
                todo.extend(target.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".").map(<[u8]>::to_vec).rev());
            }
            Some(item) if item.layer == layer => return Err(format!("{} is no directory", String::from_utf8_lossy(&next))),
            _ => {
                if make {
                    remove(map, &next);
                    map.insert(next.clone(), Item { flat: implied(), inode: 0, layer });
                }
                at = next;
            }
        }
    }
    Ok(at)
}

/// Root from `/usr`, `/run` empty.
fn finish(mut map: Map) -> Result<FlatTree, String> {
    let usr = map.get(&b"usr"[..]).filter(|item| item.flat.kind == FlatKind::Dir).ok_or("no /usr")?.flat.clone();
    map.get_mut(&vec![]).unwrap().flat = usr.clone();
    if let Some(run) = map.get_mut(&b"run"[..]) {
        run.flat.mtime = usr.mtime;
        map.retain(|path, _| !path.starts_with(b"run/"));
    }
    let mut first = BTreeMap::new();
    for (path, item) in &map {
        first.entry(item.inode).or_insert_with(|| path.clone());
    }
    let name = |path: &Vec<u8>, item: &Item| if item.flat.kind == FlatKind::Dir { path.clone() } else { first[&item.inode].clone() };
    Ok(map.iter().map(|(path, item)| (path.clone(), Flat { same_as: name(path, item), ..item.flat.clone() })).collect())
}

fn implied() -> Flat {
    Flat { mode: 0o755, owner: (0, 0), mtime: (0, 0), xattrs: BTreeMap::new(), kind: FlatKind::Dir, same_as: vec![] }
}

fn remove(map: &mut Map, path: &[u8]) {
    let below = [path, b"/"].concat();
    map.retain(|other, _| other != path && !other.starts_with(&below));
}

fn clean(path: &[u8]) -> Result<Vec<u8>, String> {
    let mut clean: Vec<&[u8]> = vec![];
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => _ = clean.pop().ok_or("outside")?,
            _ => clean.push(part),
        }
    }
    Ok(clean.join(&b'/'))
}

fn split(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (path[..slash].to_vec(), path[slash + 1..].to_vec()),
        None => (vec![], path.to_vec()),
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}
