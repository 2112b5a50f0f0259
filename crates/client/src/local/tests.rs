use std::sync::Barrier;
use std::time::Duration;

use brama_core::event::{Cause, Event, EventKind};
use brama_core::policy::EffectivePolicy;
use brama_core::query::{CircuitStatus, Totals};
use brama_core::reply::{Admission, ItemReply};
use brama_core::report::{Outcome, Summary};
use brama_core::{ClusterTime, SharedMetadata};
use proptest::prelude::*;

use super::deciding::{ASK_AGAIN_AFTER, ASK_AGAIN_AFTER_AT_MOST};
use super::*;
use crate::reach::OnUnreachable;
use crate::reach::Reach;
use crate::report::Item;

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
        metadata: SharedMetadata::default(),
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
        metadata: SharedMetadata::default(),
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
