//! Circuits as this process has them: decisions and outcomes that wait for nobody.
//!
//! ```text
//!   events of a watch ──► word, view ──► decide()            an answer, or: ask the cluster
//!                            │
//!   success() ── closed, no failures held ──► shards ─┐ fold
//!   everything else ──────────────────────────────► ledger ──► batches of the outbox
//! ```
//!
//! **Order.** What the cluster is told of a circuit is one sequence, in an order in which it may have happened: of two calls of which one ended
//! before the other ended *because* of it, the first comes first, whatever threads they ended on. Successes of a closed circuit that holds no
//! failures change nothing wherever they stand between two failures, so they are only counted ([`shards`]). A failure takes the lock, folds
//! what was counted before it, stands behind that, and sets the flag in the [`word`]. A success that sees the flag takes the lock too, and
//! stands behind the failure. So only one success per failure is slow.
//!
//! **Generations.** An outcome belongs to the generation at which its call was admitted. Before the word changes, what was counted under the old
//! generation is folded under it.

mod breaker;
pub(crate) mod hub;
mod ledger;
pub(crate) mod shards;
pub(crate) mod ticket;
mod view;
pub(crate) mod word;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use brama_core::CircuitName;
use brama_core::circuit::StateName;
use brama_core::event::{Event, EventKind};
use brama_core::query::CircuitStatus;
use brama_core::reply::{Admission, ItemReply};
use brama_core::report::{Outcome, Summary};
use crossbeam_utils::CachePadded;
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

use self::breaker::{Breaker, Effect};
use self::hub::Hub;
use self::ledger::Ledger;
use self::shards::{Count, Shards};
use self::ticket::{Kind, Ticket};
pub(crate) use self::view::Clock;
use self::view::View;
use self::word::{Tag, Word};
use crate::call::Rejection;
use crate::circuit::Register;
use crate::reach::OnUnreachable;
use crate::report::Item;

/// After the cluster had no permit to give, it is not asked again for so long: else each call of a busy replica would be one to it. Twice as long after
/// each further refusal of a generation, up to [`ASK_AGAIN_AFTER_AT_MOST`]: a thousand replicas that wait for one probe must not keep the cluster
/// busy. When the circuit changes its state, or a probe's place becomes free, its event says so, and they begin anew.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);
const ASK_AGAIN_AFTER_AT_MOST: Duration = Duration::from_secs(1);

/// One circuit, as this process has it.
#[derive(Debug)]
pub(crate) struct Local {
    name: CircuitName,
    me: Weak<Self>,
    hub: Arc<Hub>,
    /// A [`Word`]; written under the lock of `inner` only.
    word: CachePadded<AtomicU64>,
    shards: Shards,
    view: ArcSwap<View>,
    inner: Mutex<Inner>,
    /// Rings when the cluster has told for the first time.
    told: Notify,
    /// Asks for a permit that are under way.
    asking: AtomicU32,
}

#[derive(Debug, Default)]
struct Inner {
    /// Of permits that are out and are not of a closed circuit.
    tickets: Slab<Ticket>,
    ledger: Ledger,
    /// While the cluster is out of reach, from the first call on.
    breaker: Option<Breaker>,
    /// Raised with each breaker, so that an outcome finds only its own.
    breakers: u64,
    /// A failure of ours came after our last success of this generation.
    fails: bool,
    not_before: Option<Instant>,
    /// How often the cluster had no permit to give since the last news.
    refusals: u32,
    /// How this program has registered the circuit, unless somebody has unregistered it since.
    registration: Option<Arc<Register>>,
    /// The program has said, once, how it would register the circuit.
    is_offered: bool,
}

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
    pub(crate) fn new(name: CircuitName, hub: Arc<Hub>) -> Arc<Self> {
        let tag = if hub.reach.is_degraded() {
            Tag::Alone
        } else {
            Tag::Unknown
        };
        Arc::new_cyclic(|me| Self {
            name,
            me: me.clone(),
            hub,
            word: CachePadded::new(AtomicU64::new(Word::new(tag, 0, false).bits())),
            shards: Shards::new(),
            view: ArcSwap::from_pointee(View::unknown()),
            inner: Mutex::default(),
            told: Notify::new(),
            asking: AtomicU32::new(0),
        })
    }

    pub(crate) fn name(&self) -> &CircuitName {
        &self.name
    }

    pub(crate) fn known_state(&self) -> Option<StateName> {
        self.view.load().state
    }

    #[cfg(feature = "testing")]
    pub(crate) fn is_told(&self) -> bool {
        self.word().tag() != Tag::Unknown
    }

    #[inline]
    pub(crate) fn word(&self) -> Word {
        Word::from_bits(self.word.load(Ordering::Acquire))
    }

    // -- deciding ---------------------------------------------------------------------------------

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

    // -- outcomes ---------------------------------------------------------------------------------

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

    fn fold(&self, ledger: &mut Ledger, word: Word) {
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

    // -- what the cluster tells ----------------------------------------------------------------------

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

    fn set_word(&self, word: Word) {
        let before = self.word.swap(word.bits(), Ordering::AcqRel);
        if Word::from_bits(before).tag() == Tag::Unknown {
            self.told.notify_waiters();
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

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use brama_core::ClusterTime;
    use brama_core::event::Cause;
    use brama_core::policy::EffectivePolicy;
    use brama_core::query::Totals;
    use proptest::prelude::*;

    use super::*;
    use crate::reach::Reach;

    fn local(on_unreachable: OnUnreachable) -> Arc<Local> {
        let hub = Arc::new(Hub::new(on_unreachable, Reach::new()));
        Local::new(CircuitName::new(None, "payment_api").unwrap(), hub)
    }

    fn clock() -> Clock {
        Clock::new(ClusterTime::from_micros(1_000_000))
    }

    fn status(state: StateName, generation: u64, revision: u64) -> CircuitStatus {
        let now = ClusterTime::from_micros(1_000_000);
        CircuitStatus {
            name: CircuitName::new(None, "payment_api").unwrap(),
            state,
            generation,
            failure_count: 0,
            policy: EffectivePolicy::default(),
            opened_at: (state != StateName::Closed).then_some(now),
            expires_at: (state == StateName::Open).then(|| now.plus_ms(5000)),
            openings_in_a_row: 0,
            last_success_at: None,
            last_failure_at: None,
            last_reason: Some("boom".into()),
            totals: Totals::default(),
            registered_at: now,
            changed_at: now,
            metadata: Arc::default(),
            revision,
            probes_in_flight: 0,
            probe_successes: 0,
        }
    }

    fn closed(generation: u64, revision: u64) -> Arc<Local> {
        let local = local(OnUnreachable::default());
        local.learn(&status(StateName::Closed, generation, revision), &clock());
        local
    }

    fn event(kind: EventKind, state: StateName, generation: u64, revision: u64, failures: u32) -> Event {
        Event {
            revision,
            time: ClusterTime::from_micros(2_000_000),
            name: None,
            kind,
            previous_state: Some(state),
            new_state: Some(state),
            failure_count: failures,
            cause: Cause::Request,
            reason: Some("why".into()),
            metadata: Arc::default(),
            generation,
            count: 1,
            expires_at: None,
            permit: None,
            openings_in_a_row: 1,
        }
    }

    fn pass(local: &Local) -> Ticket {
        match local.decide() {
            Verdict::Pass(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    fn end(local: &Local, ticket: Ticket, outcome: Outcome) {
        match outcome {
            Outcome::Success => local.success(ticket),
            Outcome::Failure => local.failure(ticket, None),
            Outcome::Ignored => local.ignored(ticket),
        }
    }

    fn items(local: &Local) -> Vec<Item> {
        let mut items = Vec::new();
        assert!(local.give(|| true, |item| items.push(item)));
        items
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Calls that happen one after the other, on whatever threads, whatever is sent meanwhile: what the cluster is told is their sequence.
        #[test]
        fn dependent_calls_are_told_in_their_order(
            script in proptest::collection::vec((0_usize..4, 0_u8..6), 1..200),
            news in proptest::collection::vec(0_usize..200, 0..8),
        ) {
            let local = closed(3, 1);
            let turn = Mutex::new(0_usize);
            let told = Mutex::new(Summary::default());
            let tell = |local: &Local| {
                // In the order in which they are given.
                let mut told = told.lock();
                for item in items(local) {
                    assert_eq!(item.0.generation, Some(3));
                    *told = told.then(&item.0.summary);
                }
            };
            let barrier = Barrier::new(5);
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (script, turn, local, barrier) = (&script, &turn, &local, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        loop {
                            // Whoever has the turn ends its call before the next one begins: so they depend on each other.
                            let mut turn = turn.lock();
                            match script.get(*turn) {
                                None => return,
                                Some((whose, what)) if *whose == thread => {
                                    let outcome = match what {
                                        0 => Outcome::Failure,
                                        1 => Outcome::Ignored,
                                        _ => Outcome::Success,
                                    };
                                    end(local, pass(local), outcome);
                                    *turn += 1;
                                }
                                Some(_) => {
                                    drop(turn);
                                    std::thread::yield_now();
                                }
                            }
                        }
                    });
                }
                scope.spawn(|| {
                    barrier.wait();
                    let mut revision = 1;
                    while *turn.lock() < script.len() {
                        tell(&local);
                        // News of others' failures in between must not make a difference.
                        if news.contains(&*turn.lock()) {
                            revision += 1;
                            let kind = EventKind::Failure;
                            let others = event(kind, StateName::Closed, 3, revision, u32::from(revision % 2 == 0));
                            local.learn_event(&others, &clock());
                        }
                        std::thread::yield_now();
                    }
                });
            });
            tell(&local);
            let outcomes = script.iter().map(|(_, what)| match what {
                0 => Outcome::Failure,
                1 => Outcome::Ignored,
                _ => Outcome::Success,
            });
            prop_assert_eq!(*told.lock(), Summary::of_all(outcomes));
        }
    }

    #[test]
    fn successes_that_change_nothing_wait_and_the_one_after_a_failure_does_not() {
        let local = closed(1, 1);
        for _ in 0..100 {
            end(&local, pass(&local), Outcome::Success);
        }
        assert!(!local.hub.has_urgent());
        end(&local, pass(&local), Outcome::Failure);
        assert_eq!(local.hub.take_urgent().len(), 1);
        let sent = items(&local);
        assert_eq!(
            (sent[0].0.summary.successes, sent[0].0.summary.trailing_failures),
            (100, 1)
        );
        end(&local, pass(&local), Outcome::Success);
        assert_eq!(
            local.hub.take_urgent().len(),
            1,
            "it ends a run that the cluster knows of"
        );
        end(&local, pass(&local), Outcome::Success);
        assert!(!local.hub.has_urgent());
        assert_eq!(items(&local)[0].0.summary.successes, 2);
        // A failure of another replica.
        local.learn_event(&event(EventKind::Failure, StateName::Closed, 1, 2, 1), &clock());
        end(&local, pass(&local), Outcome::Success);
        assert_eq!(local.hub.take_urgent().len(), 1);
    }

    #[test]
    fn outcomes_belong_to_the_generation_at_which_their_calls_began() {
        let local = closed(1, 1);
        let late = [pass(&local), pass(&local)];
        end(&local, pass(&local), Outcome::Success);
        local.learn_event(
            &event(EventKind::CircuitOpened, StateName::Open, 2, 2, 5),
            &clock(),
        );
        assert!(matches!(local.decide(), Verdict::Reject(_)));
        local.learn_event(
            &event(EventKind::CircuitReset, StateName::Closed, 3, 3, 0),
            &clock(),
        );
        end(&local, pass(&local), Outcome::Success);
        end(&local, late[0], Outcome::Success);
        end(&local, late[1], Outcome::Failure);
        assert!(!local.word().holds_failures(), "a late failure decides nothing");
        let told: Vec<_> = items(&local)
            .iter()
            .map(|Item(item)| (item.generation, item.summary.successes, item.summary.failures))
            .collect();
        // The rejected one stands at the generation that rejected it.
        assert_eq!(
            told,
            [(Some(1), 1, 0), (Some(2), 0, 0), (Some(3), 1, 0), (Some(1), 1, 1)]
        );
    }

    #[test]
    fn it_never_goes_back_whatever_a_slower_node_says() {
        let local = closed(4, 10);
        local.learn(&status(StateName::Open, 3, 8), &clock());
        local.learn_event(
            &event(EventKind::CircuitOpened, StateName::Open, 3, 9, 5),
            &clock(),
        );
        local.learn_missing(9);
        assert_eq!((local.word().tag(), local.word().generation()), (Tag::Closed, 4));
        local.learn_missing(11);
        assert_eq!(local.word().tag(), Tag::Missing);
        local.learn(&status(StateName::Closed, 4, 10), &clock());
        assert_eq!(local.word().tag(), Tag::Missing);
        // Registered again: its generation is above all that there were.
        local.learn_event(
            &event(EventKind::Registration, StateName::Closed, 6, 12, 0),
            &clock(),
        );
        assert_eq!((local.word().tag(), local.word().generation()), (Tag::Closed, 6));
        // The answer to a report is faster than the event, and the event says more.
        let reply = ItemReply::Counted {
            late: false,
            state: StateName::Open,
            generation: 7,
            failure_count: 5,
        };
        local.learn_reply(&reply, Some(&"boom".into()));
        assert_eq!((local.word().tag(), local.word().generation()), (Tag::Open, 7));
        local.learn_event(&event(EventKind::Failure, StateName::Closed, 6, 13, 5), &clock());
        assert_eq!(local.word().tag(), Tag::Open);
        local.learn_event(
            &event(EventKind::CircuitOpened, StateName::Open, 7, 14, 5),
            &clock(),
        );
        let Verdict::Reject(rejection) = local.decide() else {
            panic!()
        };
        assert_eq!(
            (rejection.reason.as_deref(), rejection.retry_after),
            (Some("why"), None)
        );
    }

    #[test]
    fn what_another_cluster_says_is_news() {
        let local = closed(9, 90);
        local.forget();
        assert!(
            matches!(local.decide(), Verdict::Pass(_)),
            "until it says something"
        );
        local.learn(&status(StateName::Open, 2, 3), &clock());
        assert_eq!((local.word().tag(), local.word().generation()), (Tag::Open, 2));
        local.learn_event(
            &event(EventKind::CircuitReset, StateName::Closed, 3, 4, 0),
            &clock(),
        );
        assert_eq!((local.word().tag(), local.word().generation()), (Tag::Closed, 3));
    }

    #[test]
    fn after_each_refusal_it_asks_less_often_and_anew_after_news() {
        let local = closed(1, 1);
        local.learn_event(
            &event(EventKind::CircuitHalfOpened, StateName::HalfOpen, 2, 2, 0),
            &clock(),
        );
        let refused = Admission {
            admitted: false,
            state: StateName::HalfOpen,
            generation: 2,
            permit: None,
            retry_after_ms: Some(30_000),
            reason: None,
            opened_at: None,
        };
        let wait = |local: &Local| {
            let before = local.inner.lock().not_before;
            before.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()))
        };
        assert!(local.may_ask().is_some());
        local.was_rejected(&refused);
        assert!(local.may_ask().is_none());
        assert!(wait(&local) <= ASK_AGAIN_AFTER.mul_f64(1.25));
        for _ in 0..20 {
            local.was_rejected(&refused);
        }
        assert!(wait(&local) > ASK_AGAIN_AFTER_AT_MOST / 2 && wait(&local) < ASK_AGAIN_AFTER_AT_MOST * 2);
        // Somebody else has it, and then it is free.
        local.learn_event(
            &event(EventKind::ProbeGranted, StateName::HalfOpen, 2, 3, 0),
            &clock(),
        );
        assert!(local.may_ask().is_none());
        local.learn_event(
            &event(EventKind::ProbeExpired, StateName::HalfOpen, 2, 4, 0),
            &clock(),
        );
        assert!(local.may_ask().is_some());
    }

    #[test]
    fn alone_each_choice_does_what_it_says_and_what_was_learnt_is_told() {
        let allow = local(OnUnreachable::Allow);
        allow.learn(&status(StateName::Open, 2, 1), &clock());
        allow.go_alone();
        end(&allow, pass(&allow), Outcome::Success);
        let reject = local(OnUnreachable::Reject);
        reject.learn(&status(StateName::Closed, 2, 1), &clock());
        reject.go_alone();
        assert!(matches!(reject.decide(), Verdict::Reject(_)));

        let own = closed(2, 1);
        own.go_alone();
        for _ in 0..5 {
            end(&own, pass(&own), Outcome::Failure);
        }
        let Verdict::Reject(rejection) = own.decide() else {
            panic!()
        };
        assert_eq!(rejection.state, StateName::Open);
        let late = Ticket::plain(own.word());
        own.learn(&status(StateName::Closed, 2, 1), &clock());
        end(&own, late, Outcome::Success);
        // It opened alone, and the dependency has not been seen to work since: the cluster is told so.
        let told = items(&own);
        assert_eq!(
            (told[0].0.generation, told[0].0.summary.longest_failures),
            (Some(2), 5)
        );
        assert!(matches!(own.decide(), Verdict::Pass(_)));
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_dropped_is_counted() {
        let local = closed(1, 1);
        let mut generation = 1;
        for _ in 0..300 {
            end(&local, pass(&local), Outcome::Failure);
            generation += 1;
            local.learn(&status(StateName::Closed, generation, generation), &clock());
        }
        let kept = items(&local).len() as u64;
        let dropped = local.hub.counters.dropped.load(Ordering::Relaxed);
        assert_eq!((kept, kept + dropped), (128, 300));
    }
}
