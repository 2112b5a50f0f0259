//! Where each entry is.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use super::steps::Step;

/// The entries of the log, without gaps, and the files that they are in.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The index of the first entry, or where it would be.
    begin: u64,
    places: VecDeque<Place>,
    files: BTreeMap<u32, Arc<File>>,
}

/// An entry's frame in a file of the journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) slot: u32,
    pub(super) at: u32,
    pub(super) length: u32,
}

impl Index {
    pub(super) fn begin(&self) -> u64 {
        self.begin
    }

    /// One past the newest entry.
    pub(super) fn next(&self) -> u64 {
        self.begin + self.places.len() as u64
    }

    /// The places of those of these entries that there are, in order.
    pub(super) fn range(&self, range: Range<u64>) -> impl Iterator<Item = (u64, Place)> {
        let from = range.start.max(self.begin);
        // What is missing at the beginning is missed by the caller only if nothing else comes in its place.
        let to = if from == range.start {
            range.end.min(self.next()).max(from)
        } else {
            from
        };
        (from..to).filter_map(|number| {
            let place = self.places.get(usize::try_from(number - self.begin).ok()?)?;
            Some((number, *place))
        })
    }

    pub(super) fn file(&self, slot: u32) -> Option<&Arc<File>> {
        self.files.get(&slot)
    }

    /// From now on there may be entries in this file.
    pub(super) fn open(&mut self, slot: u32, file: Arc<File>) {
        self.files.insert(slot, file);
    }

    /// The file is gone. There are no entries in it.
    pub(super) fn close(&mut self, slot: u32) {
        self.files.remove(&slot);
    }

    /// Takes a step into account, whose group has its steps at `at` in the file with this slot.
    ///
    /// # Errors
    /// Says so if it would leave a hole.
    pub(super) fn apply(&mut self, step: Step<'_>, slot: u32, at: u64) -> Result<(), String> {
        match step {
            Step::Record(_) => {}
            Step::Entry {
                index,
                frame,
                at: within,
            } => {
                if self.places.is_empty() {
                    self.begin = index;
                }
                if index != self.next() {
                    return Err(hole(index, self.next()));
                }
                let short = |number: u64| u32::try_from(number).map_err(|e| e.to_string());
                self.places.push_back(Place {
                    slot,
                    at: short(at + within as u64)?,
                    length: short(frame.len() as u64)?,
                });
            }
            Step::RemoveFrom(from) => {
                let left = from.saturating_sub(self.begin);
                self.places.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            }
            Step::RemoveBefore(begin) => self.remove_before(begin),
        }
        Ok(())
    }

    /// Whether these steps can be applied.
    ///
    /// # Errors
    /// Says so if one of them would leave a hole.
    pub(super) fn check(&self, steps: &[Step<'_>]) -> Result<(), String> {
        let (mut begin, mut next) = (self.begin, self.next());
        for step in steps {
            match step {
                Step::Record(_) => {}
                Step::Entry { index, .. } if begin == next => (begin, next) = (*index, index + 1),
                Step::Entry { index, .. } if *index == next => next += 1,
                Step::Entry { index, .. } => return Err(hole(*index, next)),
                Step::RemoveFrom(from) => next = next.min(*from).max(begin),
                Step::RemoveBefore(to) => {
                    begin = begin.max(*to);
                    next = next.max(begin);
                }
            }
        }
        Ok(())
    }

    pub(super) fn remove_before(&mut self, begin: u64) {
        let gone = begin.saturating_sub(self.begin).min(self.places.len() as u64);
        self.places.drain(..usize::try_from(gone).unwrap_or(usize::MAX));
        self.begin = self.begin.max(begin);
    }
}

fn hole(index: u64, next: u64) -> String {
    format!("entry {index} where entry {next} is next, which would leave a hole")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> Step<'static> {
        Step::Entry {
            index,
            frame: b"frame",
            at: 0,
        }
    }

    fn numbers(index: &Index, range: Range<u64>) -> Vec<u64> {
        index.range(range).map(|(number, _)| number).collect()
    }

    #[test]
    fn entries_follow_one_another_and_an_empty_log_may_begin_anywhere() {
        let mut index = Index::default();
        for number in 7..12 {
            index.check(&[entry(number)]).unwrap();
            index.apply(entry(number), 0, 100).unwrap();
        }
        assert_eq!((index.begin(), index.next()), (7, 12));
        for bad in [6, 11, 13] {
            assert!(index.check(&[entry(bad)]).is_err());
            assert!(index.apply(entry(bad), 0, 100).is_err());
        }
        index.apply(Step::RemoveFrom(10), 0, 0).unwrap();
        index.apply(Step::RemoveBefore(9), 0, 0).unwrap();
        assert_eq!((index.begin(), index.next()), (9, 10));
        assert_eq!(numbers(&index, 9..100), [9]);
        assert_eq!(numbers(&index, 7..100), [] as [u64; 0], "7 and 8 are not there");
        let steps = [Step::RemoveBefore(50), entry(50), Step::RemoveFrom(50), entry(50)];
        index.check(&steps).unwrap();
        for step in steps {
            index.apply(step, 0, 0).unwrap();
        }
        assert_eq!((index.begin(), index.next()), (50, 51));
    }
}
