//! Reads the entries of a segment in order, putting chunks together.

use std::iter::Peekable;
use std::ops::Range;

use crate::log_store::codec::{self, DecodeError};
use crate::types::Entry;

/// Why sled, or what it gave, is of no use.
pub(super) enum Trouble {
    /// Sled says so.
    Sled(sled::Error),
    /// What it gave is not what was written.
    Damaged { what: String },
    /// It was written by a newer version.
    Newer(u8),
}

impl From<sled::Error> for Trouble {
    fn from(error: sled::Error) -> Self {
        Self::Sled(error)
    }
}

impl From<DecodeError> for Trouble {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::Damaged(what) => Self::Damaged { what },
            DecodeError::Newer(version) => Self::Newer(version),
        }
    }
}

/// The whole entries of a range of indexes. What comes after an error has no meaning.
pub(super) struct Scanner {
    chunks: Peekable<sled::Iter>,
}

impl Scanner {
    pub(super) fn new(tree: &sled::Tree, range: Range<u64>) -> Self {
        Self {
            chunks: tree
                .range(codec::key(range.start, 0)..codec::key(range.end, 0))
                .peekable(),
        }
    }

    fn entry(&mut self, key: &[u8], first: sled::IVec) -> Result<Entry, Trouble> {
        let Some((index, number)) = codec::parse_key(key) else {
            return Err(Trouble::Damaged {
                what: "a key is not what was written".into(),
            });
        };
        if number != 0 {
            return Err(Trouble::Damaged {
                what: format!("entry {index}: its beginning is not there"),
            });
        }
        let length = codec::frame_length(&first);
        if length <= first.len() {
            return Ok(codec::decode(index, &first)?);
        }
        let mut frame = first.to_vec();
        let mut number = 0;
        while frame.len() < length {
            number += 1;
            let next = self.chunks.next_if(|chunk| {
                chunk
                    .as_ref()
                    .map_or(true, |(key, _)| codec::parse_key(key) == Some((index, number)))
            });
            let Some(next) = next else {
                return Err(Trouble::Damaged {
                    what: format!("entry {index}: chunk {number} is not there"),
                });
            };
            frame.extend_from_slice(&next?.1);
        }
        Ok(codec::decode(index, &frame)?)
    }
}

impl Iterator for Scanner {
    type Item = Result<Entry, Trouble>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = match self.chunks.next()? {
            Ok((key, chunk)) => self.entry(&key, chunk),
            Err(error) => Err(error.into()),
        };
        Some(entry)
    }
}
