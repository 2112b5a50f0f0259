//! The two small things that are kept beside the entries: the [`Record`] at the end of each group, and the [`Mark`] in a file of its own.
//!
//! The record says what was promised: the vote, where the log begins, and an entry that it must reach. Each write of it has a number, `seq`.
//! The mark holds the `seq` of the newest record that is known to be durable. The journal ends with its last group that is whole, which is
//! right after a crash and wrong after damage: a bit that flips in the last group costs what was acknowledged, and nobody would
//! notice. With the mark, somebody does: the record that is found must not be older.
//!
//! The mark itself is not synced with each flush. It is written *after* the flush, so whatever of it reaches the disk is true. (After a power cut
//! it may be some seconds old, and then says nothing about a bit that flips in the very last group, at the same time.)

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use openraft::vote::{RaftLeaderId, RaftVote};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::log_store::codec::log_id;
use crate::types::{LeaderId, LogId, Vote};

/// Version of the record.
pub(super) const RECORD_VERSION: u8 = 1;

/// What the log promises. Written after entries are added, and before entries are removed, so that at any moment, and after
/// any crash, the entries on disk keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Rises by one with each write.
    pub(super) seq: u64,
    /// The newest vote.
    pub(super) vote: Option<Vote>,
    /// The newest entry that is known to be committed; may be behind.
    pub(super) committed: Option<LogId>,
    /// The index of the first entry that the log has, or will have. Whatever is before it may be dropped.
    pub(super) begin: u64,
    /// The entry just before it; `None` if nothing was ever purged.
    pub(super) purged: Option<LogId>,
    /// The log reaches at least here.
    pub(super) last: Option<LogId>,
}

/// The record's form on disk: own types, so that no change in openraft changes it.
#[derive(Serialize, Deserialize)]
struct Stored {
    seq: u64,
    /// Term, node, whether it is committed.
    vote: Option<(u64, u64, bool)>,
    committed: Option<(u64, u64)>,
    begin: u64,
    purged: Option<(u64, u64)>,
    last: Option<(u64, u64)>,
}

impl Record {
    /// Version, postcard, xxh3 of both.
    pub(super) fn encode(&self) -> Result<Vec<u8>, String> {
        let pair = |id: Option<LogId>| id.map(|id| (id.leader_id.term, id.index));
        let stored = Stored {
            seq: self.seq,
            vote: self
                .vote
                .map(|vote| (vote.leader_id.term, vote.leader_id.voted_for, vote.committed)),
            committed: pair(self.committed),
            begin: self.begin,
            purged: pair(self.purged),
            last: pair(self.last),
        };
        let mut bytes = postcard::to_extend(&stored, vec![RECORD_VERSION]).map_err(|e| e.to_string())?;
        let checksum = xxh3_64(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        Ok(bytes)
    }

    /// # Errors
    /// What is wrong with it; `Err(Some(version))` if it is from a newer program.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Option<u8>> {
        let (rest, checksum) = bytes.split_last_chunk::<8>().ok_or(None)?;
        if xxh3_64(rest) != u64::from_le_bytes(*checksum) {
            return Err(None);
        }
        let (version, body) = rest.split_first().ok_or(None)?;
        if *version > RECORD_VERSION {
            return Err(Some(*version));
        }
        let stored: Stored = postcard::from_bytes(body).map_err(|_| None)?;
        let id = |pair: Option<(u64, u64)>| pair.map(|(term, index)| log_id(term, index));
        Ok(Self {
            seq: stored.seq,
            vote: stored.vote.map(|(term, node, committed)| {
                Vote::from_leader_id(<LeaderId as RaftLeaderId>::new(term, node), committed)
            }),
            committed: id(stored.committed),
            begin: stored.begin,
            purged: id(stored.purged),
            last: id(stored.last),
        })
    }
}

/// The file with the number of the newest durable record.
pub(super) struct Mark {
    file: File,
}

const MARK_MAGIC: &[u8; 8] = b"BRAMAMRK";
const MARK_BYTES: usize = 24;

impl Mark {
    /// Makes the file, with 0 in it, durable but for its name in the folder.
    pub(super) fn create(path: &Path) -> io::Result<()> {
        let mark = Self {
            file: File::create_new(path)?,
        };
        mark.write(0)?;
        mark.file.sync_all()
    }

    /// Opens the file and gives the number in it; no number if the file is not what was written.
    pub(super) fn open(path: &Path) -> io::Result<(Self, Option<u64>)> {
        let file = File::options().read(true).write(true).open(path)?;
        let length = file.metadata()?.len();
        let mut bytes = [0; MARK_BYTES];
        if length != MARK_BYTES as u64 {
            return Ok((Self { file }, None));
        }
        file.read_exact_at(&mut bytes, 0)?;
        let [body @ .., c0, c1, c2, c3, c4, c5, c6, c7] = bytes;
        let whole = body.starts_with(MARK_MAGIC)
            && xxh3_64(&body) == u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]);
        let number = body.last_chunk::<8>().map(|number| u64::from_le_bytes(*number));
        Ok((Self { file }, number.filter(|_| whole)))
    }

    /// Writes a number in place; 24 bytes in one sector, so it is never half there. Not synced: see the module's text.
    pub(super) fn write(&self, seq: u64) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(MARK_BYTES);
        bytes.extend_from_slice(MARK_MAGIC);
        bytes.extend_from_slice(&seq.to_le_bytes());
        bytes.extend_from_slice(&xxh3_64(&bytes).to_le_bytes());
        self.file.write_all_at(&bytes, 0)
    }

    /// Makes the newest number durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}
