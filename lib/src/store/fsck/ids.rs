//! Objects by number: an image has tens of thousands of them and shares nearly all with others, so a list of numbers is what is kept of each.

use std::collections::HashMap;

use anyhow::{Context, Result};
use composefs::fsverity::FsVerityHashValue;

/// The numbers of objects, from 0.
#[derive(Debug)]
pub(super) struct Ids<H> {
    numbers: HashMap<H, u32>,
    ids: Vec<H>,
}

impl<H: FsVerityHashValue> Ids<H> {
    pub(super) fn new() -> Self {
        Self { numbers: HashMap::new(), ids: Vec::new() }
    }

    /// The number of an object, a new one where it has none.
    pub(super) fn number(&mut self, id: &H) -> Result<u32> {
        if let Some(number) = self.numbers.get(id) {
            return Ok(*number);
        }
        let number = u32::try_from(self.ids.len()).context("counting objects")?;
        self.numbers.insert(id.clone(), number);
        self.ids.push(id.clone());
        Ok(number)
    }

    /// The object of a number that [`Self::number`] gave.
    pub(super) fn id(&self, number: u32) -> &H {
        &self.ids[number as usize]
    }

    /// Whether a set has an object.
    pub(super) fn is_in(&self, set: &Numbers, id: &H) -> bool {
        self.numbers.get(id).is_some_and(|number| set.contains(*number))
    }

    /// The objects of a set.
    pub(super) fn of<'s>(&'s self, set: &'s Numbers) -> impl Iterator<Item = &'s H> {
        self.ids.iter().zip(&set.0).filter_map(|(id, is_in)| is_in.then_some(id))
    }
}

/// A set of numbers.
#[derive(Debug, Default)]
pub(super) struct Numbers(Vec<bool>);

impl Numbers {
    pub(super) fn insert(&mut self, number: u32) {
        let number = number as usize;
        if number >= self.0.len() {
            self.0.resize(number + 1, false);
        }
        self.0[number] = true;
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.0.get(number as usize) == Some(&true)
    }
}
