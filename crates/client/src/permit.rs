//! Permits: what an admitted call holds until it says how it ended.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use brama_core::CircuitName;

use crate::call::Classified;
use crate::local::Local;
use crate::local::ticket::{Kind, Ticket};
use crate::local::word::Word;
use crate::report::fitting_reason;

/// Leave to make one call. It remembers the generation at which it was given, so that a late answer decides nothing.
///
/// Say how the call ended: [`success`](Permit::success), [`failure`](Permit::failure) or [`ignore`](Permit::ignore). Dropped without a word (a
/// panic, a cancelled future) it is ignored, and a probe's place is given back at once.
#[derive(Debug)]
#[must_use = "dropped, it counts as ignored"]
pub struct Permit<'a> {
    local: &'a Local,
    /// When it was given, without the flag.
    word: Word,
    /// Not plain. In a box, so that a permit of a closed circuit is three words.
    kind: Option<Box<Kind>>,
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
        let kind = match ticket.kind {
            Kind::Plain => None,
            kind => Some(Box::new(kind)),
        };
        Self {
            local,
            word: ticket.word,
            kind,
        }
    }

    /// Of a closed circuit.
    #[inline]
    pub(crate) fn plain(local: &'a Local, word: Word) -> Self {
        Self {
            local,
            word,
            kind: None,
        }
    }

    /// The dependency works. Wait-free and without allocation, unless the circuit holds failures or has moved on.
    #[inline]
    pub fn success(self) {
        if self.local.count_success(self.word) {
            // Of a closed circuit: so it has no box to be freed.
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
        let mut this = ManuallyDrop::new(self);
        let kind = this.kind.take();
        (this.local, ticket(this.word, kind))
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
        self.kind.as_deref().is_some_and(is_probe)
    }

    /// The generation at which it was given; 0: the cluster has not told one yet.
    pub fn generation(&self) -> u64 {
        self.word.generation()
    }

    /// The same permit, to be taken elsewhere.
    pub fn into_owned(self) -> OwnedPermit {
        let (local, ticket) = self.end();
        OwnedPermit::new(local.me(), ticket)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.local.ignored(ticket(self.word, self.kind.take()));
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
        self.ticket.as_ref().is_some_and(|ticket| is_probe(&ticket.kind))
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

fn ticket(word: Word, kind: Option<Box<Kind>>) -> Ticket {
    Ticket {
        word,
        kind: kind.map_or(Kind::Plain, |kind| *kind),
    }
}

fn is_probe(kind: &Kind) -> bool {
    match kind {
        Kind::Plain => false,
        Kind::Probe(_) => true,
        Kind::Alone { permit, .. } => permit.is_some(),
    }
}

fn reason_of(reason: &str) -> Option<Arc<str>> {
    (!reason.is_empty()).then(|| fitting_reason(reason))
}
