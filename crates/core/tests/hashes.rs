//! The two hashes by which nodes compare their states: that they stay what they are, and what the one of the whole state costs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Instant;

use brama_core::machine::HASH_SCHEME;
use brama_core::policy::{Expiry, ExpiryStrategy, Policy};
use brama_core::{Batch, ClusterTime, Command, Machine};

use support::{
    START, TERM, acquire, close, configure, item, open, register, reset, session_report, unregister,
};

/// A state in which there is one of each thing.
fn a_bit_of_everything() -> Machine {
    let policy = Policy {
        max_attempts: Some(2),
        expiry: Some(Expiry::Ms(1000)),
        expiry_strategy: Some(ExpiryStrategy::Progressive),
        ..Policy::default()
    };
    let never = Policy {
        expiry: Some(Expiry::Never),
        ..Policy::default()
    };
    let commands = [
        register("shop/a", policy),
        register("b", Policy::default()),
        register("gone", Policy::default()),
        configure(None, never),
        session_report(7, 1, vec![item("shop/a", "FF")]),
        unregister("gone"),
        session_report(7, 2, vec![item("b", "F")]),
        open("b"),
        acquire("b", 3),
        close("b"),
        session_report(8, 1, vec![item("b", "SFI")]),
        reset("b"),
        register("b", Policy::default()),
    ];
    let mut machine = Machine::new();
    for (ms, command) in (0..).step_by(400).zip(commands) {
        apply(&mut machine, START.plus_ms(ms), vec![command]);
        let due = machine.due(START.plus_ms(ms), 10);
        if !due.is_empty() {
            apply(
                &mut machine,
                START.plus_ms(ms),
                vec![Command::Fire { term: TERM, due }],
            );
        }
    }
    machine
}

fn apply(machine: &mut Machine, time: ClusterTime, commands: Vec<Command>) {
    machine.apply(TERM, &Batch { time, commands });
}

/// Nodes of two versions with the same scheme compare these, and would take each other for damaged.
#[test]
fn the_hashes_of_a_scheme_never_change() {
    let machine = a_bit_of_everything();
    let found = (HASH_SCHEME, machine.state_hash(), machine.freeze().content_hash());
    let pinned = (2, 0x76c7_6072_8be8_1d74, 0x7a06_8281_d5a0_45cf);
    assert_eq!(
        found, pinned,
        "these are the hashes of the same state as ever. What made them differ has to raise HASH_SCHEME, once a version with the old ones \
         was released; see there"
    );
}

/// `cargo test --release -p brama-core --test hashes -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn what_hashing_a_large_state_costs() {
    const CIRCUITS: u64 = 100_000;
    let mut machine = Machine::new();
    for from in (0..CIRCUITS).step_by(500) {
        let numbers = || from..from + 500;
        let time = START.plus_ms(from);
        let registrations = numbers().map(|n| register(&format!("service-{n}/upstream"), Policy::default()));
        apply(&mut machine, time, registrations.collect());
        let reports = numbers().map(|n| {
            let item = item(&format!("service-{n}/upstream"), "SSFS");
            session_report(n.into(), 1, vec![item])
        });
        apply(&mut machine, time, reports.collect());
    }
    let began = Instant::now();
    let frozen = machine.freeze();
    let freezing = began.elapsed();
    let mut times: Vec<_> = (0..11)
        .map(|_| {
            let began = Instant::now();
            assert_ne!(frozen.content_hash(), 0);
            began.elapsed()
        })
        .collect();
    times.sort();
    println!(
        "{} circuits, {} sessions, {} events: frozen in {freezing:?}; hashed in {:?} (median of 11), at most {:?}",
        machine.circuit_count(),
        machine.session_count(),
        machine.revision() + 1 - machine.oldest_revision(),
        times[5],
        times[10]
    );
}
