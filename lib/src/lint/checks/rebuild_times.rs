//! `rebuild-times`
//!
//! Files that a build makes bear its time, and so differ in the next build of the same sources. What packages bring has the packages'
//! times. When a build began is not written anywhere; a day before it ended is taken for it.

use anyhow::Result;

use super::{Check, Found, Look, Severity, Subject};
use crate::lint::subject::text_of;
use crate::store::NodeKind;

pub(super) const CHECK: Check = Check {
    id: "rebuild-times",
    severity: Severity::Info,
    about: "files bear the time of the build: a rebuild of the same sources has other layers and another digest",
    mend: "build with a fixed time: SOURCE_DATE_EPOCH=… buildah build --source-date-epoch … --rewrite-timestamp",
    look: Look::Tree(look),
};

const DAY: i64 = 86400;
/// Paths that are named.
const NAMED: usize = 20;

fn look(subject: &Subject<'_>) -> Result<Vec<Found>> {
    let Some(created) = subject.image.and_then(|image| image.created) else { return Ok(Vec::new()) };
    let (mut later, mut of_build) = (Vec::new(), Vec::new());
    subject.tree.walk("/", |path, node| {
        if matches!(node.kind, NodeKind::File(_)) {
            match node.mtime.0 {
                time if time > created => later.push(text_of(path)),
                time if time > created - DAY => of_build.push(text_of(path)),
                _ => {}
            }
        }
        Ok(())
    })?;
    // Later than the image itself: the time was fixed for the image and not for the files.
    let (paths, what) = match (later.is_empty(), of_build.is_empty()) {
        (true, true) => return Ok(Vec::new()),
        (false, _) => (later, "are later than the image says that it was made: its time was fixed, theirs was not"),
        (true, false) => (of_build, "are of the day of the build"),
    };
    let what = format!("the times of {} files {what}", paths.len());
    Ok(vec![Found::new(what).at_all(paths.into_iter().take(NAMED))])
}
