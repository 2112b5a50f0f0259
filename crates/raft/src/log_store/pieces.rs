//! Entries that are kept for a while, side by side in memory.

use bytes::BytesMut;
use openraft::EntryPayload;

use crate::types::{Entry, Payload};

/// Of one size, so that what is freed fits what is asked for next: entries of all lengths that live for some seconds each leave gaps between what lives
/// longer, and a node grows for hours.
const PIECE_BYTES: usize = 128 * 1024;
/// Longer payloads stay where they are.
const MOST_BYTES: usize = PIECE_BYTES / 8;

/// Copies payloads one after the other into pieces of memory. A piece is freed with the last entry that lies in it; entries go in the order in which they
/// came, so at most one piece is kept for a few entries.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    room: BytesMut,
}

impl Pieces {
    /// The entry, and nothing of the memory that it came in: a follower's lies in what was read from the network.
    pub(super) fn keep(&mut self, entry: &Entry) -> Entry {
        match &entry.payload {
            EntryPayload::Normal(Payload(bytes)) if bytes.len() <= MOST_BYTES => {
                if self.room.capacity() < bytes.len() {
                    self.room = BytesMut::with_capacity(PIECE_BYTES);
                }
                self.room.extend_from_slice(bytes);
                Entry {
                    log_id: entry.log_id,
                    payload: EntryPayload::Normal(Payload(self.room.split().freeze())),
                }
            }
            _ => entry.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::log_store::codec::log_id;

    fn entry(index: u64, length: usize) -> Entry {
        let fill = u8::try_from(index % 251).unwrap();
        Entry {
            log_id: log_id(1, index),
            payload: EntryPayload::Normal(Payload(Bytes::from(vec![fill; length]))),
        }
    }

    fn address(entry: &Entry) -> usize {
        match &entry.payload {
            EntryPayload::Normal(Payload(bytes)) => bytes.as_ptr().addr(),
            _ => 0,
        }
    }

    #[test]
    fn entries_stay_what_they_are_and_lie_side_by_side() {
        let mut pieces = Pieces::default();
        let lengths = (0..2000_usize).map(|i| (i * 37) % 3000);
        let entries: Vec<_> = (0..)
            .zip(lengths)
            .map(|(index, length)| entry(index, length))
            .collect();
        let kept: Vec<_> = entries.iter().map(|entry| pieces.keep(entry)).collect();
        assert_eq!(kept, entries);
        let neighbours = kept.windows(2).zip(&entries).filter(|(pair, entry)| {
            let EntryPayload::Normal(Payload(bytes)) = &entry.payload else {
                return false;
            };
            address(&pair[1]) == address(&pair[0]) + bytes.len()
        });
        assert!(neighbours.count() > 1900, "they lie apart");
    }

    #[test]
    fn a_long_one_is_not_copied() {
        let long = entry(1, MOST_BYTES + 1);
        assert_eq!(address(&Pieces::default().keep(&long)), address(&long));
    }
}
