//! Which file of the journal is written, and which comes next.
//!
//! A file that is full waits until all its entries are purged, and then is used again: always the oldest first, so that what is left of the
//! journal has no gap. If none can be used again yet, there is a spare one, made ahead of time by a thread of its own. If the disk has no room for
//! that, nothing is lost: the file that is written has its blocks, and takes what it can; the log is *stalled* until there is room.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use parking_lot::RwLock;

#[cfg(test)]
use super::SyncData;
use super::damaged;
use super::index::Index;
use super::journal::{self, Identity, JournalFile};
use crate::failpoints::{self, Point};
use crate::log_store::errors::LogError;

/// The files of an open log, and what is on its way into them. Only the writer's thread uses it.
pub(super) struct Files {
    folder: PathBuf,
    identity: Identity,
    /// Length of a new file. (One that must hold more is longer.)
    file_bytes: u64,
    /// In the order in which they were written; the last one is written. Never empty.
    files: Vec<JournalFile>,
    spare: Spare,
    slots: u32,
    /// What was asked for since the last flush, as steps.
    pub(super) pending: Vec<u8>,
    /// The number of the newest record that is durable.
    newest: u64,
    #[cfg(test)]
    is_full: bool,
    #[cfg(test)]
    wrap_sync: Option<WrapSync>,
}

#[cfg(test)]
type WrapSync = Box<dyn FnMut(Box<dyn SyncData>) -> Box<dyn SyncData> + Send>;

/// A file that was never used.
enum Spare {
    None,
    Making(JoinHandle<Result<JournalFile, LogError>>),
    Ready(JournalFile),
    Failed(LogError),
}

/// The files in the folder, in the order in which they were written, and which log it is.
///
/// # Errors
/// When one is missing, or not what was written, or of another log than is `expected`, or than the first.
pub(super) fn find(
    folder: &Path,
    expected: Option<&Identity>,
) -> Result<(Vec<JournalFile>, Identity), LogError> {
    let failed = |error| LogError::io("list", folder, error);
    let mut slots = Vec::new();
    for file in fs::read_dir(folder).map_err(failed)? {
        let name = file.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if let Some(slot) = journal::slot(&name) {
            slots.push(slot);
        } else if name.ends_with(journal::UNFINISHED) {
            // A file that was being made when the process ended.
            let path = folder.join(&*name);
            fs::remove_file(&path).map_err(|e| LogError::io("remove", path, e))?;
        }
    }
    slots.sort_unstable();
    let mut identity = expected.copied();
    let mut files = Vec::new();
    for (slot, expected) in slots.iter().zip(0..) {
        if *slot != expected {
            break;
        }
        let path = folder.join(journal::name(*slot));
        if path.metadata().map_or(0, |found| found.len()) == 0 {
            return Err(LogError::Missing { path });
        }
        let opened = JournalFile::open(folder, *slot).map_err(|e| LogError::io("open", &path, e))?;
        let (file, of) = opened.ok_or_else(|| damaged(&path, "it is not what was written"))?;
        if *identity.get_or_insert(of) != of {
            return Err(LogError::OtherLog { path });
        }
        files.push(file);
    }
    let missing = |slot: usize| LogError::Missing {
        path: folder.join(journal::name(u32::try_from(slot).unwrap_or(u32::MAX))),
    };
    let Some(identity) = identity.filter(|_| files.len() == slots.len() && files.len() >= LEAST_FILES) else {
        return Err(missing(files.len()));
    };
    files.sort_by_key(JournalFile::generation);
    Ok((files, identity))
}

impl Files {
    /// The files of an opened log, in order, up to record `newest`. There is at least one.
    pub(super) fn new(
        folder: &Path,
        identity: Identity,
        file_bytes: u64,
        files: Vec<JournalFile>,
        newest: u64,
    ) -> Self {
        Self {
            folder: folder.to_path_buf(),
            identity,
            file_bytes,
            slots: u32::try_from(files.len()).unwrap_or(u32::MAX),
            files,
            spare: Spare::None,
            pending: Vec::new(),
            newest,
            #[cfg(test)]
            is_full: false,
            #[cfg(test)]
            wrap_sync: None,
        }
    }

    /// Makes what is pending durable, up to the record with number `seq`. Gives where it is: in which file, and where in it.
    pub(super) fn write(&mut self, seq: u64, index: &RwLock<Index>) -> Result<(u32, u64), LogError> {
        let length = self.pending.len();
        if self.files.last().is_none_or(|active| !active.has_room(length)) {
            self.turn(length, index)?;
        }
        let Some(active) = self.files.last_mut() else {
            return Err(LogError::refused("there is no file to write to"));
        };
        let path = self.folder.join(journal::name(active.slot()));
        failpoints::pass(Point::WriteBefore);
        let at = active
            .write(&self.identity, self.newest, seq, &self.pending)
            .map_err(|e| LogError::io("write", &path, e))?;
        active.sync().map_err(|e| LogError::io("sync", &path, e))?;
        active.written(&self.pending);
        self.newest = seq;
        Ok((active.slot(), at))
    }

    /// Looks after the file that comes next, and gives room back that is not needed any more.
    pub(super) fn prepare(&mut self, index: &RwLock<Index>) -> Result<(), LogError> {
        let begin = index.read().begin();
        self.shrink(begin, index)?;
        self.spare = match std::mem::replace(&mut self.spare, Spare::None) {
            Spare::Making(thread) if thread.is_finished() => self.made(thread),
            // What was purged since made room.
            Spare::None | Spare::Failed(_) if self.is_reusable(begin) => Spare::None,
            Spare::None => Spare::Making(self.make()?),
            spare => spare,
        };
        match &self.spare {
            Spare::Failed(error) if !error.is_no_room() => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Removes one of the files whose entries are all purged, if there are many. The one with the highest number, so that the numbers stay without
    /// a gap. If it comes back after a power cut, it is one more that can be used again.
    fn shrink(&mut self, begin: u64, index: &RwLock<Index>) -> Result<(), LogError> {
        let full = &self.files[..self.files.len().saturating_sub(1)];
        if full.iter().filter(|file| file.is_purged(begin)).count() <= KEEP_PURGED {
            return Ok(());
        }
        match std::mem::replace(&mut self.spare, Spare::None) {
            Spare::Ready(file) => self.files.insert(0, file),
            spare => self.spare = spare,
        }
        let highest = self.files.iter().position(|file| file.slot() + 1 == self.slots);
        let is_active = |at: &usize| at + 1 == self.files.len();
        let Some(at) = highest.filter(|at| !is_active(at) && self.files[*at].is_purged(begin)) else {
            return Ok(());
        };
        let file = self.files.remove(at);
        index.write().close(file.slot());
        let path = self.folder.join(journal::name(file.slot()));
        fs::remove_file(&path).map_err(|e| LogError::io("remove", path, e))?;
        self.slots -= 1;
        Ok(())
    }

    /// See [`Disk::stalled`](super::Disk::stalled).
    pub(super) fn stalled(&self) -> Option<(LogError, u64)> {
        match &self.spare {
            Spare::Failed(error) => Some((error.clone(), self.files.last().map_or(0, JournalFile::left))),
            _ => None,
        }
    }

    /// Makes a spare file, if none could be made before.
    pub(super) fn make_spare(&mut self) -> Result<(), LogError> {
        if matches!(self.spare, Spare::Failed(_)) {
            let making = self.make()?;
            self.spare = self.made(making);
            if let Spare::Failed(error) = &self.spare {
                return Err(error.clone());
            }
        }
        Ok(())
    }

    /// Goes on in another file.
    fn turn(&mut self, length: usize, index: &RwLock<Index>) -> Result<(), LogError> {
        let begin = index.read().begin();
        let oldest_holds = |files: &Self| files.files.first().is_some_and(|file| file.could_hold(length));
        let mut next = if self.is_reusable(begin) && oldest_holds(self) {
            self.files.remove(0)
        } else {
            match std::mem::replace(&mut self.spare, Spare::None) {
                Spare::Making(thread) => self.spare = self.made(thread),
                spare => self.spare = spare,
            }
            match std::mem::replace(&mut self.spare, Spare::None) {
                Spare::Ready(file) if file.could_hold(length) => file,
                Spare::Failed(error) => {
                    self.spare = Spare::Failed(error.clone());
                    return Err(error);
                }
                spare => {
                    self.spare = spare;
                    self.make_one_for(length)?
                }
            }
        };
        #[cfg(test)]
        if next.generation() == 0
            && let Some(wrap) = &mut self.wrap_sync
        {
            next.replace_sync(wrap);
        }
        let generation = self.files.last().map_or(0, JournalFile::generation) + 1;
        let path = self.folder.join(journal::name(next.slot()));
        // Whoever reads ends first. What was in the file is purged, so nobody begins.
        index.write().open(next.slot(), next.reader());
        next.begin(&self.identity, generation)
            .map_err(|e| LogError::io("write", path, e))?;
        self.files.push(next);
        Ok(())
    }

    /// Whether the oldest file holds nothing any more.
    fn is_reusable(&self, begin: u64) -> bool {
        self.files.len() > 1 && self.files.first().is_some_and(|oldest| oldest.is_purged(begin))
    }

    /// A thread that makes a file.
    fn make(&mut self) -> Result<JoinHandle<Result<JournalFile, LogError>>, LogError> {
        let making = self.create(self.file_bytes);
        let thread = std::thread::Builder::new().name("log-file".into());
        let thread = thread
            .spawn(making)
            .map_err(|e| LogError::io("start a thread for", &self.folder, e))?;
        self.slots += 1;
        Ok(thread)
    }

    /// What became of it.
    fn made(&mut self, thread: JoinHandle<Result<JournalFile, LogError>>) -> Spare {
        let outcome = thread.join();
        let outcome =
            outcome.unwrap_or_else(|_| Err(LogError::refused("the thread that makes files panicked")));
        match outcome {
            Ok(file) => Spare::Ready(file),
            Err(error) => {
                // Its number is free: without a gap in them it shows when a file is missing.
                self.slots -= 1;
                Spare::Failed(error)
            }
        }
    }

    /// A group that is longer than a file has one of its own.
    fn make_one_for(&mut self, length: usize) -> Result<JournalFile, LogError> {
        let file = self.create(journal::length_for(length).max(self.file_bytes))()?;
        self.slots += 1;
        Ok(file)
    }

    fn create(&self, bytes: u64) -> impl FnOnce() -> Result<JournalFile, LogError> + Send + 'static {
        let (folder, slot, identity) = (self.folder.clone(), self.slots, self.identity);
        #[cfg(test)]
        let is_full = self.is_full;
        #[cfg(not(test))]
        let is_full = false;
        move || {
            if is_full {
                let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
                return Err(LogError::io("write", folder, error));
            }
            JournalFile::create(&folder, slot, &identity, bytes)
        }
    }

    #[cfg(test)]
    pub(super) fn replace_sync(&mut self, mut wrap: WrapSync) {
        // The others are when they are begun.
        for file in self.files.iter_mut().filter(|file| file.generation() > 0) {
            file.replace_sync(&mut wrap);
        }
        self.wrap_sync = Some(wrap);
    }

    #[cfg(test)]
    pub(super) fn set_full(&mut self, is_full: bool) {
        self.is_full = is_full;
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A file that is being made belongs to this log, which may be opened again at once.
        if let Spare::Making(thread) = std::mem::replace(&mut self.spare, Spare::None)
            && let Spare::Failed(error) = self.made(thread)
        {
            tracing::debug!(%error, "closing the log");
        }
    }
}

/// A log is made with so many.
const LEAST_FILES: usize = 2;
/// So many files whose entries are all purged stay, to be used again.
const KEEP_PURGED: usize = 3;
