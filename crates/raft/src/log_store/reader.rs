//! Reads the log, from memory where it can.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use openraft::OptionalSend;
use openraft::storage::RaftLogReader;

use crate::log_store::Shared;
use crate::log_store::errors::LogError;
use crate::types::{Entry, TypeConfig, Vote};

/// Most bytes of entries that one read gives to replication, give or take one entry: messages between nodes are bounded.
const LIMITED_BYTES: usize = 1024 * 1024;
/// Until a read that ended for want of room is tried again, at least.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Reads entries and the vote. Cheap to clone; sees every entry from the moment `append` returns.
#[derive(Clone)]
pub(crate) struct LogReader {
    shared: Arc<Shared>,
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The entries of the range that the log has, without a gap, up to about `max_bytes` but at least one.
    async fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, LogError> {
        loop {
            let found = self.shared.tail.lock().find(range.clone(), max_bytes);
            if found.on_disk.is_empty() {
                return Ok(found.in_memory);
            }
            let disk = self
                .shared
                .disk
                .read()
                .clone()
                .ok_or_else(|| self.shared.closed())?;
            let wanted = found.on_disk.clone();
            let read = self
                .shared
                .environment
                .blocking(move || disk.read(wanted, max_bytes));
            // Nobody cancels it, so it is not done only when the process ends.
            let read = read.await.unwrap_or_else(|_| Err(self.shared.closed()));
            let mut entries = match read {
                Err(error) if error.is_no_room() => {
                    // An error would end openraft. The writer may notice a moment later than this reader that the disk is full.
                    tokio::time::sleep(LOOK_AGAIN).await;
                    self.shared.pressure.until_room().await;
                    continue;
                }
                read => read?,
            };
            let complete = entries.len() as u64 == found.on_disk.end - found.on_disk.start;
            let bytes: usize = entries.iter().map(super::weight).sum();
            {
                let tail = self.shared.tail.lock();
                // Entries were replaced, or purged, while the disk was read: what came from it may not be what the log has now.
                if tail.epoch() != found.epoch || tail.begin() > found.on_disk.start {
                    continue;
                }
            }
            if complete {
                let mut left = max_bytes.saturating_sub(bytes);
                entries.extend(found.in_memory.into_iter().take_while(|entry| {
                    let fits = left > 0;
                    left = left.saturating_sub(super::weight(entry));
                    fits
                }));
            } else if bytes < max_bytes {
                let missing = found.on_disk.start + entries.len() as u64;
                let what = format!("entry {missing} is not there any more");
                return Err(LogError::Damaged {
                    path: self.shared.folder.clone(),
                    what,
                });
            }
            return Ok(entries);
        }
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        Ok(self.read(indexes(&range), usize::MAX).await?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.tail.lock().vote)
    }

    /// The entries from `start` on; none if that was purged meanwhile: openraft would send what is left of the range as if it followed
    /// what came before `start`.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start..end, LIMITED_BYTES).await?;
        let begins = entries.first().is_some_and(|entry| entry.log_id.index == start);
        Ok(if begins { entries } else { Vec::new() })
    }

    /// Piece by piece, so that a follower that is far behind does not hold all of it in memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let reader = self.clone();
        let pieces = stream::try_unfold(indexes(&range), move |rest| {
            let reader = reader.clone();
            async move {
                let entries = reader.read(rest.clone(), LIMITED_BYTES).await?;
                let Some(last) = entries.last() else {
                    return Ok::<_, io::Error>(None);
                };
                let rest = last.log_id.index + 1..rest.end;
                Ok(Some((entries, rest)))
            }
        });
        pieces.flat_map(|piece| match piece {
            Ok(entries) => stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(error) => stream::iter(vec![Err(error)]),
        })
    }
}

fn indexes(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}
