//! Summaries: that they add up, that exactly the possible ones are accepted, and that a circuit counts one as it would count the
//! outcomes one by one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashSet;

use brama_core::Summary;
use brama_core::command::{Command, PermitId, ReportItem};
use brama_core::limits::MAX_OUTCOMES;
use brama_core::policy::{Expiry, Policy};
use brama_core::query::CircuitStatus;
use brama_core::report::Outcome;
use proptest::collection::vec;
use proptest::prelude::*;

use support::{Driver, item, open, register};

/// The numbers of a summary, counted as their documentation says and in no other way.
fn counted(outcomes: &[Outcome]) -> Summary {
    let decisive: Vec<_> = outcomes.iter().filter(|o| **o != Outcome::Ignored).collect();
    let run = |from: &mut dyn Iterator<Item = &&Outcome>, of: Outcome| {
        from.take_while(|outcome| ***outcome == of).count() as u64
    };
    let count = |of| outcomes.iter().filter(|outcome| **outcome == of).count() as u64;
    let longest = (0..decisive.len()).map(|from| run(&mut decisive[from..].iter(), Outcome::Failure));
    Summary {
        failures: count(Outcome::Failure),
        successes: count(Outcome::Success),
        leading_failures: run(&mut decisive.iter(), Outcome::Failure),
        longest_failures: longest.max().unwrap_or(0),
        trailing_failures: run(&mut decisive.iter().rev(), Outcome::Failure),
        leading_successes: run(&mut decisive.iter(), Outcome::Success),
        ignored: count(Outcome::Ignored),
        rejected: 0,
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![4 => Just(Outcome::Failure), 3 => Just(Outcome::Success), 1 => Just(Outcome::Ignored)]
}

fn sequence() -> impl Strategy<Value = Vec<Outcome>> {
    vec(outcome(), 0..12)
}

/// Any numbers at all, large ones too: sums must not overflow.
fn anything() -> impl Strategy<Value = Summary> {
    let number = || prop_oneof![0_u64..4, Just(u64::MAX), any::<u64>()];
    vec(number(), 8).prop_map(|n| Summary {
        failures: n[0],
        successes: n[1],
        leading_failures: n[2],
        longest_failures: n[3],
        trailing_failures: n[4],
        leading_successes: n[5],
        ignored: n[6],
        rejected: n[7],
    })
}

proptest! {
    #[test]
    fn a_summary_counts_what_its_numbers_say(outcomes in vec(outcome(), 0..40)) {
        prop_assert_eq!(Summary::of_all(outcomes.iter().copied()), counted(&outcomes));
    }

    #[test]
    fn parts_merge_into_the_whole(a in sequence(), b in sequence()) {
        let whole: Vec<_> = a.iter().chain(&b).copied().collect();
        prop_assert_eq!(counted(&a).then(&counted(&b)), counted(&whole));
    }

    #[test]
    fn merging_is_associative_and_the_default_is_its_unit(a in sequence(), b in sequence(), c in sequence()) {
        let [a, b, c] = [a, b, c].map(|outcomes| counted(&outcomes));
        prop_assert_eq!(a.then(&b).then(&c), a.then(&b.then(&c)));
        prop_assert_eq!(Summary::default().then(&a), a);
        prop_assert_eq!(a.then(&Summary::default()), a);
    }

    #[test]
    fn what_some_sequence_has_is_accepted(outcomes in vec(outcome(), 0..100), rejected in 0_u64..9) {
        let summary = Summary { rejected, ..counted(&outcomes) };
        prop_assert_eq!(summary.validate(), Ok(()));
    }

    #[test]
    fn no_numbers_make_merging_or_checking_panic(a in anything(), b in anything()) {
        let both = a.then(&b);
        prop_assert!(both.calls() >= a.calls().max(b.calls()));
        let _ = (a.validate(), both.validate());
    }

    /// The heart of the batching: one summary, or its outcomes in commands of their own.
    #[test]
    fn a_circuit_counts_a_summary_as_its_outcomes_one_by_one(
        shape in (1_u32..5, 1_u32..4, 0_u32..5),
        before in sequence(),
        state in 0..3,
        with_generation: bool,
        outcomes in vec(outcome(), 0..16),
    ) {
        let prepared = || prepare(shape, &before, state);
        let mut at_once = prepared();
        let generation = with_generation.then(|| at_once.status("a").generation);
        at_once.report(ReportItem { generation, ..one(&outcomes) });

        let mut one_by_one = prepared();
        for outcome in &outcomes {
            one_by_one.report(ReportItem { generation, ..one(&[*outcome]) });
        }
        prop_assert_eq!(but_its_revision(&at_once), but_its_revision(&one_by_one));
        // The same transitions, in the same order.
        let transitions = |driver: &Driver| {
            let mut names = driver.event_names();
            names.retain(|name| !matches!(*name, "success" | "failure"));
            names
        };
        prop_assert_eq!(transitions(&at_once), transitions(&one_by_one));
    }

    /// Merging before sending changes nothing either.
    #[test]
    fn two_reports_count_as_their_merged_one(
        shape in (1_u32..5, 1_u32..4, 0_u32..5),
        before in sequence(),
        state in 0..3,
        first in sequence(),
        second in sequence(),
    ) {
        let mut apart = prepare(shape, &before, state);
        apart.report(one(&first));
        apart.report(one(&second));
        let mut merged = prepare(shape, &before, state);
        let summary = counted(&first).then(&counted(&second));
        merged.report(ReportItem { summary, ..one(&[]) });
        prop_assert_eq!(but_its_revision(&apart), but_its_revision(&merged));
    }
}

/// Every sequence of up to eight outcomes gives a set of summaries; of all small numbers exactly those in it are accepted.
#[test]
fn exactly_the_summaries_that_some_sequence_has_are_accepted() {
    const LONGEST: u64 = 8;
    let mut possible = HashSet::new();
    for length in 0..=LONGEST {
        for bits in 0_u32..1 << length {
            let outcome = |i| {
                if bits >> i & 1 == 1 {
                    Outcome::Failure
                } else {
                    Outcome::Success
                }
            };
            possible.insert(numbers(&counted(&(0..length).map(outcome).collect::<Vec<_>>())));
        }
    }
    // One beyond the longest, so that no number is only refused for being too large for the others.
    let beyond = LONGEST + 1;
    let mut checked = 0;
    for failures in 0..=LONGEST {
        for successes in 0..=LONGEST - failures {
            for leading_failures in 0..=beyond {
                for longest_failures in 0..=beyond {
                    for trailing_failures in 0..=beyond {
                        for leading_successes in 0..=beyond {
                            let summary = Summary {
                                failures,
                                successes,
                                leading_failures,
                                longest_failures,
                                trailing_failures,
                                leading_successes,
                                ..Summary::default()
                            };
                            checked += 1;
                            assert_eq!(
                                summary.validate().is_ok(),
                                possible.contains(&numbers(&summary)),
                                "{summary:?}"
                            );
                        }
                    }
                }
            }
        }
    }
    assert_eq!(checked, 45 * 10_000);
}

#[test]
fn counts_are_bounded() {
    let most = Summary {
        successes: MAX_OUTCOMES,
        leading_successes: MAX_OUTCOMES,
        ignored: MAX_OUTCOMES,
        rejected: MAX_OUTCOMES,
        ..Summary::default()
    };
    assert_eq!(most.validate(), Ok(()));
    let successes = MAX_OUTCOMES + 1;
    let too_many = [
        Summary {
            successes,
            leading_successes: successes,
            ..most
        },
        Summary {
            ignored: MAX_OUTCOMES + 1,
            ..most
        },
        Summary {
            rejected: MAX_OUTCOMES + 1,
            ..most
        },
    ];
    for summary in too_many {
        assert!(summary.validate().is_err(), "{summary:?}");
    }
}

#[test]
fn failure_counts_stop_at_their_largest_value() {
    let mut driver = Driver::new();
    driver.ok(register(
        "a",
        Policy {
            max_attempts: Some(u32::MAX),
            ..Policy::default()
        },
    ));
    let failures = MAX_OUTCOMES;
    let many = Summary {
        failures,
        leading_failures: failures,
        longest_failures: failures,
        trailing_failures: failures,
        ..Summary::default()
    };
    for _ in 0..4 {
        driver.report(ReportItem {
            summary: many,
            ..one(&[])
        });
    }
    assert_eq!(driver.status("a").failure_count, 4_000_000_000);
    driver.report(ReportItem {
        summary: many,
        ..one(&[])
    });
    assert_eq!(driver.status("a").failure_count, u32::MAX);
    assert_eq!(driver.event_names().last(), Some(&"circuit_opened"));
    assert_eq!(driver.status("a").totals.failures, 5 * failures);
}

fn numbers(summary: &Summary) -> [u64; 6] {
    [
        summary.failures,
        summary.successes,
        summary.leading_failures,
        summary.longest_failures,
        summary.trailing_failures,
        summary.leading_successes,
    ]
}

fn one(outcomes: &[Outcome]) -> ReportItem {
    ReportItem {
        summary: counted(outcomes),
        ..item("a", "")
    }
}

/// A circuit that is closed (with some history), open or half-open (with a permit out), and one whose threshold was lowered under the
/// count that it has.
fn prepare(
    (max_attempts, half_open_successes, kept): (u32, u32, u32),
    before: &[Outcome],
    state: i32,
) -> Driver {
    let mut driver = Driver::new();
    let policy = |max_attempts| Policy {
        max_attempts: Some(max_attempts),
        half_open_successes: Some(half_open_successes),
        expiry: Some(Expiry::Ms(1000)),
        ..Policy::default()
    };
    driver.ok(register("a", policy(100)));
    driver.report(one(before));
    for _ in 0..kept {
        driver.report(one(&[Outcome::Failure]));
    }
    driver.ok(support::configure(Some("a"), policy(max_attempts)));
    if state > 0 {
        driver.ok(open("a"));
    }
    if state > 1 {
        driver.run(1000);
        driver.ok(Command::Acquire {
            name: support::name("a"),
            permit: PermitId(1),
        });
    }
    driver
}

fn but_its_revision(driver: &Driver) -> CircuitStatus {
    CircuitStatus {
        revision: 0,
        ..driver.status("a")
    }
}
