//! Messages that become core types, and core types that become messages again.

use brama_core::command::{Command, IfExists, PermitId};
use brama_core::policy::{GlobalOptions, PolicyOption};
use brama_core::report::Outcome;
use brama_core::{CircuitName, ClusterTime, Summary};

use super::{entries, full_policy, item, named, never};
use crate::convert::*;
use crate::v1;

#[test]
fn names_come_back() {
    for message in [
        named(None, "api"),
        named(Some("a"), "b:c"),
        named(Some("a:b"), "c"),
        named(Some("ä"), "🦀"),
    ] {
        let name = circuit_name(message.as_ref()).unwrap();
        assert_eq!(Some(v1::CircuitName::from(&name)), message);
    }
}

#[test]
fn policies_come_back() {
    let with = |change: fn(&mut v1::Policy)| {
        let mut policy = full_policy();
        change(&mut policy);
        policy
    };
    for message in [
        full_policy(),
        v1::Policy::default(),
        with(|policy| policy.expiry = never(true)),
        with(|policy| policy.expiry_strategy = Some(v1::ExpiryStrategy::Fixed.into())),
    ] {
        let policy = policy(Some(message)).unwrap();
        assert_eq!(v1::Policy::from(&policy), message);
    }
    assert!(policy(None).unwrap().is_empty());
}

#[test]
fn times_come_back() {
    for micros in [0, 1, 999_999, 1_000_000, 1_700_000_000_123_456] {
        let time = ClusterTime::from_micros(micros);
        let message = timestamp(time);
        assert_eq!(cluster_time(&message), time);
        assert!((0..1_000_000_000).contains(&message.nanos));
    }
    assert_eq!(timestamp(ClusterTime::from_micros(1_000_002)).nanos, 2000);
    let before = prost_types::Timestamp {
        seconds: -5,
        nanos: 0,
    };
    assert_eq!(cluster_time(&before), ClusterTime::ZERO);
    timestamp(ClusterTime::from_micros(u64::MAX));
}

#[test]
fn reports_come_back() {
    let request = v1::ReportRequest {
        session: Some(v1::Session {
            id: (0..16).collect(),
            sequence: 9,
        }),
        items: vec![item()],
    };
    let Ok(Command::Report(batch)) = report(request) else {
        panic!("a report");
    };
    let stamp = batch.session.unwrap();
    assert_eq!(
        (stamp.id, stamp.sequence),
        (0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f, 9)
    );
    let [item] = batch.items.as_slice() else {
        panic!("one item");
    };
    assert_eq!(item.name, CircuitName::new(Some("team"), "api").unwrap());
    assert_eq!(item.generation, Some(3));
    assert_eq!(item.permit, Some(PermitId(u128::from_be_bytes([1; 16]))));
    assert_eq!(item.summary, Summary::of(Outcome::Failure));
    assert_eq!(item.reason.as_deref(), Some("refused"));
    assert_eq!(
        metadata_message(&item.metadata),
        [("host".to_owned(), "a".to_owned())].into()
    );
}

#[test]
fn listed_outcomes_are_summed_up_in_order() {
    use v1::Outcome::{Failure, Ignored, Success};
    let outcomes = [Failure, Success, Failure, Ignored, Failure];
    let listed = v1::ReportItem {
        summary: None,
        outcomes: outcomes.map(Into::into).into(),
        permit_id: Vec::new(),
        ..item()
    };
    let request = v1::ReportRequest {
        session: None,
        items: vec![listed],
    };
    let Ok(Command::Report(batch)) = report(request) else {
        panic!("a report");
    };
    let expected = Summary {
        failures: 3,
        successes: 1,
        leading_failures: 1,
        longest_failures: 2,
        trailing_failures: 2,
        leading_successes: 0,
        ignored: 1,
        rejected: 0,
    };
    assert_eq!(batch.items[0].summary, expected);
    assert_eq!(summary_of(&(&expected).into()), expected);
}

#[test]
fn single_outcomes_are_reports_of_one() {
    let ok = v1::SuccessRequest {
        name: named(None, "api"),
        generation: Some(2),
        permit_id: vec![7; 16],
        metadata: entries(1),
        session: None,
    };
    let Ok(Command::Report(batch)) = success(ok) else {
        panic!("a report");
    };
    assert_eq!(batch.items[0].summary, Summary::of(Outcome::Success));
    assert_eq!(batch.items[0].generation, Some(2));
    assert_eq!(
        batch.items[0].permit,
        Some(PermitId(u128::from_be_bytes([7; 16])))
    );
    let bad = v1::FailureRequest {
        name: named(None, "api"),
        reason: Some("timeout".into()),
        session: Some(v1::Session {
            id: vec![0; 16],
            sequence: 1,
        }),
        ..Default::default()
    };
    let Ok(Command::Report(batch)) = failure(bad) else {
        panic!("a report");
    };
    assert_eq!(batch.items[0].summary, Summary::of(Outcome::Failure));
    assert_eq!(batch.items[0].reason.as_deref(), Some("timeout"));
    assert_eq!(batch.session.map(|stamp| stamp.sequence), Some(1));
}

#[test]
fn registrations_and_configurations_arrive_whole() {
    for (message, expected) in [
        (v1::IfExists::Unspecified, IfExists::Refuse),
        (v1::IfExists::Keep, IfExists::Keep),
        (v1::IfExists::Update, IfExists::Update),
    ] {
        let request = v1::RegisterRequest {
            name: named(Some("s"), "i"),
            policy: Some(full_policy()),
            metadata: entries(2),
            if_exists: message.into(),
        };
        let Ok(Command::Register(register)) = register(request) else {
            panic!("a registration");
        };
        assert_eq!(register.if_exists, expected);
        assert_eq!(v1::Policy::from(&register.policy), full_policy());
        assert_eq!(metadata_message(&register.metadata), entries(2));
    }
    let request = v1::ConfigureRequest {
        name: None,
        policy: Some(full_policy()),
        clear: PolicyOption::ALL.map(|option| option.name().to_owned()).into(),
        global: Some(v1::GlobalOptions {
            inactive_threshold_ms: Some(5),
            cleanup_interval_ms: Some(10),
        }),
    };
    let Ok(Command::Configure(all)) = configure(request) else {
        panic!("a configuration");
    };
    assert_eq!(all.name, None);
    assert_eq!(all.clear, PolicyOption::ALL);
    let options = GlobalOptions {
        inactive_threshold_ms: Some(5),
        cleanup_interval_ms: Some(10),
    };
    assert_eq!(all.global, options);
    assert_eq!(v1::GlobalOptions::from(options).cleanup_interval_ms, Some(10));
}
