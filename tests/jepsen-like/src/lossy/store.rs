//! The files and folders of a lossy disk. It knows nothing of the kernel: only what is there, and what would be left of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::time::SystemTime;

use nix::errno::Errno;

use super::file::{LossyFile, PAGE};
use super::folder::Folder;
use super::loss::{Loss, Lost, Mode};

/// The number of the folder that is mounted, as FUSE has it.
pub(super) const ROOT: u64 = 1;
/// A name takes room, too.
const LEAST_FREE: u64 = 1;

#[derive(Debug)]
pub(super) enum Node {
    File(LossyFile),
    Folder(Folder),
}

#[derive(Debug)]
struct Inode {
    node: Node,
    mode: u16,
    modified: SystemTime,
}

/// What is known of a file or folder without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) number: u64,
    pub(super) is_folder: bool,
    pub(super) size: u64,
    pub(super) pages: u64,
    pub(super) mode: u16,
    /// Of a file: when it was written last. Not lost by a cut: nobody relies on it.
    pub(super) modified: SystemTime,
}

/// All of a disk.
#[derive(Debug)]
pub(super) struct Store {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    /// Pages that there is room for.
    pages: u64,
}

impl Store {
    /// An empty disk with so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let root = Inode {
            node: Node::Folder(Folder::default()),
            mode: 0o755,
            modified: SystemTime::now(),
        };
        Self {
            inodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            pages: bytes / PAGE as u64,
        }
    }

    /// Pages in all, and those that are free.
    pub(super) fn room(&self) -> (u64, u64) {
        let used: u64 = self.inodes.values().map(Inode::pages).sum();
        (self.pages, self.pages.saturating_sub(used))
    }

    pub(super) fn lookup(&self, folder: u64, name: &OsStr) -> Result<Attributes, Errno> {
        let number = self.folder(folder)?.get(name).ok_or(Errno::ENOENT)?;
        self.attributes(number)
    }

    pub(super) fn attributes(&self, number: u64) -> Result<Attributes, Errno> {
        let inode = self.inodes.get(&number).ok_or(Errno::ESTALE)?;
        let size = match &inode.node {
            Node::File(file) => file.size(),
            Node::Folder(_) => 0,
        };
        Ok(Attributes {
            number,
            is_folder: matches!(inode.node, Node::Folder(_)),
            size,
            pages: inode.pages(),
            mode: inode.mode,
            modified: inode.modified,
        })
    }

    pub(super) fn set_mode(&mut self, number: u64, mode: u16) -> Result<(), Errno> {
        self.inodes.get_mut(&number).ok_or(Errno::ESTALE)?.mode = mode & 0o7777;
        Ok(())
    }

    pub(super) fn set_modified(&mut self, number: u64, modified: SystemTime) -> Result<(), Errno> {
        self.inodes.get_mut(&number).ok_or(Errno::ESTALE)?.modified = modified;
        Ok(())
    }

    /// Makes an empty file, or a folder.
    pub(super) fn make(
        &mut self,
        folder: u64,
        name: &OsStr,
        node: Node,
        mode: u16,
    ) -> Result<Attributes, Errno> {
        if self.folder(folder)?.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        if self.room().1 < LEAST_FREE {
            return Err(Errno::ENOSPC);
        }
        let number = self.next;
        self.next += 1;
        let mode = mode & 0o7777;
        let modified = SystemTime::now();
        self.inodes.insert(number, Inode { node, mode, modified });
        self.folder_mut(folder)?.add(name, number);
        self.attributes(number)
    }

    /// Removes the name of a file, or of an empty folder.
    pub(super) fn remove(&mut self, folder: u64, name: &OsStr, is_folder: bool) -> Result<(), Errno> {
        let found = self.lookup(folder, name)?;
        match (is_folder, found.is_folder) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (true, true) if !self.folder(found.number)?.is_empty() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        self.folder_mut(folder)?.remove(name);
        Ok(())
    }

    /// Renames. Another file of that name is replaced. Between folders it is durable at once, with all that happened to names in both: else a cut could leave
    /// both names or none, which no file system does.
    pub(super) fn rename(
        &mut self,
        (folder, from): (u64, &OsStr),
        (new_folder, to): (u64, &OsStr),
    ) -> Result<(), Errno> {
        let moved = self.lookup(folder, from)?;
        if let Ok(replaced) = self.lookup(new_folder, to) {
            match (moved.is_folder, replaced.is_folder) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                (true, true) if !self.folder(replaced.number)?.is_empty() => return Err(Errno::ENOTEMPTY),
                _ => {}
            }
        }
        if folder != new_folder {
            self.folder_mut(folder)?.remove(from);
            self.folder_mut(new_folder)?.add(to, moved.number);
            self.sync(folder)?;
            self.sync(new_folder)?;
        } else if from != to {
            self.folder_mut(folder)?.rename(from, to);
        }
        Ok(())
    }

    /// The names in a folder.
    pub(super) fn list(&self, folder: u64) -> Result<Vec<(OsString, Attributes)>, Errno> {
        self.folder(folder)?
            .names()
            .map(|(name, number)| Ok((name.clone(), self.attributes(number)?)))
            .collect()
    }

    pub(super) fn read(&self, number: u64, at: u64, length: usize) -> Result<Vec<u8>, Errno> {
        match &self.inodes.get(&number).ok_or(Errno::ESTALE)?.node {
            Node::File(file) => Ok(file.read(at, length)),
            Node::Folder(_) => Err(Errno::EISDIR),
        }
    }

    /// Writes all of it, or nothing if there is no room.
    pub(super) fn write(&mut self, number: u64, at: u64, data: &[u8]) -> Result<(), Errno> {
        let needed = self.file(number)?.pages_needed(at, data.len());
        // Counting takes a while, and most writes are in place.
        if needed > 0 && self.room().1 < needed {
            return Err(Errno::ENOSPC);
        }
        self.file(number)?.write(at, data);
        self.set_modified(number, SystemTime::now())
    }

    /// Whether a write here needs room that it does not have yet.
    pub(super) fn grows(&mut self, number: u64, at: u64, length: usize) -> bool {
        self.file(number)
            .is_ok_and(|file| file.pages_needed(at, length) > 0)
    }

    pub(super) fn resize(&mut self, number: u64, size: u64) -> Result<(), Errno> {
        self.file(number)?.resize(size);
        self.set_modified(number, SystemTime::now())
    }

    /// Makes a file's content, or a folder's names, durable. Gives how many pages or names had to be written.
    pub(super) fn sync(&mut self, number: u64) -> Result<u64, Errno> {
        Ok(
            match &mut self.inodes.get_mut(&number).ok_or(Errno::ESTALE)?.node {
                Node::File(file) => file.sync(),
                Node::Folder(folder) => folder.sync(),
            },
        )
    }

    /// A sync that fails; gives how many pages or names were not written.
    pub(super) fn fail_sync(&mut self, number: u64) -> Result<u64, Errno> {
        Ok(
            match &mut self.inodes.get_mut(&number).ok_or(Errno::ESTALE)?.node {
                Node::File(file) => file.fail_sync(),
                Node::Folder(folder) => folder.fail_sync(),
            },
        )
    }

    /// Whether a sync of it has anything to do.
    pub(super) fn is_unsynced(&self, number: u64) -> bool {
        match self.inodes.get(&number).map(|inode| &inode.node) {
            Some(Node::File(file)) => file.is_unsynced(),
            Some(Node::Folder(folder)) => !folder.is_synced(),
            None => false,
        }
    }

    /// The name that a file has now, for people.
    pub(super) fn name(&self, number: u64) -> String {
        let folders = self.inodes.values().filter_map(|inode| match &inode.node {
            Node::Folder(folder) => Some(folder),
            Node::File(_) => None,
        });
        let mut names = folders.flat_map(Folder::names);
        let found = names.find(|(_, of)| *of == number);
        found.map_or_else(
            || format!("file {number}"),
            |(name, _)| name.to_string_lossy().into_owned(),
        )
    }

    /// The power is gone: what was synced is there, and of the rest what the mode says.
    pub(super) fn cut(&mut self, mode: Mode) -> Lost {
        let (mut loss, mut lost) = (Loss::new(mode), Lost::default());
        for inode in self.inodes.values_mut() {
            match &mut inode.node {
                Node::File(file) => file.cut(&mut loss, &mut lost),
                Node::Folder(folder) => folder.cut(&mut loss, &mut lost),
            }
        }
        self.collect(&BTreeSet::new());
        lost
    }

    /// Forgets what has no name any more, now or after a cut, and that nobody has open.
    pub(super) fn collect(&mut self, open: &BTreeSet<u64>) {
        let mut live = BTreeSet::from([ROOT]);
        let mut next: Vec<u64> = open.iter().copied().chain([ROOT]).collect();
        while let Some(number) = next.pop() {
            live.insert(number);
            if let Some(Inode {
                node: Node::Folder(folder),
                ..
            }) = self.inodes.get(&number)
            {
                next.extend(folder.reachable().filter(|number| !live.contains(number)));
            }
        }
        self.inodes.retain(|number, _| live.contains(number));
    }

    fn folder(&self, number: u64) -> Result<&Folder, Errno> {
        match &self.inodes.get(&number).ok_or(Errno::ESTALE)?.node {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn folder_mut(&mut self, number: u64) -> Result<&mut Folder, Errno> {
        match &mut self.inodes.get_mut(&number).ok_or(Errno::ESTALE)?.node {
            Node::Folder(folder) => Ok(folder),
            Node::File(_) => Err(Errno::ENOTDIR),
        }
    }

    fn file(&mut self, number: u64) -> Result<&mut LossyFile, Errno> {
        match &mut self.inodes.get_mut(&number).ok_or(Errno::ESTALE)?.node {
            Node::File(file) => Ok(file),
            Node::Folder(_) => Err(Errno::EISDIR),
        }
    }
}

impl Inode {
    fn pages(&self) -> u64 {
        match &self.node {
            Node::File(file) => file.pages(),
            Node::Folder(_) => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Node {
        Node::File(LossyFile::default())
    }

    fn folder() -> Node {
        Node::Folder(Folder::default())
    }

    fn make(store: &mut Store, folder: u64, name: &str, node: Node) -> u64 {
        store.make(folder, OsStr::new(name), node, 0o644).unwrap().number
    }

    fn names(store: &Store, folder: u64) -> Vec<String> {
        let all = store.list(folder).unwrap().into_iter();
        all.map(|(name, _)| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_file_needs_its_own_sync_and_that_of_its_folder() {
        let mut store = Store::new(1 << 20);
        let both = make(&mut store, ROOT, "both", file());
        let no_content = make(&mut store, ROOT, "no-content", file());
        store.write(both, 0, b"kept").unwrap();
        store.write(no_content, 0, b"lost").unwrap();
        store.sync(both).unwrap();
        store.sync(ROOT).unwrap();
        let no_name = make(&mut store, ROOT, "no-name", file());
        store.write(no_name, 0, b"kept in vain").unwrap();
        store.sync(no_name).unwrap();
        store.cut(Mode::Clear);
        assert_eq!(names(&store, ROOT), ["both", "no-content"]);
        assert_eq!(store.read(both, 0, 100).unwrap(), b"kept");
        assert_eq!(store.read(no_content, 0, 100).unwrap(), b"");
        assert_eq!(store.read(no_name, 0, 100), Err(Errno::ESTALE));
    }

    #[test]
    fn what_a_removed_folder_held_comes_back_with_it() {
        let mut store = Store::new(1 << 20);
        let inner = make(&mut store, ROOT, "inner", folder());
        let deep = make(&mut store, inner, "deep", file());
        for number in [deep, inner, ROOT] {
            store.sync(number).unwrap();
        }
        store.remove(inner, OsStr::new("deep"), false).unwrap();
        assert_eq!(store.remove(ROOT, OsStr::new("inner"), false), Err(Errno::EISDIR));
        store.remove(ROOT, OsStr::new("inner"), true).unwrap();
        store.collect(&BTreeSet::new());
        store.cut(Mode::Clear);
        assert_eq!(names(&store, ROOT), ["inner"]);
        assert_eq!(names(&store, inner), ["deep"]);
    }

    #[test]
    fn room_is_what_files_do_not_take() {
        let mut store = Store::new(10 * PAGE as u64);
        let one = make(&mut store, ROOT, "one", file());
        let (all, free) = store.room();
        store.write(one, 0, &vec![1; (free as usize) * PAGE]).unwrap();
        assert_eq!(store.room(), (all, 0));
        store.write(one, 5, b"in place").unwrap();
        assert_eq!(store.write(one, free * PAGE as u64, b"x"), Err(Errno::ENOSPC));
        assert!(store.grows(one, free * PAGE as u64, 1) && !store.grows(one, 0, PAGE));
        let more = store.make(ROOT, OsStr::new("more"), file(), 0o644);
        assert_eq!(more, Err(Errno::ENOSPC));
        store.remove(ROOT, OsStr::new("one"), false).unwrap();
        store.sync(ROOT).unwrap();
        store.collect(&BTreeSet::from([one]));
        assert_eq!(store.room(), (all, 0), "somebody has it open");
        store.collect(&BTreeSet::new());
        assert_eq!(store.room(), (all, free));
    }
}
