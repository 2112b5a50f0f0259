//! What a power cut leaves of what was not synced.
//!
//! | mode | files | sizes | names |
//! | --- | --- | --- | --- |
//! | clear | no page | the synced one | the synced ones |
//! | torn | some of the pages, in any order: a few, all but the last ones, all but the first ones, any; of some pages only a few sectors | the synced one, the newest, or one between | of each folder the changes up to one of them, in their order |
//!
//! That is what journaling file systems may leave, and worse: ext4 in its default mode keeps changes of names in one order over all folders (here: in each folder
//! of its own), and lets no size be durable before the data behind it (here: it may; then there are zeros).

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::file::{PAGE, SECTOR};

/// How a cut treats what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All of it is gone.
    Clear,
    /// Some of it is there, as the seed decides.
    Torn(u64),
}

/// What a cut took, and left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Pages that were not synced and are gone.
    pub pages: u64,
    /// Pages that were not synced and are there all the same.
    pub kept: u64,
    /// Pages of which some sectors are new and some old.
    pub torn: u64,
    /// Changes of names (of files that were made, renamed, removed) that were not synced and are gone.
    pub names: u64,
    /// Files whose content or length is not what programs had seen.
    pub files: u64,
}

/// What becomes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Nothing,
    All,
    /// These sectors, one bit each.
    Sectors(u8),
}

/// Decides what is kept.
#[derive(Debug)]
pub(super) struct Loss(Option<StdRng>);

impl Lost {
    /// Whether anything is gone.
    pub fn anything(&self) -> bool {
        self.pages + self.torn + self.names + self.files > 0
    }

    /// Adds another cut.
    pub fn add(&mut self, other: Self) {
        self.pages += other.pages;
        self.kept += other.kept;
        self.torn += other.torn;
        self.names += other.names;
        self.files += other.files;
    }
}

impl Loss {
    pub(super) fn new(mode: Mode) -> Self {
        match mode {
            Mode::Clear => Self::clear(),
            Mode::Torn(seed) => Self::torn(seed),
        }
    }

    pub(super) fn clear() -> Self {
        Self(None)
    }

    pub(super) fn torn(seed: u64) -> Self {
        Self(Some(StdRng::seed_from_u64(seed)))
    }

    /// What is kept of the unsynced pages of a file, in order.
    pub(super) fn pages(&mut self, number: usize) -> Vec<Kept> {
        let Some(rng) = &mut self.0 else {
            return vec![Kept::Nothing; number];
        };
        let edge = rng.random_range(0..=number);
        let style = rng.random_range(0..4);
        let share = rng.random_range(0.1..0.9);
        (0..number)
            .map(|page| {
                let is_kept = match style {
                    // The tail is dropped.
                    0 => page < edge,
                    // The beginning is.
                    1 => page >= edge,
                    2 => rng.random_bool(share),
                    // One page did not make it.
                    _ => page != edge.min(number - 1),
                };
                if rng.random_bool(0.2) {
                    Kept::Sectors(rng.random_range(1..u8::MAX))
                } else if is_kept {
                    Kept::All
                } else {
                    Kept::Nothing
                }
            })
            .collect()
    }

    /// How long a file is that had one length on disk and another one in the cache.
    pub(super) fn size(&mut self, durable: u64, now: u64) -> u64 {
        let Some(rng) = self.0.as_mut().filter(|_| durable != now) else {
            return durable;
        };
        match rng.random_range(0..3) {
            0 => durable,
            1 => now,
            _ => rng.random_range(durable.min(now)..=durable.max(now)),
        }
    }

    /// How many of the changes of a folder's names are kept.
    pub(super) fn names(&mut self, number: usize) -> usize {
        self.0.as_mut().map_or(0, |rng| rng.random_range(0..=number))
    }
}

// A page has as many sectors as a byte has bits.
const _: () = assert!(PAGE / SECTOR == 8);
