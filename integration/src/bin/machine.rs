//! `machine SYSROOT ESP RUN BOOTED KNOWN`: what a machine made of directories would boot, and whether all of that is whole, as one JSON value. What
//! is checked is what booting and the next verb need: entries, kernels by their digests, deployments, and of each image its tag and every object.
//! Objects whose paths are lines of the file KNOWN were found to be right before, and are not read again.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use openssl::sha::sha256;
use selkie::boot::Place;
use selkie::image_id::ImageId;
use selkie::ops::{host::Host, prune};
use selkie::store::{Content, NodeKind, Store};
use selkie::sys::dir;
use selkie::system::System;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [sysroot, esp, run, booted, known] = arguments.as_slice() else {
        anyhow::bail!("reading the arguments: {} (expected SYSROOT ESP RUN BOOTED KNOWN)", arguments.len());
    };
    let known = std::fs::read_to_string(known).with_context(|| format!("reading {known}"))?;
    let known: BTreeSet<&str> = known.lines().collect();
    let open = |path: &String| dir::open_path(path).with_context(|| format!("opening {path}"));
    let host = Host::at(open(sysroot)?, vec![Place::new("esp", open(esp)?)], open(run)?, booted.parse()?)?;
    let system = host.system()?;
    let store = host.store()?;
    let mut problems = system.problems.clone();
    let mut seen = BTreeSet::new();
    for id in roots(&system) {
        if let Err(error) = check_image(&store, id, &known, &mut seen) {
            problems.push(format!("root {}: {error:#}", id.short()));
        }
        problems.extend(missing_tag(&store, id)?);
    }
    for entry in &system.entries {
        problems.extend(entry.missing.iter().map(|path| format!("{}: {path} is missing", entry.file)));
    }
    problems.extend(wrong_kernels(&Path::new(esp).join("EFI/selkie"))?);
    let next = system.default_entry().map(|entry| entry.image.hex().to_owned());
    let entries: Vec<&str> = roots(&system).into_iter().map(ImageId::hex).collect();
    let found = serde_json::json!({ "next": next.unwrap_or_default(), "entries": entries, "problems": problems, "objects": seen });
    std::io::Write::write_all(&mut std::io::stdout(), found.to_string().as_bytes()).context("writing the answer")
}

fn roots(system: &System) -> Vec<&ImageId> {
    let mut roots = Vec::new();
    for entry in &system.entries {
        if !roots.contains(&&entry.image) {
            roots.push(&entry.image);
        }
    }
    roots
}

/// Reads every file of an image whose object was not read for another one; reading compares with the digest.
fn check_image(store: &Store, id: &ImageId, known: &BTreeSet<&str>, seen: &mut BTreeSet<String>) -> Result<()> {
    seen.insert(store.objects_of(id)?.iter().find(|object| object.id.hex() == id.hex()).context("finding its EROFS file")?.id.path());
    let tree = store.tree(id)?;
    tree.walk("/", |path, node| {
        if let NodeKind::File(file) = &node.kind
            && let Content::Object(object) = &file.content
            && seen.insert(object.path())
            && !known.contains(object.path().as_str())
        {
            tree.read(file).with_context(|| format!("reading {}", path.display()))?;
        }
        Ok(())
    })
}

/// Without its tag a root boots, and then neither goes back nor survives the next collection of garbage.
fn missing_tag(store: &Store, id: &ImageId) -> Result<Option<String>> {
    let tag = prune::tag(id);
    let manifest = store.tags()?.into_iter().find(|(name, _)| *name == tag).map(|(_, manifest)| manifest);
    let whole = manifest.map_or(Ok(None), |manifest| store.find(&manifest))?.is_some_and(|stored| stored.boot_image == *id);
    Ok((!whole).then(|| format!("root {}: its tag or its manifest is missing", id.short())))
}

/// Kernels are named by what they hold. One that is not whole and that no entry names is garbage, which the next verb sees and writes anew.
fn wrong_kernels(directory: &Path) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let entries = Path::new(directory).ancestors().nth(2).context("finding the ESP")?.join("loader/entries");
    let mut needed = String::new();
    for entry in std::fs::read_dir(&entries).with_context(|| format!("listing {}", entries.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "conf") {
            needed += &String::from_utf8_lossy(&std::fs::read(path)?);
        }
    }
    for file in std::fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let path = file?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digest = name.split('.').next().unwrap_or_default();
        if !digest.is_empty() && needed.contains(&name) && hex::encode(sha256(&std::fs::read(&path)?)) != digest {
            wrong.push(format!("{name} on the ESP has other bytes than its name says"));
        }
    }
    Ok(wrong)
}
