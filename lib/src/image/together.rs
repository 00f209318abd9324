//! [`Together`]: requests for parts of one blob, which are of use only together, and as long as somebody wants them.

use std::io;
use std::sync::{Arc, OnceLock};

use super::blob::Broken;

/// Whoever wants what is asked for. When this is gone, nobody does.
pub(super) struct Wanted(Together);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.fail(&io::ErrorKind::BrokenPipe.into());
    }
}

/// What requests share of which each is of no use without the others: where one has failed for good, none is tried again. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Together(Arc<OnceLock<Broken>>);

impl Together {
    /// One of them has failed for good, or nobody wants them any more. The first error counts.
    pub(super) fn fail(&self, error: &io::Error) {
        let _ = self.0.set(Broken::of(error));
    }

    /// For whoever wants them.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted(self.clone())
    }

    /// Why none of them is to be tried again, where that is so.
    pub(super) fn failed(&self) -> Option<io::Error> {
        self.0.get().cloned().map(Broken::error)
    }
}
