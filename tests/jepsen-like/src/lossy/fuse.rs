//! A lossy disk as the kernel asks for it.
//!
//! Nothing is cached by the kernel: files are opened for direct I/O, and names and attributes are asked for each time. So whatever a program does, the disk
//! knows at once, and after a power cut nobody remembers anything.

use std::ffi::OsStr;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno as FuseErrno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};
use nix::errno::Errno;

use super::disk::{LossyDisk, to_fuse};
use super::file::{LossyFile, PAGE};
use super::folder::Folder;
use super::store::{Attributes, Node};

/// Nothing that the kernel was told holds for longer.
const NEVER: Duration = Duration::ZERO;
/// The longest write in one request: a longer one can be cut in the middle.
const MAX_WRITE: u32 = 1024 * 1024;

/// Serves a disk.
#[derive(Debug)]
pub(super) struct Fuse {
    pub(super) disk: LossyDisk,
}

impl Fuse {
    fn make(
        &self,
        parent: INodeNo,
        name: &OsStr,
        node: Node,
        mode: u32,
        umask: u32,
    ) -> Result<Attributes, Errno> {
        let mut state = self.disk.lock();
        state.check()?;
        state.check_room()?;
        state.store.make(parent.0, name, node, permissions(mode & !umask))
    }

    fn create(
        &self,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<(Attributes, u64), Errno> {
        let made = self.make(parent, name, Node::File(LossyFile::default()), mode, umask)?;
        Ok((made, self.disk.lock().open(made.number, Vec::new())))
    }

    fn set_attributes(
        &self,
        number: u64,
        mode: Option<u32>,
        size: Option<u64>,
        modified: Option<TimeOrNow>,
    ) -> Result<Attributes, Errno> {
        let mut state = self.disk.lock();
        state.check()?;
        if let Some(mode) = mode {
            state.store.set_mode(number, permissions(mode))?;
        }
        if let Some(size) = size {
            state.store.resize(number, size)?;
        }
        match modified {
            Some(TimeOrNow::SpecificTime(time)) => state.store.set_modified(number, time)?,
            Some(TimeOrNow::Now) => state.store.set_modified(number, SystemTime::now())?,
            None => {}
        }
        state.store.attributes(number)
    }

    fn rename(
        &self,
        folders: (INodeNo, INodeNo),
        from: &OsStr,
        to: &OsStr,
        flags: RenameFlags,
    ) -> Result<(), Errno> {
        let mut state = self.disk.lock();
        state.check()?;
        if flags.contains(RenameFlags::RENAME_NOREPLACE) {
            if state.store.lookup(folders.1.0, to).is_ok() {
                return Err(Errno::EEXIST);
            }
        } else if !flags.is_empty() {
            return Err(Errno::EINVAL);
        }
        state.store.rename((folders.0.0, from), (folders.1.0, to))?;
        state.collect();
        Ok(())
    }
}

impl Filesystem for Fuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        config
            .set_max_write(MAX_WRITE)
            .map_err(|most| std::io::Error::other(format!("at most {most} bytes can be written at once")))?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.disk.lock();
        match state.check().and_then(|()| state.store.lookup(parent.0, name)) {
            Ok(found) => reply.entry(&NEVER, &attributes(found), Generation(0)),
            Err(error) => reply.error(to_fuse(error)),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let mut state = self.disk.lock();
        match state.check().and_then(|()| state.store.attributes(ino.0)) {
            Ok(found) => reply.attr(&NEVER, &attributes(found)),
            Err(error) => reply.error(to_fuse(error)),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.set_attributes(ino.0, mode, size, mtime) {
            Ok(found) => reply.attr(&NEVER, &attributes(found)),
            Err(error) => reply.error(to_fuse(error)),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        match self.make(parent, name, Node::Folder(Folder::default()), mode, umask) {
            Ok(made) => reply.entry(&NEVER, &attributes(made), Generation(0)),
            Err(error) => reply.error(to_fuse(error)),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.disk.lock().remove(parent.0, name, false), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.disk.lock().remove(parent.0, name, true), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        answer(self.rename((parent, newparent), name, newname, flags), reply);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        match self.create(parent, name, mode, umask) {
            Ok((made, handle)) => reply.created(
                &NEVER,
                &attributes(made),
                Generation(0),
                FileHandle(handle),
                FopenFlags::FOPEN_DIRECT_IO,
            ),
            Err(error) => reply.error(to_fuse(error)),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut state = self.disk.lock();
        match state.check().and_then(|()| state.store.attributes(ino.0)) {
            Ok(_) => {
                let handle = state.open(ino.0, Vec::new());
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(to_fuse(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut state = self.disk.lock();
        let found = state
            .check()
            .and_then(|()| state.opened(fh.0))
            .and_then(|number| state.store.read(number, offset, size as usize));
        drop(state);
        match found {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(to_fuse(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let opened = self.disk.lock().opened(fh.0);
        let number = match opened {
            Ok(number) => number,
            Err(error) => return reply.error(to_fuse(error)),
        };
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.disk
            .write(number, offset, data, move |outcome| match outcome {
                Ok(()) => reply.written(length),
                Err(error) => reply.error(to_fuse(error)),
            });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // A file that is closed is not synced.
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.disk.lock().close(fh.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        let opened = self.disk.lock().opened(fh.0);
        match opened {
            Ok(number) => self.disk.sync(number, reply),
            Err(error) => reply.error(to_fuse(error)),
        }
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let mut state = self.disk.lock();
        match state.check().and_then(|()| state.store.list(ino.0)) {
            Ok(names) => {
                let handle = state.open(ino.0, names);
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(to_fuse(error)),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut state = self.disk.lock();
        let names = match state.check().and_then(|()| state.names(fh.0)) {
            Ok(names) => names,
            Err(error) => return reply.error(to_fuse(error)),
        };
        drop(state);
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for (next, (name, found)) in (1..).zip(names.iter()).skip(first) {
            if reply.add(INodeNo(found.number), next, kind(*found), name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.disk.lock().close(fh.0);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: bool, reply: ReplyEmpty) {
        let opened = self.disk.lock().opened(fh.0);
        match opened {
            Ok(number) => self.disk.sync(number, reply),
            Err(error) => reply.error(to_fuse(error)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let mut state = self.disk.lock();
        match state.check() {
            Ok(()) => {
                let (all, free) = state.room();
                reply.statfs(all, free, free, all, free, PAGE as u32, 255, PAGE as u32);
            }
            Err(error) => reply.error(to_fuse(error)),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(FuseErrno::EOPNOTSUPP);
    }
}

fn answer(outcome: Result<(), Errno>, reply: ReplyEmpty) {
    match outcome {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(to_fuse(error)),
    }
}

fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

fn kind(found: Attributes) -> FileType {
    if found.is_folder {
        FileType::Directory
    } else {
        FileType::RegularFile
    }
}

fn attributes(found: Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(found.number),
        size: found.size,
        blocks: found.pages * (PAGE as u64 / 512),
        atime: found.modified,
        mtime: found.modified,
        ctime: found.modified,
        crtime: found.modified,
        kind: kind(found),
        perm: found.mode,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PAGE as u32,
        flags: 0,
    }
}
