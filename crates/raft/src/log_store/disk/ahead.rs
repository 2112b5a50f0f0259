//! Writing ahead: what is asked for is gathered, goes to the [`journal`](super::journal), and then to sled.

use std::path::Path;

#[cfg(test)]
use super::SyncData;
use super::flushing::Flushing;
use super::journal::{FILES, FoundGroup, Identity, JournalFile};
use super::steps::{self, Step};
use super::{Disk, damaged};
use crate::log_store::errors::LogError;
use crate::log_store::record::Record;

/// The journal of an open log, and what is on its way through it. Only the writer's thread uses it.
pub(super) struct Ahead {
    files: [JournalFile; 2],
    active: usize,
    identity: Identity,
    /// What was asked for since the last flush, as steps.
    pending: Vec<u8>,
    /// What is durable in the journal, and sled does not have yet, as steps.
    unsettled: Vec<u8>,
    /// Some of it gives room back.
    gives_room: bool,
    /// The number of the newest record that is durable.
    newest: u64,
    /// Makes durable in sled what the file holds that is not active. `None`: it is.
    checkpoint: Option<Flushing>,
    /// Why sled gets nothing any more until it is opened again: see `room`. What is durable is in the journal.
    pub(super) stalled: Option<LogError>,
}

impl Ahead {
    /// All that the files hold is durable in sled, up to record `newest`.
    pub(super) fn new(files: [JournalFile; 2], identity: Identity, newest: u64) -> Self {
        Self {
            files,
            active: 0,
            identity,
            pending: Vec::new(),
            unsettled: Vec::new(),
            gives_room: false,
            newest,
            checkpoint: None,
            stalled: None,
        }
    }

    /// The log was opened, and sled has all of it, durable: the journal begins anew.
    pub(super) fn begin_after(&mut self, newest: u64, folder: &Path) -> Result<(), LogError> {
        let generation = self.generation() + 1;
        self.files[0]
            .begin(&self.identity, generation)
            .map_err(|e| LogError::io("write", folder.join(FILES[0]), e))?;
        self.active = 0;
        self.newest = newest;
        self.unsettled.clear();
        self.gives_room = false;
        self.stalled = None;
        Ok(())
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// Bytes of steps that the active file takes yet.
    pub(super) fn left(&self) -> u64 {
        self.files[self.active].left()
    }

    pub(super) fn gives_room(&mut self) {
        self.gives_room = true;
    }

    pub(super) fn pending(&mut self) -> &mut Vec<u8> {
        &mut self.pending
    }

    fn generation(&self) -> u64 {
        self.files[0].generation().max(self.files[1].generation())
    }

    pub(super) fn join_checkpoint(&mut self) -> Result<(), LogError> {
        self.checkpoint.take().map_or(Ok(()), Flushing::wait)
    }

    /// A checkpoint that failed is noticed while there is room for more, not when the next one is due.
    fn look_at_checkpoint(&mut self) -> Result<(), LogError> {
        if self.checkpoint.as_ref().is_some_and(Flushing::is_over) {
            self.join_checkpoint()?;
        }
        Ok(())
    }

    fn check_not_stalled(&self) -> Result<(), LogError> {
        self.stalled.clone().map_or(Ok(()), Err)
    }

    /// For want of room, sled gets nothing more until it is opened again. Any other error stays one.
    pub(super) fn stall(&mut self, outcome: Result<(), LogError>) -> Result<(), LogError> {
        match outcome {
            Err(error) if error.is_no_room() => {
                // The journal has them, and they are read from there.
                self.unsettled = Vec::new();
                self.stalled.get_or_insert(error);
                Ok(())
            }
            outcome => outcome,
        }
    }

    #[cfg(test)]
    pub(super) fn replace_sync(&mut self, mut sync: impl FnMut(Box<dyn SyncData>) -> Box<dyn SyncData>) {
        for file in &mut self.files {
            file.replace_sync(&mut sync);
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Err(error) = self.join_checkpoint() {
            tracing::warn!(%error, "closing the log");
        }
    }
}

impl Disk {
    /// Makes all that was asked for before durable, up to the record with number `seq`, which was the last of it.
    ///
    /// # Errors
    /// When that failed. After [`LogError::is_no_room`] it may be tried again: nothing that was asked for is forgotten.
    pub(in crate::log_store) fn commit(&self, seq: u64) -> Result<(), LogError> {
        let mut ahead = self.ahead.lock();
        let ahead = &mut *ahead;
        // Otherwise it was found in the journal when sled was opened again, and sled has it.
        if ahead.newest < seq {
            let checked = ahead.look_at_checkpoint();
            ahead.stall(checked)?;
            if let Err(error) = self.write_ahead(ahead, seq) {
                ahead.stall(Err(error.clone()))?;
                return Err(error);
            }
            ahead.newest = seq;
            if ahead.stalled.is_none() {
                ahead.unsettled.append(&mut ahead.pending);
            }
        }
        ahead.pending.clear();
        self.write_mark(seq)
    }

    fn write_ahead(&self, ahead: &mut Ahead, seq: u64) -> Result<(), LogError> {
        let length = ahead.pending.len();
        if ahead.files[ahead.active].could_hold(length) {
            if !ahead.files[ahead.active].has_room(length) {
                ahead.check_not_stalled()?;
                self.turn(ahead)?;
            }
            let path = self.folder.join(FILES[ahead.active]);
            let file = &mut ahead.files[ahead.active];
            file.write(ahead.newest, seq, &ahead.pending)
                .map_err(|e| LogError::io("write", &path, e))?;
            let synced = file.sync(&ahead.identity, &ahead.pending);
            return synced.map_err(|e| LogError::io("sync", &path, e));
        }
        // Too large for the journal: sled gets it at once, and is waited for.
        ahead.check_not_stalled()?;
        self.settle_now(ahead)?;
        self.run(&ahead.pending)?;
        self.checkpoint_now(ahead)?;
        ahead.pending.clear();
        Ok(())
    }

    /// Whether there is enough for sled to make [`Disk::settle`] worth its while.
    pub(in crate::log_store) fn should_settle(&self) -> bool {
        let ahead = self.ahead.lock();
        ahead.stalled.is_none() && (ahead.gives_room || ahead.unsettled.len() >= SETTLE_BYTES)
    }

    /// Gives sled what is durable in the journal. Entries can be read from then on, if the disk is not full: see [`Disk::room`].
    pub(in crate::log_store) fn settle(&self) -> Result<(), LogError> {
        let mut ahead = self.ahead.lock();
        let settled = self.settle_now(&mut ahead);
        ahead.stall(settled)
    }

    fn settle_now(&self, ahead: &mut Ahead) -> Result<(), LogError> {
        let steps = std::mem::take(&mut ahead.unsettled);
        self.run(&steps)?;
        // Its room is used again.
        ahead.unsettled = steps;
        ahead.unsettled.clear();
        ahead.gives_room = false;
        Ok(())
    }

    /// Makes durable in sled all that it was given: opening the log again has nothing to repeat.
    pub(in crate::log_store) fn checkpoint(&self) -> Result<(), LogError> {
        let mut ahead = self.ahead.lock();
        let done = self.checkpoint_now(&mut ahead);
        ahead.stall(done)
    }

    fn checkpoint_now(&self, ahead: &mut Ahead) -> Result<(), LogError> {
        ahead.join_checkpoint()?;
        Flushing::begin(self.sled()?, ahead.identity)?.wait()
    }

    /// [`Disk::checkpoint`], without the journal.
    pub(super) fn flush_sled(&self) -> Result<(), LogError> {
        let identity = self.ahead.lock().identity;
        Flushing::begin(self.sled()?, identity)?.wait()
    }

    /// Goes on in the other file. What it held must be durable in sled; what the full one holds becomes so meanwhile.
    fn turn(&self, ahead: &mut Ahead) -> Result<(), LogError> {
        ahead.join_checkpoint()?;
        self.settle_now(ahead)?;
        ahead.checkpoint = Some(Flushing::begin(self.sled()?, ahead.identity)?);
        let generation = ahead.generation() + 1;
        let next = 1 - ahead.active;
        ahead.files[next]
            .begin(&ahead.identity, generation)
            .map_err(|e| LogError::io("write", self.folder.join(FILES[next]), e))?;
        ahead.active = next;
        Ok(())
    }

    /// Repeats what sled had not made durable when the log ended; `record` is the newest one that it has, as it was written. Gives the
    /// newest of all.
    pub(super) fn repeat(&self, mut record: Record, groups: &[FoundGroup]) -> Result<Record, LogError> {
        // sled may have some of what came after its record: it comes again.
        self.remove_rest(&record)?;
        let found = record.seq;
        for group in groups.iter().filter(|group| group.after > found) {
            if group.before > record.seq {
                let what = format!(
                    "the journal goes on after write {}, but the store ends with write {}",
                    group.before, record.seq
                );
                return Err(damaged(&self.folder, what));
            }
            let mut skipping = group.before < found;
            let mut steps = Vec::new();
            for step in steps::parse(&group.steps) {
                let step =
                    step.ok_or_else(|| damaged(&self.folder, "a group of the journal is unreadable"))?;
                if !skipping {
                    steps.push(step);
                }
                if let Step::Record(bytes) = step {
                    let read = self.decode_record(bytes)?;
                    skipping = skipping && read.seq < found;
                    record = read;
                }
            }
            if record.seq != group.after {
                return Err(damaged(
                    &self.folder,
                    "a group of the journal does not end with its record",
                ));
            }
            self.run_steps(steps.into_iter())?;
        }
        Ok(record)
    }

    fn run(&self, bytes: &[u8]) -> Result<(), LogError> {
        let steps = steps::parse(bytes)
            .map(|step| step.ok_or_else(|| LogError::refused("a step that is none")))
            .collect::<Result<Vec<_>, _>>()?;
        self.run_steps(steps.into_iter())
    }

    fn run_steps<'a>(&self, steps: impl Iterator<Item = Step<'a>>) -> Result<(), LogError> {
        let mut frames = Vec::new();
        let mut steps = steps.peekable();
        while let Some(step) = steps.next() {
            match step {
                Step::Entry { index, frame } => {
                    frames.push((index, frame));
                    continue;
                }
                // The record after it promises more. (Before a removal there is always a record that takes back its promise.)
                Step::Record(_) if matches!(steps.peek(), Some(Step::Entry { .. } | Step::Record(_))) => {
                    continue;
                }
                _ => {}
            }
            self.add_frames(std::mem::take(&mut frames))?;
            match step {
                Step::Entry { .. } => {}
                Step::Record(bytes) => self.put_record(bytes)?,
                Step::RemoveFrom(index) => self.drop_from(index)?,
                Step::RemoveBefore(index) => self.drop_before(index)?,
            }
        }
        self.add_frames(frames)
    }
}

/// Bytes of steps that wait before sled gets them: enough to leave out most records, and little enough that no flush waits for it.
const SETTLE_BYTES: usize = 16 * 1024;
