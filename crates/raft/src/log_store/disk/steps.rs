//! What one flush does, as bytes: the body of a group in the [`journal`](super::journal).
//!
//! ```text
//! tag u8 | then
//! 1 entry           index u64 | length u32 | frame (see `codec`)
//! 2 record          length u32 | bytes (see `record`)
//! 3 remove from     index u64
//! 4 remove before   index u64
//! ```
//! Integers are little-endian. The steps are those that the writer asked for, in its order, so that to repeat them all
//! gives the log as it is.

use crate::types::Entry;

use crate::log_store::codec;

const ENTRY: u8 = 1;
const RECORD: u8 = 2;
const REMOVE_FROM: u8 = 3;
const REMOVE_BEFORE: u8 = 4;

/// One thing to do to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Adds the frame of an entry, which follows the newest one. The frame begins at `at`, from the first step on.
    Entry { index: u64, frame: &'a [u8], at: usize },
    /// Puts a record in the place of the one before.
    Record(&'a [u8]),
    /// Removes the entries from this index on.
    RemoveFrom(u64),
    /// Drops the segments that lie wholly before this index.
    RemoveBefore(u64),
}

/// Adds an entry.
///
/// # Errors
/// Says so if it is too long.
pub(super) fn push_entry(steps: &mut Vec<u8>, entry: &Entry) -> Result<(), String> {
    let frame = codec::encode(entry)?;
    steps.push(ENTRY);
    steps.extend_from_slice(&entry.log_id.index.to_le_bytes());
    push_bytes(steps, &frame)
}

/// Adds a record.
///
/// # Errors
/// Says so if it is too long.
pub(super) fn push_record(steps: &mut Vec<u8>, record: &[u8]) -> Result<(), String> {
    steps.push(RECORD);
    push_bytes(steps, record)
}

pub(super) fn push_remove_from(steps: &mut Vec<u8>, index: u64) {
    steps.push(REMOVE_FROM);
    steps.extend_from_slice(&index.to_le_bytes());
}

pub(super) fn push_remove_before(steps: &mut Vec<u8>, index: u64) {
    steps.push(REMOVE_BEFORE);
    steps.extend_from_slice(&index.to_le_bytes());
}

fn push_bytes(steps: &mut Vec<u8>, bytes: &[u8]) -> Result<(), String> {
    let length = u32::try_from(bytes.len()).map_err(|e| e.to_string())?;
    steps.extend_from_slice(&length.to_le_bytes());
    steps.extend_from_slice(bytes);
    Ok(())
}

/// The steps in these bytes; `None` in the place of what is none, and then it ends.
pub(super) fn parse(bytes: &[u8]) -> impl Iterator<Item = Option<Step<'_>>> {
    let length = bytes.len();
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest.filter(|bytes| !bytes.is_empty())?;
        let parsed = parse_one(bytes);
        rest = parsed.map(|(_, rest)| rest);
        let placed = parsed.map(|(step, rest)| match step {
            Step::Entry { index, frame, .. } => Step::Entry {
                index,
                frame,
                at: length - rest.len() - frame.len(),
            },
            step => step,
        });
        Some(placed)
    })
}

fn parse_one(bytes: &[u8]) -> Option<(Step<'_>, &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    match *tag {
        ENTRY => {
            let (index, rest) = number(rest)?;
            let (frame, rest) = sized(rest)?;
            Some((Step::Entry { index, frame, at: 0 }, rest))
        }
        RECORD => sized(rest).map(|(record, rest)| (Step::Record(record), rest)),
        REMOVE_FROM => number(rest).map(|(index, rest)| (Step::RemoveFrom(index), rest)),
        REMOVE_BEFORE => number(rest).map(|(index, rest)| (Step::RemoveBefore(index), rest)),
        _ => None,
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*number), rest))
}

fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_store::codec::log_id;

    #[test]
    fn what_was_pushed_is_parsed_and_a_cut_is_noticed() {
        let entry = Entry {
            log_id: log_id(3, 7),
            payload: openraft::EntryPayload::Blank,
        };
        let frame = codec::encode(&entry).unwrap();
        let mut bytes = Vec::new();
        push_entry(&mut bytes, &entry).unwrap();
        push_remove_from(&mut bytes, 8);
        push_record(&mut bytes, b"promise").unwrap();
        push_remove_before(&mut bytes, 2);
        let expected = [
            Step::Entry {
                index: 7,
                frame: &frame,
                at: 13,
            },
            Step::RemoveFrom(8),
            Step::Record(b"promise"),
            Step::RemoveBefore(2),
        ];
        let parsed: Vec<_> = parse(&bytes).map(Option::unwrap).collect();
        assert_eq!(parsed, expected);
        for cut in 0..bytes.len() {
            let parsed: Vec<_> = parse(&bytes[..cut]).collect();
            let whole = parsed.iter().take_while(|step| step.is_some()).count();
            assert!(
                parsed.len() <= whole + 1 && whole < expected.len(),
                "cut at {cut}"
            );
            assert!(
                parsed.iter().flatten().eq(expected[..whole].iter()),
                "cut at {cut}"
            );
        }
    }
}
