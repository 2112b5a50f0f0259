//! The one thread that writes.
//!
//! It takes everything that waits, writes it in the order in which it was asked for, and makes it durable with one flush: so the
//! slower the disk, the larger the groups. Only then does it answer. After the first error it writes nothing any more, and
//! answers everything with that error.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::log_store::codec::weight;
use crate::log_store::disk::Disk;
use crate::log_store::errors::LogError;
use crate::log_store::record::Record;
use crate::log_store::stats::FlushStats;
use crate::log_store::tail::{Tail, Truncated};
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// Something to write. Answers come after it is durable.
pub(super) enum Write {
    /// Entries that follow the newest one.
    Append {
        entries: Vec<Entry>,
        /// Where the log begins, which the first entry of all decides.
        begin: u64,
        epoch: u64,
        done: IOFlushed<TypeConfig>,
        /// Its place among the bytes that may wait.
        room: OwnedSemaphorePermit,
    },
    Vote {
        vote: Vote,
        done: oneshot::Sender<Result<(), LogError>>,
    },
    Truncate(Truncated),
    Purge(LogId),
    /// The last one: everything before it is durable when it is answered, and the thread ends.
    Close {
        done: oneshot::Sender<Result<(), LogError>>,
    },
}

/// Most writes in one flush.
const GROUP: usize = 1024;
/// Most bytes of entries in one flush, give or take the last write.
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// A flush that takes longer is worth a line in the log: at ten of these in a row a cluster begins to hold elections.
const SLOW: Duration = Duration::from_millis(100);

/// What the thread owns.
pub(super) struct Writer {
    pub(super) disk: Arc<Disk>,
    pub(super) tail: Arc<Mutex<Tail>>,
    pub(super) stats: Arc<FlushStats>,
    /// As it was written last.
    pub(super) record: Record,
    /// Up to where entries are durable that sled may not have yet, and in which epoch.
    pub(super) unsettled: Vec<(u64, u64)>,
    pub(super) queue: mpsc::Receiver<Write>,
}

impl Writer {
    /// Runs until [`Write::Close`], or until every sender is gone.
    pub(super) fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let mut group = Group::default();
            let mut failure = self.tail.lock().check();
            let mut next = Some(first);
            while let Some(write) = next {
                group.bytes += if let Write::Append { entries, .. } = &write {
                    bytes(entries)
                } else {
                    0
                };
                if failure.is_ok() {
                    failure = self.write(&write);
                }
                let closes = matches!(write, Write::Close { .. });
                group.writes.push(write);
                let full = group.writes.len() >= GROUP || group.bytes >= GROUP_BYTES;
                next = if full || closes {
                    None
                } else {
                    self.queue.try_recv().ok()
                };
            }
            let closes = matches!(group.writes.last(), Some(Write::Close { .. }));
            let outcome = failure.and_then(|()| self.commit(&group, closes));
            if let Err(error) = &outcome {
                tracing::error!(%error, "the log cannot be written any more");
                self.tail.lock().fail(error);
            }
            group.answer(&outcome, &self.tail, &mut self.unsettled);
            // sled gets it after the answer, and memory lets go of it after that.
            if outcome.is_ok() && self.disk.should_settle() {
                self.settle();
            }
            if closes {
                return self.refuse_rest();
            }
        }
        // Nobody asked to close, but all is durable. The mark only has to reach the disk at some time.
        if let Err(error) = self.disk.sync_mark() {
            tracing::warn!(%error, "closing the log");
        }
    }

    fn settle(&mut self) {
        let settled = self.disk.settle();
        let mut tail = self.tail.lock();
        match settled {
            Ok(()) => tail.flushed_all(&self.unsettled),
            Err(error) => tail.fail(&error),
        }
        self.unsettled.clear();
    }

    /// Whoever asked after the close, or at the same time, gets an answer too.
    fn refuse_rest(&mut self) {
        self.queue.close();
        let closed = Err(LogError::Closed {
            path: self.disk.folder().to_path_buf(),
        });
        while let Ok(write) = self.queue.try_recv() {
            Group {
                writes: vec![write],
                bytes: 0,
            }
            .answer(&closed, &self.tail, &mut self.unsettled);
        }
    }

    /// Writes one thing, not yet durable.
    fn write(&mut self, write: &Write) -> Result<(), LogError> {
        match write {
            Write::Append { entries, begin, .. } => {
                self.disk.append(entries)?;
                self.record.begin = *begin;
                self.record.last = entries.last().map(|entry| entry.log_id).or(self.record.last);
                Ok(())
            }
            Write::Vote { vote, .. } => {
                self.record.vote = Some(*vote);
                self.write_record()
            }
            Write::Truncate(truncated) => {
                self.record.last = truncated.last;
                self.write_record()?;
                self.disk.remove_from(truncated.from);
                Ok(())
            }
            Write::Purge(upto) => {
                self.record.begin = upto.index + 1;
                self.record.purged = Some(*upto);
                self.record.last = self.record.last.max(self.record.purged);
                self.write_record()?;
                self.disk.remove_before(self.record.begin);
                Ok(())
            }
            Write::Close { .. } => Ok(()),
        }
    }

    fn write_record(&mut self) -> Result<(), LogError> {
        self.record.seq += 1;
        self.record.committed = self.tail.lock().committed;
        self.disk.write_record(&self.record)
    }

    fn commit(&mut self, group: &Group, closes: bool) -> Result<(), LogError> {
        let began = Instant::now();
        self.write_record()?;
        self.disk.commit(self.record.seq)?;
        if closes {
            self.disk.settle()?;
            self.tail.lock().flushed_all(&self.unsettled);
            self.disk.checkpoint()?;
            self.disk.sync_mark()?;
        }
        let took = began.elapsed();
        let entries = group.entries();
        self.stats.record(entries, group.bytes as u64, took);
        if took >= SLOW {
            tracing::warn!(
                took_ms = took.as_millis(),
                entries,
                bytes = group.bytes,
                folder = %self.disk.folder().display(),
                "the disk is slow: flushing the log took long; elections begin when this comes near to the election timeout"
            );
        }
        Ok(())
    }
}

/// What is made durable together.
#[derive(Default)]
struct Group {
    writes: Vec<Write>,
    bytes: usize,
}

impl Group {
    fn entries(&self) -> u64 {
        let count = |write: &Write| {
            if let Write::Append { entries, .. } = write {
                entries.len() as u64
            } else {
                0
            }
        };
        self.writes.iter().map(count).sum()
    }

    /// Answers everybody. Adds up to where entries are durable, and in which epoch.
    fn answer(self, outcome: &Result<(), LogError>, tail: &Mutex<Tail>, durable: &mut Vec<(u64, u64)>) {
        for write in self.writes {
            match write {
                Write::Append {
                    entries,
                    epoch,
                    done,
                    room,
                    ..
                } => {
                    if let (Ok(()), Some(last)) = (outcome, entries.last()) {
                        let next = last.log_id.index + 1;
                        match durable.last_mut() {
                            Some((newest, of)) if *of == epoch => *newest = next.max(*newest),
                            _ => durable.push((next, epoch)),
                        }
                    }
                    drop(room);
                    done.io_completed(outcome.clone().map_err(Into::into));
                }
                Write::Vote { vote, done } => {
                    if outcome.is_ok() {
                        tail.lock().vote = Some(vote);
                    }
                    // Whoever asked may be gone; the vote is there all the same.
                    let _ = done.send(outcome.clone());
                }
                Write::Close { done } => {
                    let _ = done.send(outcome.clone());
                }
                Write::Truncate(_) | Write::Purge(_) => {}
            }
        }
    }
}

fn bytes(entries: &[Entry]) -> usize {
    entries.iter().map(weight).sum()
}
