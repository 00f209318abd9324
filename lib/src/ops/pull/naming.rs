//! [`Naming`]: the names of layers that came in, given to many at a time. Before a name, everything has to be on the disk, and that takes as long for one layer as
//! for fifty.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::progress::Progress;
use crate::store::{Store, Unnamed, Unsynced};

/// So many bytes, fetched or stored, are what a machine that loses its power may have to fetch once more.
const MOST: u64 = 64 << 20;

/// How long a pull that is called off waits for the names before it says so: the disk may be slow. A name that is given later leads to a whole layer, too.
const PATIENCE: Duration = Duration::from_secs(5);

/// Layers that came in and wait for their names. Those that still wait when it is dropped, because a signal or an error has ended the pull, get them then, and nothing that
/// came in is in doubt after that.
pub(super) struct Naming {
    store: Store,
    /// Nothing comes in once this has ended. None once it was taken.
    unsynced: Option<Unsynced>,
    progress: Arc<dyn Progress>,
    most: u64,
    patience: Duration,
    waiting: Mutex<Waiting>,
    /// Held while names are given; whether they could not be. The kernel tells of bytes that it could not write only once, so the next sync of this pull would say that all is
    /// well: it names nothing any more.
    failed: Mutex<bool>,
}

#[derive(Default)]
struct Waiting {
    layers: Vec<Unnamed>,
    bytes: u64,
}

impl Naming {
    pub(super) fn new(store: &Store, unsynced: Unsynced, progress: &Arc<dyn Progress>) -> Self {
        Self {
            store: store.clone(),
            unsynced: Some(unsynced),
            progress: Arc::clone(progress),
            most: MOST,
            patience: PATIENCE,
            waiting: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Takes a layer that cost so many bytes.
    ///
    /// # Errors
    ///
    /// It was time for names, and they could not be given.
    pub(super) fn add(&self, layer: Option<Unnamed>, bytes: u64) -> Result<()> {
        let Some(layer) = layer else { return Ok(()) };
        let full = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.layers.push(layer);
            waiting.bytes += bytes;
            waiting.bytes >= self.most
        };
        if !full {
            return Ok(());
        }
        // Where somebody is at it, this one can wait for the next.
        self.failed.try_lock().map_or(Ok(()), |failed| self.name_with(failed))
    }

    /// Names those that wait.
    ///
    /// # Errors
    ///
    /// They are not durable, or cannot be named.
    pub(super) fn name(&self) -> Result<()> {
        self.name_with(self.failed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One thread at a time, so that none names what another could not make durable.
    fn name_with(&self, mut failed: MutexGuard<'_, bool>) -> Result<()> {
        let layers = self.take();
        if layers.is_empty() || *failed {
            return Ok(());
        }
        let named = self.store.name_layers(&layers);
        *failed = named.is_err();
        if *failed {
            // At once: what comes in beside it may take its time, and meanwhile others begin, who would not be told.
            self.unsynced.iter().for_each(Unsynced::doubt);
        }
        drop(failed);
        if named.is_ok() {
            self.progress.step("name layers");
        }
        named
    }

    /// The end of what comes in is left to the caller.
    pub(super) fn into_unsynced(mut self) -> Option<Unsynced> {
        self.unsynced.take()
    }

    fn take(&self) -> Vec<Unnamed> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner)).layers
    }
}

impl Drop for Naming {
    fn drop(&mut self) {
        let failed = *self.failed.get_mut().unwrap_or_else(PoisonError::into_inner);
        let layers = if failed { Vec::new() } else { self.take() };
        let unsynced = self.unsynced.take();
        if layers.is_empty() && unsynced.is_none() {
            return;
        }
        let (done, ended) = mpsc::channel();
        let store = self.store.clone();
        let started = thread::Builder::new().name("naming".into()).spawn(move || {
            // Something else is what is told, a layer without a name is fetched again, and what stays in doubt is read again.
            let _ = store.name_layers(&layers);
            let _ = unsynced.map(Unsynced::end);
            let _ = done.send(());
        });
        if started.is_ok() {
            let _ = ended.recv_timeout(self.patience);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Recorder, Silent};
    use crate::store::{AllBytes, Known, UNSYNCED, Verity};
    use crate::sys::dir;

    /// A repository, and what names its layers after so many bytes.
    fn naming(most: u64) -> (tempfile::TempDir, Arc<Recorder>, Naming) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open_or_init(dir::open_path(temp.path()).unwrap(), "r", None, Verity::Never).unwrap();
        let recorder = Arc::<Recorder>::default();
        let mut naming = Naming::new(&store, store.begin_unsynced(&Silent).unwrap(), &(recorder.clone() as _));
        (naming.most, naming.patience) = (most, Duration::from_secs(600));
        (temp, recorder, naming)
    }

    /// A layer with so many directories, which has come in.
    fn arrive(store: &Store, directories: usize) -> (String, Option<Unnamed>) {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        (0..directories).for_each(|n| tar.append_data(&mut header, n.to_string(), &b""[..]).unwrap());
        let tar = tar.into_inner().unwrap();
        let diff_id = format!("sha256:{}", hex::encode(openssl::sha::sha256(&tar)));
        let known = Known { contents: Arc::new(store.contents().unwrap()), digests: false, doubted: false };
        let layer = store.take_layer(&diff_id, AllBytes(&tar[..]), &known).unwrap().layer;
        (diff_id, layer)
    }

    #[test]
    fn names_are_given_when_it_has_cost_enough_and_at_the_end() {
        let (temp, recorder, naming) = naming(10);
        let store = naming.store.clone();
        let [first, second, third] = [1, 2, 3].map(|n| arrive(&store, n));
        let here = || [&first, &second, &third].map(|(diff_id, _)| store.has_layer(diff_id).unwrap());
        let add = |layer: &(String, Option<Unnamed>), bytes| naming.add(layer.1.clone(), bytes).unwrap();
        add(&first, 9);
        assert_eq!(here(), [false, false, false]);
        add(&second, 1);
        assert_eq!(here(), [true, true, false]);
        add(&third, 9);
        let mark = temp.path().join("r").join(UNSYNCED);
        assert!(mark.exists());
        drop(naming);
        assert!(!mark.exists());
        assert_eq!(here(), [true, true, true]);
        assert_eq!(recorder.steps(), ["name layers"]);
    }

    #[test]
    fn after_names_that_could_not_be_given_none_is() {
        let (temp, recorder, naming) = naming(10);
        let store = naming.store.clone();
        let [first, second] = [1, 2].map(|n| arrive(&store, n));
        // Where names would be made.
        let streams = temp.path().join("r/streams");
        std::fs::write(&streams, "no directory").unwrap();
        naming.add(first.1, 10).unwrap_err();
        std::fs::remove_file(&streams).unwrap();
        naming.add(second.1, 10).unwrap();
        drop(naming);
        assert!(!store.has_layer(&first.0).unwrap() && !store.has_layer(&second.0).unwrap());
        assert_eq!(std::fs::metadata(temp.path().join("r").join(UNSYNCED)).unwrap().len(), 1);
        assert_eq!(recorder.steps(), [""; 0]);
    }
}
