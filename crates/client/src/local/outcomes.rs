//! What came of calls, until it is told.

use std::sync::Arc;

use brama_core::report::{Outcome, Summary};

use super::breaker::Effect;
use super::ledger::Ledger;
use super::shards::Count;
use super::ticket::{Kind, Ticket};
use super::word::{Tag, Word};
use super::{Inner, Local};
use crate::report::Item;

impl Local {
    /// Wait-free and without allocation while the circuit is closed and holds no failures.
    #[inline]
    pub(crate) fn success(&self, ticket: Ticket) {
        if !self.count_success(ticket.word) {
            self.success_in_order(ticket);
        }
    }

    /// Counts a success if it changes nothing. `word`: of its ticket.
    #[inline]
    pub(crate) fn count_success(&self, word: Word) -> bool {
        // The word of a ticket is without the flag, and one that is closed is plain: so this is closed, the same generation, no failures held.
        let changes_nothing = self.word() == word && word.is_closed();
        if changes_nothing {
            self.shards.add(Count::Success);
        }
        changes_nothing
    }

    #[cold]
    fn success_in_order(&self, ticket: Ticket) {
        self.in_order(ticket, Outcome::Success, None);
    }

    pub(crate) fn failure(&self, ticket: Ticket, reason: Option<Arc<str>>) {
        self.in_order(ticket, Outcome::Failure, reason);
    }

    pub(crate) fn ignored(&self, ticket: Ticket) {
        match ticket.kind {
            // Where it stands among the others does not matter.
            Kind::Plain => self.shards.add(Count::Ignored),
            _ => self.in_order(ticket, Outcome::Ignored, None),
        }
    }

    fn in_order(&self, ticket: Ticket, outcome: Outcome, reason: Option<Arc<str>>) {
        let summary = Summary::of(outcome);
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let word = self.word();
        self.fold(&mut inner.ledger, word);
        let counters = &self.hub.counters;
        match ticket.kind {
            Kind::Probe(permit) => {
                let generation = ticket.word.reported_generation();
                let noted = inner
                    .ledger
                    .append_probe(&self.name, generation, permit, summary, reason);
                counters.note(noted);
                self.list(&mut inner.ledger);
            }
            Kind::Plain => {
                let generation = ticket.word.reported_generation();
                counters.note(inner.ledger.append(&self.name, generation, summary, reason));
                self.noted(inner, word, ticket, outcome);
            }
            Kind::Alone {
                number,
                generation,
                permit,
            } => {
                let reported = ticket.word.reported_generation();
                counters.note(inner.ledger.append(&self.name, reported, summary, reason.clone()));
                if let Some(breaker) = inner.breaker.as_mut().filter(|_| inner.breakers == number) {
                    match breaker.report(outcome, generation, permit, reason) {
                        Effect::Closed => inner.ledger.bygones(),
                        Effect::Opened | Effect::Nothing => {}
                    }
                } else {
                    self.noted(inner, word, ticket, outcome);
                }
            }
        }
    }

    /// An outcome stands in the ledger: who must know?
    fn noted(&self, inner: &mut Inner, word: Word, ticket: Ticket, outcome: Outcome) {
        let decides = word.tag() == Tag::Closed && word.generation() == ticket.word.generation();
        match outcome {
            Outcome::Failure if decides => {
                inner.fails = true;
                self.set_word(word.holding_failures(true));
            }
            Outcome::Success if decides && word.holds_failures() => {
                inner.fails = false;
                self.set_word(word.holding_failures(false));
            }
            // At face value, of a circuit of which nothing is known: it may decide.
            Outcome::Failure if ticket.word.reported_generation().is_none() => {}
            _ => return,
        }
        self.list(&mut inner.ledger);
    }

    fn list(&self, ledger: &mut Ledger) {
        if !ledger.is_listed
            && let Some(me) = self.me.upgrade()
        {
            ledger.is_listed = true;
            self.hub.list(me);
        }
    }

    pub(super) fn fold(&self, ledger: &mut Ledger, word: Word) {
        let noted = ledger.fold(&self.name, &self.shards, word.reported_generation());
        self.hub.counters.note(noted);
    }

    /// Counts what the shards have: for who wants to know how many outcomes there are.
    pub(crate) fn count(&self) {
        self.fold(&mut self.inner.lock().ledger, self.word());
    }

    /// The items to be sent, in order, as long as `room` says so. False: some are left, and whoever sends knows it.
    pub(crate) fn give(&self, mut room: impl FnMut() -> bool, mut take: impl FnMut(Item)) -> bool {
        let mut inner = self.inner.lock();
        self.fold(&mut inner.ledger, self.word());
        while !inner.ledger.is_empty() {
            if !room() {
                inner.ledger.is_listed = true;
                return false;
            }
            if let Some(item) = inner.ledger.take_first() {
                take(item);
            }
        }
        inner.ledger.is_listed = false;
        true
    }
}
