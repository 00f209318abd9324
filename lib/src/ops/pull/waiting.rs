//! A layer that waits for its import, what was tried of the ways to do so, and what came of it.

use anyhow::Result;

use super::layers::Way;
use super::naming::Naming;
use crate::error::{Failure, FailureKind};
use crate::image::{Layer, PartialLayer, Reason};
use crate::store::{self, Arrival, ImportStats, NoRoom, NotOneFile, Store, Taken, Unproven};
use crate::sys::dir;

/// A layer to import, and what is known of the ways to do so.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) index: usize,
    pub(super) no_delta: bool,
    pub(super) no_parts: bool,
    /// Why it cannot be read in parts.
    pub(super) whole: Option<String>,
    /// What did not work.
    pub(super) failed: Vec<String>,
    /// It was made of what is here, and was another one then, or could not be read.
    pub(super) doubted: bool,
    /// The registry was given up.
    pub(super) outage: Option<Failure>,
}

/// How an import ended.
pub(super) enum Imported {
    Done(ImportStats, Taken, Way, u64),
    /// It could not be made in this way, and another may be good: bytes that were fetched.
    NotSo(u64),
}

impl Waiting {
    /// It does not come in this way. After an outage, nothing says that it would come in another, but that only ranges may not work: then the whole is asked for
    /// once, and nothing else is tried.
    ///
    /// # Errors
    ///
    /// It was a signal.
    pub(super) fn fail(&mut self, way: Way, reason: &Reason) -> Result<()> {
        match reason.failure() {
            Some(failure) if failure.kind == FailureKind::Unreachable => self.outage = Some(failure.clone()),
            Some(failure) => return Err(failure.clone().into()),
            None => {}
        }
        let how = if way == Way::Delta { "by a delta: " } else { "" };
        self.failed.push(format!("{how}{reason}"));
        Ok(())
    }

    /// What there is to tell of a layer that came in this way in the end.
    pub(super) fn reason(&self, way: Way) -> Option<String> {
        let whole = self.whole.iter().filter(|_| way == Way::Whole);
        let told: Vec<&str> = self.failed.iter().chain(whole).map(String::as_str).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }
}

/// Imports a layer that is made of what is here and what is fetched.
pub(super) fn import_made(
    (store, naming): (&Store, &Naming),
    layer: &Layer,
    mut made: PartialLayer,
    way: Way,
    known: &store::Known,
    waiting: &mut Waiting,
) -> Result<Imported> {
    let reader = made.reader()?;
    match store.take_layer(&layer.diff_id, reader, known) {
        Ok(arrival) => Imported::named(naming, arrival, way, made.bytes()),
        Err(error) => {
            let made_wrong = made.reason();
            waiting.doubted |= made_wrong.as_ref().is_some_and(|reason| reason.failure().is_none());
            let Some(reason) = made_wrong.or_else(|| blamed_on_way(&error, (store, layer), &made)) else { return Err(error) };
            waiting.fail(way, &reason)?;
            Ok(Imported::NotSo(made.bytes()))
        }
    }
}

/// Why a layer was not taken as it was made, where it may be good with all its bytes: they are those of its diff_id, and a table calls a file what is none, or they are
/// too many to be proven, and that may be a lie of the table or of the delta.
fn blamed_on_way(error: &anyhow::Error, (store, layer): (&Store, &Layer), made: &PartialLayer) -> Option<Reason> {
    if error.is::<NotOneFile>() {
        return Some(NotOneFile.to_string().into());
    }
    let failure = Failure::find(error).filter(|_| error.is::<Unproven>())?;
    if let Some(NoRoom(size)) = error.downcast_ref() {
        // It is none where the blob has that file, and hardly one where there is no room even for the compressed layer.
        let may_fit = || dir::free_bytes(store.dir()).is_ok_and(|free| layer.size < free);
        return (!made.has_header(*size) && may_fit()).then(|| failure.message.into());
    }
    Some(failure.message.into())
}

impl Imported {
    /// A layer came in by `way`, for which so many bytes were fetched, and gets its name.
    pub(super) fn named(naming: &Naming, arrival: Arrival, way: Way, bytes: u64) -> Result<Self> {
        let Arrival { stats, taken, layer } = arrival;
        naming.add(layer, bytes.max(stats.bytes_new))?;
        Ok(Self::Done(stats, taken, way, bytes))
    }
}
