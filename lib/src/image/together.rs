//! [`Together`]: requests for parts of one blob, which are of use only together.

use std::io;
use std::sync::{Arc, OnceLock};

use super::blob::Broken;

/// What requests share of which each is of no use without the others: where one has failed for good, none is tried again. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Together(Arc<OnceLock<Broken>>);

impl Together {
    /// One of them has failed for good, or nobody wants them any more. The first error counts.
    pub(super) fn fail(&self, error: &io::Error) {
        let _ = self.0.set(Broken::of(error));
    }

    /// Why none of them is to be tried again, where that is so.
    pub(super) fn failed(&self) -> Option<io::Error> {
        self.0.get().cloned().map(Broken::error)
    }
}
