//! What readers and the caller see: where the log begins and ends, and its newest entries.
//!
//! An entry can be read from the moment it is appended, which is before it is on disk. So the newest entries are kept in memory, at least
//! until they are durable, and beyond that as many as fit, because those are the ones that followers ask for.

use std::collections::VecDeque;
use std::ops::Range;

use crate::log_store::codec::weight;
use crate::log_store::errors::LogError;
use crate::log_store::pieces::Pieces;
use crate::log_store::record::Record;
use crate::types::{Entry, LogId, Vote};

/// The log as it is once everything that was asked for is done. Behind a lock, which is held for moments.
pub(super) struct Tail {
    begin: u64,
    purged: Option<LogId>,
    last: Option<LogId>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    /// The newest entries, without a gap, up to `last`; perhaps none.
    cache: VecDeque<Entry>,
    pieces: Pieces,
    cache_bytes: usize,
    cache_limit: usize,
    /// Entries before this index are durable as they are now.
    durable: u64,
    /// Rises when entries are removed at the end, so that the news of a flush is not taken for news of what came in their place.
    epoch: u64,
    /// Why nothing is written any more.
    failure: Option<LogError>,
}

/// What a read finds.
pub(super) struct Found {
    /// To be read from disk, before the others.
    pub(super) on_disk: Range<u64>,
    pub(super) in_memory: Vec<Entry>,
    /// If this is still the epoch when the disk was read, no entry was replaced meanwhile.
    pub(super) epoch: u64,
}

impl Tail {
    pub(super) fn new(record: &Record, cache_limit: usize) -> Self {
        Self {
            begin: record.begin,
            purged: record.purged,
            last: record.last,
            vote: record.vote,
            committed: record.committed,
            cache: VecDeque::new(),
            pieces: Pieces::default(),
            cache_bytes: 0,
            cache_limit,
            durable: record.last.map_or(record.begin, |last| last.index + 1),
            epoch: 0,
            failure: None,
        }
    }

    /// The newest log id that was purged, and the newest of all.
    pub(super) fn ends(&self) -> (Option<LogId>, Option<LogId>) {
        (self.purged, self.last.max(self.purged))
    }

    /// The index of the first entry.
    pub(super) fn begin(&self) -> u64 {
        self.begin
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// # Errors
    /// When the log failed: nothing is written any more.
    pub(super) fn check(&self) -> Result<(), LogError> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// From now on everything fails with the first error.
    pub(super) fn fail(&mut self, error: &LogError) {
        self.failure.get_or_insert_with(|| error.clone());
    }

    /// Adds entries in memory. Gives where the log begins.
    ///
    /// # Errors
    /// When they do not follow the newest one. An empty log that was never purged may begin anywhere.
    pub(super) fn append(&mut self, entries: &[Entry]) -> Result<(), LogError> {
        let Some(first) = entries.first() else {
            return Ok(());
        };
        let mut next = self.next();
        if self.last.is_none() && self.purged.is_none() {
            next = first.log_id.index;
        }
        let mut last = self.last.max(self.purged);
        for (entry, expected) in entries.iter().zip(next..) {
            if entry.log_id.index != expected || Some(entry.log_id) < last {
                let what = format!("entry {} after {last:?}, which would leave a hole", entry.log_id);
                return Err(LogError::refused(what));
            }
            last = Some(entry.log_id);
        }
        if self.last.is_none() && self.purged.is_none() {
            self.begin = next;
            self.durable = next;
        }
        self.last = last;
        self.cache_bytes += entries.iter().map(weight).sum::<usize>();
        let pieces = &mut self.pieces;
        self.cache.extend(entries.iter().map(|entry| pieces.keep(entry)));
        Ok(())
    }

    /// Removes the entries after `keep`. Gives the newest that is left, if any was removed.
    ///
    /// # Errors
    /// When that would remove purged entries.
    pub(super) fn truncate_after(&mut self, keep: Option<LogId>) -> Result<Option<Truncated>, LogError> {
        let next = keep.map_or(0, |keep| keep.index + 1);
        if next < self.begin && self.purged.is_some() {
            return Err(LogError::refused(format!(
                "to remove entries from {next} on, but the log begins at {}",
                self.begin
            )));
        }
        let next = next.max(self.begin);
        if next >= self.next() {
            return Ok(None);
        }
        while self.cache.back().is_some_and(|entry| entry.log_id.index >= next) {
            self.cache_bytes -= self.cache.pop_back().as_ref().map_or(0, weight);
        }
        self.last = if next == self.begin { self.purged } else { keep };
        self.durable = self.durable.min(next);
        self.epoch += 1;
        Ok(Some(Truncated {
            from: next,
            last: self.last,
        }))
    }

    /// Forgets the entries up to `upto`. Gives whether that changes anything.
    pub(super) fn purge(&mut self, upto: LogId) -> bool {
        if self.purged >= Some(upto) {
            return false;
        }
        self.begin = upto.index + 1;
        self.purged = Some(upto);
        self.last = self.last.max(self.purged);
        self.durable = self.durable.max(self.begin);
        while self
            .cache
            .front()
            .is_some_and(|entry| entry.log_id.index < self.begin)
        {
            self.cache_bytes -= self.cache.pop_front().as_ref().map_or(0, weight);
        }
        true
    }

    /// The entries before `next` are durable, if they are still those of `epoch`.
    pub(super) fn flushed(&mut self, next: u64, epoch: u64) {
        if epoch == self.epoch {
            self.durable = self.durable.max(next);
        }
        while self.cache_bytes > self.cache_limit
            && self
                .cache
                .front()
                .is_some_and(|entry| entry.log_id.index < self.durable)
        {
            self.cache_bytes -= self.cache.pop_front().as_ref().map_or(0, weight);
        }
    }

    /// The entries of a range that the log has. From memory, up to about `max_bytes` but at least one.
    pub(super) fn find(&self, range: Range<u64>, max_bytes: usize) -> Found {
        let start = range.start.max(self.begin);
        let end = range.end.min(self.next()).max(start);
        let cached = self.cache.front().map_or(end, |entry| entry.log_id.index);
        let on_disk = start..end.min(cached).max(start);
        let mut in_memory = Vec::new();
        let mut bytes = 0;
        let skip = usize::try_from(on_disk.end - cached.min(on_disk.end)).unwrap_or(usize::MAX);
        for entry in self.cache.iter().skip(skip) {
            if entry.log_id.index >= end || bytes >= max_bytes {
                break;
            }
            bytes += weight(entry);
            in_memory.push(entry.clone());
        }
        Found {
            on_disk,
            in_memory,
            epoch: self.epoch,
        }
    }

    /// One past the newest entry.
    fn next(&self) -> u64 {
        self.last
            .map_or(self.begin, |last| last.index + 1)
            .max(self.begin)
    }
}

/// What a truncation has to do on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Truncated {
    /// Entries from here on go.
    pub(super) from: u64,
    /// The newest that is left.
    pub(super) last: Option<LogId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log_store::codec::log_id;

    fn entries(term: u64, indexes: Range<u64>) -> Vec<Entry> {
        let blank = |index| Entry {
            log_id: log_id(term, index),
            payload: openraft::EntryPayload::Blank,
        };
        indexes.map(blank).collect()
    }

    fn found(tail: &Tail) -> (Range<u64>, Vec<Entry>) {
        let found = tail.find(0..u64::MAX, usize::MAX);
        (found.on_disk, found.in_memory)
    }

    #[test]
    fn only_what_is_durable_leaves_memory() {
        let mut tail = Tail::new(&Record::default(), 0);
        tail.append(&entries(1, 0..5)).unwrap();
        assert_eq!(found(&tail), (0..0, entries(1, 0..5)));
        tail.flushed(3, tail.epoch());
        assert_eq!(found(&tail), (0..3, entries(1, 3..5)));
        tail.flushed(5, tail.epoch());
        assert_eq!(found(&tail), (0..5, Vec::new()));
        assert_eq!(tail.cache_bytes, 0);
    }

    #[test]
    fn the_news_of_a_flush_does_not_count_for_entries_that_came_in_place_of_those_it_is_about() {
        let mut tail = Tail::new(&Record::default(), 0);
        tail.append(&entries(1, 0..5)).unwrap();
        let epoch = tail.epoch();
        tail.truncate_after(Some(log_id(1, 1))).unwrap().unwrap();
        tail.append(&entries(2, 2..6)).unwrap();
        tail.flushed(5, epoch);
        let (on_disk, in_memory) = found(&tail);
        assert!(
            on_disk.end <= 2,
            "{on_disk:?} would be read from disk, where other entries still are"
        );
        assert!(in_memory.ends_with(&entries(2, 2..6)));
    }

    #[test]
    fn memory_is_bounded_by_what_is_durable() {
        let limit = 3 * size_of::<Entry>();
        let mut tail = Tail::new(&Record::default(), limit);
        tail.append(&entries(1, 0..100)).unwrap();
        tail.flushed(100, 0);
        assert_eq!(found(&tail), (0..97, entries(1, 97..100)));
        tail.purge(log_id(1, 98));
        assert_eq!(found(&tail), (99..99, entries(1, 99..100)));
    }
}
