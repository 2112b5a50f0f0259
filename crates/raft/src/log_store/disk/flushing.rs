//! A flush of sled, in a thread of its own.
//!
//! Why not in the caller's: when a write of sled's fails while somebody waits in `flush`, sled does not always wake them (`exit_reservation` in its
//! `logger.rs` stores the error and tells nobody). On a full disk that is a wait for ever. Any later call that writes finds the error and
//! does wake them; so whoever waits here makes one now and then.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::journal::Identity;
use super::{IDENTITY_KEY, Sled};
use crate::log_store::errors::LogError;

const WAKE_EVERY: Duration = Duration::from_millis(250);

/// It goes on when this is dropped.
pub(super) struct Flushing {
    thread: JoinHandle<()>,
    outcome: mpsc::Receiver<Result<(), LogError>>,
    sled: Sled,
    identity: Identity,
}

impl Flushing {
    /// Makes durable all that sled has.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub(super) fn begin(sled: Sled, identity: Identity) -> Result<Self, LogError> {
        let (done, outcome) = mpsc::sync_channel(1);
        let flushes = sled.clone();
        let thread = std::thread::Builder::new()
            .name("log-checkpoint".into())
            .spawn(move || {
                // Whoever waited may be gone.
                let _ = done.send(flushes.flush());
            })
            .map_err(|e| LogError::io("start a flush of", &sled.folder, e))?;
        Ok(Self {
            thread,
            outcome,
            sled,
            identity,
        })
    }

    pub(super) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end.
    pub(super) fn wait(self) -> Result<(), LogError> {
        loop {
            match self.outcome.recv_timeout(WAKE_EVERY) {
                Ok(outcome) => {
                    // It has sent its outcome, and does nothing more.
                    let _ = self.thread.join();
                    return outcome;
                }
                Err(RecvTimeoutError::Timeout) => self.wake(),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(LogError::refused("the thread that flushes sled panicked"));
                }
            }
        }
    }

    /// Writes what is there already. If sled has failed, this fails too, which the flush will tell.
    fn wake(&self) {
        let write = || Ok(self.sled.meta.insert(IDENTITY_KEY, &self.identity).map(drop)?);
        if let Err(error) = super::guarded(&self.sled.folder, write) {
            tracing::debug!(%error, "sled has failed while it was flushed");
        }
    }
}
