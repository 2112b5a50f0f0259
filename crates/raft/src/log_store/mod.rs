//! The Raft log of a node: entries, vote, and where the log begins.
//!
//! Raft rests on what is on disk, so this is what must be there before what:
//!
//! | before | on disk |
//! | --- | --- |
//! | a vote is given (`save_vote` returns) | the vote |
//! | an entry is acknowledged (the callback of `append`) | the entry, and all before it |
//! | entries are removed | that they are not promised any more |
//! | entries are purged | the snapshot that covers them, which is the caller's duty |
//!
//! "On disk" means `fdatasync` returned. If it ever fails, nothing is acknowledged any more: the kernel may have thrown away what it
//! could not write, and report success the next time. Only want of room passes: see `disk/files.rs`, [`pressure`] and [`writer`].
//!
//! How the files relate: [`LogStore`] is what openraft writes to, and [`LogReader`] what it reads from. Both look at the [`tail`], which is
//! the log in memory. Writes go through a bounded queue to the [`writer`], a thread that groups them; it writes to the [`disk`], which is
//! a journal of all that was asked for. [`codec`] and [`record`] are the bytes. To use another store for the bytes, replace [`disk`].

pub(crate) mod errors;
pub(crate) mod stats;

mod codec;
mod disk;
mod pieces;
mod pressure;
mod reader;
mod record;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, mpsc, oneshot};

use brama_core::mutants::{self, Mutant};

use self::codec::weight;
use self::disk::Disk;
use self::errors::LogError;
use self::pressure::Pressure;
pub(crate) use self::reader::LogReader;
use self::record::Record;
use self::stats::FlushStats;
use self::tail::Tail;
use self::writer::{FIRST_PAUSE, FreeSpace, Write};
pub use self::writer::{LogWriter, WriteGroup};
use crate::environment::Environment;
use crate::failpoints::{self, Point};
use crate::free_space;
use crate::types::{Entry, LogId, TypeConfig, Vote};

/// Which log it is: random, drawn when it was made.
pub(crate) type LogIdentity = disk::Identity;

/// Makes an empty log in a folder that does not exist; the caller makes the folder's name durable. Gives which log it is. Blocks.
///
/// # Errors
/// When the disk refuses.
pub(crate) fn create(folder: &Path) -> Result<LogIdentity, LogError> {
    Disk::create(folder, FILE_BYTES)
}

/// The log as openraft writes it. There is one; it is not cloned, because all writes have one order.
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Write>,
}

/// What readers, the store and its handle share.
struct Shared {
    tail: Arc<Mutex<Tail>>,
    /// `None` once the log is closed, so that its files are let go of although readers are still around.
    disk: RwLock<Option<Arc<Disk>>>,
    folder: std::path::PathBuf,
    stats: Arc<FlushStats>,
    pressure: Arc<Pressure>,
    /// Bytes of entries that may wait for the disk, in units of [`UNIT`].
    room: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
    environment: Arc<dyn Environment>,
}

/// Closes the log, and tells how it fares. Cheap to clone; holds on to no file.
#[derive(Clone)]
pub(crate) struct LogHandle {
    shared: Arc<Shared>,
    queue: mpsc::WeakSender<Write>,
}

/// Sizes that tests make small.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    /// Of a file of the journal. Smaller: a pause for a new file comes more often; larger: purged entries take room for longer.
    file_bytes: u64,
    /// Entries kept in memory, in bytes, beyond those that are not durable yet.
    cache_bytes: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            file_bytes: FILE_BYTES,
            cache_bytes: 32 * 1024 * 1024,
        }
    }
}

const FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Most writes that wait for the writer.
const QUEUE: usize = 1024;
/// Most bytes of entries that wait for the writer.
const WAITING_BYTES: usize = 32 * 1024 * 1024;
const UNIT: usize = 1024;
/// Who waits for room looks again after so long.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl LogStore {
    /// Opens the log in this folder, and checks all of it: some milliseconds per ten thousand entries. Blocks.
    ///
    /// # Errors
    /// When anything that was promised is missing or damaged, or it is another log. It never begins an empty log.
    pub(crate) fn open(
        folder: &Path,
        identity: &LogIdentity,
        environment: Arc<dyn Environment>,
    ) -> Result<Self, LogError> {
        Self::open_one(folder, Some(identity), Sizes::default(), environment)
    }

    #[cfg(test)]
    fn open_with(folder: &Path, sizes: Sizes) -> Result<Self, LogError> {
        Self::open_one(folder, None, sizes, Arc::new(crate::environment::System))
    }

    /// The newest entry that was purged: a snapshot must cover it.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.shared.tail.lock().ends().0
    }

    fn open_one(
        folder: &Path,
        expected: Option<&LogIdentity>,
        sizes: Sizes,
        environment: Arc<dyn Environment>,
    ) -> Result<Self, LogError> {
        let (disk, record) = Disk::open(folder, expected, sizes.file_bytes)?;
        let folder = folder.to_path_buf();
        let free_space = Box::new(move || free_space::of(&folder));
        Self::start(disk, record, sizes, free_space, environment)
    }

    fn start(
        disk: Disk,
        record: Record,
        sizes: Sizes,
        free_space: FreeSpace,
        environment: Arc<dyn Environment>,
    ) -> Result<Self, LogError> {
        let folder = disk.folder().to_path_buf();
        let disk = Arc::new(disk);
        let tail = Arc::new(Mutex::new(Tail::new(&record, sizes.cache_bytes)));
        let stats = Arc::new(FlushStats::default());
        let pressure = Arc::new(Pressure::default());
        let (queue, receiver) = mpsc::channel(QUEUE);
        let writer = LogWriter {
            disk: disk.clone(),
            tail: tail.clone(),
            stats: stats.clone(),
            pressure: pressure.clone(),
            free_space,
            record,
            next_try: (Instant::now(), FIRST_PAUSE),
            queue: receiver,
        };
        let thread = environment
            .spawn_log_writer(writer)
            .map_err(|e| LogError::io("start the writer of", &folder, e))?;
        let shared = Shared {
            tail,
            disk: RwLock::new(Some(disk)),
            folder,
            stats,
            pressure,
            room: Arc::new(Semaphore::new(WAITING_BYTES / UNIT)),
            writer: Mutex::new(thread),
            environment,
        };
        Ok(Self {
            shared: Arc::new(shared),
            queue,
        })
    }

    /// To close the log after openraft has taken the store, and to see its figures.
    pub(crate) fn handle(&self) -> LogHandle {
        LogHandle {
            shared: self.shared.clone(),
            queue: self.queue.downgrade(),
        }
    }

    /// A reader, as openraft also gets them.
    pub(crate) fn reader(&self) -> LogReader {
        LogReader::new(self.shared.clone())
    }

    fn closed(&self) -> LogError {
        self.shared.closed()
    }

    async fn place(&self) -> Result<mpsc::Permit<'_, Write>, LogError> {
        self.shared.tail.lock().check()?;
        self.queue.reserve().await.map_err(|_| self.closed())
    }
}

impl Shared {
    fn closed(&self) -> LogError {
        LogError::Closed {
            path: self.folder.clone(),
        }
    }
}

impl LogHandle {
    /// Makes everything durable that was asked for, ends the writer and lets go of the files. Reads and writes fail afterwards.
    /// Idempotent.
    ///
    /// # Errors
    /// When the last flush fails, or an earlier one did.
    pub(crate) async fn close(&self) -> Result<(), LogError> {
        self.give_up_waiting();
        let outcome = match self.queue.upgrade() {
            // The store was dropped: the writer ends by itself.
            None => self.shared.tail.lock().check(),
            Some(queue) => {
                let (done, answer) = oneshot::channel();
                if queue.send(Write::Close { done }).await.is_ok() {
                    answer.await.unwrap_or_else(|_| Err(self.shared.closed()))
                } else {
                    self.shared.tail.lock().check()
                }
            }
        };
        let shared = self.shared.clone();
        let joined = self.shared.environment.blocking(move || {
            let thread = shared.writer.lock().take();
            let ended = thread.map(JoinHandle::join);
            drop(shared.disk.write().take());
            // Whoever waits for room to read learns that the log is closed.
            shared.pressure.has_room_again();
            ended
        });
        match joined.await {
            Ok(Some(Err(_))) | Err(_) => Err(self.shared.closed()),
            Ok(Some(Ok(()))) => {
                let stats = self.stats();
                tracing::info!(
                    flushes = stats.flushes(),
                    entries = stats.entries(),
                    bytes = stats.bytes(),
                    total = ?stats.total(),
                    longest = ?stats.longest(),
                    last = ?stats.last(),
                    "the log is closed"
                );
                outcome
            }
            Ok(None) => outcome,
        }
    }

    /// The newest entry that was purged.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.shared.tail.lock().ends().0
    }

    /// The newest vote that is on disk.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.shared.tail.lock().vote
    }

    /// Whether there is room for more entries: in the queue, in memory, and in the journal while the disk is full. Who appends although there
    /// is not may wait, and with it all of openraft. O(1).
    pub(crate) fn takes_entries(&self) -> bool {
        let Some(queue) = self.queue.upgrade() else {
            return true;
        };
        let waiting = WAITING_BYTES / UNIT - self.shared.room.available_permits();
        self.shared.pressure.takes((waiting * UNIT) as u64)
            && waiting < WAITING_BYTES / UNIT / 2
            && queue.capacity() > QUEUE / 2
    }

    /// Returns when there is room for more entries.
    pub(crate) async fn until_it_takes_entries(&self) {
        while !self.takes_entries() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Since when the disk has been full; `None`: it is not.
    pub(crate) fn full_since(&self) -> Option<Instant> {
        self.shared.pressure.full_since()
    }

    /// How long the flush that is under way has taken so far.
    pub(crate) fn flushing_for(&self) -> Option<Duration> {
        self.shared.pressure.flushing_for()
    }

    /// To be called now and then: if the disk was full, it is looked whether it has room.
    pub(crate) fn tick(&self) {
        if let Some(queue) = self.queue.upgrade() {
            // If there is no place in the queue, the writer is busy, and looks by itself.
            let _ = queue.try_send(Write::Tick);
        }
    }

    /// The node stops: what waits for room fails, so that nobody waits for it.
    pub(crate) fn give_up_waiting(&self) {
        self.shared.pressure.close();
    }

    /// Whether the log can be written.
    ///
    /// # Errors
    /// Why it cannot.
    pub(crate) fn check(&self) -> Result<(), LogError> {
        self.shared.tail.lock().check()
    }

    /// What the flushes cost.
    pub(crate) fn stats(&self) -> Arc<FlushStats> {
        self.shared.stats.clone()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let (last_purged_log_id, last_log_id) = self.shared.tail.lock().ends();
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        failpoints::pass(Point::VoteBefore);
        if mutants::active(Mutant::VoteNotSynced) {
            self.shared.tail.lock().vote = Some(*vote);
            return Ok(());
        }
        let (done, answer) = oneshot::channel();
        self.place().await?.send(Write::Vote { vote: *vote, done });
        answer.await.unwrap_or_else(|_| Err(self.closed()))?;
        failpoints::pass(Point::VoteAfter);
        Ok(())
    }

    /// Kept in memory, and written together with whatever is written next: after a crash an older one is found, and openraft
    /// learns the rest from the leader.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.shared.tail.lock().committed = committed;
        Ok(())
    }

    /// Never ahead of the log: `committed` is written without waiting for the entries.
    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let tail = self.shared.tail.lock();
        Ok(tail.committed.min(tail.ends().1))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        failpoints::pass(Point::AppendBefore);
        let entries: Vec<_> = entries.into_iter().collect();
        let bytes = entries.iter().map(weight).sum::<usize>();
        check_lengths(&entries)?;
        let units = (bytes / UNIT + 1).min(WAITING_BYTES / UNIT);
        let room = self.shared.room.clone();
        let room = room
            .acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX))
            .await;
        let room = room.map_err(|_| self.closed())?;
        let place = self.place().await?;
        // From here on nothing waits, so a caller that gives up leaves no entry that can be read and is never written.
        let (begin, epoch) = {
            let mut tail = self.shared.tail.lock();
            tail.append(&entries)?;
            (tail.begin(), tail.epoch())
        };
        let mut done = callback;
        if mutants::active(Mutant::AckBeforeFlush) {
            std::mem::replace(&mut done, IOFlushed::noop()).io_completed(Ok(()));
        }
        place.send(Write::Append {
            entries,
            begin,
            epoch,
            done,
            room,
        });
        failpoints::pass(Point::AppendAfter);
        Ok(())
    }

    /// Returns before it is durable. That is enough: what was removed was not committed, and what is appended in its place
    /// becomes durable after the removal.
    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        failpoints::pass(Point::TruncateBefore);
        let place = self.place().await?;
        if let Some(truncated) = self.shared.tail.lock().truncate_after(last_log_id)? {
            place.send(Write::Truncate(truncated));
        }
        Ok(())
    }

    /// Returns before it is durable: an entry that comes back after a crash is covered by the snapshot.
    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        failpoints::pass(Point::PurgeBefore);
        let place = self.place().await?;
        if self.shared.tail.lock().purge(log_id) {
            place.send(Write::Purge(log_id));
        }
        Ok(())
    }
}

/// What could not be written must be refused before anything is.
fn check_lengths(entries: &[Entry]) -> Result<(), LogError> {
    for entry in entries {
        if let EntryPayload::Normal(payload) = &entry.payload
            && payload.0.len() > MAX_PAYLOAD_BYTES
        {
            let what = format!(
                "entry {} of {} bytes; {MAX_PAYLOAD_BYTES} are the most",
                entry.log_id,
                payload.0.len()
            );
            return Err(LogError::refused(what));
        }
    }
    Ok(())
}

/// Longest payload of an entry.
pub(crate) const MAX_PAYLOAD_BYTES: usize = codec::MAX_BODY_BYTES - 1024;
