//! Cursors: where a subscriber is in the log of events; opaque to clients, good on every node of one cluster.

use crate::command::ClusterId;

/// Why a cursor is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CursorError {
    /// It was never given out by Brama.
    #[error("is not a cursor")]
    Malformed,
    /// It comes from another cluster.
    #[error("belongs to another cluster")]
    Foreign,
}

/// The cursor after the event of `revision` (0: before the first).
pub fn encode(cluster: ClusterId, revision: u64) -> String {
    let mut bytes = [0_u8; 32];
    bytes[..16].copy_from_slice(&cluster.0.to_be_bytes());
    bytes[16..24].copy_from_slice(&revision.to_be_bytes());
    let check = xxhash_rust::xxh3::xxh3_64(&bytes[..24]);
    bytes[24..].copy_from_slice(&check.to_be_bytes());
    ["c1", &hex::encode(bytes)].concat()
}

/// The revision that a cursor of `cluster` stands for.
///
/// # Errors
/// [`CursorError`] when it is none, or that of another cluster.
pub fn decode(cluster: ClusterId, cursor: &str) -> Result<u64, CursorError> {
    let digits = cursor.strip_prefix("c1").ok_or(CursorError::Malformed)?;
    let mut bytes = [0_u8; 32];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| CursorError::Malformed)?;
    let part = |range: std::ops::Range<usize>| {
        bytes[range]
            .iter()
            .fold(0_u128, |n, &byte| n << 8 | u128::from(byte))
    };
    if u128::from(xxhash_rust::xxh3::xxh3_64(&bytes[..24])) != part(24..32) {
        return Err(CursorError::Malformed);
    }
    if part(0..16) != cluster.0 {
        return Err(CursorError::Foreign);
    }
    Ok(part(16..24) as u64)
}
