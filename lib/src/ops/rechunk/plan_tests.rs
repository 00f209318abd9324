use std::collections::BTreeSet;

use super::*;

const MIB: u64 = 1 << 20;

/// Leaves of `path`, owner (none where empty) and MiB, each a file of its own.
fn leaves(list: &[(&str, &str, u64)]) -> Vec<Leaf> {
    let leaf = |(number, (path, owner, size)): (usize, &(&str, &str, u64))| Leaf {
        path: path.as_bytes().to_vec(),
        size: size * MIB,
        inode: number as u64 + 1,
        owner: Some((*owner).to_owned()).filter(|owner| !owner.is_empty()),
    };
    list.iter().enumerate().map(leaf).collect()
}

/// Files of 200 packages, three each.
fn packages() -> Vec<Leaf> {
    let named: Vec<(String, String)> = (0..600).map(|n| (format!("usr/lib/p{}/f{}", n / 3, n % 3), format!("p{}", n / 3))).collect();
    leaves(&named.iter().map(|(path, owner)| (path.as_str(), owner.as_str(), 0)).collect::<Vec<_>>())
}

/// The groups as sets of paths, by name.
fn sets(leaves: &[Leaf], layers: usize) -> BTreeMap<String, BTreeSet<Vec<u8>>> {
    let paths = |group: &Group| group.leaves.iter().map(|number| leaves[*number].path.clone()).collect();
    groups(leaves, layers).iter().map(|group| (group.name.clone(), paths(group))).collect()
}

fn renumbered(leaves: impl Iterator<Item = Leaf>) -> Vec<Leaf> {
    leaves.enumerate().map(|(number, leaf)| Leaf { inode: number as u64 + 1, ..leaf }).collect()
}

#[test]
fn a_package_more_or_less_moves_no_other() {
    let before = packages();
    let sets_before = sets(&before, DEFAULT);
    for gone in ["p0", "p77", "p199"] {
        let after = renumbered(before.iter().filter(|leaf| leaf.owner.as_deref() != Some(gone)).cloned());
        let sets_after = sets(&after, DEFAULT);
        let differ: Vec<_> = sets_before.iter().filter(|(name, set)| sets_after.get(*name) != Some(set)).collect();
        assert_eq!(differ.len(), 1, "{gone}");
        let lost: BTreeSet<Vec<u8>> = differ[0].1.difference(&sets_after[differ[0].0]).cloned().collect();
        assert!(lost.iter().all(|path| path.starts_with(format!("usr/lib/{gone}/").as_bytes())) && lost.len() == 3, "{gone}");
    }
}

#[test]
fn a_package_that_grows_large_leaves_the_others_where_they_are() {
    let before = packages();
    let grown = before.iter().cloned().map(|leaf| if leaf.path == b"usr/lib/p7/f0" { Leaf { size: 20 * MIB, ..leaf } } else { leaf });
    let grown: Vec<Leaf> = grown.collect();
    let (sets_before, sets_after) = (sets(&before, DEFAULT), sets(&grown, DEFAULT));
    assert_eq!(sets_after["package p7"].len(), 3);
    assert_eq!(sets_before.iter().filter(|(name, set)| sets_after.get(*name) != Some(set)).count(), 1);
}

#[test]
fn everything_is_in_one_layer_and_there_are_no_more_than_asked_for() {
    let mut all = packages();
    let large: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    for name in &large {
        all.extend(leaves(&[(&format!("usr/big/{name}"), &format!("big{name}"), 17), (&format!("var/large/{name}"), "", 5)]));
    }
    all.extend(leaves(&[("etc/a", "", 0), ("boot/a", "", 0), ("srv/a", "", 0), ("usr/a", "", 0), ("var/a", "", 0)]));
    let all = renumbered(all.into_iter());
    for layers in [0, FEWEST, 17, 40, DEFAULT, MOST, 1000] {
        let groups = groups(&all, layers);
        let mut seen: Vec<usize> = groups.iter().flat_map(|group| group.leaves.clone()).collect();
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..all.len()));
        assert!(groups.len() < layers.clamp(FEWEST, MOST), "{} groups for {layers} layers", groups.len());
        assert!(groups.iter().all(|group| !group.leaves.is_empty() && group.leaves.is_sorted()));
        assert_eq!(groups.iter().map(|group| &group.name).collect::<BTreeSet<_>>().len(), groups.len());
    }
}

#[test]
fn what_is_large_is_apart_and_what_no_package_owns_is_by_place() {
    let all = leaves(&[
        ("boot/EFI/Linux/os.efi", "", 3),
        ("etc/hostname", "", 0),
        ("opt/app", "", 0),
        ("usr/bin/sh", "dash", 0),
        ("usr/lib/firmware/a", "firmware", 10),
        ("usr/lib/firmware/b", "firmware", 10),
        ("usr/lib/modules/6.1/initramfs.img", "", 30),
        ("usr/lib/modules/6.1/vmlinuz", "", 4),
        ("usr/lib/ld.cache", "", 1),
        ("var/lib/dpkg/status", "", 1),
    ]);
    let sets = sets(&all, DEFAULT);
    let expected = [
        ("file /usr/lib/modules/6.1/initramfs.img", 1),
        ("file /usr/lib/modules/6.1/vmlinuz", 1),
        ("files of no package below /", 1),
        ("files of no package below /boot", 1),
        ("files of no package below /etc", 1),
        ("files of no package below /usr", 1),
        ("files of no package below /var", 1),
        ("package firmware", 2),
    ];
    let found: Vec<(&str, usize)> = sets.iter().map(|(name, set)| (name.as_str(), set.len())).collect();
    assert_eq!(found[..expected.len()], expected);
    assert!(found[expected.len()].0.starts_with("packages, part ") && found.len() == expected.len() + 1);
}

#[test]
fn all_names_of_a_file_are_in_the_layer_of_its_package() {
    let mut all = leaves(&[("etc/link", "", 0), ("usr/bin/perl", "perl", 0), ("usr/bin/perl5", "other", 0), ("var/x", "", 0)]);
    (all[0].inode, all[1].inode, all[2].inode) = (9, 9, 9);
    let of_perl = |set: &BTreeSet<Vec<u8>>| set.contains(&b"usr/bin/perl"[..]);
    let sets = sets(&all, DEFAULT);
    assert_eq!(sets.values().find(|set| of_perl(set)).unwrap().len(), 3);
    assert_eq!(sets.len(), 2);
}

#[test]
fn without_packages_neighbours_are_together() {
    let all = leaves(&[
        ("etc/a", "", 0),
        ("usr/bin/a", "", 0),
        ("usr/lib/python/a", "", 0),
        ("usr/lib/python/b/c/d", "", 0),
        ("usr/lib/python/b/e", "", 0),
    ]);
    let sets = sets(&all, DEFAULT);
    let python = sets.values().find(|set| set.contains(&b"usr/lib/python/a"[..])).unwrap();
    assert!(python.contains(&b"usr/lib/python/b/e"[..]) && python.contains(&b"usr/lib/python/b/c/d"[..]));
    assert_eq!(sets["files below /etc"].len(), 1);
    for (path, expected) in [("usr", "usr"), ("usr/bin/a", "usr/bin"), ("usr/a", "usr"), ("usr/lib/x/y/z", "usr/lib/x")] {
        assert_eq!(neighbourhood(path.as_bytes()), expected.as_bytes());
    }
}

#[test]
fn parts_are_counted_without_holes() {
    let few = leaves(&[("usr/a", "a", 0), ("usr/b", "b", 0), ("usr/c", "c", 0)]);
    let names: Vec<String> = groups(&few, DEFAULT).into_iter().map(|group| group.name).collect();
    // Two of them fall together.
    assert_eq!(names, ["packages, part 1 of 2", "packages, part 2 of 2"]);
}
