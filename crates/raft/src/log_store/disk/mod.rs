//! The log on disk: the only folder of files that knows sled.
//!
//! ```text
//! <folder>/db, conf, blobs/, snap.*   sled's own
//! <folder>/journal-0, journal-1       what sled has not made durable yet: see `journal`
//! <folder>/durable-mark               see `record`
//! tree "meta"                         one key, "record": see `record`
//! tree "seg-<first index>"            the entries of one segment, in chunks: see `codec`
//! ```
//! Entries live in *segments* of some thousand entries, one sled tree each, because dropping a tree is two hundred times cheaper than
//! removing its keys, and gives the space back.
//!
//! sled writes everything, of all trees, to one log in the order in which it was called, and recovers a prefix of it. So
//! each step below leaves the log whole: entries are added before the record promises them, and the record takes its promise back
//! before entries are removed, from the end backwards (truncate) or from the beginning onwards (purge).
//!
//! What sled gets wrong, and what is done about it here:
//! - `flush` on Linux is `sync_file_range`, which does not survive a power cut (sled issue 1452). So an `fdatasync` on a descriptor of our own
//!   follows each flush.
//! - A flush costs more than the rest of a small write. So [`Disk::commit`] makes writes durable in a journal, and sled is flushed behind it.
//! - A value that makes a page outgrow a quarter of a segment goes to a file in `blobs/` that is never synced. So values are small,
//!   and that folder must be empty after each flush.
//! - Opening a damaged database may panic, and so may reading one. Each call into sled is caught.
//! - A batch is written to the file at once, by another thread that is woken for it. So keys are inserted one by one.
//! - `flush_async` can deadlock (sled issue 1308): it is not used, and neither is sled's own flusher.

mod ahead;
mod flushing;
mod journal;
mod recover;
mod room;
mod scan;
mod steps;

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use self::ahead::Ahead;
use self::journal::{FILES, FoundGroup, Identity, JournalFile};
use self::scan::{Scanner, Trouble};
use crate::log_store::codec;
use crate::log_store::errors::LogError;
use crate::log_store::record::{Mark, RECORD_VERSION, Record};
use crate::types::Entry;

/// When a segment is full.
#[derive(Clone, Copy, Debug)]
pub(super) struct SegmentLimits {
    /// After so many entries.
    pub(super) entries: u64,
    /// Or so many bytes.
    pub(super) bytes: usize,
}

impl Default for SegmentLimits {
    fn default() -> Self {
        Self {
            entries: 4096,
            bytes: 32 * 1024 * 1024,
        }
    }
}

/// What makes sled's file durable. A seam for tests; a [`File`] does it with `fdatasync`.
pub(super) trait SyncData: Send + Sync {
    /// Returns when all that was written to the file is on the disk.
    fn sync_data(&self) -> io::Result<()>;
}

impl SyncData for File {
    fn sync_data(&self) -> io::Result<()> {
        Self::sync_data(self)
    }
}

/// An open log folder. One thread writes; any may read.
pub(super) struct Disk {
    folder: PathBuf,
    /// `None` while it could not be opened again: see `room`.
    sled: RwLock<Option<Sled>>,
    /// Sled is being opened again, or could not be: there is nothing to read.
    away: AtomicBool,
    /// In order, without gaps. Reads hold this lock shared, and dropping a segment takes it alone: sled does not expect
    /// reads of a tree that is being dropped.
    segments: RwLock<Vec<Segment>>,
    limits: SegmentLimits,
    mark: Mark,
    ahead: Mutex<Ahead>,
    /// There is too little room even to open sled again.
    #[cfg(test)]
    pub(super) cramped: AtomicBool,
}

/// Sled, open. Cheap to clone; it closes its files after the last clone is gone.
#[derive(Clone)]
struct Sled {
    folder: PathBuf,
    db: sled::Db,
    meta: sled::Tree,
    data: Arc<dyn SyncData>,
}

struct Segment {
    tree: sled::Tree,
    /// The index in its name.
    first: u64,
    /// One past its newest entry.
    next: u64,
    bytes: usize,
}

impl Disk {
    /// Makes an empty log in a folder that does not exist. When it returns, all in the folder is durable; the
    /// folder's own name is not.
    pub(super) fn create(folder: &Path) -> Result<(), LogError> {
        fs::create_dir(folder).map_err(|e| LogError::io("create", folder, e))?;
        let mark = folder.join(MARK_FILE);
        Mark::create(&mark).map_err(|e| LogError::io("write", mark, e))?;
        let record = Record::default().encode().map_err(LogError::refused)?;
        let identity: Identity = rand::random();
        for (generation, file) in (0..).zip(FILES) {
            let path = folder.join(file);
            JournalFile::create(&path, &identity, generation, JOURNAL_BYTES)
                .map_err(|e| LogError::io("write", path, e))?;
        }
        guarded(folder, || {
            let db = config(folder).open()?;
            let meta = db.open_tree(META_TREE)?;
            meta.insert(IDENTITY_KEY, &identity)?;
            meta.insert(RECORD_KEY, record)?;
            db.flush()?;
            Ok(())
        })?;
        sync_files(folder)
    }

    /// Opens a log, checks that it holds everything it promised, and removes what it never promised: the rests of writes, truncations
    /// and purges that a crash cut short.
    pub(super) fn open(folder: &Path, limits: SegmentLimits) -> Result<(Self, Record), LogError> {
        // sled would make what is missing, and so begin an empty log.
        for file in [MARK_FILE, DATA_FILE, "conf", FILES[0], FILES[1]] {
            let path = folder.join(file);
            let length = path.metadata().map_or(0, |found| found.len());
            if length == 0 {
                return Err(LogError::Missing { path });
            }
        }
        let mark_path = folder.join(MARK_FILE);
        let (mark, durable) = Mark::open(&mark_path).map_err(|e| LogError::io("open", &mark_path, e))?;
        let durable =
            durable.ok_or_else(|| damaged(folder, format!("{MARK_FILE} is not what was written")))?;

        let (sled, record, identity) = Sled::open(folder)?;
        let (files, groups) = open_journal(folder, &identity)?;
        let disk = Self {
            folder: folder.to_path_buf(),
            sled: RwLock::new(Some(sled)),
            away: AtomicBool::new(false),
            segments: RwLock::default(),
            limits,
            mark,
            ahead: Mutex::new(Ahead::new(files, identity, 0)),
            #[cfg(test)]
            cramped: AtomicBool::new(false),
        };
        let record = disk.catch_up(&record, &groups, durable)?;
        disk.ahead.lock().begin_after(record.seq, folder)?;
        Ok((disk, record))
    }

    /// Sled was opened: gives it all that the journal has, and makes that durable. `durable` is the number of a record that must be
    /// there. Gives the newest.
    fn catch_up(&self, record: &[u8], groups: &[FoundGroup], durable: u64) -> Result<Record, LogError> {
        let promised = self.decode_record(record)?;
        let mut record = self.recover(promised.clone())?;
        if groups.last().is_some_and(|newest| newest.after > promised.seq) {
            record = self.repeat(promised, groups)?;
        }
        if record.seq < durable {
            let what = format!(
                "write {durable} was durable, and the newest that is left is write {}",
                record.seq
            );
            return Err(damaged(&self.folder, what));
        }
        // Opening wrote: sled's files, what the journal had, and perhaps rests were removed.
        self.flush_sled()?;
        sync_files(&self.folder)?;
        Ok(record)
    }

    /// Adds entries, which follow the newest one. Durable with the next [`Disk::commit`].
    pub(super) fn append(&self, entries: &[Entry]) -> Result<(), LogError> {
        let mut ahead = self.ahead.lock();
        entries
            .iter()
            .try_for_each(|entry| steps::push_entry(ahead.pending(), entry))
            .map_err(LogError::refused)
    }

    /// Removes all entries from index `from` on. The record must not promise them any more.
    pub(super) fn remove_from(&self, from: u64) {
        steps::push_remove_from(self.ahead.lock().pending(), from);
    }

    /// Drops the segments that lie wholly before index `begin`. The record must say that the log begins there.
    pub(super) fn remove_before(&self, begin: u64) {
        let mut ahead = self.ahead.lock();
        steps::push_remove_before(ahead.pending(), begin);
        ahead.gives_room();
    }

    /// Writes the record. Durable with the next [`Disk::commit`], in order with all that was written before.
    pub(super) fn write_record(&self, record: &Record) -> Result<(), LogError> {
        let bytes = record.encode().map_err(LogError::refused)?;
        steps::push_record(self.ahead.lock().pending(), &bytes).map_err(LogError::refused)
    }

    /// One key after another: a batch of sled's makes it write its buffer to the file, and wake threads for it, each time.
    fn add_frames(&self, frames: Vec<(u64, &[u8])>) -> Result<(), LogError> {
        for (index, frame) in frames {
            self.check_follows(index)?;
            if self.newest_is_full() {
                self.begin_segment(index)?;
            }
            let mut segments = self.segments.write();
            let Some(segment) = segments.last_mut() else {
                continue;
            };
            self.guarded(|| {
                for (number, chunk) in (0_u16..).zip(frame.chunks(codec::CHUNK_BYTES)) {
                    segment.tree.insert(codec::key(index, number), chunk)?;
                }
                Ok(())
            })?;
            segment.next = index + 1;
            segment.bytes += frame.len();
        }
        Ok(())
    }

    fn drop_from(&self, from: u64) -> Result<(), LogError> {
        let mut segments = self.segments.write();
        while let Some(segment) = segments.pop_if(|segment| segment.first >= from) {
            self.drop_tree(segment.first)?;
        }
        let Some(segment) = segments.last_mut().filter(|segment| segment.next > from) else {
            return Ok(());
        };
        self.remove_keys_from(&segment.tree, from)?;
        segment.next = from;
        Ok(())
    }

    fn drop_before(&self, begin: u64) -> Result<(), LogError> {
        let mut segments = self.segments.write();
        while segments.first().is_some_and(|segment| segment.next <= begin) {
            self.drop_tree(segments.remove(0).first)?;
        }
        Ok(())
    }

    fn put_record(&self, bytes: &[u8]) -> Result<(), LogError> {
        let meta = self.sled()?.meta;
        self.guarded(|| Ok(meta.insert(RECORD_KEY, bytes).map(drop)?))
    }

    fn decode_record(&self, bytes: &[u8]) -> Result<Record, LogError> {
        Record::decode(bytes).map_err(|version| match version {
            Some(found) => LogError::NewerFormat {
                path: self.folder.clone(),
                found,
                known: RECORD_VERSION,
            },
            None => damaged(&self.folder, "its record is not what was written"),
        })
    }

    fn write_mark(&self, seq: u64) -> Result<(), LogError> {
        self.mark
            .write(seq)
            .map_err(|e| LogError::io("write", self.folder.join(MARK_FILE), e))
    }

    /// Makes the mark durable too, as a last step.
    pub(super) fn sync_mark(&self) -> Result<(), LogError> {
        self.mark
            .sync()
            .map_err(|e| LogError::io("sync", self.folder.join(MARK_FILE), e))
    }

    /// The entries of a range that are on disk, from its beginning on, up to about `max_bytes` but at least one. Fewer, if
    /// some are not there: the caller knows whether they should be.
    pub(super) fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, LogError> {
        let segments = self.segments.read();
        self.check_present()?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut expected = range.start;
        for segment in segments
            .iter()
            .filter(|s| s.next > range.start && s.first < range.end)
        {
            let end = range.end.min(segment.next);
            self.guarded(|| {
                for entry in Scanner::new(&segment.tree, expected..end) {
                    let entry = entry?;
                    if entry.log_id.index != expected || bytes >= max_bytes {
                        break;
                    }
                    bytes += codec::weight(&entry);
                    expected += 1;
                    entries.push(entry);
                }
                Ok(())
            })?;
            if expected < end {
                break;
            }
        }
        Ok(entries)
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The tail has checked it; here it is checked again, because a hole on disk could not be mended.
    fn check_follows(&self, index: u64) -> Result<(), LogError> {
        match self.segments.read().last() {
            Some(segment) if segment.next != index => Err(LogError::refused(format!(
                "entry {index} after {}, which would leave a hole",
                segment.next - 1
            ))),
            _ => Ok(()),
        }
    }

    fn newest_is_full(&self) -> bool {
        let full = |segment: &Segment| {
            segment.next - segment.first >= self.limits.entries || segment.bytes >= self.limits.bytes
        };
        self.segments.read().last().is_none_or(full)
    }

    fn begin_segment(&self, first: u64) -> Result<(), LogError> {
        let db = self.sled()?.db;
        let tree = self.guarded(|| Ok(db.open_tree(segment_name(first))?))?;
        self.segments.write().push(Segment {
            tree,
            first,
            next: first,
            bytes: 0,
        });
        Ok(())
    }

    fn drop_tree(&self, first: u64) -> Result<(), LogError> {
        let db = self.sled()?.db;
        self.guarded(|| Ok(db.drop_tree(segment_name(first)).map(drop)?))
    }

    fn remove_keys_from(&self, tree: &sled::Tree, from: u64) -> Result<(), LogError> {
        // From the end backwards, as always.
        self.guarded(|| {
            for key in tree.range(codec::key(from, 0)..).keys().rev() {
                tree.remove(key?)?;
            }
            Ok(())
        })
    }

    fn guarded<T>(&self, call: impl FnOnce() -> Result<T, Trouble>) -> Result<T, LogError> {
        guarded(&self.folder, call)
    }
}

/// Tests count the syncs, and make them fail.
#[cfg(test)]
impl Disk {
    pub(super) fn replace_sync(&self, sync: impl FnMut(Box<dyn SyncData>) -> Box<dyn SyncData>) {
        self.ahead.lock().replace_sync(sync);
    }

    /// Until sled is opened again.
    pub(super) fn replace_sync_of_sled(&self, sync: Arc<dyn SyncData>) {
        if let Some(sled) = &mut *self.sled.write() {
            sled.data = sync;
        }
    }

    /// First index and one past the last of each segment.
    pub(super) fn segments(&self) -> Vec<(u64, u64)> {
        self.segments
            .read()
            .iter()
            .map(|segment| (segment.first, segment.next))
            .collect()
    }
}

impl Sled {
    /// Opens the database; gives its record, and which log it is.
    fn open(folder: &Path) -> Result<(Self, sled::IVec, Identity), LogError> {
        wait_for_release(folder)?;
        let (db, meta, record, identity) = guarded(folder, || {
            let db = config(folder).open()?;
            let meta = db.open_tree(META_TREE)?;
            let record = meta.get(RECORD_KEY)?;
            let identity = meta.get(IDENTITY_KEY)?;
            Ok((db, meta, record, identity))
        })?;
        let record = record.ok_or_else(|| damaged(folder, "it has no record"))?;
        let identity = identity.and_then(|identity| Identity::try_from(&*identity).ok());
        let identity = identity.ok_or_else(|| damaged(folder, "it does not say which log it is"))?;
        let data_path = folder.join(DATA_FILE);
        let data = File::open(&data_path).map_err(|e| LogError::io("open", data_path, e))?;
        let sled = Self {
            folder: folder.to_path_buf(),
            db,
            meta,
            data: Arc::new(data),
        };
        Ok((sled, record, identity))
    }

    /// Makes durable all that it has. See `flushing` for who calls it.
    fn flush(&self) -> Result<(), LogError> {
        guarded(&self.folder, || Ok(self.db.flush().map(drop)?))?;
        self.data
            .sync_data()
            .map_err(|e| LogError::io("sync", self.folder.join(DATA_FILE), e))?;
        check_no_blobs(&self.folder)
    }
}

/// Calls sled. A panic in it becomes an error: it is sled's way of meeting a file that is not what it wrote.
fn guarded<T>(folder: &Path, call: impl FnOnce() -> Result<T, Trouble>) -> Result<T, LogError> {
    // What a panic leaves half done inside sled is never used again: each error here ends the log's use.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Trouble::Damaged { what })) => Err(damaged(folder, what)),
        Ok(Err(Trouble::Newer(found))) => Err(LogError::NewerFormat {
            path: folder.to_path_buf(),
            found,
            known: codec::ENTRY_VERSION,
        }),
        Ok(Err(Trouble::Sled(sled::Error::Io(error)))) => Err(LogError::io("use", folder, error)),
        Ok(Err(Trouble::Sled(error))) => Err(damaged(folder, format!("sled: {error}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(damaged(folder, format!("sled panicked: {text}")))
        }
    }
}

fn damaged(folder: &Path, what: impl Into<String>) -> LogError {
    LogError::Damaged {
        path: folder.to_path_buf(),
        what: what.into(),
    }
}

fn config(folder: &Path) -> sled::Config {
    // No flusher of sled's own: one thread flushes, when it decides.
    sled::Config::new()
        .path(folder)
        .cache_capacity(SLED_CACHE_BYTES)
        .flush_every_ms(None)
}

/// sled lets go of its files a moment after its database is dropped, when its last background job ends. Whoever opens
/// the log again in the same process may come before that. Other processes are kept out by the data directory's lock.
fn wait_for_release(folder: &Path) -> Result<(), LogError> {
    let path = folder.join(DATA_FILE);
    let failed = |error| LogError::io("lock", &path, error);
    let file = File::open(&path).map_err(failed)?;
    let deadline = Instant::now() + RELEASE_DEADLINE;
    loop {
        match file.try_lock() {
            Ok(()) => return file.unlock().map_err(failed),
            Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// The two files of the journal, and the groups in them in the order in which they were written.
fn open_journal(folder: &Path, identity: &Identity) -> Result<([JournalFile; 2], Vec<FoundGroup>), LogError> {
    let open = |name: &str| {
        let path = folder.join(name);
        let opened = JournalFile::open(&path, identity).map_err(|e| LogError::io("read", path, e))?;
        opened.ok_or_else(|| {
            damaged(
                folder,
                format!("{name} is not what was written, or is of another log"),
            )
        })
    };
    let (first, first_groups) = open(FILES[0])?;
    let (second, second_groups) = open(FILES[1])?;
    let mut groups = [
        (first.generation(), first_groups),
        (second.generation(), second_groups),
    ];
    groups.sort_by_key(|(generation, _)| *generation);
    let groups = groups.into_iter().flat_map(|(_, groups)| groups).collect();
    Ok(([first, second], groups))
}

/// What is in that folder is never synced by sled, so it must not be relied upon. It cannot happen with values this small; if it does,
/// to stop is better than to lose it.
fn check_no_blobs(folder: &Path) -> Result<(), LogError> {
    let blobs = folder.join("blobs");
    let mut files = match fs::read_dir(&blobs) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(LogError::io("list", blobs, error)),
    };
    if files.next().is_some() {
        return Err(damaged(
            folder,
            "sled moved a value to a file in blobs/, which would not be durable",
        ));
    }
    Ok(())
}

/// Makes every file of the folder durable, and their names. sled leaves `conf` empty after a power cut just after its creation.
fn sync_files(folder: &Path) -> Result<(), LogError> {
    let failed = |error| LogError::io("sync", folder, error);
    for file in fs::read_dir(folder).map_err(failed)? {
        let path = file.map_err(failed)?.path();
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(|e| LogError::io("sync", path, e))?;
    }
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)
}

fn segment_name(first: u64) -> String {
    format!("{SEGMENT_PREFIX}{first:020}")
}

const DATA_FILE: &str = "db";
const MARK_FILE: &str = "durable-mark";
const META_TREE: &str = "meta";
const RECORD_KEY: &str = "record";
/// Ties the journal to this store.
const IDENTITY_KEY: &str = "identity";
/// Bytes of each of the journal's two files. Smaller: sled is flushed more often; larger: more to repeat when the log is opened.
const JOURNAL_BYTES: u64 = 4 * 1024 * 1024;
const SEGMENT_PREFIX: &str = "seg-";
const RELEASE_DEADLINE: Duration = Duration::from_secs(10);
/// Reads are served from a cache of entries, so sled's cache of pages may be small.
const SLED_CACHE_BYTES: u64 = 16 * 1024 * 1024;
