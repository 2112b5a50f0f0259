//! A full disk.
//!
//! The journal has its full length on disk and is written in place, so it goes on when the disk is full. sled does not: its first write
//! that is refused is its last, until it is opened again. Nothing is lost by that: all that sled has not made durable is in the journal, and stays
//! there. So:
//!
//! - **Stalled.** sled gets nothing more. What is asked for becomes durable in the journal as before, as long as its active file takes
//!   it: its other file may hold what only the journal has. (What sled had already can be read, mostly; where it cannot, readers wait.)
//! - **Opened again**, when there is room: as when a node starts, sled is opened, repeats the journal, and is flushed. Then the journal
//!   begins anew, and all is as before. If there is too little room even for that, sled stays closed, and the journal as it is.

use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering::SeqCst;

use super::{Disk, Sled, damaged, open_journal};
use crate::log_store::errors::LogError;
use crate::log_store::record::Record;

impl Disk {
    /// Why sled gets nothing at the moment, and how many bytes the journal takes yet. `None`: there is nothing wrong.
    pub(in crate::log_store) fn stalled(&self) -> Option<(LogError, u64)> {
        let ahead = self.ahead.lock();
        let why = ahead.stalled.clone()?;
        Some((why, ahead.left()))
    }

    /// Opens sled again, and gives it what the journal has. `asked` is the newest record that was asked for, `durable` the newest one that
    /// was durable.
    ///
    /// # Errors
    /// When that failed. After [`LogError::is_no_room`] nothing has changed, but that what is on disk cannot be read.
    pub(in crate::log_store) fn reopen(&self, durable: &Record, asked: &Record) -> Result<(), LogError> {
        self.away.store(true, SeqCst);
        self.let_go();
        match self.open_again(durable, asked) {
            Ok(()) => {
                self.away.store(false, SeqCst);
                Ok(())
            }
            Err(error) => {
                self.let_go();
                // A write of sled's that hangs holds its files.
                let held =
                    matches!(&error, LogError::Io { source, .. } if source.kind() == ErrorKind::WouldBlock);
                Err(if held { self.absent() } else { error })
            }
        }
    }

    /// The database, unless it is closed.
    pub(super) fn sled(&self) -> Result<Sled, LogError> {
        match &*self.sled.read() {
            Some(sled) => Ok(sled.clone()),
            None => Err(self.absent()),
        }
    }

    /// Whether there is anything to read.
    pub(super) fn check_present(&self) -> Result<(), LogError> {
        if self.away.load(SeqCst) {
            Err(self.absent())
        } else {
            Ok(())
        }
    }

    fn absent(&self) -> LogError {
        LogError::io("use", &self.folder, io::Error::from(ErrorKind::StorageFull))
    }

    fn let_go(&self) {
        if let Err(error) = self.ahead.lock().join_checkpoint() {
            tracing::debug!(%error, "sled is closed, and could not be flushed");
        }
        // Reads that have begun end first.
        self.segments.write().clear();
        drop(self.sled.write().take());
    }

    fn open_again(&self, durable: &Record, asked: &Record) -> Result<(), LogError> {
        let (sled, record, identity) = Sled::open(&self.folder)?;
        if identity != self.ahead.lock().identity() {
            return Err(damaged(&self.folder, "it has become another log"));
        }
        *self.sled.write() = Some(sled);
        // As it is on disk; the open files stay in use.
        let (_, groups) = open_journal(&self.folder, &identity)?;
        let found = self.catch_up(&record, &groups, durable.seq)?;
        #[cfg(test)]
        if self.cramped.load(SeqCst) {
            return Err(self.absent());
        }
        // What was asked for last may be there as a whole, though it was not known to be durable. It is now.
        let expected = if found.seq == asked.seq { asked } else { durable };
        let alike = found.seq == expected.seq
            && found.vote == expected.vote
            && found.begin == expected.begin
            && found.last >= expected.last;
        if !alike {
            let what = format!(
                "it was opened again and ends with write {} at {:?}, but write {} at {:?} was the newest",
                found.seq, found.last, expected.seq, expected.last
            );
            return Err(damaged(&self.folder, what));
        }
        if found.last > expected.last {
            // A part of what was asked for, which comes again.
            self.remove_rest(expected)?;
            self.flush_sled()?;
        }
        self.ahead.lock().begin_after(found.seq, &self.folder)
    }
}
