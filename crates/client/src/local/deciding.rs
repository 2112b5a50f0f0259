//! Whether a call may be made.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use brama_core::circuit::StateName;
use brama_core::reply::Admission;
use slab::Slab;

use super::Local;
use super::breaker::Breaker;
use super::shards::Count;
use super::ticket::{Kind, Ticket};
use super::word::{Tag, Word};
use crate::call::Rejection;
use crate::reach::OnUnreachable;

/// After the cluster had no permit to give, it is not asked again for so long: else each call of a busy replica would be one to it. Twice as long after
/// each further refusal of a generation, up to [`ASK_AGAIN_AFTER_AT_MOST`]: a thousand replicas that wait for one probe must not keep the cluster
/// busy. When the circuit changes its state, or a probe's place becomes free, its event says so, and they begin anew.
pub(super) const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);
pub(super) const ASK_AGAIN_AFTER_AT_MOST: Duration = Duration::from_secs(1);

/// Whether a call may be made, as far as this process knows.
#[derive(Debug)]
pub(crate) enum Verdict {
    Pass(Ticket),
    Reject(Rejection),
    /// The cluster has to be asked for a permit.
    AskPermit,
    /// The cluster has not told yet.
    Wait,
    /// There is no such circuit.
    Missing,
}

impl Local {
    /// Wait-free and without allocation while the circuit is closed.
    #[inline]
    pub(crate) fn decide(&self) -> Verdict {
        let word = self.word();
        if word.is_closed() {
            return Verdict::Pass(Ticket::plain(word));
        }
        self.decide_otherwise(word)
    }

    /// The word of a ticket, if the circuit is closed.
    #[inline]
    pub(crate) fn closed(&self) -> Option<Word> {
        let word = self.word();
        word.is_closed().then(|| word.holding_failures(false))
    }

    /// Keeps the ticket of a [`Permit`](crate::Permit), unless it is of a closed circuit: then the word that is given back is all of it.
    pub(crate) fn keep(&self, ticket: Ticket) -> Word {
        if matches!(ticket.kind, Kind::Plain) && ticket.word.is_closed() {
            return ticket.word;
        }
        // A number of a place in memory: it has 60 bits.
        Word::of_ticket(self.inner.lock().tickets.insert(ticket) as u64)
    }

    /// Gives a ticket back, once.
    pub(crate) fn kept(&self, word: Word) -> Ticket {
        self.find_kept(word, |tickets, number| tickets.try_remove(number))
    }

    /// The same, and goes on keeping it.
    pub(crate) fn look_at_kept(&self, word: Word) -> Ticket {
        self.find_kept(word, |tickets, number| tickets.get(number).copied())
    }

    fn find_kept(&self, word: Word, find: impl FnOnce(&mut Slab<Ticket>, usize) -> Option<Ticket>) -> Ticket {
        let Some(number) = word.ticket() else {
            return Ticket::plain(word);
        };
        let found = usize::try_from(number)
            .ok()
            .and_then(|number| find(&mut self.inner.lock().tickets, number));
        // Only a permit has the number, and it gives it back when it ends.
        found.unwrap_or_else(|| unreachable!("a ticket is kept as long as its permit lives"))
    }

    /// The same, to be kept.
    pub(crate) fn me(&self) -> Arc<Self> {
        // It is there, and only ever made in an `Arc`.
        self.me
            .upgrade()
            .unwrap_or_else(|| unreachable!("it lives while it is borrowed"))
    }

    #[cold]
    fn decide_otherwise(&self, word: Word) -> Verdict {
        match word.tag() {
            Tag::Closed => Verdict::Pass(Ticket::plain(word)),
            Tag::Open => Verdict::Reject(self.reject(StateName::Open)),
            Tag::HalfOpen => Verdict::AskPermit,
            Tag::Unknown => Verdict::Wait,
            Tag::Missing => Verdict::Missing,
            Tag::Alone => self.decide_alone(),
        }
    }

    /// What holds without the cluster.
    pub(crate) fn decide_alone(&self) -> Verdict {
        match self.hub.on_unreachable {
            OnUnreachable::Allow => Verdict::Pass(Ticket::plain(self.word())),
            OnUnreachable::Reject => {
                self.shards.add(Count::Rejected);
                let view = self.view.load();
                Verdict::Reject(Rejection {
                    state: view.state.unwrap_or(StateName::Open),
                    reason: Some(Arc::from("the cluster is out of reach")),
                    retry_after: Some(Duration::from_secs(1)),
                    opened_at: view.opened_at,
                    generation: view.generation,
                })
            }
            OnUnreachable::LocalBreaker => self.ask_breaker(),
        }
    }

    fn ask_breaker(&self) -> Verdict {
        let admission = {
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            let breaker = match &mut inner.breaker {
                Some(breaker) => breaker,
                none => {
                    inner.breakers += 1;
                    none.insert(Breaker::new(&self.name, &self.view.load()))
                }
            };
            breaker.acquire().map(|admission| (admission, inner.breakers))
        };
        match admission {
            Some((admission, number)) if admission.admitted => Verdict::Pass(Ticket {
                word: self.word(),
                kind: Kind::Alone {
                    number,
                    generation: admission.generation,
                    permit: admission.permit.map(|(permit, _)| permit),
                },
            }),
            Some((admission, _)) => {
                self.shards.add(Count::Rejected);
                Verdict::Reject(admission.into())
            }
            // It cannot refuse; if it ever does, a call is better than none.
            None => Verdict::Pass(Ticket::plain(self.word())),
        }
    }

    /// Counts and describes a rejection.
    pub(crate) fn reject(&self, state: StateName) -> Rejection {
        self.shards.add(Count::Rejected);
        let view = self.view.load();
        Rejection {
            state,
            reason: view.reason.clone(),
            retry_after: view.retry_after(Instant::now()),
            opened_at: view.opened_at,
            generation: view.generation,
        }
    }

    /// Counts a rejection that the cluster decided.
    pub(crate) fn was_rejected(&self, admission: &Admission) {
        self.shards.add(Count::Rejected);
        let mut inner = self.inner.lock();
        let doubled = ASK_AGAIN_AFTER.saturating_mul(1 << inner.refusals.min(16));
        let place_free_in = admission
            .retry_after_ms
            .map_or(ASK_AGAIN_AFTER_AT_MOST, Duration::from_millis);
        let wait = doubled.min(ASK_AGAIN_AFTER_AT_MOST).min(place_free_in);
        // Replicas that were refused together do not come again together.
        let wait = wait.mul_f64(rand::random_range(0.75..1.25));
        inner.refusals += 1;
        inner.not_before = Some(Instant::now() + wait);
    }

    /// A place among those who ask the cluster for a permit: not more at once than there are permits, and not at once after it had none.
    pub(crate) fn may_ask(&self) -> Option<Asking<'_>> {
        let most = self.view.load().policy.half_open_max_probes;
        if self.inner.lock().not_before.is_some_and(|at| at > Instant::now()) {
            return None;
        }
        let asking = Asking(self);
        (self.asking.fetch_add(1, Ordering::Relaxed) < most).then_some(asking)
    }

    /// Waits until the cluster has told about the circuit.
    pub(crate) async fn told(&self) {
        loop {
            let mut told = std::pin::pin!(self.told.notified());
            told.as_mut().enable();
            if self.word().tag() != Tag::Unknown {
                return;
            }
            told.await;
        }
    }
}

/// See [`Local::may_ask`].
#[derive(Debug)]
pub(crate) struct Asking<'a>(&'a Local);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::Relaxed);
    }
}
