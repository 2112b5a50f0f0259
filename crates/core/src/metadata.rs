//! Metadata: what users attach to circuits and reports.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use crate::limits::{MAX_METADATA_ENTRIES, MAX_METADATA_KEY_BYTES, MAX_METADATA_VALUE_BYTES};
use crate::reply::Refusal;

/// String to string, in the order of its keys. Encoded as a map is.
///
/// It lies in memory as one piece of text, each key and value with its length before it (`4:team3:pay`): a map of a hundred thousand
/// circuits' metadata would take five times as much. So it is made as a whole, and looking an entry up goes through those before it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    text: Box<str>,
}

impl Metadata {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// How many entries there are. O(n).
    pub fn len(&self) -> usize {
        self.iter().len()
    }

    /// The value of a key. O(n).
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(each, _)| *each == key).map(|(_, value)| value)
    }

    /// Keys and values, in the order of the keys.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.text }
    }

    /// Adds an entry, in place of the one with this key. O(n).
    pub fn insert(&mut self, key: impl AsRef<str>, value: impl AsRef<str>) {
        *self = self.overlaid(&Self::from([(key, value)]));
    }

    /// These entries, and those of `over` in place of the ones with the same key.
    #[must_use]
    pub fn overlaid(&self, over: &Self) -> Self {
        self.iter().chain(over).collect()
    }

    /// Checks it against its limits.
    ///
    /// # Errors
    /// [`Refusal::InvalidArgument`] that names `metadata`.
    pub fn validate(&self) -> Result<(), Refusal> {
        if self.is_empty() {
            return Ok(());
        }
        let n = self.len();
        if n > MAX_METADATA_ENTRIES {
            return Err(Refusal::invalid(
                "metadata",
                format!("has {n} entries, at most {MAX_METADATA_ENTRIES} are allowed"),
            ));
        }
        for (key, value) in self {
            if key.is_empty() || key.len() > MAX_METADATA_KEY_BYTES {
                let text = format!(
                    "has a key of {} bytes, 1..={MAX_METADATA_KEY_BYTES} are allowed",
                    key.len()
                );
                return Err(Refusal::invalid("metadata", text));
            }
            if value.len() > MAX_METADATA_VALUE_BYTES {
                let text = format!(
                    "has a value of {} bytes, at most {MAX_METADATA_VALUE_BYTES} are allowed",
                    value.len()
                );
                return Err(Refusal::invalid("metadata", text));
            }
        }
        Ok(())
    }
}

/// The entries of a [`Metadata`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        Some((take(&mut self.rest)?, take(&mut self.rest)?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let mut rest = self.rest;
        let pieces = std::iter::from_fn(|| take(&mut rest)).count();
        (pieces / 2, Some(pieces / 2))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a Metadata {
    type Item = (&'a str, &'a str);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Of entries with the same key, the last one counts.
impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let entries: Vec<_> = entries.into_iter().collect();
        let sorted: BTreeMap<&str, &str> = entries
            .iter()
            .map(|(key, value)| (key.as_ref(), value.as_ref()))
            .collect();
        let mut text = String::new();
        for (key, value) in sorted {
            put(&mut text, key);
            put(&mut text, value);
        }
        Self { text: text.into() }
    }
}

impl<K: AsRef<str>, V: AsRef<str>, const N: usize> From<[(K, V); N]> for Metadata {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (key, value) in self {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut entries: Vec<(String, String)> = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                if entries.is_empty() {
                    return Ok(Metadata::new());
                }
                Ok(entries.into_iter().collect())
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

fn put(text: &mut String, piece: &str) {
    text.push_str(&piece.len().to_string());
    text.push(':');
    text.push_str(piece);
}

/// The piece at the front; `None` at the end.
fn take<'a>(text: &mut &'a str) -> Option<&'a str> {
    let (length, rest) = text.split_once(':')?;
    let (piece, rest) = rest.split_at_checked(length.parse().ok()?)?;
    *text = rest;
    Some(piece)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_map_that_it_was_made_of(map: BTreeMap<String, String>) {
            let metadata: Metadata = map.iter().collect();
            prop_assert_eq!(metadata.len(), map.len());
            prop_assert_eq!(metadata.is_empty(), map.is_empty());
            let entries = map.iter().map(|(key, value)| (&**key, &**value));
            prop_assert!(metadata.iter().eq(entries));
            for (key, value) in &map {
                prop_assert_eq!(metadata.get(key), Some(&**value));
            }
        }

        #[test]
        fn its_bytes_are_those_of_a_map(map: BTreeMap<String, String>) {
            let metadata: Metadata = map.iter().collect();
            let bytes = postcard::to_stdvec(&metadata).unwrap();
            prop_assert_eq!(&bytes, &postcard::to_stdvec(&map).unwrap());
            prop_assert_eq!(postcard::from_bytes::<Metadata>(&bytes).unwrap(), metadata);
        }

        #[test]
        fn what_lies_over_it_counts(map: BTreeMap<String, String>, over: BTreeMap<String, String>) {
            let overlaid = map.iter().collect::<Metadata>().overlaid(&over.iter().collect());
            let mut expected = map;
            expected.extend(over);
            prop_assert_eq!(overlaid, expected.into_iter().collect::<Metadata>());
        }
    }

    #[test]
    fn a_key_that_is_missing_has_no_value() {
        assert_eq!(Metadata::from([("team", "pay")]).get("pay"), None);
        assert_eq!(Metadata::new().get("team"), None);
    }
}
