//! `sparse-entries`

use super::{Check, Found, Look, Severity};
use crate::store::SparseEntries;

pub(super) const CHECK: Check = Check {
    id: "sparse-entries",
    severity: Severity::Error,
    about: "a layer has GNU sparse files, which no composefs repository takes in",
    mend: "build the image with buildah or podman, which never write them; with tar, leave --sparse out",
    look: Look::Import(look),
};

fn look(error: &anyhow::Error) -> Option<Found> {
    error.downcast_ref::<SparseEntries>().map(|_| Found::new(format!("{error:#}")))
}
