//! The switches of a lossy disk: power, and what else can be wrong with a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::ReplyEmpty;
use nix::errno::Errno;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::loss::{Lost, Mode};
use super::store::{Attributes, ROOT, Store};

/// A lossy disk, mounted or not. Cheap to clone; all copies are one disk.
#[derive(Clone, Debug)]
pub struct LossyDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something was switched: whoever waits for a slow disk looks again.
    switched: Condvar,
}

/// What a sync or a write is told by a disk on which something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// EIO, and what should have been written is not: the kernel takes it for written all the same.
    Unwritten,
    /// EIO, though all of it was written.
    Written,
}

/// The moment at which the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Something is to be synced, and nothing of it is yet.
    BeforeSync,
    /// It is synced, and nobody knows yet.
    AfterSync,
    /// It is synced, and whoever asked for it was told.
    AfterAnswer,
}

/// Something that will happen at a sync: the power goes, or (without `mode`) only the answer does not come, so that a process can be killed in that very moment.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// When.
    pub moment: Moment,
    /// At the n-th sync from now on that has something to write; 1 is the next one.
    pub sync: u32,
    /// What becomes of what is not synced; `None`: the power stays.
    pub mode: Option<Mode>,
    /// Disks whose power goes in the same moment.
    pub others: Vec<(LossyDisk, Mode)>,
}

/// What happened on a disk so far: the proof that a fault was there.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Writes.
    pub writes: u64,
    /// Syncs that had something to write.
    pub syncs: u64,
    /// Syncs that failed because they should; which file or folder it was.
    pub failed: Vec<String>,
    /// Requests that were slow because they should be.
    pub slowed: u64,
    /// Requests that were refused because the disk was full.
    pub refused: u64,
    /// What each power cut took.
    pub cuts: Vec<Lost>,
    /// Requests that came while there was no power.
    pub unpowered: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) store: Store,
    open: BTreeMap<u64, Open>,
    next_handle: u64,
    is_on: bool,
    faults: Faults,
    trigger: Option<Trigger>,
    /// Requests that a power cut left without an answer.
    held: Vec<ReplyEmpty>,
    pub(super) counts: Counts,
}

/// An open file, or the names of an open folder: those that it had when it was opened.
#[derive(Debug)]
struct Open {
    number: u64,
    names: Arc<Vec<(OsString, Attributes)>>,
}

#[derive(Debug, Default)]
struct Faults {
    failing: Option<(u32, Failing)>,
    slow_sync: Option<Duration>,
    slow_write: Option<Duration>,
    is_full: bool,
}

impl LossyDisk {
    /// An empty disk of so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let state = State {
            store: Store::new(bytes),
            open: BTreeMap::new(),
            next_handle: 1,
            is_on: true,
            faults: Faults::default(),
            trigger: None,
            held: Vec::new(),
            counts: Counts::default(),
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                switched: Condvar::new(),
            }),
        }
    }

    /// The power goes: what was not synced is gone, and every request fails until [`LossyDisk::power_up`]. Gives what was lost; nothing, if the power
    /// was off already.
    pub fn cut(&self) -> Lost {
        self.cut_as(Mode::Clear)
    }

    /// The same, but some of what was not synced is there all the same.
    pub fn torn(&self, seed: u64) -> Lost {
        self.cut_as(Mode::Torn(seed))
    }

    /// The power goes.
    pub fn cut_as(&self, mode: Mode) -> Lost {
        let lost = self.lock().cut(mode);
        self.shared.switched.notify_all();
        lost
    }

    /// The power will go then, instead of at any moment that was named before.
    pub fn cut_at(&self, trigger: Trigger) {
        self.lock().trigger = Some(trigger);
    }

    /// What was to happen at a sync and has not yet, happens no more. Whether there was something.
    pub fn disarm(&self) -> bool {
        self.lock().trigger.take().is_some()
    }

    /// Whether somebody waits for an answer that does not come.
    pub fn holds(&self) -> bool {
        !self.lock().held.is_empty()
    }

    /// Whether the power is there.
    pub fn is_on(&self) -> bool {
        self.lock().is_on
    }

    /// Lets go of those who asked for something that was cut short. They must have been killed, though they may not be gone yet: they cannot go before.
    pub fn release(&self) {
        self.lock().held.clear();
    }

    /// The power is back. Nobody may have a file open from before.
    pub fn power_up(&self) {
        let mut state = self.lock();
        state.held.clear();
        state.trigger = None;
        state.is_on = true;
    }

    /// The next sync that has something to write fails, once.
    pub fn fail_next_fsync(&self) {
        self.fail_fsync(1, Failing::Unwritten);
    }

    /// The n-th sync from now on that has something to write fails, once.
    pub fn fail_fsync(&self, nth: u32, failing: Failing) {
        self.lock().faults.failing = Some((nth, failing));
    }

    /// Each sync that has something to write takes so much longer.
    pub fn slow_fsync(&self, takes: Duration) {
        self.lock().faults.slow_sync = Some(takes);
    }

    /// Each write takes so much longer.
    pub fn slow_writes(&self, takes: Duration) {
        self.lock().faults.slow_write = Some(takes);
    }

    /// There is no room any more: whatever needs some is refused.
    pub fn fill(&self) {
        self.lock().faults.is_full = true;
    }

    /// Nothing is wrong any more. Whatever waits for a slow disk goes on.
    pub fn heal(&self) {
        self.lock().faults = Faults::default();
        self.shared.switched.notify_all();
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// Writes all files, as programs see them, to a folder elsewhere.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn save(&self, to: &Path) -> anyhow::Result<()> {
        self.save_folder(ROOT, to)
    }

    fn save_folder(&self, number: u64, to: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(to)?;
        let names = self.lock().store.list(number)?;
        for (name, found) in names {
            let path = to.join(name);
            if found.is_folder {
                self.save_folder(found.number, &path)?;
            } else {
                let length = usize::try_from(found.size)?;
                std::fs::write(path, self.lock().store.read(found.number, 0, length)?)?;
            }
        }
        Ok(())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    /// Syncs a file or folder, and answers; later, if the disk is slow.
    pub(super) fn sync(&self, number: u64, reply: ReplyEmpty) {
        let mut state = self.lock();
        let slow = state.faults.slow_sync.filter(|_| state.store.is_unsynced(number));
        state.counts.slowed += u64::from(slow.is_some());
        drop(state);
        let this = self.clone();
        self.later(slow, move || this.sync_now(number, reply));
    }

    /// Writes, and answers through `done`; later, if the disk is slow.
    pub(super) fn write(
        &self,
        number: u64,
        at: u64,
        data: &[u8],
        done: impl FnOnce(Result<(), Errno>) + Send + 'static,
    ) {
        let mut state = self.lock();
        let slow = state.faults.slow_write;
        state.counts.slowed += u64::from(slow.is_some());
        if slow.is_none() {
            let outcome = state.write(number, at, data);
            drop(state);
            return done(outcome);
        }
        drop(state);
        let (this, data) = (self.clone(), data.to_vec());
        self.later(slow, move || {
            let outcome = this.lock().write(number, at, &data);
            done(outcome);
        });
    }

    /// Does it at once, or in a while: until then other requests are served.
    fn later(&self, takes: Option<Duration>, then: impl FnOnce() + Send + 'static) {
        let Some(takes) = takes else { return then() };
        let this = self.clone();
        std::thread::spawn(move || {
            let deadline = Instant::now() + takes;
            let mut state = this.lock();
            let is_slow = |state: &State| {
                state.is_on && (state.faults.slow_sync.is_some() || state.faults.slow_write.is_some())
            };
            while is_slow(&state) && Instant::now() < deadline {
                this.shared.switched.wait_until(&mut state, deadline);
            }
            drop(state);
            then();
        });
    }

    fn sync_now(&self, number: u64, reply: ReplyEmpty) {
        let mut state = self.lock();
        if let Err(error) = state.check() {
            return reply.error(to_fuse(error));
        }
        if !state.store.is_unsynced(number) {
            return reply.ok();
        }
        state.counts.syncs += 1;
        if let Some(failing) = state.failing() {
            let name = state.store.name(number);
            state.counts.failed.push(name);
            let outcome = match failing {
                Failing::Unwritten => state.store.fail_sync(number),
                Failing::Written => state.store.sync(number),
            };
            drop(state);
            return reply.error(to_fuse(outcome.err().unwrap_or(Errno::EIO)));
        }
        let Some(trigger) = state.trigger() else {
            let outcome = state.store.sync(number);
            state.collect();
            drop(state);
            return match outcome {
                Ok(_) => reply.ok(),
                Err(error) => reply.error(to_fuse(error)),
            };
        };
        if trigger.moment != Moment::BeforeSync
            && let Err(error) = state.store.sync(number)
        {
            return reply.error(to_fuse(error));
        }
        if trigger.moment == Moment::AfterAnswer {
            reply.ok();
        } else {
            state.held.push(reply);
        }
        if let Some(mode) = trigger.mode {
            state.cut(mode);
        }
        drop(state);
        for (disk, mode) in trigger.others {
            disk.cut_as(mode);
        }
        self.shared.switched.notify_all();
    }
}

impl State {
    /// # Errors
    /// When there is no power.
    pub(super) fn check(&mut self) -> Result<(), Errno> {
        if self.is_on {
            return Ok(());
        }
        self.counts.unpowered += 1;
        Err(Errno::EIO)
    }

    /// What needs more room is refused if the disk was filled.
    ///
    /// # Errors
    /// When it was.
    pub(super) fn check_room(&mut self) -> Result<(), Errno> {
        if self.faults.is_full {
            self.counts.refused += 1;
            return Err(Errno::ENOSPC);
        }
        Ok(())
    }

    /// Pages in all, and free ones.
    pub(super) fn room(&self) -> (u64, u64) {
        let (all, free) = self.store.room();
        (all, if self.faults.is_full { 0 } else { free })
    }

    pub(super) fn open(&mut self, number: u64, names: Vec<(OsString, Attributes)>) -> u64 {
        let handle = self.next_handle;
        self.next_handle += 1;
        let names = Arc::new(names);
        self.open.insert(handle, Open { number, names });
        handle
    }

    pub(super) fn names(&self, handle: u64) -> Result<Arc<Vec<(OsString, Attributes)>>, Errno> {
        Ok(self.open.get(&handle).ok_or(Errno::EIO)?.names.clone())
    }

    /// The file of a handle; a handle from before a power cut is none.
    pub(super) fn opened(&self, handle: u64) -> Result<u64, Errno> {
        Ok(self.open.get(&handle).ok_or(Errno::EIO)?.number)
    }

    pub(super) fn close(&mut self, handle: u64) {
        self.open.remove(&handle);
        self.collect();
    }

    pub(super) fn collect(&mut self) {
        let open: BTreeSet<u64> = self.open.values().map(|open| open.number).collect();
        self.store.collect(&open);
    }

    /// Removes a name.
    pub(super) fn remove(&mut self, folder: u64, name: &OsStr, is_folder: bool) -> Result<(), Errno> {
        self.check()?;
        self.store.remove(folder, name, is_folder)?;
        self.collect();
        Ok(())
    }

    fn write(&mut self, number: u64, at: u64, data: &[u8]) -> Result<(), Errno> {
        self.check()?;
        self.counts.writes += 1;
        if self.store.grows(number, at, data.len()) {
            self.check_room()?;
        }
        self.store.write(number, at, data)
    }

    fn cut(&mut self, mode: Mode) -> Lost {
        if !self.is_on {
            return Lost::default();
        }
        self.is_on = false;
        self.open.clear();
        self.trigger = None;
        let lost = self.store.cut(mode);
        self.counts.cuts.push(lost);
        lost
    }

    /// How this sync fails, if it is its turn.
    fn failing(&mut self) -> Option<Failing> {
        let (left, failing) = self.faults.failing.as_mut()?;
        *left = left.saturating_sub(1);
        if *left > 0 {
            return None;
        }
        let failing = *failing;
        self.faults.failing = None;
        Some(failing)
    }

    /// The cut that comes with this sync, if it is its turn.
    fn trigger(&mut self) -> Option<Trigger> {
        let trigger = self.trigger.as_mut()?;
        trigger.sync = trigger.sync.saturating_sub(1);
        if trigger.sync > 0 {
            return None;
        }
        self.trigger.take()
    }
}

pub(super) fn to_fuse(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error as i32)
}
