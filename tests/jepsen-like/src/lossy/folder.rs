//! A folder: names as programs see them, and those that would be left.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::loss::{Loss, Lost};

/// Names, and what they stand for.
type Names = BTreeMap<OsString, u64>;

/// A folder with a cache before its disk.
#[derive(Debug, Default)]
pub(super) struct Folder {
    now: Names,
    durable: Names,
    /// What makes `now` of `durable`, in order.
    unsynced: Vec<Change>,
}

/// What happens to names at once: one goes, one comes, or both (a rename).
#[derive(Debug)]
struct Change {
    goes: Option<OsString>,
    comes: Option<(OsString, u64)>,
}

impl Folder {
    pub(super) fn get(&self, name: &OsStr) -> Option<u64> {
        self.now.get(name).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.now.is_empty()
    }

    /// Whether a sync has nothing to do.
    pub(super) fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (&OsString, u64)> {
        self.now.iter().map(|(name, number)| (name, *number))
    }

    /// Everything that it holds, or may hold after a cut.
    pub(super) fn reachable(&self) -> impl Iterator<Item = u64> {
        let pending = self
            .unsynced
            .iter()
            .filter_map(|change| Some(change.comes.as_ref()?.1));
        self.now
            .values()
            .chain(self.durable.values())
            .copied()
            .chain(pending)
    }

    pub(super) fn add(&mut self, name: &OsStr, number: u64) {
        self.change(None, Some((name.to_owned(), number)));
    }

    pub(super) fn remove(&mut self, name: &OsStr) {
        self.change(Some(name.to_owned()), None);
    }

    pub(super) fn rename(&mut self, from: &OsStr, to: &OsStr) {
        if let Some(number) = self.get(from) {
            self.change(Some(from.to_owned()), Some((to.to_owned(), number)));
        }
    }

    /// Makes its names durable; gives how many changes that are.
    pub(super) fn sync(&mut self) -> u64 {
        let changes = std::mem::take(&mut self.unsynced);
        self.durable.clone_from(&self.now);
        changes.len() as u64
    }

    /// A sync that fails: the names stay as they are for programs, and none of them is durable by it. (A file system that could not write its journal
    /// would write nothing any more; here the next sync may succeed.)
    pub(super) fn fail_sync(&self) -> u64 {
        self.unsynced.len() as u64
    }

    /// The power is gone.
    pub(super) fn cut(&mut self, loss: &mut Loss, lost: &mut Lost) {
        let changes = std::mem::take(&mut self.unsynced);
        let kept = loss.names(changes.len());
        lost.names += (changes.len() - kept) as u64;
        for change in changes.into_iter().take(kept) {
            change.apply(&mut self.durable);
        }
        self.now.clone_from(&self.durable);
    }

    fn change(&mut self, goes: Option<OsString>, comes: Option<(OsString, u64)>) {
        let change = Change { goes, comes };
        change.apply(&mut self.now);
        self.unsynced.push(change);
    }
}

impl Change {
    fn apply(&self, names: &mut Names) {
        if let Some(name) = &self.goes {
            names.remove(name);
        }
        if let Some((name, number)) = &self.comes {
            names.insert(name.clone(), *number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(folder: &Folder) -> String {
        let names = folder.names();
        let all: Vec<_> = names
            .map(|(name, number)| format!("{}={number}", name.display()))
            .collect();
        all.join(" ")
    }

    #[test]
    fn a_rename_that_was_not_synced_is_lost() {
        let mut folder = Folder::default();
        folder.add(OsStr::new("a"), 1);
        folder.add(OsStr::new("b"), 2);
        folder.sync();
        folder.rename(OsStr::new("b"), OsStr::new("a"));
        assert_eq!(shown(&folder), "a=2");
        let mut lost = Lost::default();
        folder.cut(&mut Loss::clear(), &mut lost);
        assert_eq!(shown(&folder), "a=1 b=2");
        assert_eq!(lost.names, 1);
    }

    #[test]
    fn a_torn_cut_keeps_the_first_changes_each_as_a_whole() {
        let mut found = std::collections::BTreeSet::new();
        for seed in 0..50 {
            let mut folder = Folder::default();
            folder.add(OsStr::new("a"), 1);
            folder.rename(OsStr::new("a"), OsStr::new("b"));
            folder.remove(OsStr::new("b"));
            folder.add(OsStr::new("c"), 3);
            folder.cut(&mut Loss::torn(seed), &mut Lost::default());
            found.insert(shown(&folder));
        }
        let found: Vec<_> = found.iter().map(String::as_str).collect();
        assert_eq!(found, ["", "a=1", "b=1", "c=3"]);
    }
}
