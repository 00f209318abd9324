//! [`Naming`]: the names of layers that came in, given to many at a time. Before a name, everything has to be on the disk, and that takes as long for one layer as
//! for fifty.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use crate::store::{Store, Unnamed};

/// So many new bytes are what a machine that loses its power may have to fetch once more.
const MOST: u64 = 64 << 20;

/// Layers that came in and wait for their names. They get them when it is dropped, however the pull ends.
pub(super) struct Naming {
    store: Store,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    layers: Vec<Unnamed>,
    bytes: u64,
}

impl Naming {
    pub(super) fn new(store: &Store) -> Self {
        Self { store: store.clone(), waiting: Mutex::default() }
    }

    /// Takes a layer that brought so many bytes.
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
            waiting.bytes >= MOST
        };
        if full { self.name() } else { Ok(()) }
    }

    /// Names those that wait.
    ///
    /// # Errors
    ///
    /// They are not durable, or cannot be named.
    pub(super) fn name(&self) -> Result<()> {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.store.name_layers(&waiting.layers)
    }
}

impl Drop for Naming {
    fn drop(&mut self) {
        // Where the pull has failed, that is what is told; a layer without a name is fetched again.
        let _ = self.name();
    }
}
