//! Snapshots as plain files.
//!
//! `<index, 20 digits>-<term>.snapshot`: a magic, the length, the checksum and the bytes of a JSON head, then the state as the core writes
//! it (with a version and a checksum of its own). Names sort by index. A file of this name is complete: it was written under
//! another name, synced, and renamed.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use brama_core::snapshot::{Frozen, SnapshotError};

use super::SnapshotHead;
use crate::failpoints::{self, Point};
use crate::free_space;
use crate::types::LogId;

const MAGIC: &[u8; 8] = b"BRAMASN1";
const SUFFIX: &str = ".snapshot";
const TEMPORARY: &str = ".tmp";
const MAX_HEAD_BYTES: u32 = 16 * 1024 * 1024;

/// Why a snapshot cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotFileError {
    /// The disk said no.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// There is none, or only one that is too old.
    #[error(
        "no snapshot in {} covers the log up to entry {purged} (found: {}), and those entries are gone: put back the file that is missing, or \
         {ADVICE}",
        path.display(),
        found.map_or_else(|| "none".to_owned(), |found| format!("one up to entry {found}"))
    )]
    Missing {
        /// The folder of snapshots.
        path: PathBuf,
        /// The log begins after this entry.
        purged: u64,
        /// What the newest snapshot covers.
        found: Option<u64>,
    },
    /// The file is not what was written.
    #[error(
        "the snapshot {} is damaged: {problem}. The log that it covers is gone, so nothing else can stand for it: {ADVICE}",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another version of Brama wrote it. Nothing is wrong with it.
    #[error("the snapshot {} is of another version of Brama: {source}. {}", path.display(), advice(source))]
    OtherVersion {
        /// Which file.
        path: PathBuf,
        /// Which version.
        source: SnapshotError,
    },
}

fn advice(version: &SnapshotError) -> String {
    match version {
        SnapshotError::Version { .. } => "Start a newer one on this data directory".to_owned(),
        _ => format!("Start the build that wrote it; or, to go on with this one, {ADVICE}"),
    }
}

const ADVICE: &str = "stop this node, move its whole data directory away, and join the cluster again under a new node id \
     (the old id must not come back without its data: it could vote twice)";

impl SnapshotFileError {
    /// Whether it is for want of room on the disk, which passes.
    pub(crate) fn is_no_room(&self) -> bool {
        matches!(self, Self::Io { source, .. } if free_space::is_lacking(source))
    }
}

/// A complete snapshot on disk. Cheap to clone; readable even after a newer one has replaced it.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    bytes: u64,
    checksum: u64,
}

/// The newest snapshot in `folder`. Removes what earlier processes left half-written.
pub(crate) fn newest(folder: &Path) -> Result<Option<SnapshotFile>, SnapshotFileError> {
    fs::create_dir_all(folder).map_err(io_error("create", folder))?;
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
        let path = entry.map_err(io_error("list", folder))?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name.ends_with(TEMPORARY) {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        } else if name.ends_with(SUFFIX) {
            names.push(name);
        }
    }
    // The newest may have been named by a process that was killed before it could sync the name. The log that it covers is purged from now on.
    sync_folder(folder)?;
    names.sort();
    names
        .pop()
        .map(|name| SnapshotFile::open(folder.join(name)))
        .transpose()
}

impl SnapshotFile {
    /// Writes a snapshot; it is on disk when this returns. Older ones are removed then.
    ///
    /// # Errors
    /// When that failed; nothing of it is left then.
    pub(crate) fn write(
        folder: &Path,
        head: &SnapshotHead,
        state: &Frozen,
    ) -> Result<Self, SnapshotFileError> {
        failpoints::pass(Point::SnapshotBefore);
        let path = folder.join(format!("build-{:032x}{TEMPORARY}", rand::random::<u128>()));
        let kept =
            Self::write_to(&path, head, state).and_then(|file| file.keep(folder, head.meta.last_log_id));
        if kept.is_err() {
            // Half a snapshot takes room, perhaps the last of it. If it stays, the next start removes it.
            let _ = fs::remove_file(&path);
        }
        kept
    }

    fn write_to(path: &Path, head: &SnapshotHead, state: &Frozen) -> Result<Self, SnapshotFileError> {
        let file = File::create(path).map_err(io_error("create", path))?;
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let json = serde_json::to_vec(head).map_err(|error| SnapshotFileError::Damaged {
            path: path.to_owned(),
            problem: error.to_string(),
        })?;
        let written = (|| {
            out.write_all(MAGIC)?;
            out.write_all(&(json.len() as u32).to_be_bytes())?;
            out.write_all(&xxh3_64(&json).to_be_bytes())?;
            out.write_all(&json)?;
            state.write_to(&mut out)?;
            out.flush()?;
            drop(out);
            file.sync_all()
        })();
        written.map_err(io_error("write", path))?;
        Self::open(path.to_owned())
    }

    /// Gives a complete temporary file its name, and removes the other snapshots. All of it is on disk when this returns.
    pub(crate) fn keep(self, folder: &Path, last: Option<LogId>) -> Result<Self, SnapshotFileError> {
        let name = name(last);
        let path = folder.join(&name);
        if path != self.path {
            failpoints::pass(Point::RenameBefore);
            fs::rename(&self.path, &path).map_err(io_error("rename", &self.path))?;
            sync_folder(folder)?;
            failpoints::pass(Point::RenameAfter);
        }
        for entry in fs::read_dir(folder).map_err(io_error("list", folder))? {
            let other = entry.map_err(io_error("list", folder))?.path();
            let other_name = other
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default();
            // A snapshot with a higher index is newer: it was installed while this one was being built.
            if other_name.ends_with(SUFFIX) && other_name < name {
                fs::remove_file(&other).map_err(io_error("remove", &other))?;
            }
        }
        Ok(Self { path, ..self })
    }

    /// Whether it is what its name says: by their names the newest is found.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn check_name(&self, last: Option<LogId>) -> Result<(), SnapshotFileError> {
        let expected = name(last);
        if self.path.file_name().is_some_and(|name| *name == *expected) {
            return Ok(());
        }
        Err(self.damaged(format!("what is in it should be named {expected}")))
    }

    /// The head and the state, both checked.
    pub(crate) fn load(&self) -> Result<(SnapshotHead, Frozen), SnapshotFileError> {
        let damaged = |problem| self.damaged(problem);
        let file = File::open(&self.path).map_err(io_error("open", &self.path))?;
        let mut input = BufReader::with_capacity(1 << 20, file);
        let mut prefix = [0_u8; 20];
        input
            .read_exact(&mut prefix)
            .map_err(|error| damaged(format!("its head cannot be read ({error})")))?;
        let (magic, rest) = prefix.split_at(8);
        if magic != MAGIC {
            return Err(damaged("it does not begin as one".into()));
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |n, &byte| n << 8 | u64::from(byte));
        let (length, checksum) = (number(&rest[..4]), number(&rest[4..]));
        if length > u64::from(MAX_HEAD_BYTES) {
            return Err(damaged(format!("its head would have {length} bytes")));
        }
        let mut json = vec![0; length as usize];
        input
            .read_exact(&mut json)
            .map_err(|error| damaged(format!("its head cannot be read ({error})")))?;
        if xxh3_64(&json) != checksum {
            return Err(damaged("its head has a wrong checksum".into()));
        }
        let head = serde_json::from_slice(&json)
            .map_err(|error| damaged(format!("its head is unreadable ({error})")))?;
        let state = Frozen::read_from(&mut input).map_err(|error| match error {
            source @ (SnapshotError::Version { .. } | SnapshotError::Outdated { .. }) => {
                let path = self.path.clone();
                SnapshotFileError::OtherVersion { path, source }
            }
            error => damaged(error.to_string()),
        })?;
        Ok((head, state))
    }

    /// What is wrong with it.
    pub(super) fn damaged(&self, problem: String) -> SnapshotFileError {
        SnapshotFileError::Damaged {
            path: self.path.clone(),
            problem,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn checksum(&self) -> u64 {
        self.checksum
    }

    /// The piece of this size at `offset`; less at the end of the file, and nothing behind it. Blocking.
    pub(crate) fn read_chunk(&self, offset: u64, size: usize) -> io::Result<Bytes> {
        use std::os::unix::fs::FileExt;
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut chunk = vec![0; size.min(left)];
        self.file.read_exact_at(&mut chunk, offset)?;
        Ok(Bytes::from(chunk))
    }

    fn open(path: PathBuf) -> Result<Self, SnapshotFileError> {
        let mut file = File::open(&path).map_err(io_error("open", &path))?;
        let mut hash = Xxh3::new();
        let mut buffer = vec![0; 1 << 20];
        let mut bytes = 0;
        loop {
            match file.read(&mut buffer).map_err(io_error("read", &path))? {
                0 => break,
                n => {
                    hash.update(&buffer[..n]);
                    bytes += n as u64;
                }
            }
        }
        file.seek(SeekFrom::Start(0)).map_err(io_error("read", &path))?;
        Ok(Self {
            path,
            file: Arc::new(file),
            bytes,
            checksum: hash.digest(),
        })
    }
}

/// A snapshot on its way in from the leader.
pub(crate) struct IncomingSnapshot {
    path: PathBuf,
    file: BufWriter<File>,
    hash: Xxh3,
    bytes: u64,
    expected: (u64, u64),
    finished: bool,
}

impl IncomingSnapshot {
    /// A snapshot of `bytes` bytes with this checksum will come. Blocking, as all of this type.
    pub(crate) fn begin(folder: &Path, bytes: u64, checksum: u64) -> Result<Self, SnapshotFileError> {
        let path = folder.join(format!("incoming-{:032x}{TEMPORARY}", rand::random::<u128>()));
        let file = File::create(&path).map_err(io_error("create", &path))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self {
            path,
            file,
            hash: Xxh3::new(),
            bytes: 0,
            expected: (bytes, checksum),
            finished: false,
        })
    }

    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), SnapshotFileError> {
        self.bytes += data.len() as u64;
        if self.bytes > self.expected.0 {
            return Err(self.damaged(format!("more than the announced {} bytes came", self.expected.0)));
        }
        self.hash.update(data);
        self.file.write_all(data).map_err(io_error("write", &self.path))
    }

    /// The complete file, on disk.
    pub(crate) fn finish(mut self) -> Result<SnapshotFile, SnapshotFileError> {
        if (self.bytes, self.hash.digest()) != self.expected {
            return Err(self.damaged(format!("{} bytes came, not what was announced", self.bytes)));
        }
        self.file.flush().map_err(io_error("write", &self.path))?;
        self.file
            .get_ref()
            .sync_all()
            .map_err(io_error("sync", &self.path))?;
        let file = SnapshotFile::open(self.path.clone())?;
        self.finished = true;
        Ok(file)
    }

    fn damaged(&self, problem: String) -> SnapshotFileError {
        SnapshotFileError::Damaged {
            path: self.path.clone(),
            problem,
        }
    }
}

impl Drop for IncomingSnapshot {
    fn drop(&mut self) {
        // Half a snapshot is of no use; if it stays, the next start removes it.
        if !self.finished {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The name of a snapshot up to this entry.
fn name(last: Option<LogId>) -> String {
    let (index, term) = last.map_or((0, 0), |log_id| (log_id.index, log_id.leader_id.term));
    format!("{index:020}-{term}{SUFFIX}")
}

/// Makes renames and removals in a folder durable.
fn sync_folder(folder: &Path) -> Result<(), SnapshotFileError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("sync", folder))
}

fn io_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> SnapshotFileError + Copy + 'a {
    move |source| SnapshotFileError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}
