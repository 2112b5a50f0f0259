//! The log on disk: a journal of everything that was ever asked for, in files of full length that are written in place and used again.
//!
//! ```text
//! <folder>/journal-0, journal-1, ...   see `journal`; one of them is written, the others are full, or not in use
//! <folder>/durable-mark                see `record`
//! ```
//! A flush is one write and one `fdatasync`; no metadata of the file system has to follow, because the file has its length and its blocks
//! already. What is in which file is kept in memory, some sixteen bytes an entry, and read from the files when the log is opened. Nothing is
//! ever moved: a file is used again when all its entries were purged.
//!
//! What a power cut can leave: the last group torn, or not there. It was never acknowledged. The groups before it are whole, because each
//! was durable before the next one was begun; so whatever else is found is damage, and is told.
//!
//! The files relate so: [`journal`] is one file, [`files`] which of them is written and which may be used again, [`index`] where entries are,
//! [`steps`] what a group holds. Why no embedded database keeps the entries: see docs/durability.md.

mod files;
mod index;
mod journal;
mod steps;

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, RwLock};

use brama_core::mutants::{self, Mutant};

use self::files::Files;
use self::index::Index;
pub(super) use self::journal::Identity;
use self::journal::JournalFile;
use self::steps::Step;
use crate::failpoints::{self, Point};
use crate::log_store::codec::{self, DecodeError};
use crate::log_store::errors::LogError;
use crate::log_store::record::{Mark, RECORD_VERSION, Record};
use crate::types::Entry;

/// What makes a file durable. A seam for tests; a [`File`] does it with `fdatasync`.
pub(super) trait SyncData: Send + Sync {
    /// Returns when all that was written to the file is on the disk.
    fn sync_data(&self) -> io::Result<()>;
}

impl SyncData for File {
    fn sync_data(&self) -> io::Result<()> {
        failpoints::fallible(Point::FlushBefore)?;
        if !mutants::active(Mutant::NoFdatasync) {
            Self::sync_data(self)?;
        }
        failpoints::pass(Point::FlushAfter);
        Ok(())
    }
}

/// An open log folder. One thread writes; any may read.
pub(super) struct Disk {
    folder: PathBuf,
    mark: Mark,
    files: Mutex<Files>,
    /// What is durable, and where. Read while files are read, so that none is used again meanwhile.
    index: RwLock<Index>,
}

impl Disk {
    /// Makes an empty log in a folder that does not exist. When it returns, all in the folder is durable; the
    /// folder's own name is not. Gives which log it is.
    pub(super) fn create(folder: &Path, file_bytes: u64) -> Result<Identity, LogError> {
        fs::create_dir(folder).map_err(|e| LogError::io("create", folder, e))?;
        let mark = folder.join(MARK_FILE);
        Mark::create(&mark).map_err(|e| LogError::io("write", mark, e))?;
        let identity: Identity = rand::random();
        for slot in 0..2 {
            JournalFile::create(folder, slot, &identity, file_bytes)?;
        }
        sync_files(folder)?;
        Ok(identity)
    }

    /// Opens a log, and checks that it holds everything it promised. Only the log with the identity that is `expected`, if one is.
    ///
    /// # Errors
    /// When anything that was promised is not there, or not what was written, or of another log. Nothing was written then.
    pub(super) fn open(
        folder: &Path,
        expected: Option<&Identity>,
        file_bytes: u64,
    ) -> Result<(Self, Record), LogError> {
        let mark_path = folder.join(MARK_FILE);
        if mark_path.metadata().map_or(0, |found| found.len()) == 0 {
            return Err(LogError::Missing { path: mark_path });
        }
        let (mark, durable) = Mark::open(&mark_path).map_err(|e| LogError::io("open", &mark_path, e))?;
        let durable = durable.ok_or_else(|| damaged(&mark_path, "it is not what was written"))?;

        let (found, identity) = files::find(folder, expected)?;
        let mut replay = Replay::default();
        let mut newest = None;
        let mut files = Vec::new();
        for mut file in found {
            let path = folder.join(journal::name(file.slot()));
            let content = fs::read(&path).map_err(|e| LogError::io("read", &path, e))?;
            let groups = file.groups(&content, &identity);
            for group in &groups {
                replay.group(group, &mut file, &path)?;
            }
            newest = groups.last().map(|group| file.found(&content, group)).or(newest);
            files.push(file);
        }
        let (record, index) = replay.finish(folder)?;
        if record.seq < durable {
            let what = format!(
                "write {durable} was durable, and the newest that is left is write {}",
                record.seq
            );
            return Err(damaged(folder, what));
        }
        // The kernel may still hold what the last process wrote. Others take for durable what is found now. If that process ended because a sync failed, then the
        // kernel takes the newest group for written though it is not, and no sync would write it: so it is written once more.
        if let Some(newest) = newest {
            newest
                .write_again()
                .map_err(|e| LogError::io("write", folder, e))?;
        }
        sync_files(folder)?;
        let files = Files::new(folder, identity, file_bytes, files, record.seq);
        let disk = Self {
            folder: folder.to_path_buf(),
            mark,
            files: Mutex::new(files),
            index: RwLock::new(index),
        };
        Ok((disk, record))
    }

    /// Adds entries, which follow the newest one. Durable with the next [`Disk::commit`].
    pub(super) fn append(&self, entries: &[Entry]) -> Result<(), LogError> {
        let mut files = self.files.lock();
        entries
            .iter()
            .try_for_each(|entry| steps::push_entry(&mut files.pending, entry))
            .map_err(LogError::refused)
    }

    /// Removes all entries from index `from` on. The record must not promise them any more.
    pub(super) fn remove_from(&self, from: u64) {
        steps::push_remove_from(&mut self.files.lock().pending, from);
    }

    /// Removes all entries before index `begin`. The record must say that the log begins there.
    pub(super) fn remove_before(&self, begin: u64) {
        steps::push_remove_before(&mut self.files.lock().pending, begin);
    }

    /// Writes the record. Durable with the next [`Disk::commit`], in order with all that was written before.
    pub(super) fn write_record(&self, record: &Record) -> Result<(), LogError> {
        let bytes = record.encode().map_err(LogError::refused)?;
        steps::push_record(&mut self.files.lock().pending, &bytes).map_err(LogError::refused)
    }

    /// Makes all that was asked for before durable, up to the record with number `seq`, which was the last of it. It can be read then.
    ///
    /// # Errors
    /// When that failed. After [`LogError::is_no_room`] it may be tried again: nothing that was asked for is forgotten.
    pub(super) fn commit(&self, seq: u64) -> Result<(), LogError> {
        let mut files = self.files.lock();
        // A hole on disk could not be mended.
        let parsed = steps::parse(&files.pending)
            .map(|step| step.ok_or_else(|| LogError::refused("a step that is none")))
            .collect::<Result<Vec<_>, _>>()?;
        self.index.read().check(&parsed).map_err(LogError::refused)?;
        let (slot, at) = files.write(seq, &self.index)?;
        let mut index = self.index.write();
        for step in steps::parse(&files.pending).flatten() {
            index.apply(step, slot, at).map_err(LogError::refused)?;
        }
        drop(index);
        files.pending.clear();
        files.prepare(&self.index)?;
        drop(files);
        self.mark
            .write(seq)
            .map_err(|e| LogError::io("write", self.folder.join(MARK_FILE), e))
    }

    /// Why there is no file to go on in when this one is full, and how many bytes this one takes yet. `None`: there is one.
    pub(super) fn stalled(&self) -> Option<(LogError, u64)> {
        self.files.lock().stalled()
    }

    /// If there was no file to go on in, makes one.
    ///
    /// # Errors
    /// When that failed, e.g. because there is still no room.
    pub(super) fn make_room(&self) -> Result<(), LogError> {
        self.files.lock().make_spare()
    }

    /// Makes the mark durable too, as a last step.
    pub(super) fn sync_mark(&self) -> Result<(), LogError> {
        self.mark
            .sync()
            .map_err(|e| LogError::io("sync", self.folder.join(MARK_FILE), e))
    }

    /// The entries of a range that are durable, from its beginning on, up to about `max_bytes` but at least one. Fewer, if
    /// some are not there: the caller knows whether they should be.
    pub(super) fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, LogError> {
        let index = self.index.read();
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (number, place) in index.range(range) {
            if bytes >= max_bytes {
                break;
            }
            let path = || self.folder.join(journal::name(place.slot));
            let mut frame = vec![0; place.length as usize];
            let file = index
                .file(place.slot)
                .ok_or_else(|| damaged(path(), "it is not open"))?;
            std::os::unix::fs::FileExt::read_exact_at(&**file, &mut frame, u64::from(place.at))
                .map_err(|e| LogError::io("read", path(), e))?;
            let entry = codec::decode(number, &frame).map_err(|e| unreadable(&path(), e))?;
            bytes += codec::weight(&entry);
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Where it is.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Tests count the syncs, make them fail, and fill the disk.
#[cfg(test)]
impl Disk {
    pub(super) fn replace_sync(
        &self,
        wrap: impl FnMut(Box<dyn SyncData>) -> Box<dyn SyncData> + Send + 'static,
    ) {
        self.files.lock().replace_sync(Box::new(wrap));
    }

    /// Whether files can be made.
    pub(super) fn set_full(&self, full: bool) {
        self.files.lock().set_full(full);
    }
}

/// What the journal comes to, group by group.
#[derive(Default)]
struct Replay {
    record: Option<Record>,
    index: Index,
    /// The newest place where something is missing.
    gap: Option<(PathBuf, String)>,
}

impl Replay {
    /// A group that does not follow the one before begins it all anew: what is before the gap may be purged, and then it is not missed. (A
    /// power cut can leave a file in this state that was about to be used again.)
    ///
    /// # Errors
    /// When it is not what was written.
    fn group(
        &mut self,
        group: &journal::Group<'_>,
        file: &mut JournalFile,
        path: &Path,
    ) -> Result<(), LogError> {
        if let Some(record) = self.record.as_ref().filter(|record| record.seq != group.before) {
            let what = format!(
                "after write {} it goes on with what followed write {}",
                record.seq, group.before
            );
            self.gap = Some((path.to_path_buf(), what));
            self.index = Index::default();
            self.record = None;
        }
        for step in steps::parse(group.steps) {
            let step = step.ok_or_else(|| damaged(path, "a group is unreadable"))?;
            match step {
                Step::Record(bytes) => self.record = Some(decode_record(bytes, path)?),
                Step::Entry { index, frame, .. } => {
                    codec::decode(index, frame).map_err(|e| unreadable(path, e))?;
                    file.holds(index);
                }
                Step::RemoveFrom(_) | Step::RemoveBefore(_) => {}
            }
            self.index
                .apply(step, file.slot(), group.at)
                .map_err(|what| damaged(path, what))?;
        }
        if self.record.as_ref().map(|record| record.seq) != Some(group.after) {
            return Err(damaged(path, "a group does not end with its record"));
        }
        self.index.open(file.slot(), file.reader());
        Ok(())
    }

    /// # Errors
    /// When the entries are not those that the record promises.
    fn finish(mut self, folder: &Path) -> Result<(Record, Index), LogError> {
        let record = self.record.unwrap_or_default();
        self.index.remove_before(record.begin);
        let expected = record.last.map_or(record.begin, |last| last.index + 1);
        let found = (self.index.begin(), self.index.next());
        if found != (record.begin, expected.max(record.begin)) {
            if let Some((path, what)) = self.gap {
                return Err(damaged(path, what));
            }
            let what = format!(
                "it has entries {}..{}, and {}..{expected} were durable",
                found.0, found.1, record.begin
            );
            return Err(damaged(folder, what));
        }
        Ok((record, self.index))
    }
}

fn decode_record(bytes: &[u8], path: &Path) -> Result<Record, LogError> {
    Record::decode(bytes).map_err(|version| match version {
        Some(found) => LogError::NewerFormat {
            path: path.to_path_buf(),
            found,
            known: RECORD_VERSION,
        },
        None => damaged(path, "a record is not what was written"),
    })
}

fn unreadable(path: &Path, error: DecodeError) -> LogError {
    match error {
        DecodeError::Damaged(what) => damaged(path, what),
        DecodeError::Newer(found) => LogError::NewerFormat {
            path: path.to_path_buf(),
            found,
            known: codec::ENTRY_VERSION,
        },
    }
}

fn damaged(path: impl Into<PathBuf>, what: impl Into<String>) -> LogError {
    LogError::Damaged {
        path: path.into(),
        what: what.into(),
    }
}

/// Makes every file of the folder durable, and their names.
fn sync_files(folder: &Path) -> Result<(), LogError> {
    let failed = |error| LogError::io("sync", folder, error);
    for file in fs::read_dir(folder).map_err(failed)? {
        let path = file.map_err(failed)?.path();
        File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(|e| LogError::io("sync", path, e))?;
    }
    sync_folder(folder)
}

/// Makes the names in the folder durable.
fn sync_folder(folder: &Path) -> Result<(), LogError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|e| LogError::io("sync", folder, e))
}

const MARK_FILE: &str = "durable-mark";
