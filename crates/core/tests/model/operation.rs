//! What the random test does. Values that depend on the state (a generation, a permit) are named relative to it.

use brama_core::command::{IfExists, PermitId};
use brama_core::policy::{Expiry, ExpiryStrategy, GlobalOptions, Policy, PolicyOption};
use brama_core::report::Outcome;
use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::select;

pub(crate) const NAMES: [&str; 4] = ["a", "b", "s/a", "t/a"];

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Register {
        circuit: &'static str,
        policy: Policy,
        metadata: Option<&'static str>,
        if_exists: IfExists,
    },
    Unregister(&'static str),
    Configure {
        circuit: Option<&'static str>,
        set: Policy,
        clear: Vec<PolicyOption>,
        global: GlobalOptions,
    },
    Report {
        /// Id, and how far the sequence number is from the last one used (0: a retry).
        session: Option<(u128, i64)>,
        items: Vec<Item>,
    },
    Acquire(&'static str, PermitId),
    Open(&'static str, Option<Expiry>, Option<&'static str>),
    Close(&'static str, Option<&'static str>),
    Reset(&'static str, Option<&'static str>),
    /// Moves time by so many milliseconds.
    Pass(u64),
    /// Fires what is due.
    Tick,
    /// Remembers what is due, as a leader that is slow to propose.
    LookAtDue,
    /// Fires what was remembered, in this term or in another.
    FireLate {
        this_term: bool,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) circuit: &'static str,
    pub(crate) generation: Generation,
    pub(crate) permit: Option<PermitId>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) rejected: u64,
    pub(crate) reason: Option<&'static str>,
    pub(crate) metadata: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Generation {
    FaceValue,
    /// The circuit's, and so many more or less.
    Relative(i64),
}

/// Anything, on all names.
pub(crate) fn sequence(longest: usize) -> impl Strategy<Value = Vec<Operation>> {
    let register = || {
        (circuit(), policy(), text(), if_exists()).prop_map(|(circuit, policy, metadata, if_exists)| {
            Operation::Register {
                circuit,
                policy,
                metadata,
                if_exists,
            }
        })
    };
    let configure = (
        weighted(0.7, circuit()),
        policy(),
        vec(select(&PolicyOption::ALL[..]), 0..3),
        global(),
    )
        .prop_map(|(circuit, set, clear, global)| Operation::Configure {
            circuit,
            set,
            clear,
            global,
        });
    let session = weighted(0.3, (1_u128..4, select(vec![1, 1, 1, 1, 0, 0, -1, 3])));
    let report = (session, vec(item(circuit()), 1..4))
        .prop_map(|(session, items)| Operation::Report { session, items });
    let operation = prop_oneof![
        4 => register(),
        1 => circuit().prop_map(Operation::Unregister),
        3 => configure,
        16 => report,
        8 => (circuit(), permit()).prop_map(|(circuit, permit)| Operation::Acquire(circuit, permit)),
        2 => (circuit(), of(expiry()), text()).prop_map(|(c, expiry, reason)| Operation::Open(c, expiry, reason)),
        2 => (circuit(), text()).prop_map(|(c, reason)| Operation::Close(c, reason)),
        1 => (circuit(), text()).prop_map(|(c, reason)| Operation::Reset(c, reason)),
        6 => pass(),
        6 => Just(Operation::Tick),
        2 => Just(Operation::LookAtDue),
        2 => any::<bool>().prop_map(|this_term| Operation::FireLate { this_term }),
    ];
    (vec(register(), 1..4), vec(operation, 1..longest)).prop_map(|(mut first, rest)| {
        first.extend(rest);
        first
    })
}

/// Reports and acts on one circuit.
pub(crate) fn counting(longest: usize) -> impl Strategy<Value = Vec<Operation>> {
    let policy = (1_u32..4, 1_u32..3, 1_u32..3).prop_map(|(attempts, successes, probes)| Policy {
        max_attempts: Some(attempts),
        half_open_successes: Some(successes),
        half_open_max_probes: Some(probes),
        expiry: Some(Expiry::Ms(1000)),
        ..Policy::default()
    });
    let lower = (1_u32..4).prop_map(|attempts| Operation::Configure {
        circuit: Some("a"),
        set: Policy {
            max_attempts: Some(attempts),
            ..Policy::default()
        },
        clear: Vec::new(),
        global: GlobalOptions::default(),
    });
    let report = item(Just("a")).prop_map(|item| Operation::Report {
        session: None,
        items: vec![item],
    });
    let operation = prop_oneof![
        10 => report,
        2 => Just(Operation::Close("a", None)),
        1 => lower,
        3 => permit().prop_map(|permit| Operation::Acquire("a", permit)),
        3 => Just(Operation::Pass(1000)),
        3 => Just(Operation::Tick),
    ];
    (policy, vec(operation, 1..longest)).prop_map(|(policy, rest)| {
        let mut all = vec![Operation::Register {
            circuit: "a",
            policy,
            metadata: None,
            if_exists: IfExists::Refuse,
        }];
        all.extend(rest);
        all
    })
}

fn item(circuit: impl Strategy<Value = &'static str>) -> impl Strategy<Value = Item> {
    let generation = prop_oneof![
        4 => Just(Generation::FaceValue),
        5 => Just(Generation::Relative(0)),
        1 => select(vec![-1, 1, 1000]).prop_map(Generation::Relative),
    ];
    let many = vec(outcome(), 0..9).prop_map(|outcomes| (None, outcomes));
    let probe = (permit(), outcome()).prop_map(|(permit, outcome)| (Some(permit), vec![outcome]));
    let calls = prop_oneof![3 => many, 2 => probe];
    (
        circuit,
        generation,
        calls,
        select(vec![0, 0, 0, 5]),
        text(),
        text(),
    )
        .prop_map(
            |(circuit, generation, (permit, outcomes), rejected, reason, metadata)| Item {
                circuit,
                generation,
                permit,
                outcomes,
                rejected,
                reason,
                metadata,
            },
        )
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![5 => Just(Outcome::Failure), 3 => Just(Outcome::Success), 1 => Just(Outcome::Ignored)]
}

fn circuit() -> impl Strategy<Value = &'static str> {
    // Mostly one, so that it gets somewhere.
    prop_oneof![6 => Just(NAMES[0]), 3 => select(&NAMES[..])]
}

fn permit() -> impl Strategy<Value = PermitId> {
    (1_u128..5).prop_map(PermitId)
}

fn text() -> impl Strategy<Value = Option<&'static str>> {
    weighted(0.3, select(vec!["x", "a timeout", "déjà vu"]))
}

fn if_exists() -> impl Strategy<Value = IfExists> {
    select(vec![IfExists::Refuse, IfExists::Keep, IfExists::Update])
}

fn pass() -> impl Strategy<Value = Operation> {
    // Around the deadlines that the policies below make; now and then past the end of sessions.
    select(vec![
        100, 400, 500, 900, 1000, 1000, 2000, 3000, 5000, 599_900, 600_000,
    ])
    .prop_map(Operation::Pass)
}

fn expiry() -> impl Strategy<Value = Expiry> {
    select(vec![
        Expiry::Ms(1000),
        Expiry::Ms(2000),
        Expiry::Ms(5000),
        Expiry::Never,
    ])
}

fn policy() -> impl Strategy<Value = Policy> {
    // Factors whose powers are exact, so that the model may multiply in any order.
    let backoff = (
        weighted(
            0.5,
            select(vec![ExpiryStrategy::Fixed, ExpiryStrategy::Progressive]),
        ),
        weighted(0.2, select(vec![500, 1500, 4000])),
        weighted(0.2, select(vec![2000, 8000, 30_000])),
        weighted(0.3, select(vec![1.0, 1.5, 2.0, 3.0])),
    );
    let probes = (
        weighted(0.3, 1_u32..4),
        weighted(0.3, 1_u32..4),
        weighted(0.4, select(vec![700, 3000])),
    );
    (weighted(0.6, 1_u32..4), weighted(0.5, expiry()), backoff, probes).prop_map(
        |(max_attempts, expiry, (strategy, initial, max, factor), (probes, successes, timeout))| Policy {
            max_attempts,
            expiry,
            expiry_strategy: strategy,
            initial_expiry_ms: initial,
            max_expiry_ms: max,
            backoff_factor: factor,
            half_open_max_probes: probes,
            half_open_successes: successes,
            probe_timeout_ms: timeout,
        },
    )
}

fn global() -> impl Strategy<Value = GlobalOptions> {
    weighted(0.2, select(vec![3000, 8000])).prop_map(|inactive_threshold_ms| GlobalOptions {
        inactive_threshold_ms,
        cleanup_interval_ms: None,
    })
}
