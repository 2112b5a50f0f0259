//! How an entry becomes bytes.
//!
//! An entry is framed, so that a bit that flips on disk is noticed when the entry is read.
//!
//! ```text
//! frame:  version u8 | length of body u32 | xxh3 of body, seeded with the index, u64 | body
//! body:   term u64 | index u64 | kind u8 (0 blank, 1 normal, 2 membership) | payload
//! ```
//! Integers are little-endian. A membership is JSON: it is rare, and its type belongs to openraft, so it must survive a change of that type's
//! field order.

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::vote::RaftLeaderIdExt;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::types::{Entry, LeaderId, LogId, Payload};

/// Version of the frame and of the body.
pub(super) const ENTRY_VERSION: u8 = 1;
/// Longest body; far above what a leader puts into an entry.
pub(super) const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
const HEADER_BYTES: usize = 13;
const BODY_FIXED_BYTES: usize = 17;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// The log id of a term and an index. In standard Raft a term has one leader, so a log id needs no node.
pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new_committed(term, 0), index)
}

/// An entry's share of memory, roughly.
pub(super) fn weight(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Blank => 0,
        EntryPayload::Normal(payload) => payload.0.len(),
        EntryPayload::Membership(membership) => 256 * membership.nodes().count(),
    };
    payload + size_of::<Entry>()
}

/// The frame of an entry.
///
/// # Errors
/// Says so if the entry is too long.
pub(super) fn encode(entry: &Entry) -> Result<Vec<u8>, String> {
    let membership;
    let (kind, payload): (u8, &[u8]) = match &entry.payload {
        EntryPayload::Blank => (BLANK, &[]),
        EntryPayload::Normal(payload) => (NORMAL, &payload.0),
        EntryPayload::Membership(config) => {
            membership =
                serde_json::to_vec(config).map_err(|e| format!("a membership has no JSON form: {e}"))?;
            (MEMBERSHIP, &membership)
        }
    };
    let length = BODY_FIXED_BYTES + payload.len();
    if length > MAX_BODY_BYTES {
        return Err(format!(
            "entry {} has {length} bytes, and {MAX_BODY_BYTES} are the most",
            entry.log_id
        ));
    }
    let short = u32::try_from(length).map_err(|e| e.to_string())?;

    let mut frame = Vec::with_capacity(HEADER_BYTES + length);
    frame.push(ENTRY_VERSION);
    frame.extend_from_slice(&short.to_le_bytes());
    frame.extend_from_slice(&[0; 8]);
    frame.extend_from_slice(&entry.log_id.leader_id.term.to_le_bytes());
    frame.extend_from_slice(&entry.log_id.index.to_le_bytes());
    frame.push(kind);
    frame.extend_from_slice(payload);
    let checksum = xxh3_64_with_seed(&frame[HEADER_BYTES..], entry.log_id.index);
    frame[5..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Ok(frame)
}

/// The entry of a whole frame.
///
/// # Errors
/// Says what is wrong with it. `Newer` if only the version is.
pub(super) fn decode(index: u64, frame: &[u8]) -> Result<Entry, DecodeError> {
    let damaged = |what: &str| DecodeError::Damaged(format!("entry {index}: {what}"));
    let (header, body) = frame
        .split_at_checked(HEADER_BYTES)
        .ok_or_else(|| damaged("its frame is cut short"))?;
    if header[0] > ENTRY_VERSION {
        return Err(DecodeError::Newer(header[0]));
    }
    if header[0] != ENTRY_VERSION {
        return Err(damaged("its version does not exist"));
    }
    if u32_at(header, 1) as usize != body.len() {
        return Err(damaged("its length is not what was written"));
    }
    if u64_at(header, 5) != xxh3_64_with_seed(body, index) {
        return Err(damaged("its checksum does not match"));
    }
    if body.len() < BODY_FIXED_BYTES || u64_at(body, 8) != index {
        return Err(damaged("it belongs to another index"));
    }
    let payload = &body[BODY_FIXED_BYTES..];
    let payload = match body[16] {
        BLANK => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Payload(Bytes::copy_from_slice(payload))),
        MEMBERSHIP => EntryPayload::Membership(
            serde_json::from_slice(payload)
                .map_err(|e| damaged(&format!("its membership is unreadable: {e}")))?,
        ),
        other => return Err(damaged(&format!("its kind {other} does not exist"))),
    };
    Ok(Entry {
        log_id: log_id(u64_at(body, 0), index),
        payload,
    })
}

/// Why a frame is no entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// It is not what was written.
    Damaged(String),
    /// It has a version that is not known here.
    Newer(u8),
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8]
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}
