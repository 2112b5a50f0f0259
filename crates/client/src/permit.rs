//! Permits: what an admitted call holds until it says how it ended.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use brama_core::CircuitName;

use crate::call::Classified;
use crate::local::Local;
use crate::local::ticket::Ticket;
use crate::local::word::Word;
use crate::report::fitting_reason;

/// Leave to make one call. It remembers the generation at which it was given, so that a late answer decides nothing.
///
/// Say how the call ended: [`success`](Permit::success), [`failure`](Permit::failure) or [`ignore`](Permit::ignore). Dropped without a word (a
/// panic, a cancelled future) it is ignored, and a probe's place is given back at once.
// Two words, which a processor has in registers: a third one, and each call waits until it is written and read again.
#[derive(Debug)]
#[must_use = "dropped, it counts as ignored"]
pub struct Permit<'a> {
    local: &'a Local,
    /// Of a closed circuit the word when it was given, without the flag. Else where the ticket lies that the circuit keeps for it.
    word: Word,
}

/// A [`Permit`] that lives on its own.
#[derive(Debug)]
#[must_use = "dropped, it counts as ignored"]
pub struct OwnedPermit {
    local: Arc<Local>,
    /// `None`: the call has said how it ended.
    ticket: Option<Ticket>,
}

impl<'a> Permit<'a> {
    pub(crate) fn new(local: &'a Local, ticket: Ticket) -> Self {
        let word = local.keep(ticket);
        Self { local, word }
    }

    /// Of a closed circuit.
    #[inline]
    pub(crate) fn plain(local: &'a Local, word: Word) -> Self {
        Self { local, word }
    }

    /// The dependency works. Wait-free and without allocation, unless the circuit holds failures or has moved on.
    #[inline]
    pub fn success(self) {
        if self.local.count_success(self.word) {
            // Of a closed circuit: so the circuit keeps nothing for it.
            std::mem::forget(self);
        } else {
            self.success_in_order();
        }
    }

    #[cold]
    fn success_in_order(self) {
        let (local, ticket) = self.end();
        local.success(ticket);
    }

    /// The dependency does not work. The reason is cut at 1 KiB; an empty one is none.
    pub fn failure(self, reason: impl AsRef<str>) {
        let (local, ticket) = self.end();
        local.failure(ticket, reason_of(reason.as_ref()));
    }

    /// Without the count that dropping it would be.
    fn end(self) -> (&'a Local, Ticket) {
        let this = ManuallyDrop::new(self);
        (this.local, this.local.kept(this.word))
    }

    /// Neither: the call says nothing about the dependency.
    pub fn ignore(self) {}

    /// What a classifier says.
    pub fn complete(self, classified: Classified) {
        match classified {
            Classified::Success => self.success(),
            Classified::Failure(reason) => self.failure(reason),
            Classified::Ignore => self.ignore(),
        }
    }

    /// Whether the call is a probe of a half-open circuit.
    pub fn is_probe(&self) -> bool {
        self.local.look_at_kept(self.word).kind.is_probe()
    }

    /// The generation at which it was given; 0: the cluster has not told one yet.
    pub fn generation(&self) -> u64 {
        self.local.look_at_kept(self.word).word.generation()
    }

    /// The same permit, to be taken elsewhere.
    pub fn into_owned(self) -> OwnedPermit {
        let (local, ticket) = self.end();
        OwnedPermit::new(local.me(), ticket)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.local.ignored(self.local.kept(self.word));
    }
}

impl OwnedPermit {
    #[inline]
    pub(crate) fn new(local: Arc<Local>, ticket: Ticket) -> Self {
        Self {
            local,
            ticket: Some(ticket),
        }
    }

    /// As [`Permit::success`].
    #[inline]
    pub fn success(mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.local.success(ticket);
        }
    }

    /// As [`Permit::failure`].
    pub fn failure(mut self, reason: impl AsRef<str>) {
        if let Some(ticket) = self.ticket.take() {
            self.local.failure(ticket, reason_of(reason.as_ref()));
        }
    }

    /// As [`Permit::ignore`].
    pub fn ignore(self) {}

    /// As [`Permit::complete`].
    pub fn complete(self, classified: Classified) {
        match classified {
            Classified::Success => self.success(),
            Classified::Failure(reason) => self.failure(reason),
            Classified::Ignore => self.ignore(),
        }
    }

    /// As [`Permit::is_probe`].
    pub fn is_probe(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.kind.is_probe())
    }

    /// As [`Permit::generation`].
    pub fn generation(&self) -> u64 {
        self.ticket.as_ref().map_or(0, |ticket| ticket.word.generation())
    }

    /// Of which circuit.
    pub fn circuit(&self) -> &CircuitName {
        self.local.name()
    }
}

impl Drop for OwnedPermit {
    #[inline]
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.local.ignored(ticket);
        }
    }
}

fn reason_of(reason: &str) -> Option<Arc<str>> {
    (!reason.is_empty()).then(|| fitting_reason(reason))
}
