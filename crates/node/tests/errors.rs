//! What must be refused, on whatever node: the exact code, reason and field, and nothing changes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;

use prost::Message as _;
use tonic::Code;

use brama_core::command::ClusterId;
use brama_core::cursor;
use brama_proto::v1;
use common::{Cluster, Refused, at_least, local, ms, name, scoped};

const DAYS_30: u64 = 30 * 24 * 3600 * 1000;

/// The call is refused so by each of the three nodes.
macro_rules! refused {
    ($cluster:ident . $service:ident . $call:ident ( $request:expr ) => $expected:expr) => {
        for i in 0..3 {
            match $cluster.$service(i).$call($request).await {
                Err(status) => assert_eq!(
                    Refused::of(&status),
                    $expected,
                    "node {}, {}: {status:?}",
                    i + 1,
                    stringify!($call($request))
                ),
                Ok(answer) => panic!(
                    "node {} accepted {}: {answer:?}",
                    i + 1,
                    stringify!($call($request))
                ),
            }
        }
    };
}

/// A cluster with one circuit, and how that looked before anything was refused.
struct Known {
    cluster: Cluster,
    name: v1::CircuitName,
    before: v1::Circuit,
    revision: u64,
}

impl Known {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let cluster = Cluster::start_with(settings).await;
        let name = scoped("payments", "stripe");
        let policy = v1::Policy {
            max_attempts: Some(3),
            max_expiry_ms: Some(120_000),
            ..Default::default()
        };
        cluster.register(0, &name, policy).await;
        cluster.fail(1, &name).await;
        let before = cluster.status(2, &name).await;
        let revision = cluster.revision(2).await;
        Self {
            cluster,
            name,
            before,
            revision,
        }
    }

    /// Nothing changes after a refused request.
    async fn unchanged(self) {
        for i in 0..3 {
            assert_eq!(
                self.cluster.status(i, &self.name).await,
                self.before,
                "node {}",
                i + 1
            );
            assert_eq!(self.cluster.revision(i).await, self.revision, "node {}", i + 1);
        }
        let states: Vec<_> = (0..3)
            .map(|i| self.cluster.node(i).replica().state_hash())
            .collect();
        let newest = states.iter().max().unwrap();
        for state in states.iter().filter(|state| state.0 == newest.0) {
            assert_eq!(state, newest, "nodes that applied the same have the same");
        }
        self.cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_metadata_and_reasons_are_checked_in_every_call() {
    let known = Known::new(&[]).await;
    let cluster = &known.cluster;
    let long = "x".repeat(256);
    let bad_names = [
        (None, "name"),
        (Some(name("")), "name.identifier"),
        (Some(name(&long)), "name.identifier"),
        (Some(name("a\nb")), "name.identifier"),
        (Some(name("a\u{85}b")), "name.identifier"),
        (Some(scoped("", "a")), "name.scope"),
        (Some(scoped(&long, "a")), "name.scope"),
        (Some(scoped("a\0", "a")), "name.scope"),
    ];
    for (name, field) in bad_names {
        refused!(cluster.circuits.register(v1::RegisterRequest { name: name.clone(), ..Default::default() }) => Refused::invalid(field));
        refused!(cluster.circuits.unregister(v1::UnregisterRequest { name: name.clone(), ..Default::default() }) => Refused::invalid(field));
        refused!(cluster.circuits.status(v1::StatusRequest { name: name.clone(), ..Default::default() }) => Refused::invalid(field));
        refused!(cluster.circuits.available(v1::AvailableRequest { name: name.clone(), ..Default::default() }) => Refused::invalid(field));
        refused!(cluster.circuits.acquire(v1::AcquireRequest { name: name.clone(), ..Default::default() }) => Refused::invalid(field));
        refused!(cluster.circuits.success(v1::SuccessRequest { name: name.clone(), ..Default::default() }) => Refused::invalid(field));
        refused!(cluster.circuits.failure(v1::FailureRequest { name: name.clone(), ..Default::default() }) => Refused::invalid(field));
        refused!(cluster.circuits.open_circuit(v1::OpenCircuitRequest { name: name.clone(), ..Default::default() }) => Refused::invalid(field));
        refused!(cluster.circuits.close_circuit(v1::CloseCircuitRequest { name: name.clone(), ..Default::default() }) => Refused::invalid(field));
        refused!(cluster.circuits.reset_circuit(v1::ResetCircuitRequest { name: name.clone(), ..Default::default() }) => Refused::invalid(field));
        // Of one item among good ones: it says which.
        let mut items = vec![outcomes(&known.name, &[v1::Outcome::Failure]); 3];
        items[2].name = name.clone();
        refused!(cluster.circuits.report(batch(items.clone())) => Refused::invalid(&format!("items[2].{field}")));
        // Without a name these two mean the cluster as a whole, and these two mean everything.
        if let Some(name) = name {
            refused!(cluster.circuits.configure(v1::ConfigureRequest { name: Some(name.clone()), ..Default::default() }) => Refused::invalid(field));
            refused!(cluster.circuits.get_config(v1::GetConfigRequest { name: Some(name.clone()), ..Default::default() }) => Refused::invalid(field));
            let names = || vec![known.name.clone(), name.clone()];
            let field = field.replace("name", "names[1]");
            refused!(cluster.events.subscribe(v1::SubscribeRequest { names: names(), ..Default::default() }) => Refused::invalid(&field));
            refused!(cluster.events.watch(v1::WatchRequest { names: names(), ..Default::default() }) => Refused::invalid(&field));
        }
    }

    let entry = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let bad_metadata = [
        (0..33).map(|i| (i.to_string(), String::new())).collect(),
        entry("", "no key"),
        entry(&"k".repeat(65), "a long key"),
        entry("a long value", &"v".repeat(1025)),
    ];
    for metadata in bad_metadata {
        let name = || Some(known.name.clone());
        let new = || Some(common::name("new"));
        refused!(cluster.circuits.register(v1::RegisterRequest { name: new(), metadata: metadata.clone(), ..Default::default() }) => Refused::invalid("metadata"));
        refused!(cluster.circuits.success(v1::SuccessRequest { name: name(), metadata: metadata.clone(), ..Default::default() }) => Refused::invalid("metadata"));
        refused!(cluster.circuits.failure(v1::FailureRequest { name: name(), metadata: metadata.clone(), ..Default::default() }) => Refused::invalid("metadata"));
        let mut item = outcomes(&known.name, &[v1::Outcome::Failure]);
        item.metadata = metadata;
        refused!(cluster.circuits.report(batch(vec![item.clone()])) => Refused::invalid("items[0].metadata"));
    }

    let name = || Some(known.name.clone());
    let reason = || Some("r".repeat(1025));
    refused!(cluster.circuits.unregister(v1::UnregisterRequest { name: name(), reason: reason() }) => Refused::invalid("reason"));
    refused!(cluster.circuits.failure(v1::FailureRequest { name: name(), reason: reason(), ..Default::default() }) => Refused::invalid("reason"));
    refused!(cluster.circuits.open_circuit(v1::OpenCircuitRequest { name: name(), reason: reason(), ..Default::default() }) => Refused::invalid("reason"));
    refused!(cluster.circuits.close_circuit(v1::CloseCircuitRequest { name: name(), reason: reason() }) => Refused::invalid("reason"));
    refused!(cluster.circuits.reset_circuit(v1::ResetCircuitRequest { name: name(), reason: reason() }) => Refused::invalid("reason"));
    let mut item = outcomes(&known.name, &[v1::Outcome::Failure]);
    item.reason = reason();
    refused!(cluster.circuits.report(batch(vec![item.clone()])) => Refused::invalid("items[0].reason"));
    known.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_option_of_a_policy_is_checked() {
    let known = Known::new(&[]).await;
    let cluster = &known.cluster;
    let default = v1::Policy::default;
    let bad = [
        (
            v1::Policy {
                max_attempts: Some(0),
                ..default()
            },
            "max_attempts",
        ),
        (
            v1::Policy {
                expiry: Some(ms(0)),
                ..default()
            },
            "expiry",
        ),
        (
            v1::Policy {
                expiry: Some(ms(DAYS_30 + 1)),
                ..default()
            },
            "expiry",
        ),
        (
            v1::Policy {
                expiry: Some(ms(u64::MAX)),
                ..default()
            },
            "expiry",
        ),
        (
            v1::Policy {
                expiry: Some(v1::Expiry { kind: None }),
                ..default()
            },
            "expiry",
        ),
        (
            v1::Policy {
                expiry: Some(v1::Expiry {
                    kind: Some(v1::expiry::Kind::Never(false)),
                }),
                ..default()
            },
            "expiry",
        ),
        (
            v1::Policy {
                expiry_strategy: Some(0),
                ..default()
            },
            "expiry_strategy",
        ),
        (
            v1::Policy {
                expiry_strategy: Some(9),
                ..default()
            },
            "expiry_strategy",
        ),
        (
            v1::Policy {
                initial_expiry_ms: Some(0),
                ..default()
            },
            "initial_expiry_ms",
        ),
        (
            v1::Policy {
                max_expiry_ms: Some(0),
                ..default()
            },
            "max_expiry_ms",
        ),
        (
            v1::Policy {
                max_expiry_ms: Some(DAYS_30 + 1),
                ..default()
            },
            "max_expiry_ms",
        ),
        (
            v1::Policy {
                initial_expiry_ms: Some(2000),
                max_expiry_ms: Some(1000),
                ..default()
            },
            "initial_expiry_ms",
        ),
        // The maximum comes from elsewhere: what is inherited is ten times 60 s, and the known circuit has 120 s of its own.
        (
            v1::Policy {
                initial_expiry_ms: Some(600_001),
                ..default()
            },
            "initial_expiry_ms",
        ),
        (
            v1::Policy {
                backoff_factor: Some(0.5),
                ..default()
            },
            "backoff_factor",
        ),
        (
            v1::Policy {
                backoff_factor: Some(f64::NAN),
                ..default()
            },
            "backoff_factor",
        ),
        (
            v1::Policy {
                backoff_factor: Some(f64::INFINITY),
                ..default()
            },
            "backoff_factor",
        ),
        (
            v1::Policy {
                backoff_factor: Some(-1.0),
                ..default()
            },
            "backoff_factor",
        ),
        (
            v1::Policy {
                backoff_factor: Some(101.0),
                ..default()
            },
            "backoff_factor",
        ),
        (
            v1::Policy {
                half_open_max_probes: Some(0),
                ..default()
            },
            "half_open_max_probes",
        ),
        (
            v1::Policy {
                half_open_max_probes: Some(1001),
                ..default()
            },
            "half_open_max_probes",
        ),
        (
            v1::Policy {
                half_open_successes: Some(0),
                ..default()
            },
            "half_open_successes",
        ),
        (
            v1::Policy {
                half_open_successes: Some(1_000_001),
                ..default()
            },
            "half_open_successes",
        ),
        (
            v1::Policy {
                probe_timeout_ms: Some(0),
                ..default()
            },
            "probe_timeout_ms",
        ),
        (
            v1::Policy {
                probe_timeout_ms: Some(DAYS_30 + 1),
                ..default()
            },
            "probe_timeout_ms",
        ),
    ];
    for (policy, option) in bad {
        let field = format!("policy.{option}");
        let policy = || Some(policy);
        for if_exists in [
            v1::IfExists::Unspecified,
            v1::IfExists::Keep,
            v1::IfExists::Update,
        ] {
            refused!(cluster.circuits.register(v1::RegisterRequest { name: Some(name("new")), policy: policy(), if_exists: if_exists.into(), ..Default::default() }) => Refused::invalid(&field));
        }
        refused!(cluster.circuits.register(v1::RegisterRequest { name: Some(known.name.clone()), policy: policy(), if_exists: v1::IfExists::Update.into(), ..Default::default() }) => Refused::invalid(&field));
        refused!(cluster.circuits.configure(v1::ConfigureRequest { name: Some(known.name.clone()), policy: policy(), ..Default::default() }) => Refused::invalid(&field));
        refused!(cluster.circuits.configure(v1::ConfigureRequest { policy: policy(), ..Default::default() }) => Refused::invalid(&field));
    }
    // Below what is inherited, above what the circuit has of its own.
    let policy = || {
        Some(v1::Policy {
            initial_expiry_ms: Some(120_001),
            ..default()
        })
    };
    refused!(cluster.circuits.configure(v1::ConfigureRequest { name: Some(known.name.clone()), policy: policy(), ..Default::default() }) => Refused::invalid("policy.initial_expiry_ms"));

    refused!(cluster.circuits.register(v1::RegisterRequest { name: Some(name("new")), if_exists: 9, ..Default::default() }) => Refused::invalid("if_exists"));
    for expiry in [ms(0), ms(DAYS_30 + 1), v1::Expiry { kind: None }] {
        refused!(cluster.circuits.open_circuit(v1::OpenCircuitRequest { name: Some(known.name.clone()), expiry: Some(expiry), reason: None }) => Refused::invalid("expiry"));
    }

    let global = |inactive_threshold_ms, cleanup_interval_ms| {
        Some(v1::GlobalOptions {
            inactive_threshold_ms,
            cleanup_interval_ms,
        })
    };
    refused!(cluster.circuits.configure(v1::ConfigureRequest { name: Some(known.name.clone()), global: global(Some(1000), None), ..Default::default() }) => Refused::invalid("global"));
    refused!(cluster.circuits.configure(v1::ConfigureRequest { global: global(Some(0), None), ..Default::default() }) => Refused::invalid("global.inactive_threshold_ms"));
    refused!(cluster.circuits.configure(v1::ConfigureRequest { global: global(Some(366 * 24 * 3_600_000), None), ..Default::default() }) => Refused::invalid("global.inactive_threshold_ms"));
    refused!(cluster.circuits.configure(v1::ConfigureRequest { global: global(None, Some(9)), ..Default::default() }) => Refused::invalid("global.cleanup_interval_ms"));

    let clear = |option: &str| vec![option.to_owned()];
    refused!(cluster.circuits.configure(v1::ConfigureRequest { name: Some(known.name.clone()), clear: clear("max_attempt"), ..Default::default() }) => Refused::invalid("clear"));
    refused!(cluster.circuits.configure(v1::ConfigureRequest { name: Some(known.name.clone()), clear: clear("cleanup_interval"), ..Default::default() }) => Refused::invalid("clear"));
    let policy = || {
        Some(v1::Policy {
            max_attempts: Some(7),
            ..default()
        })
    };
    refused!(cluster.circuits.configure(v1::ConfigureRequest { name: Some(known.name.clone()), policy: policy(), clear: clear("max_attempts"), ..Default::default() }) => Refused::invalid("clear"));
    known.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_permits_and_sessions_are_checked() {
    let known = Known::new(&[]).await;
    let cluster = &known.cluster;
    use v1::Outcome::{Failure, Success};
    let good = || outcomes(&known.name, &[Failure]);
    let summed = |summary: v1::Summary| {
        let mut item = outcomes(&known.name, &[]);
        item.summary = Some(summary);
        item
    };
    let none = v1::Summary::default;

    refused!(cluster.circuits.report(batch(vec![])) => Refused::invalid("items"));
    refused!(cluster.circuits.report(batch(vec![good(); 1001])) => Refused::invalid("items"));
    refused!(cluster.circuits.report(batch(vec![good(), outcomes(&known.name, &[])])) => Refused::invalid("items[1].summary"));
    let both = v1::ReportItem {
        summary: Some(none()),
        ..good()
    };
    refused!(cluster.circuits.report(batch(vec![both.clone()])) => Refused::invalid("items[0].outcomes"));
    refused!(cluster.circuits.report(batch(vec![outcomes(&known.name, &[Failure; 10_001])])) => Refused::invalid("items[0].outcomes"));
    for number in [0, 9, -1] {
        let mut item = good();
        item.outcomes.push(number);
        refused!(cluster.circuits.report(batch(vec![item.clone()])) => Refused::invalid("items[0].outcomes"));
    }
    let inconsistent = [
        (
            v1::Summary {
                failures: 3,
                ..none()
            },
            "leading_failures",
        ),
        (
            v1::Summary {
                successes: 1,
                leading_successes: 2,
                ..none()
            },
            "leading_successes",
        ),
        (
            v1::Summary {
                longest_failures: 1,
                ..none()
            },
            "longest_failures",
        ),
        (
            // Both begin it.
            v1::Summary {
                failures: 1,
                successes: 1,
                leading_failures: 1,
                leading_successes: 1,
                longest_failures: 1,
                ..none()
            },
            "leading_successes",
        ),
        (
            // The longest run is longer than all of them.
            v1::Summary {
                failures: 2,
                successes: 1,
                leading_successes: 1,
                longest_failures: 3,
                trailing_failures: 2,
                ..none()
            },
            "longest_failures",
        ),
        (
            v1::Summary {
                ignored: 1_000_000_001,
                ..none()
            },
            "ignored",
        ),
        (
            v1::Summary {
                rejected: u64::MAX,
                ..none()
            },
            "rejected",
        ),
    ];
    for (summary, field) in inconsistent {
        let field = format!("items[0].summary.{field}");
        refused!(cluster.circuits.report(batch(vec![summed(summary)])) => Refused::invalid(&field));
    }

    let mut item = good();
    item.permit_id = vec![1, 2, 3];
    refused!(cluster.circuits.report(batch(vec![item.clone()])) => Refused::invalid("items[0].permit_id"));
    let mut item = outcomes(&known.name, &[Success, Success]);
    item.permit_id = vec![7; 16];
    refused!(cluster.circuits.report(batch(vec![item.clone()])) => Refused::invalid("items[0].summary"));
    let name = || Some(known.name.clone());
    refused!(cluster.circuits.acquire(v1::AcquireRequest { name: name(), permit_id: vec![1, 2, 3] }) => Refused::invalid("permit_id"));
    refused!(cluster.circuits.success(v1::SuccessRequest { name: name(), permit_id: vec![0; 17], ..Default::default() }) => Refused::invalid("permit_id"));
    refused!(cluster.circuits.failure(v1::FailureRequest { name: name(), permit_id: vec![0; 15], ..Default::default() }) => Refused::invalid("permit_id"));

    let session = |id: &[u8], sequence| {
        Some(v1::Session {
            id: id.to_vec(),
            sequence,
        })
    };
    let bad_sessions = [
        (session(&[1, 2, 3], 1), Refused::invalid("session.id")),
        (session(&[], 1), Refused::invalid("session.id")),
        (session(&[5; 16], 0), Refused::invalid("session.sequence")),
        // What it did before is forgotten: to count it again would be wrong.
        (
            session(&[5; 16], 2),
            Refused::new(Code::FailedPrecondition, "SESSION_EXPIRED", None),
        ),
    ];
    for (session, expected) in bad_sessions {
        let session = || session.clone();
        refused!(cluster.circuits.report(v1::ReportRequest { session: session(), items: vec![good()] }) => expected);
        refused!(cluster.circuits.success(v1::SuccessRequest { name: name(), session: session(), ..Default::default() }) => expected);
        refused!(cluster.circuits.failure(v1::FailureRequest { name: name(), session: session(), ..Default::default() }) => expected);
    }
    known.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_known_names_and_freshness() {
    let known = Known::new(&[]).await;
    let cluster = &known.cluster;
    let name = || Some(name("nobody"));
    let unknown = Refused::new(Code::NotFound, "CIRCUIT_NOT_FOUND", None);
    refused!(cluster.circuits.configure(v1::ConfigureRequest { name: name(), ..Default::default() }) => unknown);
    refused!(cluster.circuits.get_config(v1::GetConfigRequest { name: name(), ..Default::default() }) => unknown);
    refused!(cluster.circuits.status(v1::StatusRequest { name: name(), ..Default::default() }) => unknown);
    refused!(cluster.circuits.available(v1::AvailableRequest { name: name(), ..Default::default() }) => unknown);
    refused!(cluster.circuits.acquire(v1::AcquireRequest { name: name(), ..Default::default() }) => unknown);
    refused!(cluster.circuits.success(v1::SuccessRequest { name: name(), ..Default::default() }) => unknown);
    refused!(cluster.circuits.failure(v1::FailureRequest { name: name(), ..Default::default() }) => unknown);
    refused!(cluster.circuits.open_circuit(v1::OpenCircuitRequest { name: name(), ..Default::default() }) => unknown);
    refused!(cluster.circuits.close_circuit(v1::CloseCircuitRequest { name: name(), ..Default::default() }) => unknown);
    refused!(cluster.circuits.reset_circuit(v1::ResetCircuitRequest { name: name(), ..Default::default() }) => unknown);
    for i in 0..3 {
        // A name is a pair: neither of these is the circuit that is known.
        for name in [
            common::name("stripe"),
            common::name("payments:stripe"),
            scoped("payments:stripe", "stripe"),
        ] {
            let request = v1::StatusRequest {
                name: Some(name),
                consistency: None,
            };
            let status = cluster.circuits(i).status(request).await.unwrap_err();
            assert_eq!(Refused::of(&status), unknown);
        }
        // These two answer instead of failing.
        let request = v1::UnregisterRequest {
            name: name(),
            reason: None,
        };
        let answer = cluster
            .circuits(i)
            .unregister(request)
            .await
            .unwrap()
            .into_inner();
        assert!(!answer.existed);
        let request = batch(vec![outcomes(&common::name("nobody"), &[v1::Outcome::Failure])]);
        let answer = cluster.circuits(i).report(request).await.unwrap().into_inner();
        assert_eq!(answer.items[0].result(), v1::ItemResult::NotFound);

        // Registering again is refused with what is there.
        let request = v1::RegisterRequest {
            name: Some(known.name.clone()),
            ..Default::default()
        };
        let status = cluster.circuits(i).register(request).await.unwrap_err();
        assert_eq!(
            Refused::of(&status),
            Refused::new(Code::AlreadyExists, "ALREADY_REGISTERED", None)
        );
        let details = tonic_types::pb::Status::decode(status.details()).unwrap().details;
        let circuit = details
            .iter()
            .find(|detail| detail.type_url == "type.googleapis.com/brama.v1.Circuit")
            .map(|detail| v1::Circuit::decode(&*detail.value).unwrap());
        assert_eq!(circuit.as_ref(), Some(&known.before), "node {}", i + 1);
    }

    use v1::consistency::Level;
    for (level, field) in [
        (Level::Local(false), "consistency.local"),
        (Level::Linearizable(false), "consistency.linearizable"),
    ] {
        let consistency = || Some(v1::Consistency { level: Some(level) });
        let name = || Some(known.name.clone());
        refused!(cluster.circuits.status(v1::StatusRequest { name: name(), consistency: consistency() }) => Refused::invalid(field));
        refused!(cluster.circuits.available(v1::AvailableRequest { name: name(), consistency: consistency() }) => Refused::invalid(field));
        refused!(cluster.circuits.list(v1::ListRequest { consistency: consistency(), ..Default::default() }) => Refused::invalid(field));
        refused!(cluster.circuits.get_config(v1::GetConfigRequest { name: name(), consistency: consistency() }) => Refused::invalid(field));
    }
    refused!(cluster.circuits.list(v1::ListRequest { page_size: 1001, ..Default::default() }) => Refused::invalid("page_size"));
    refused!(cluster.circuits.list(v1::ListRequest { states: vec![0], ..Default::default() }) => Refused::invalid("states"));
    refused!(cluster.circuits.list(v1::ListRequest { states: vec![1, 9], ..Default::default() }) => Refused::invalid("states"));
    for token in ["garbage!", "AAAA", "Ęę", "eyJhIjoxfQ"] {
        refused!(cluster.circuits.list(v1::ListRequest { page_token: token.to_owned(), ..Default::default() }) => Refused::invalid("page_token"));
    }
    // A revision that nobody has reached yet: the caller is told before its deadline passes.
    let mut request = tonic::Request::new(v1::StatusRequest {
        name: Some(known.name.clone()),
        consistency: Some(at_least(known.revision + 1000)),
    });
    request.set_timeout(std::time::Duration::from_millis(500));
    let status = cluster.circuits(1).status(request).await.unwrap_err();
    assert_eq!(
        Refused::of(&status),
        Refused::new(Code::Unavailable, "NOT_CAUGHT_UP", None)
    );
    // And the good one beside all these.
    let request = v1::StatusRequest {
        name: Some(known.name.clone()),
        consistency: Some(local()),
    };
    assert_eq!(
        cluster
            .circuits(1)
            .status(request)
            .await
            .unwrap()
            .into_inner()
            .circuit,
        Some(known.before.clone())
    );
    known.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_are_checked_before_they_begin() {
    let known = Known::new(&[]).await;
    let cluster = &known.cluster;
    use v1::subscribe_request::From;
    let default = v1::SubscribeRequest::default;
    refused!(cluster.events.subscribe(v1::SubscribeRequest { from: Some(From::Oldest(false)), ..default() }) => Refused::invalid("oldest"));

    let foreign = cursor::encode(ClusterId(1), 0);
    let mut broken = cursor::encode(known.cluster.node(0).replica().cluster_id().unwrap(), 1);
    broken.replace_range(40..41, if &broken[40..41] == "0" { "1" } else { "0" });
    for text in [
        "",
        "1",
        "c1",
        &"c1".repeat(33),
        &format!("c1{}", "é".repeat(32)),
        &broken,
    ] {
        let from = || Some(From::After(text.to_owned()));
        refused!(cluster.events.subscribe(v1::SubscribeRequest { from: from(), ..default() }) => Refused::invalid("after"));
    }
    let from = || Some(From::After(foreign.clone()));
    refused!(cluster.events.subscribe(v1::SubscribeRequest { from: from(), ..default() }) => Refused::new(Code::InvalidArgument, "CURSOR_FOREIGN", Some("after")));

    for event in ["", "opened", "CIRCUIT_OPENED", "circuit_opened "] {
        let events = || vec!["circuit_closed".to_owned(), event.to_owned()];
        refused!(cluster.events.subscribe(v1::SubscribeRequest { events: events(), ..default() }) => Refused::invalid("events"));
    }
    let long_list = (0..400).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let filters = [
        "event.type ==".to_owned(),
        "event.type = 'a'".to_owned(),
        "event".to_owned(),
        "'text'".to_owned(),
        "1 + 1".to_owned(),
        "evnt.type == 'a'".to_owned(),
        "event.typ == 'a'".to_owned(),
        "frobnicate(event.type)".to_owned(),
        "event.failure_count == 'five'".to_owned() + &" && true".repeat(200),
        // Would run too long: nested loops, a long one, a pattern without end.
        "[1,2,3].all(x, [1,2,3].all(y, [1,2,3].all(z, x + y + z > 0)))".to_owned(),
        format!("[{long_list}].all(x, x * x * x * x > x + x + x + x)"),
        format!("event.identifier.matches('{}')", "(a*)*".repeat(50)),
        "(".repeat(1000) + "true" + &")".repeat(1000),
        "!".repeat(1000) + "true",
        format!("event.identifier == '{}'", "a".repeat(2000)),
    ];
    for filter in &filters {
        refused!(cluster.events.subscribe(v1::SubscribeRequest { filter: filter.clone(), ..default() }) => Refused::invalid("filter"));
    }
    // None of them holds a subscriber's place.
    for i in 0..3 {
        let status = cluster
            .cluster(i)
            .status(v1::ClusterStatusRequest {})
            .await
            .unwrap();
        assert_eq!(status.into_inner().subscribers, 0, "node {}", i + 1);
    }
    known.unchanged().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_say_so() {
    let known = Known::new(&[("limits.max_circuits", "2"), ("limits.max_sessions", "2")]).await;
    let cluster = &known.cluster;
    let exhausted = |reason| Refused::new(Code::ResourceExhausted, reason, None);

    // 2 MiB, in whatever field, is too much before anything else is looked at.
    let mib2 = "x".repeat(2 << 20);
    let large = exhausted("REQUEST_TOO_LARGE");
    refused!(cluster.circuits.status(v1::StatusRequest { name: Some(name(&mib2)), ..Default::default() }) => large);
    refused!(cluster.circuits.failure(v1::FailureRequest { name: Some(known.name.clone()), reason: Some(mib2.clone()), ..Default::default() }) => large);
    refused!(cluster.circuits.list(v1::ListRequest { page_token: mib2.clone(), ..Default::default() }) => large);
    refused!(cluster.events.subscribe(v1::SubscribeRequest { filter: mib2.clone(), ..Default::default() }) => large);
    refused!(cluster.cluster.add_learner(v1::AddLearnerRequest { node_id: 9, peer_address: mib2.clone(), ..Default::default() }) => large);
    let mut item = outcomes(&known.name, &[v1::Outcome::Failure]);
    item.reason = Some("r".repeat(1024));
    let items = || vec![item.clone(); 1000];
    assert!(
        batch(items()).encoded_len() > 1 << 20,
        "allowed each, too much together"
    );
    refused!(cluster.circuits.report(batch(items())) => large);
    // What is not even read ends just as well.
    for i in 0..3 {
        let request = v1::StatusRequest {
            name: Some(name(&"x".repeat(20 << 20))),
            ..Default::default()
        };
        let status = cluster.circuits(i).status(request).await.unwrap_err();
        assert!(
            matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted),
            "{status:?}"
        );
    }

    // One more circuit and two sessions fit; they change the revision, so the comparison begins anew.
    cluster.register(1, &name("second"), v1::Policy::default()).await;
    let session = |id: u8| {
        Some(v1::Session {
            id: vec![id; 16],
            sequence: 1,
        })
    };
    let success = |id: u8| v1::SuccessRequest {
        name: Some(name("second")),
        session: session(id),
        ..Default::default()
    };
    cluster.circuits(0).success(success(1)).await.unwrap();
    cluster.circuits(2).success(success(2)).await.unwrap();
    let known = Known {
        revision: known.cluster.revision(0).await,
        ..known
    };
    let cluster = &known.cluster;
    refused!(cluster.circuits.register(v1::RegisterRequest { name: Some(name("third")), ..Default::default() }) => exhausted("TOO_MANY_CIRCUITS"));
    refused!(cluster.circuits.success(success(3)) => exhausted("TOO_MANY_SESSIONS"));
    known.unchanged().await;
}

fn outcomes(name: &v1::CircuitName, outcomes: &[v1::Outcome]) -> v1::ReportItem {
    v1::ReportItem {
        name: Some(name.clone()),
        outcomes: outcomes.iter().map(|outcome| (*outcome).into()).collect(),
        ..Default::default()
    }
}

fn batch(items: Vec<v1::ReportItem>) -> v1::ReportRequest {
    v1::ReportRequest { session: None, items }
}
