//! The one thread that writes.
//!
//! It takes everything that waits, writes it in the order in which it was asked for, and makes it durable with one flush: so the
//! slower the disk, the larger the groups. Only then does it answer. After the first error it writes nothing any more, and
//! answers everything with that error. The three steps can be taken one by one, so that the simulation may crash between them.
//!
//! That the disk is full is no error: see [`Disk::stalled`]. The journal goes on for a while, and what it does not take waits here, in its order. A
//! vote waits behind it: openraft takes a vote that is durable for a sign that all entries before it are. So that it need not,
//! nobody gives entries that the journal may not take (see `pressure`). As soon as there is room, the log is as before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::failpoints::{self, Point};
use crate::log_store::codec::weight;
use crate::log_store::disk::Disk;
use crate::log_store::errors::LogError;
use crate::log_store::pressure::Pressure;
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
    /// Time passes: if the disk is full, it may have room again.
    Tick,
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
/// While something waits for room on the disk, it is looked for so often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The disk must have so much room before the journal takes a new file of it: the rest is for snapshots, which give room back.
pub(super) const ROOM_TO_GO_ON: u64 = 12 * 1024 * 1024;
/// The pause after an attempt that ended for want of room all the same. Each is the double of the one before, up to the longest. (A user's
/// share of a disk can be full while the disk is not.)
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// How much room the disk has, in bytes.
pub(super) type FreeSpace = Box<dyn Fn() -> std::io::Result<u64> + Send>;

/// Writes the log. What the thread owns.
pub struct LogWriter {
    pub(super) disk: Arc<Disk>,
    pub(super) tail: Arc<Mutex<Tail>>,
    pub(super) stats: Arc<FlushStats>,
    pub(super) pressure: Arc<Pressure>,
    pub(super) free_space: FreeSpace,
    /// As it was written last.
    pub(super) record: Record,
    /// When a file is tried to be made again next, and the pause after that.
    pub(super) next_try: (Instant, Duration),
    pub(super) queue: mpsc::Receiver<Write>,
}

impl LogWriter {
    /// Writes until the log is closed, or dropped.
    pub fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            if let Some(mut group) = self.gather(first) {
                self.flush(&mut group);
                self.answer(&mut group);
                if group.closes {
                    return;
                }
            }
        }
        self.end();
    }

    /// What waits, in the order in which it was asked for: not durable yet. `None`: the log is closed, or dropped.
    pub async fn next_group(&mut self) -> Option<WriteGroup> {
        while let Some(first) = self.queue.recv().await {
            if let Some(group) = self.gather(first) {
                return Some(group);
            }
        }
        self.end();
        None
    }

    /// What came, and what waits behind it.
    fn gather(&mut self, first: Write) -> Option<WriteGroup> {
        if matches!(first, Write::Tick) {
            self.look_for_room();
            return None;
        }
        let mut group = WriteGroup {
            writes: Vec::new(),
            bytes: 0,
            entries: 0,
            closes: false,
            outcome: self.tail.lock().check(),
        };
        let mut next = Some(first);
        while let Some(write) = next {
            if let Write::Append { entries, .. } = &write {
                group.bytes += bytes(entries);
                group.entries += entries.len() as u64;
            }
            if group.outcome.is_ok() {
                group.outcome = self.write(&write);
            }
            group.closes = matches!(write, Write::Close { .. });
            group.writes.push(write);
            let full = group.writes.len() >= GROUP || group.bytes >= GROUP_BYTES;
            next = if full || group.closes {
                None
            } else {
                self.queue.try_recv().ok()
            };
        }
        Some(group)
    }

    /// Makes the group durable.
    pub fn flush(&mut self, group: &mut WriteGroup) {
        if group.outcome.is_ok() {
            group.outcome = self.commit(group);
        }
        if let Err(error) = &group.outcome {
            tracing::error!(%error, "the log cannot be written any more");
            self.tail.lock().fail(error);
        }
    }

    /// Tells everybody who waits for the group.
    pub fn answer(&mut self, group: &mut WriteGroup) {
        group.answer(&self.tail);
        self.tell_of_room();
        if group.closes {
            self.refuse_rest();
        }
    }

    /// Nobody asked to close, but all is durable. The mark only has to reach the disk at some time.
    fn end(&self) {
        if let Err(error) = self.disk.sync_mark() {
            tracing::warn!(%error, "closing the log");
        }
    }

    fn tell_of_room(&self) {
        match self.disk.stalled() {
            Some((why, left)) => {
                if self.pressure.full_since().is_none() {
                    tracing::error!(
                        cause = why.cause(),
                        left_in_journal = left,
                        "the disk is full: this node takes no more than its journal holds, and goes on by itself when there is room"
                    );
                }
                self.pressure.full(left);
            }
            // Perhaps because a file was made, perhaps because what was purged left one that can be used again.
            None => {
                if let Some(full_for) = self.pressure.has_room_again() {
                    tracing::info!(?full_for, "the disk has room again, and the log goes on");
                }
            }
        }
    }

    /// If the disk was full and has room, the log goes on as before.
    fn look_for_room(&mut self) {
        if self.tail.lock().check().is_err() {
            return;
        }
        if let Err(error) = self.go_on() {
            tracing::error!(%error, "the log cannot be written any more");
            self.tail.lock().fail(&error);
        }
    }

    /// # Errors
    /// When no file can be made, for another reason than want of room.
    fn go_on(&mut self) -> Result<(), LogError> {
        self.tell_of_room();
        if self.disk.stalled().is_none() {
            return Ok(());
        }
        let (next, pause) = self.next_try;
        if Instant::now() < next || !(self.free_space)().is_ok_and(|bytes| bytes >= ROOM_TO_GO_ON) {
            return Ok(());
        }
        match self.disk.make_room() {
            Ok(()) => {
                self.next_try = (Instant::now(), FIRST_PAUSE);
                self.tell_of_room();
                Ok(())
            }
            Err(error) if error.is_no_room() => {
                tracing::warn!(cause = error.cause(), again_in = ?pause, "there is not enough room to go on yet");
                self.next_try = (Instant::now() + pause, (pause * 2).min(LONGEST_PAUSE));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whoever asked after the close, or at the same time, gets an answer too.
    fn refuse_rest(&mut self) {
        self.queue.close();
        let mut rest = Vec::new();
        while let Ok(write) = self.queue.try_recv() {
            rest.push(write);
        }
        let closed = LogError::Closed {
            path: self.disk.folder().to_path_buf(),
        };
        answer(rest, &Err(closed), &self.tail);
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
            Write::Tick | Write::Close { .. } => Ok(()),
        }
    }

    fn write_record(&mut self) -> Result<(), LogError> {
        self.record.seq += 1;
        self.record.committed = self.tail.lock().committed;
        self.disk.write_record(&self.record)
    }

    fn commit_when_there_is_room(&mut self, closes: bool) -> Result<(), LogError> {
        self.write_record()?;
        loop {
            match self.disk.commit(self.record.seq) {
                Err(error) if error.is_no_room() && !self.pressure.is_closing() => {
                    self.tell_of_room();
                    std::thread::sleep(LOOK_EVERY);
                    self.go_on()?;
                }
                outcome => break outcome?,
            }
        }
        if closes {
            self.disk.sync_mark()?;
        }
        Ok(())
    }

    fn commit(&mut self, group: &WriteGroup) -> Result<(), LogError> {
        let began = Instant::now();
        self.pressure.flush_begins();
        let committed = self.commit_when_there_is_room(group.closes);
        self.pressure.flush_ends();
        committed?;
        let took = began.elapsed();
        let entries = group.entries;
        self.stats.record(entries, group.bytes as u64, took);
        if took >= SLOW {
            self.stats.record_slow();
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
pub struct WriteGroup {
    writes: Vec<Write>,
    /// Of entries.
    bytes: usize,
    entries: u64,
    /// It is the last one.
    closes: bool,
    /// What came of it so far.
    outcome: Result<(), LogError>,
}

impl WriteGroup {
    fn answer(&mut self, tail: &Mutex<Tail>) {
        answer(std::mem::take(&mut self.writes), &self.outcome, tail);
    }
}

/// Answers everybody.
fn answer(writes: Vec<Write>, outcome: &Result<(), LogError>, tail: &Mutex<Tail>) {
    for write in writes {
        match write {
            Write::Append {
                entries,
                epoch,
                done,
                room,
                ..
            } => {
                if let (Ok(()), Some(last)) = (outcome, entries.last()) {
                    tail.lock().flushed(last.log_id.index + 1, epoch);
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
            Write::Truncate(_) => failpoints::pass(Point::TruncateAfter),
            Write::Purge(_) => failpoints::pass(Point::PurgeAfter),
            Write::Tick => {}
        }
    }
}

fn bytes(entries: &[Entry]) -> usize {
    entries.iter().map(weight).sum()
}
