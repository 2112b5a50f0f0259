//! A file: what a program sees of it, and what would be left of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::loss::{Kept, Loss, Lost};

/// Bytes of a page: what the cache of a kernel writes at once.
pub(super) const PAGE: usize = 4096;
/// Bytes of a sector: what a disk writes as a whole or not at all.
pub(super) const SECTOR: usize = 512;

/// What is in a page.
type Page = [u8; PAGE];

/// Pages and a length. A page that is not there is zeros.
#[derive(Clone, Debug, Default)]
struct Content {
    pages: Vec<Option<Arc<Page>>>,
    size: u64,
}

/// A file with a cache before its disk.
#[derive(Debug, Default)]
pub(super) struct LossyFile {
    /// What a program reads.
    now: Content,
    /// What is on the disk.
    durable: Content,
    /// Pages that the next sync writes.
    unsynced: BTreeSet<usize>,
}

impl LossyFile {
    pub(super) fn size(&self) -> u64 {
        self.now.size
    }

    /// Pages that take room.
    pub(super) fn pages(&self) -> u64 {
        self.now.pages.iter().flatten().count() as u64
    }

    /// Pages that a write here would need beside those that there are.
    pub(super) fn pages_needed(&self, at: u64, length: usize) -> u64 {
        touched(at, length)
            .filter(|page| self.now.page(*page).is_none())
            .count() as u64
    }

    /// At most so many bytes from here on; fewer at the end.
    pub(super) fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let length =
            usize::try_from(self.now.size.saturating_sub(at)).map_or(length, |left| left.min(length));
        let mut bytes = Vec::with_capacity(length);
        for (page, from, to) in pieces(at, length) {
            match self.now.page(page) {
                Some(found) => bytes.extend_from_slice(&found[from..to]),
                None => bytes.resize(bytes.len() + to - from, 0),
            }
        }
        bytes
    }

    pub(super) fn write(&mut self, at: u64, data: &[u8]) {
        let mut rest = data;
        for (page, from, to) in pieces(at, data.len()) {
            let (piece, behind) = rest.split_at(to - from);
            self.now.page_mut(page)[from..to].copy_from_slice(piece);
            self.unsynced.insert(page);
            rest = behind;
        }
        self.now.size = self.now.size.max(at + data.len() as u64);
    }

    pub(super) fn resize(&mut self, size: u64) {
        let pages = self.now.pages.len();
        let partial = self.now.resize(size);
        self.unsynced.extend(self.now.pages.len()..pages);
        self.unsynced.extend(partial);
    }

    /// Whether a sync has anything to do.
    pub(super) fn is_unsynced(&self) -> bool {
        !self.unsynced.is_empty() || self.now.size != self.durable.size
    }

    /// Makes it durable; gives how many pages had to be written.
    pub(super) fn sync(&mut self) -> u64 {
        let written = self.unsynced.len() as u64;
        for page in std::mem::take(&mut self.unsynced) {
            self.durable.set(page, self.now.page(page).cloned());
        }
        self.durable.size = self.now.size;
        self.durable.trim();
        written
    }

    /// A sync that fails. As Linux does, the cache keeps what could not be written and takes it for written: no later sync writes it,
    /// unless a program writes it again. Gives how many pages that are.
    pub(super) fn fail_sync(&mut self) -> u64 {
        std::mem::take(&mut self.unsynced).len() as u64
    }

    /// The power is gone: what is on the disk is what there is.
    pub(super) fn cut(&mut self, loss: &mut Loss, lost: &mut Lost) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let all_kept = loss.pages(unsynced.len());
        let mut changed = false;
        for (page, kept) in unsynced.into_iter().zip(all_kept) {
            changed |= kept != Kept::All;
            match kept {
                Kept::Nothing => lost.pages += 1,
                Kept::All => {
                    self.durable.set(page, self.now.page(page).cloned());
                    lost.kept += 1;
                }
                Kept::Sectors(which) => {
                    self.durable.mix(page, self.now.page(page), which);
                    lost.torn += 1;
                }
            }
        }
        self.durable.size = loss.size(self.durable.size, self.now.size);
        self.durable.trim();
        changed |= self.durable.size != self.now.size;
        lost.files += u64::from(changed);
        self.now = self.durable.clone();
    }
}

impl Content {
    fn page(&self, page: usize) -> Option<&Arc<Page>> {
        self.pages.get(page)?.as_ref()
    }

    fn page_mut(&mut self, page: usize) -> &mut Page {
        if self.pages.len() <= page {
            self.pages.resize(page + 1, None);
        }
        Arc::make_mut(self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE])))
    }

    fn set(&mut self, page: usize, content: Option<Arc<Page>>) {
        if self.pages.len() <= page {
            self.pages.resize(page + 1, None);
        }
        self.pages[page] = content;
    }

    /// Takes these sectors of a page from another one.
    fn mix(&mut self, page: usize, from: Option<&Arc<Page>>, which: u8) {
        let zeros = Arc::new([0; PAGE]);
        let from = from.unwrap_or(&zeros).clone();
        let mixed = self.page_mut(page);
        for sector in (0..PAGE / SECTOR).filter(|sector| which >> sector & 1 == 1) {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            mixed[range.clone()].copy_from_slice(&from[range]);
        }
    }

    /// Gives the page that is now used in part only, if its rest had to be zeroed.
    fn resize(&mut self, size: u64) -> Option<usize> {
        let shrinks = size < self.size;
        self.size = size;
        if shrinks { self.trim() } else { None }
    }

    /// Nothing is behind the end, and nothing that was there comes back when the file grows.
    fn trim(&mut self) -> Option<usize> {
        let (whole, rest) = (self.size / PAGE as u64, (self.size % PAGE as u64) as usize);
        let whole = usize::try_from(whole).unwrap_or(usize::MAX);
        self.pages.truncate(whole.saturating_add(usize::from(rest > 0)));
        let is_dirty = |page: &Arc<Page>| page[rest..].iter().any(|byte| *byte != 0);
        if rest > 0 && self.page(whole).is_some_and(is_dirty) {
            self.page_mut(whole)[rest..].fill(0);
            return Some(whole);
        }
        None
    }
}

/// The pages that this range lies in.
fn touched(at: u64, length: usize) -> impl Iterator<Item = usize> {
    pieces(at, length).map(|(page, _, _)| page)
}

/// The same, with where in the page it begins and ends.
fn pieces(at: u64, length: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let end = at + length as u64;
    let mut at = at;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let page = at / PAGE as u64;
        let stop = end.min((page + 1) * PAGE as u64);
        let from = (at % PAGE as u64) as usize;
        let piece = (usize::try_from(page).ok()?, from, from + (stop - at) as usize);
        at = stop;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clear(file: &mut LossyFile) -> Lost {
        let mut lost = Lost::default();
        file.cut(&mut Loss::clear(), &mut lost);
        lost
    }

    #[test]
    fn what_was_written_is_read_and_a_hole_is_zeros() {
        let mut file = LossyFile::default();
        file.write(PAGE as u64 * 2 - 3, b"abcdef");
        assert_eq!(file.size(), PAGE as u64 * 2 + 3);
        assert_eq!(file.read(PAGE as u64 * 2 - 5, 100), b"\0\0abcdef");
        assert_eq!(file.read(0, 4), [0; 4]);
        assert!(file.read(PAGE as u64 * 3, 4).is_empty());
        assert_eq!(file.pages(), 2, "the hole takes no room");
        assert_eq!(file.pages_needed(0, PAGE + 1), 1);
    }

    #[test]
    fn a_cut_takes_what_was_not_synced_and_only_that() {
        let mut file = LossyFile::default();
        file.write(0, b"one");
        assert_eq!(file.sync(), 1);
        file.write(1, b"WO");
        file.write(PAGE as u64, b"more");
        let lost = clear(&mut file);
        assert_eq!((lost.pages, lost.files), (2, 1));
        assert_eq!(file.read(0, 100), b"one");
        assert_eq!(clear(&mut file).pages, 0, "once");
    }

    #[test]
    fn a_truncation_is_lost_as_a_write_is_and_zeros_what_it_cut() {
        let mut file = LossyFile::default();
        file.write(0, &[7; PAGE + 10]);
        file.sync();
        file.resize(5);
        assert_eq!(file.read(0, 100), [7; 5]);
        file.resize(8);
        assert_eq!(file.read(0, 100), [7, 7, 7, 7, 7, 0, 0, 0]);
        clear(&mut file);
        assert_eq!(file.read(0, 2 * PAGE), [7; PAGE + 10]);
        file.resize(5);
        file.sync();
        clear(&mut file);
        file.resize(8);
        assert_eq!(file.read(0, 100), [7, 7, 7, 7, 7, 0, 0, 0]);
    }

    #[test]
    fn what_a_failed_sync_could_not_write_stays_in_the_cache_and_never_reaches_the_disk() {
        let mut file = LossyFile::default();
        file.write(0, &[1; 2 * PAGE]);
        file.sync();
        file.write(0, &[2; 2 * PAGE]);
        assert_eq!(file.fail_sync(), 2);
        assert_eq!(file.sync(), 0, "it is taken for written");
        assert_eq!(file.read(0, 2 * PAGE), [2; 2 * PAGE]);
        file.write(PAGE as u64, &[3]);
        assert_eq!(file.sync(), 1);
        clear(&mut file);
        assert_eq!(file.read(0, 1), [1], "never written");
        assert_eq!(
            file.read(PAGE as u64, 2),
            [3, 2],
            "written again, as a whole page"
        );
    }

    #[test]
    fn a_torn_cut_leaves_old_or_new_sectors_and_nothing_else() {
        let (mut old, mut new, mut mixed) = (0, 0, 0);
        for seed in 0..200 {
            let mut file = LossyFile::default();
            file.write(0, &[1; 4 * PAGE]);
            file.sync();
            file.write(0, &[2; 4 * PAGE]);
            let mut lost = Lost::default();
            file.cut(&mut Loss::torn(seed), &mut lost);
            assert_eq!(lost.pages + lost.kept + lost.torn, 4);
            let found = file.read(0, 5 * PAGE);
            assert_eq!(found.len(), 4 * PAGE);
            for page in found.chunks(PAGE) {
                for sector in page.chunks(SECTOR) {
                    assert!(
                        sector == [1; SECTOR] || sector == [2; SECTOR],
                        "a sector is whole"
                    );
                }
                match page.iter().filter(|byte| **byte == 2).count() {
                    0 => old += 1,
                    PAGE => new += 1,
                    _ => mixed += 1,
                }
            }
        }
        assert!(old > 100 && new > 100 && mixed > 50, "{old} {new} {mixed}");
    }

    #[test]
    fn a_torn_cut_leaves_a_size_between_the_old_and_the_new_one() {
        let mut sizes = BTreeSet::new();
        for seed in 0..100 {
            let mut file = LossyFile::default();
            file.write(0, &[1; 100]);
            file.sync();
            file.write(100, &[1; 10_000]);
            file.cut(&mut Loss::torn(seed), &mut Lost::default());
            assert!((100..=10_100).contains(&file.size()));
            sizes.insert(file.size());
            let found = file.read(0, 20_000);
            assert_eq!(found.len() as u64, file.size());
            assert!(found[..100].iter().all(|byte| *byte == 1), "it was synced");
        }
        assert!(
            sizes.contains(&100) && sizes.contains(&10_100) && sizes.len() > 10,
            "{sizes:?}"
        );
    }
}
