//! The tally: what a machine has applied, as metrics show it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use brama_core::command::PermitId;
use brama_core::event::{Cause, EventKind};
use brama_core::policy::{Expiry, Policy};
use brama_core::query::Totals;
use brama_core::{Batch, Command, Machine};

use support::{Driver, START, TERM, acquire, close, item, open, register, session_report};

fn events(machine: &Machine, kind: EventKind) -> u64 {
    let mut events = machine.tally().events();
    events.find(|(of, _)| *of == kind).unwrap().1
}

/// The transitions that happened.
fn transitions(machine: &Machine) -> Vec<(&'static str, &'static str, u64)> {
    let transitions = machine.tally().transitions();
    let shown = transitions.map(|(kind, cause, count)| (kind.name(), cause.name(), count));
    shown.filter(|(.., count)| *count > 0).collect()
}

/// How often a command was done, and how often it was refused.
fn commands(machine: &Machine, name: &str) -> (u64, u64) {
    let mut commands = machine.tally().commands();
    let (_, done, refused) = commands.find(|(of, ..)| *of == name).unwrap();
    (done, refused)
}

/// A circuit that opens at the second failure, for ten seconds, with probes of five.
fn driver() -> Driver {
    let mut driver = Driver::new();
    driver.ok(register(
        "a",
        Policy {
            max_attempts: Some(2),
            expiry: Some(Expiry::Ms(10_000)),
            probe_timeout_ms: Some(5000),
            ..Policy::default()
        },
    ));
    driver
}

#[test]
fn every_transition_is_counted_with_its_cause() {
    let mut driver = driver();
    driver.outcomes("a", "FF");
    driver.run(10_000);
    driver.acquire("a", 1);
    let mut probe = item("a", "S");
    probe.permit = Some(PermitId(1));
    driver.report(probe);
    driver.ok(open("a"));
    driver.ok(close("a"));

    assert_eq!(
        transitions(&driver.machine),
        [
            ("circuit_opened", "threshold", 1),
            ("circuit_opened", "manual", 1),
            ("circuit_half_opened", "expiry", 1),
            ("circuit_closed", "probe", 1),
            ("circuit_closed", "manual", 1),
        ]
    );
    assert_eq!(events(&driver.machine, EventKind::ProbeGranted), 1);
    let all: u64 = driver.machine.tally().events().map(|(_, count)| count).sum();
    assert_eq!(all, driver.machine.revision(), "each event is counted once");
}

#[test]
fn reports_are_counted_by_outcome_and_by_what_became_of_them() {
    let mut driver = driver();
    driver.outcomes("a", "SFSI");
    driver.outcomes("nobody", "FFF");
    let mut late = item("a", "FF");
    late.generation = Some(99);
    driver.report(late);
    let mut rejected = item("a", "S");
    rejected.summary.rejected = 5;
    driver.ok(session_report(1, 1, vec![rejected.clone()]));
    // The same batch again changes nothing, and is not counted again.
    driver.ok(session_report(1, 1, vec![rejected.clone()]));
    // This session never began.
    driver.apply(session_report(2, 9, vec![rejected])).unwrap_err();

    let tally = driver.machine.tally();
    let outcomes = Totals {
        successes: 3,
        failures: 3,
        ignored: 1,
        rejected: 5,
    };
    assert_eq!(tally.outcomes(), outcomes);
    let items: Vec<_> = tally.items().collect();
    assert_eq!(items, [("counted", 2), ("late", 1), ("not_found", 1)]);
    assert_eq!(tally.repeated(), 1);
    assert_eq!(commands(&driver.machine, "report"), (5, 1));
    assert_eq!(commands(&driver.machine, "register"), (1, 0));
}

#[test]
fn deadlines_that_were_met_are_told_until_the_next_entry() {
    let mut driver = driver();
    driver.outcomes("a", "FF");
    let opened = driver.now();
    // The leader is 30 ms late.
    driver.pass(10_030);
    let due = driver.machine.due(driver.now(), 10);
    let fire = Command::Fire { term: TERM, due };
    driver.ok(fire.clone());
    assert_eq!(driver.machine.deadlines_met(), [opened.plus_ms(10_000)]);
    // A stale timer meets nothing.
    driver.ok(fire);
    assert!(driver.machine.deadlines_met().is_empty());

    driver.acquire("a", 1);
    let granted = driver.now();
    driver.pass(5000);
    driver.tick();
    assert_eq!(driver.machine.deadlines_met(), [granted.plus_ms(5000)]);
    driver.ok(acquire("a", 2));
    assert!(driver.machine.deadlines_met().is_empty());
}

/// A state that was installed from a snapshot was not applied here.
#[test]
fn a_snapshot_brings_no_tally_along() {
    let mut driver = driver();
    driver.outcomes("a", "F");
    let mut installed = Machine::thaw(driver.machine.freeze());
    assert_eq!(installed.tally().outcomes(), Totals::default());

    // The machine that it replaces goes on to be counted.
    let mut before = Driver::new();
    before.ok(register("b", Policy::default()));
    before.outcomes("b", "S");
    installed.continue_tally(&before.machine);
    let batch = Batch {
        time: START,
        commands: vec![Command::Report(brama_core::command::ReportBatch {
            session: None,
            items: vec![item("a", "S")],
        })],
    };
    installed.apply(TERM, &batch);
    assert_eq!(installed.tally().outcomes().successes, 2);
    assert_eq!(events(&installed, EventKind::Registration), 1);
    assert_eq!(
        installed
            .tally()
            .transitions()
            .filter(|(_, cause, _)| *cause == Cause::Threshold)
            .count(),
        4,
        "transitions that never happened are there, with 0"
    );
}
