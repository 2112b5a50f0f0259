//! Metadata as circuits and events have it: most have none, and many the same.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::metadata::Metadata;

/// [`Metadata`] that is shared. Its clone is O(1), and where there is none touches no memory: a report makes an event with the circuit's
/// metadata, and drops one of long ago.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SharedMetadata(Option<Arc<Metadata>>);

impl Deref for SharedMetadata {
    type Target = Metadata;

    fn deref(&self) -> &Metadata {
        static NONE: LazyLock<Metadata> = LazyLock::new(Metadata::new);
        self.0.as_deref().unwrap_or_else(|| &NONE)
    }
}

impl SharedMetadata {
    /// Whether there is no entry. Looks at no other memory.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What it adds to [`Event::cost_bytes`](crate::event::Event::cost_bytes).
    pub(crate) fn cost_bytes(&self) -> usize {
        let cost = |(key, value): (&str, &str)| key.len() + value.len() + 32;
        self.0
            .as_ref()
            .map_or(0, |metadata| metadata.iter().map(cost).sum())
    }
}

impl From<Metadata> for SharedMetadata {
    fn from(metadata: Metadata) -> Self {
        Self((!metadata.is_empty()).then(|| Arc::new(metadata)))
    }
}

impl fmt::Debug for SharedMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// The same as of [`Metadata`].
impl Serialize for SharedMetadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedMetadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Metadata::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_none_however_it_came_and_its_bytes_are_those_of_metadata() {
        let some = Metadata::from([("team", "pay")]);
        for metadata in [Metadata::new(), some] {
            let shared = SharedMetadata::from(metadata.clone());
            assert_eq!(*shared, metadata);
            assert_eq!(shared.is_empty(), metadata.is_empty());
            let bytes = postcard::to_stdvec(&metadata).expect("an encoding");
            assert_eq!(postcard::to_stdvec(&shared).expect("an encoding"), bytes);
            assert_eq!(
                postcard::from_bytes::<SharedMetadata>(&bytes).expect("metadata"),
                shared
            );
        }
        assert_eq!(SharedMetadata::from(Metadata::new()), SharedMetadata::default());
    }
}
