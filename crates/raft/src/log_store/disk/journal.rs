//! One file of the journal.
//!
//! ```text
//! file:   magic 8 | identity 16 | generation u64 | xxh3 of these u64 | groups
//! group:  generation u64 | before u64 | after u64 | length u32 | xxh3 of identity, these, and the steps u64 | steps (see `steps`)
//! ```
//! Integers are little-endian. `before` and `after` are the numbers of the newest record before and after the group. The generation rises each time a
//! file is begun anew; 0: it was never used. So what is left of an earlier use is not taken for a group, and neither is what a client sent: it
//! does not know the identity.
//!
//! The header is overwritten in place. Its 40 bytes lie in one sector, which a disk writes as a whole or not at all; and it becomes durable together with
//! the first group behind it, or before. If it does not, then the file is still what it was before: one whose entries are all purged.
//!
//! A group that is not whole ends the groups, if it is the newest: it was cut short, and never acknowledged. Groups behind it were begun only when
//! it was durable, so they show that it was damaged. They are given too; whoever reads them sees the gap.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::steps::{self, Step};
use super::{SyncData, sync_folder};
use crate::log_store::errors::LogError;

const MAGIC: &[u8; 8] = b"BRAMAJN2";
const FILE_HEADER: usize = 40;
const GROUP_HEADER: usize = 36;
const PREFIX: &str = "journal-";
/// How the name of a file ends that is being made.
pub(super) const UNFINISHED: &str = ".new";

/// Which log it is: random, the same in all files.
pub(in crate::log_store) type Identity = [u8; 16];

/// One of the files, open.
pub(super) struct JournalFile {
    slot: u32,
    file: Arc<File>,
    sync: Box<dyn SyncData>,
    bytes: u64,
    generation: u64,
    /// Where the next group goes.
    end: u64,
    /// The highest index of an entry in it, also of those that were removed later.
    highest: Option<u64>,
    /// The last sync failed: what was written since the one before is written again, the header too.
    doubtful: bool,
}

/// A group that was found in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group<'a> {
    pub(super) before: u64,
    pub(super) after: u64,
    /// Where its steps begin.
    pub(super) at: u64,
    pub(super) steps: &'a [u8],
}

/// A group as it was found in a file, with the file's header: what a failed sync may have left in the kernel's memory alone.
pub(super) struct Found {
    file: Arc<File>,
    header: Vec<u8>,
    at: u64,
    group: Vec<u8>,
}

impl Found {
    /// Writes both where they were found; durable with the next sync.
    pub(super) fn write_again(&self) -> io::Result<()> {
        self.file.write_all_at(&self.header, 0)?;
        self.file.write_all_at(&self.group, self.at)
    }
}

/// The name of the file with this number.
pub(super) fn name(slot: u32) -> String {
    format!("{PREFIX}{slot}")
}

/// The number of the file with this name; `None`: it is not one of the journal's.
pub(super) fn slot(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// How long a file must be to hold steps of this length.
pub(super) fn length_for(steps: usize) -> u64 {
    (FILE_HEADER + GROUP_HEADER + steps) as u64
}

impl JournalFile {
    /// Makes the file in its full length, never used, and durable with its name.
    ///
    /// # Errors
    /// When the system refuses; then nothing is left of it.
    pub(super) fn create(
        folder: &Path,
        slot: u32,
        identity: &Identity,
        bytes: u64,
    ) -> Result<Self, LogError> {
        let path = folder.join(name(slot));
        let draft = folder.join(name(slot) + UNFINISHED);
        let made = fill(&draft, identity, bytes).and_then(|file| {
            fs::rename(&draft, &path)?;
            Ok(file)
        });
        let file = made.map_err(|error| {
            // It takes room that others need; if it cannot be removed now, the next start does it.
            let _ = fs::remove_file(&draft);
            LogError::io("write", &path, error)
        })?;
        sync_folder(folder)?;
        let opened = Self::of(file, slot, bytes, 0);
        opened.map_err(|e| LogError::io("open", path, e))
    }

    /// Opens the file; gives which log it is of. `None`: it is not what was written.
    pub(super) fn open(folder: &Path, slot: u32) -> io::Result<Option<(Self, Identity)>> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(folder.join(name(slot)))?;
        let bytes = file.metadata()?.len();
        let mut header = [0; FILE_HEADER];
        if bytes < FILE_HEADER as u64 {
            return Ok(None);
        }
        file.read_exact_at(&mut header, 0)?;
        let Some((identity, generation)) = read_header(&header) else {
            return Ok(None);
        };
        Ok(Some((Self::of(file, slot, bytes, generation)?, identity)))
    }

    fn of(file: File, slot: u32, bytes: u64, generation: u64) -> io::Result<Self> {
        Ok(Self {
            slot,
            sync: Box::new(file.try_clone()?),
            file: Arc::new(file),
            bytes,
            generation,
            end: FILE_HEADER as u64,
            highest: None,
            doubtful: false,
        })
    }

    /// The groups in the file, which has this content. The next one goes behind the last of them.
    pub(super) fn groups<'a>(&mut self, content: &'a [u8], identity: &Identity) -> Vec<Group<'a>> {
        let mut groups = Vec::new();
        let mut at = FILE_HEADER;
        let never_used = self.generation == 0;
        while let Some(start) = self.next_group(content, at, identity).filter(|_| !never_used) {
            if let Some((group, end)) = read_group(content, start, self.generation, identity) {
                groups.push(group);
                at = end;
            }
        }
        self.end = at as u64;
        groups
    }

    /// A group of this file, which has this content.
    pub(super) fn found(&self, content: &[u8], group: &Group<'_>) -> Found {
        let at = group.at - GROUP_HEADER as u64;
        let begin = usize::try_from(at).unwrap_or(usize::MAX);
        let end = begin.saturating_add(GROUP_HEADER + group.steps.len());
        Found {
            file: self.file.clone(),
            header: content.get(..FILE_HEADER).unwrap_or_default().to_vec(),
            at,
            group: content.get(begin..end).unwrap_or_default().to_vec(),
        }
    }

    /// Where the next whole group begins, at `from` or behind.
    fn next_group(&self, content: &[u8], from: usize, identity: &Identity) -> Option<usize> {
        let is_whole = |at: usize| read_group(content, at, self.generation, identity).is_some();
        if is_whole(from) {
            return Some(from);
        }
        let behind = content.get(from + 1..)?;
        let begins = memchr::memmem::find_iter(behind, &self.generation.to_le_bytes()).collect::<Vec<_>>();
        let mut places = begins.into_iter().map(|at| from + 1 + at);
        places.find(|at| is_whole(*at))
    }

    pub(super) fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// To read entries from.
    pub(super) fn reader(&self) -> Arc<File> {
        self.file.clone()
    }

    /// Whether steps of this length fit behind what is there.
    pub(super) fn has_room(&self, steps: usize) -> bool {
        self.generation > 0 && self.end + (GROUP_HEADER + steps) as u64 <= self.bytes
    }

    /// Whether steps of this length would fit into it when it is begun anew.
    pub(super) fn could_hold(&self, steps: usize) -> bool {
        length_for(steps) <= self.bytes
    }

    /// Bytes of steps that one more group may have.
    pub(super) fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.end + GROUP_HEADER as u64)
    }

    /// It holds this entry.
    pub(super) fn holds(&mut self, index: u64) {
        self.highest = self.highest.max(Some(index));
    }

    /// Whether all its entries are before this index.
    pub(super) fn is_purged(&self, begin: u64) -> bool {
        self.highest.is_none_or(|highest| highest < begin)
    }

    /// Begins the file anew; durable with the first group that is written to it.
    pub(super) fn begin(&mut self, identity: &Identity, generation: u64) -> io::Result<()> {
        self.file.write_all_at(&header(identity, generation), 0)?;
        self.generation = generation;
        self.end = FILE_HEADER as u64;
        self.highest = None;
        Ok(())
    }

    /// Writes a group, durable with the next [`JournalFile::sync`]; gives where its steps are. It may be written again, until
    /// [`JournalFile::written`]. The caller knows that there is room.
    pub(super) fn write(
        &self,
        identity: &Identity,
        before: u64,
        after: u64,
        steps: &[u8],
    ) -> io::Result<u64> {
        if self.doubtful {
            self.file.write_all_at(&header(identity, self.generation), 0)?;
        }
        let length = u32::try_from(steps.len()).map_err(io::Error::other)?;
        let mut group = Vec::with_capacity(GROUP_HEADER + steps.len());
        group.extend_from_slice(&self.generation.to_le_bytes());
        group.extend_from_slice(&before.to_le_bytes());
        group.extend_from_slice(&after.to_le_bytes());
        group.extend_from_slice(&length.to_le_bytes());
        let checksum = checksum(identity, &group, steps);
        group.extend_from_slice(&checksum.to_le_bytes());
        group.extend_from_slice(steps);
        self.file.write_all_at(&group, self.end)?;
        Ok(self.end + GROUP_HEADER as u64)
    }

    /// Makes durable what was written.
    ///
    /// # Errors
    /// The system's. If the error passes, the group may be written again.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.doubtful = true;
        self.sync.sync_data()?;
        self.doubtful = false;
        Ok(())
    }

    /// The group with these steps is durable.
    pub(super) fn written(&mut self, steps: &[u8]) {
        self.end += (GROUP_HEADER + steps.len()) as u64;
        for step in steps::parse(steps).flatten() {
            if let Step::Entry { index, .. } = step {
                self.holds(index);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn replace_sync(&mut self, sync: impl FnOnce(Box<dyn SyncData>) -> Box<dyn SyncData>) {
        struct Nothing;
        impl SyncData for Nothing {
            fn sync_data(&self) -> io::Result<()> {
                Ok(())
            }
        }
        self.sync = sync(std::mem::replace(&mut self.sync, Box::new(Nothing)));
    }
}

/// Zeros, not a hole: the first write to a hole changes metadata, and may find the disk full.
fn fill(path: &Path, identity: &Identity, bytes: u64) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let zeros = vec![0; 64 * 1024];
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).map_or(zeros.len(), |left| left.min(zeros.len()));
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
    }
    file.write_all_at(&header(identity, 0), 0)?;
    file.sync_all()?;
    Ok(file)
}

fn header(identity: &Identity, generation: u64) -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..24].copy_from_slice(identity);
    header[24..32].copy_from_slice(&generation.to_le_bytes());
    let checksum = xxh3_64(&header[..32]);
    header[32..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// Which log it is of, and its generation, if the header is whole.
fn read_header(found: &[u8; FILE_HEADER]) -> Option<(Identity, u64)> {
    let identity: Identity = *found[8..].first_chunk()?;
    let generation = u64::from_le_bytes(*found[24..].first_chunk()?);
    (*found == header(&identity, generation)).then_some((identity, generation))
}

/// The group at this place, and where it ends.
fn read_group<'a>(
    content: &'a [u8],
    at: usize,
    generation: u64,
    identity: &Identity,
) -> Option<(Group<'a>, usize)> {
    let (fields, rest) = content.get(at..)?.split_at_checked(GROUP_HEADER - 8)?;
    let (sum, rest) = rest.split_first_chunk()?;
    let number = |at: usize| Some(u64::from_le_bytes(*fields.get(at..)?.first_chunk()?));
    let length = usize::try_from(u32::from_le_bytes(*fields.get(24..)?.first_chunk()?)).ok()?;
    let steps = rest.get(..length)?;
    if number(0)? != generation || u64::from_le_bytes(*sum) != checksum(identity, fields, steps) {
        return None;
    }
    let steps_at = at + GROUP_HEADER;
    let group = Group {
        before: number(8)?,
        after: number(16)?,
        at: steps_at as u64,
        steps,
    };
    Some((group, steps_at + length))
}

fn checksum(identity: &Identity, fields: &[u8], steps: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(identity);
    hash.update(fields);
    hash.update(steps);
    hash.digest()
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const BYTES: u64 = 4096;
    const ME: Identity = [7; 16];

    fn file(generation: u64) -> (TempDir, JournalFile) {
        let dir = TempDir::new().unwrap();
        let mut file = JournalFile::create(dir.path(), 0, &ME, BYTES).unwrap();
        assert!(!file.has_room(1), "it was never begun");
        file.begin(&ME, generation).unwrap();
        (dir, file)
    }

    fn write(file: &mut JournalFile, before: u64, after: u64, steps: &[u8]) {
        file.write(&ME, before, after, steps).unwrap();
        file.written(steps);
    }

    /// Before, after, and the steps of each group that is found.
    fn found(dir: &TempDir) -> Vec<(u64, u64, Vec<u8>)> {
        let (mut file, identity) = JournalFile::open(dir.path(), 0).unwrap().unwrap();
        let content = fs::read(dir.path().join(name(0))).unwrap();
        let groups = file.groups(&content, &identity);
        groups
            .iter()
            .inspect(|group| {
                let at = usize::try_from(group.at).unwrap();
                assert_eq!(&content[at..at + group.steps.len()], group.steps);
            })
            .map(|group| (group.before, group.after, group.steps.to_vec()))
            .collect()
    }

    fn flip(dir: &TempDir, at: u64) {
        let path = dir.path().join(name(0));
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    }

    #[test]
    fn a_group_that_is_not_whole_is_not_found_and_those_behind_it_are() {
        let (dir, mut journal) = file(5);
        assert!(found(&dir).is_empty());
        let mut ends = vec![journal.end];
        let all = [
            (0, 1, b"one".to_vec()),
            (1, 4, b"two".to_vec()),
            (4, 5, b"three".to_vec()),
        ];
        for (before, after, steps) in &all {
            write(&mut journal, *before, *after, steps);
            ends.push(journal.end);
        }
        assert_eq!(found(&dir), all);
        for (number, end) in ends.windows(2).enumerate() {
            let mut others = all.to_vec();
            others.remove(number);
            for at in end[0]..end[1] {
                flip(&dir, at);
                assert_eq!(found(&dir), others, "byte {at}");
                flip(&dir, at);
            }
        }
    }

    #[test]
    fn what_is_left_of_an_earlier_use_is_not_found() {
        let (dir, mut journal) = file(5);
        write(&mut journal, 0, 1, b"one");
        write(&mut journal, 1, 2, b"two");
        journal.begin(&ME, 6).unwrap();
        assert!(found(&dir).is_empty());
        write(&mut journal, 2, 3, b"new");
        assert_eq!(found(&dir), [(2, 3, b"new".to_vec())]);
    }

    #[test]
    fn a_group_inside_of_a_group_is_found_only_by_who_knows_the_identity() {
        let (dir, mut journal) = file(5);
        write(&mut journal, 0, 1, b"inner");
        let content = fs::read(dir.path().join(name(0))).unwrap();
        let inner = content[FILE_HEADER..usize::try_from(journal.end).unwrap()].to_vec();
        assert!(read_group(&inner, 0, 5, &ME).is_some());
        assert!(read_group(&inner, 0, 5, &[8; 16]).is_none());
    }

    #[test]
    fn a_group_may_be_written_again_until_it_is_durable() {
        let (dir, mut journal) = file(5);
        journal
            .write(&ME, 0, 1, b"a long one that was not synced")
            .unwrap();
        write(&mut journal, 0, 1, b"shorter");
        assert_eq!(found(&dir), [(0, 1, b"shorter".to_vec())]);
    }

    #[test]
    fn a_file_without_its_header_is_refused() {
        let (dir, _) = file(5);
        for at in 0..FILE_HEADER as u64 {
            flip(&dir, at);
            assert!(JournalFile::open(dir.path(), 0).unwrap().is_none(), "byte {at}");
            flip(&dir, at);
        }
        let path = dir.path().join(name(0));
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(39)
            .unwrap();
        assert!(JournalFile::open(dir.path(), 0).unwrap().is_none());
    }

    #[test]
    fn room_is_what_is_left() {
        let (_dir, mut journal) = file(5);
        let most = BYTES as usize - FILE_HEADER - GROUP_HEADER;
        assert!(journal.has_room(most) && !journal.has_room(most + 1));
        write(&mut journal, 0, 1, &[9; 100]);
        assert!(journal.has_room(most - 100 - GROUP_HEADER) && !journal.has_room(most - 99 - GROUP_HEADER));
        assert!(journal.could_hold(most) && !journal.could_hold(most + 1));
        assert_eq!(length_for(most), BYTES);
    }
}
