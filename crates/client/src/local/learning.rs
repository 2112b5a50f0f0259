//! What the cluster tells.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use brama_core::circuit::StateName;
use brama_core::event::{Event, EventKind};
use brama_core::query::CircuitStatus;
use brama_core::reply::ItemReply;

use super::view::{Clock, View};
use super::word::{Tag, Word};
use super::{Inner, Local};
use crate::circuit::Register;

impl Local {
    /// The circuit, as a snapshot or an answer has it.
    pub(crate) fn learn(&self, status: &CircuitStatus, clock: &Clock) {
        let mut inner = self.inner.lock();
        let view = self.view.load();
        let is_older = status.revision < view.revision || status.generation < view.generation;
        if is_older {
            // What is known is newer, from another node. But it is known.
            let view = View::clone(&view);
            return self.set(&mut inner, view);
        }
        self.set(&mut inner, View::of(status, clock));
    }

    /// A snapshot at `revision` does not have the circuit.
    pub(crate) fn learn_missing(&self, revision: u64) {
        let mut inner = self.inner.lock();
        let view = self.view.load();
        let mut view = View::clone(&view);
        if revision >= view.revision {
            (view.state, view.revision) = (None, revision);
        }
        self.set(&mut inner, view);
    }

    /// What is known is another cluster's: whatever comes next is newer. Until then it decides.
    pub(crate) fn forget(&self) {
        let _inner = self.inner.lock();
        let mut view = View::clone(&self.view.load());
        (view.revision, view.generation) = (0, 0);
        self.view.store(Arc::new(view));
    }

    /// Something happened to the circuit.
    pub(crate) fn learn_event(&self, event: &Event, clock: &Clock) {
        let mut inner = self.inner.lock();
        let view = self.view.load();
        if event.revision <= view.revision || event.generation < view.generation {
            return;
        }
        if event.kind == EventKind::ConnectionUnregistered {
            inner.registration = None;
        }
        let gone = matches!(
            event.kind,
            EventKind::ConnectionUnregistered | EventKind::ConnectionRemoved
        );
        let mut view = view.after(event, clock);
        if gone {
            view.state = None;
        }
        let (not_before, refusals) = (inner.not_before, inner.refusals);
        self.set(&mut inner, view);
        if event.kind == EventKind::ProbeGranted {
            // Somebody has taken a place: no reason to ask for it.
            (inner.not_before, inner.refusals) = (not_before, refusals);
        }
    }

    /// The policy is another one; what it is was asked for.
    pub(crate) fn needs_policy(event: &Event) -> bool {
        matches!(event.kind, EventKind::Configured | EventKind::Registration)
    }

    /// What an acknowledged report says: it may be faster than the event. What the circuit looks like beyond its state, the event will say.
    pub(crate) fn learn_reply(&self, reply: &ItemReply, reason: Option<&Arc<str>>) {
        let ItemReply::Counted {
            state,
            generation,
            failure_count,
            ..
        } = *reply
        else {
            return;
        };
        let mut inner = self.inner.lock();
        let view = self.view.load();
        if generation <= view.generation {
            // Failures of others may have come before ours.
            let word = self.word();
            if generation == word.generation() && failure_count > 0 && word.is_closed() {
                self.set_word(word.holding_failures(true));
            }
            return;
        }
        let mut view = View::clone(&view);
        (view.state, view.generation, view.failure_count) = (Some(state), generation, failure_count);
        if state == StateName::Open {
            view.openings_in_a_row += 1;
            view.reason = reason.cloned();
            let lasts = view.policy.opening_ms(view.openings_in_a_row);
            view.ends = lasts.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        }
        self.set(&mut inner, view);
    }

    /// This program has registered the circuit so.
    pub(crate) fn registered(&self, register: Register) {
        let mut inner = self.inner.lock();
        inner.registration = Some(Arc::new(register));
        inner.is_offered = true;
    }

    /// The program would register the circuit so, if there is none, and if nothing was said about that yet.
    pub(crate) fn offer(&self, register: impl FnOnce() -> Register) {
        let mut inner = self.inner.lock();
        if !inner.is_offered {
            inner.is_offered = true;
            inner.registration = Some(Arc::new(register()));
        }
    }

    /// How to register the circuit again: this program has registered it, and nobody has unregistered it. It was idle, and cleaned up.
    pub(crate) fn registration(&self) -> Option<Arc<Register>> {
        self.inner.lock().registration.clone()
    }

    /// The cluster is out of reach from now on.
    pub(crate) fn go_alone(&self) {
        let mut inner = self.inner.lock();
        let word = self.word();
        self.fold(&mut inner.ledger, word);
        self.set_word(Word::new(Tag::Alone, word.generation(), false));
    }

    /// Lets the word say what the view says. Nobody decides alone any more.
    fn set(&self, inner: &mut Inner, view: View) {
        let before = self.word();
        self.fold(&mut inner.ledger, before);
        inner.breaker = None;
        (inner.not_before, inner.refusals) = (None, 0);
        let tag = match view.state {
            None => Tag::Missing,
            Some(StateName::Closed) => Tag::Closed,
            Some(StateName::Open) => Tag::Open,
            Some(StateName::HalfOpen) => Tag::HalfOpen,
        };
        inner.fails &= before.generation() == view.generation;
        let holds_failures = view.failure_count > 0 || inner.fails;
        let word = Word::new(tag, view.generation, tag == Tag::Closed && holds_failures);
        self.view.store(Arc::new(view));
        self.set_word(word);
    }

    pub(super) fn set_word(&self, word: Word) {
        let before = self.word.swap(word.bits(), Ordering::AcqRel);
        if Word::from_bits(before).tag() == Tag::Unknown {
            self.told.notify_waiters();
        }
    }
}
