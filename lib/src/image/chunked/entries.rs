//! The list of entries of a table of contents, read with a bound: an entry of a few bytes of JSON takes a hundred times as many in memory.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// The most entries of a table, pieces of files among them. Forty thousand files are an ordinary system.
const MAX_ENTRIES: usize = 1 << 19;

/// Reads a list of no more than [`MAX_ENTRIES`]; for serde's `deserialize_with`.
pub(super) fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_seq(Bounded(MAX_ENTRIES, PhantomData))
}

struct Bounded<T>(usize, PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {} entries", self.0)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = list.next_element()? {
            if entries.len() == self.0 {
                return Err(A::Error::invalid_length(self.0 + 1, &self));
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str, most: usize) -> Result<Vec<u8>, String> {
        let mut json = serde_json::Deserializer::from_str(json);
        json.deserialize_seq(Bounded(most, PhantomData)).map_err(|error| error.to_string())
    }

    #[test]
    fn one_more_than_the_bound_is_refused() {
        assert_eq!(read("[1,2,3]", 3), Ok(vec![1, 2, 3]));
        assert_eq!(read("[]", 0), Ok(vec![]));
        let refused = read("[1,2,3]", 2).unwrap_err();
        assert!(refused.starts_with("invalid length 3, expected a list of at most 2 entries"), "{refused}");
        assert!(read("{}", 2).unwrap_err().contains("expected a list of at most 2 entries"));
    }

    #[test]
    fn tables_and_listings_have_the_bound() {
        let json = format!("{{\"version\":1,\"entries\":[{}]}}", vec![r#"{"type":"dir","name":"d"}"#; MAX_ENTRIES + 1].join(","));
        let errors = [super::super::Table::parse(json.as_bytes(), 1000).unwrap_err(), super::super::list(json.as_bytes()).unwrap_err()];
        for error in errors {
            assert!(error.to_string().contains("expected a list of at most 524288 entries"), "{error}");
        }
    }
}
