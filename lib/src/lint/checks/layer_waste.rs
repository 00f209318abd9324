//! `layer-waste`

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};

pub(super) const CHECK: Check = Check {
    id: "layer-waste",
    severity: Severity::Info,
    about: "a layer has more than 1 MiB of files that a later layer removes or replaces: every machine fetches them for nothing",
    mend: "remove or change files in the instruction that makes them, or squash the build's own layers (buildah build --squash)",
    look: Look::Tree(look),
};

/// Below this it is not worth a word.
const WORTH: u64 = 1 << 20;

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let layers = subject.image.map(|image| image.layers.as_slice()).unwrap_or_default();
    let mut found = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        if let Some(hidden) = layer.hidden.filter(|hidden| *hidden > WORTH) {
            let by: String =
                layer.created_by.as_deref().unwrap_or("an unknown instruction").split_whitespace().collect::<Vec<_>>().join(" ");
            let by: String = by.chars().take(100).collect();
            let what = format!("layer {} of {} has {hidden} bytes in files that later layers hide; made by {by}", number + 1, layers.len());
            found.push(Found::new(what));
        }
    }
    Ok(found)
}
