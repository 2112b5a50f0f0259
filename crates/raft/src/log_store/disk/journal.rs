//! The journal: what was asked of the store, durable before the store has it.
//!
//! sled makes its file durable in two waits for the disk and several threads' wake-ups a flush, more than all the rest of a small write
//! costs. So a flush goes to a journal first: one write and one `fdatasync` in a file that has its full length already, so that no metadata
//! of the file system has to follow. sled gets the same steps afterwards, and is flushed in the background, before their place in the journal is
//! used again (a write-ahead log and its checkpoint, as in Gray and Reuter, *Transaction Processing*, chapter 9).
//!
//! There are two files, used in turn: while one fills, what the other holds becomes durable in sled.
//!
//! ```text
//! file:   magic 8 | identity 16 | generation u64 | xxh3 of these u64 | groups
//! group:  generation u64 | before u64 | after u64 | length u32 | xxh3 of these and the steps u64 | steps (see `steps`)
//! ```
//! `before` and `after` are the numbers of the newest record before and after the group. A file's groups end where one is not whole or
//! has another generation: what follows is of the file's earlier use, or was cut short and never acknowledged. That nothing that *was*
//! acknowledged is missed is checked with the mark (see `record`), as it is for sled itself.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::SyncData;

/// The two files.
pub(super) const FILES: [&str; 2] = ["journal-0", "journal-1"];

const MAGIC: &[u8; 8] = b"BRAMAJN1";
const FILE_HEADER: usize = 40;
const GROUP_HEADER: usize = 36;

/// Who wrote the file: random, the same in both files and in the store.
pub(super) type Identity = [u8; 16];

/// One of the two files, open.
pub(super) struct JournalFile {
    file: File,
    sync: Box<dyn SyncData>,
    bytes: u64,
    generation: u64,
    /// Where the next group goes.
    end: u64,
    /// The last sync failed: what was written since the one before is written again, the header too.
    doubtful: bool,
}

/// A group that was found in a file.
#[derive(Debug)]
pub(super) struct FoundGroup {
    pub(super) before: u64,
    pub(super) after: u64,
    pub(super) steps: Vec<u8>,
}

impl JournalFile {
    /// Makes the file in its full length, durable but for its name.
    pub(super) fn create(path: &Path, identity: &Identity, generation: u64, bytes: u64) -> io::Result<()> {
        let file = File::create_new(path)?;
        // Zeros, not a hole: the first write to a hole changes metadata.
        let zeros = vec![0; 64 * 1024];
        let mut at = 0;
        while at < bytes {
            let length = usize::try_from(bytes - at).map_or(zeros.len(), |left| left.min(zeros.len()));
            file.write_all_at(&zeros[..length], at)?;
            at += length as u64;
        }
        file.write_all_at(&header(identity, generation), 0)?;
        file.sync_all()
    }

    /// Opens the file, and gives the groups in it; `None`: it is not what was written, or belongs to another log.
    pub(super) fn open(path: &Path, identity: &Identity) -> io::Result<Option<(Self, Vec<FoundGroup>)>> {
        let file = File::options().read(true).write(true).open(path)?;
        let content = std::fs::read(path)?;
        let Some(generation) = read_header(&content, identity) else {
            return Ok(None);
        };
        let mut groups = Vec::new();
        let mut rest = &content[FILE_HEADER..];
        while let Some((group, after)) = read_group(rest, generation) {
            groups.push(group);
            rest = after;
        }
        let journal = Self {
            sync: Box::new(file.try_clone()?),
            file,
            bytes: content.len() as u64,
            generation,
            end: (content.len() - rest.len()) as u64,
            doubtful: false,
        };
        Ok(Some((journal, groups)))
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether steps of this length fit behind what is there.
    pub(super) fn has_room(&self, steps: usize) -> bool {
        self.end + (GROUP_HEADER + steps) as u64 <= self.bytes
    }

    /// Whether steps of this length would fit into an empty file.
    pub(super) fn could_hold(&self, steps: usize) -> bool {
        (FILE_HEADER + GROUP_HEADER + steps) as u64 <= self.bytes
    }

    /// Bytes of steps that one more group may have.
    pub(super) fn left(&self) -> u64 {
        self.bytes.saturating_sub(self.end + GROUP_HEADER as u64)
    }

    /// Begins the file anew; durable with the first group that is written to it.
    pub(super) fn begin(&mut self, identity: &Identity, generation: u64) -> io::Result<()> {
        self.generation = generation;
        self.end = FILE_HEADER as u64;
        self.file.write_all_at(&header(identity, generation), 0)
    }

    /// Writes a group, durable with the next [`JournalFile::sync`]. The caller knows that there is room.
    pub(super) fn write(&mut self, before: u64, after: u64, steps: &[u8]) -> io::Result<()> {
        let length = u32::try_from(steps.len()).map_err(io::Error::other)?;
        let mut group = Vec::with_capacity(GROUP_HEADER + steps.len());
        group.extend_from_slice(&self.generation.to_le_bytes());
        group.extend_from_slice(&before.to_le_bytes());
        group.extend_from_slice(&after.to_le_bytes());
        group.extend_from_slice(&length.to_le_bytes());
        let checksum = checksum(&group, steps);
        group.extend_from_slice(&checksum.to_le_bytes());
        group.extend_from_slice(steps);
        self.file.write_all_at(&group, self.end)?;
        self.end += group.len() as u64;
        Ok(())
    }

    /// Makes durable what was written: the last group, and the header if it is the first.
    ///
    /// # Errors
    /// The system's. Then the group counts as not written; if the error passes, it may be written again.
    pub(super) fn sync(&mut self, identity: &Identity, steps: &[u8]) -> io::Result<()> {
        if self.doubtful {
            self.file
                .write_all_at(&header(identity, self.generation), 0)
                .inspect_err(|_| self.take_back(steps))?;
        }
        self.sync.sync_data().inspect_err(|_| self.take_back(steps))?;
        self.doubtful = false;
        Ok(())
    }

    fn take_back(&mut self, steps: &[u8]) {
        self.end -= (GROUP_HEADER + steps.len()) as u64;
        self.doubtful = true;
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

fn header(identity: &Identity, generation: u64) -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..24].copy_from_slice(identity);
    header[24..32].copy_from_slice(&generation.to_le_bytes());
    let checksum = xxh3_64(&header[..32]);
    header[32..].copy_from_slice(&checksum.to_le_bytes());
    header
}

/// The generation, if the header is whole and of this log.
fn read_header(content: &[u8], identity: &Identity) -> Option<u64> {
    let found: &[u8; FILE_HEADER] = content.first_chunk()?;
    let generation = u64::from_le_bytes(*found[24..].first_chunk()?);
    (*found == header(identity, generation)).then_some(generation)
}

fn read_group(bytes: &[u8], generation: u64) -> Option<(FoundGroup, &[u8])> {
    let (header, rest) = bytes.split_at_checked(GROUP_HEADER)?;
    let (fields, sum) = header.split_at_checked(GROUP_HEADER - 8)?;
    let number = |at: usize| Some(u64::from_le_bytes(*fields.get(at..)?.first_chunk()?));
    let length = u32::from_le_bytes(*fields.get(24..)?.first_chunk()?);
    let (steps, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    if number(0)? != generation || u64::from_le_bytes(*sum.first_chunk()?) != checksum(fields, steps) {
        return None;
    }
    let group = FoundGroup {
        before: number(8)?,
        after: number(16)?,
        steps: steps.to_vec(),
    };
    Some((group, after))
}

fn checksum(fields: &[u8], steps: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
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

    fn file() -> (TempDir, std::path::PathBuf) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join(FILES[0]);
        JournalFile::create(&path, &ME, 5, BYTES).unwrap();
        (dir, path)
    }

    fn numbers(groups: &[FoundGroup]) -> Vec<(u64, u64, Vec<u8>)> {
        let all = groups
            .iter()
            .map(|group| (group.before, group.after, group.steps.clone()));
        all.collect()
    }

    #[test]
    fn groups_are_found_again_until_the_first_that_is_not_whole() {
        let (_dir, path) = file();
        let (mut journal, found) = JournalFile::open(&path, &ME).unwrap().unwrap();
        assert!(found.is_empty());
        journal.write(0, 1, b"one").unwrap();
        journal.write(1, 4, b"two").unwrap();
        let end = journal.end;
        journal.write(4, 5, b"three").unwrap();
        let all = vec![
            (0, 1, b"one".to_vec()),
            (1, 4, b"two".to_vec()),
            (4, 5, b"three".to_vec()),
        ];
        let (_, found) = JournalFile::open(&path, &ME).unwrap().unwrap();
        assert_eq!(numbers(&found), all);
        // Each byte of the last group, flipped, ends the groups before it.
        for at in end..journal.end {
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            let (_, found) = JournalFile::open(&path, &ME).unwrap().unwrap();
            assert_eq!(numbers(&found), all[..2], "byte {at}");
            file.write_all_at(&byte, at).unwrap();
        }
    }

    #[test]
    fn what_is_left_of_an_earlier_use_is_not_found() {
        let (_dir, path) = file();
        let (mut journal, _) = JournalFile::open(&path, &ME).unwrap().unwrap();
        journal.write(0, 1, b"one").unwrap();
        journal.write(1, 2, b"two").unwrap();
        journal.begin(&ME, 6).unwrap();
        let (_, found) = JournalFile::open(&path, &ME).unwrap().unwrap();
        assert!(found.is_empty());
        journal.write(2, 3, b"new").unwrap();
        let (_, found) = JournalFile::open(&path, &ME).unwrap().unwrap();
        assert_eq!(numbers(&found), [(2, 3, b"new".to_vec())]);
    }

    #[test]
    fn a_file_of_another_log_or_without_its_header_is_refused() {
        let (_dir, path) = file();
        assert!(JournalFile::open(&path, &[8; 16]).unwrap().is_none());
        for at in 0..FILE_HEADER as u64 {
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[!byte[0]], at).unwrap();
            assert!(JournalFile::open(&path, &ME).unwrap().is_none(), "byte {at}");
            file.write_all_at(&byte, at).unwrap();
        }
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(39)
            .unwrap();
        assert!(JournalFile::open(&path, &ME).unwrap().is_none());
    }

    #[test]
    fn room_is_what_is_left() {
        let (_dir, path) = file();
        let (mut journal, _) = JournalFile::open(&path, &ME).unwrap().unwrap();
        let most = BYTES as usize - FILE_HEADER - GROUP_HEADER;
        assert!(journal.has_room(most) && !journal.has_room(most + 1));
        journal.write(0, 1, &[1; 100]).unwrap();
        assert!(journal.has_room(most - 100 - GROUP_HEADER) && !journal.has_room(most - 99 - GROUP_HEADER));
        assert!(journal.could_hold(most) && !journal.could_hold(most + 1));
    }
}
