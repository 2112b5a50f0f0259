//! Messages that are refused, each with the field at fault.

use std::collections::BTreeMap;

use brama_core::Refusal;

use super::{entries, field, full_policy, item, ms, named, never};
use crate::convert::*;
use crate::v1;

#[test]
fn bad_names_are_refused() {
    assert_eq!(field(circuit_name(None)), "name");
    let long = "x".repeat(256);
    for bad in ["", long.as_str(), "a\nb", "\u{7f}", "\u{0}", "\u{85}"] {
        assert_eq!(
            field(circuit_name(named(None, bad).as_ref())),
            "name.identifier",
            "{bad:?}"
        );
        assert_eq!(
            field(circuit_name(named(Some(bad), "i").as_ref())),
            "name.scope",
            "{bad:?}"
        );
    }
    // 255 bytes are allowed, not 255 characters.
    assert!(circuit_name(named(None, &"x".repeat(255)).as_ref()).is_ok());
    assert_eq!(
        field(circuit_name(named(None, &"ä".repeat(128)).as_ref())),
        "name.identifier"
    );
}

#[test]
fn bad_policies_are_refused() {
    type Change = fn(&mut v1::Policy);
    let cases: [(Change, &str); 21] = [
        (|p| p.max_attempts = Some(0), "policy.max_attempts"),
        (|p| p.expiry = ms(0), "policy.expiry"),
        (|p| p.expiry = ms(30 * 24 * 3600 * 1000 + 1), "policy.expiry"),
        (|p| p.expiry = never(false), "policy.expiry"),
        (|p| p.expiry = Some(v1::Expiry { kind: None }), "policy.expiry"),
        (|p| p.expiry_strategy = Some(0), "policy.expiry_strategy"),
        (|p| p.expiry_strategy = Some(17), "policy.expiry_strategy"),
        (|p| p.initial_expiry_ms = Some(0), "policy.initial_expiry_ms"),
        (|p| p.initial_expiry_ms = Some(3001), "policy.initial_expiry_ms"),
        (|p| p.max_expiry_ms = Some(0), "policy.max_expiry_ms"),
        (|p| p.max_expiry_ms = Some(u64::MAX), "policy.max_expiry_ms"),
        (|p| p.backoff_factor = Some(0.5), "policy.backoff_factor"),
        (|p| p.backoff_factor = Some(100.5), "policy.backoff_factor"),
        (|p| p.backoff_factor = Some(f64::NAN), "policy.backoff_factor"),
        (
            |p| p.backoff_factor = Some(f64::INFINITY),
            "policy.backoff_factor",
        ),
        (|p| p.backoff_factor = Some(-2.0), "policy.backoff_factor"),
        (
            |p| p.half_open_max_probes = Some(0),
            "policy.half_open_max_probes",
        ),
        (
            |p| p.half_open_max_probes = Some(1001),
            "policy.half_open_max_probes",
        ),
        (|p| p.half_open_successes = Some(0), "policy.half_open_successes"),
        (|p| p.probe_timeout_ms = Some(0), "policy.probe_timeout_ms"),
        (|p| p.probe_timeout_ms = Some(u64::MAX), "policy.probe_timeout_ms"),
    ];
    for (change, expected) in cases {
        let mut message = full_policy();
        change(&mut message);
        assert_eq!(field(policy(Some(message))), expected, "{message:?}");
        let request = v1::RegisterRequest {
            name: named(None, "i"),
            policy: Some(message),
            ..Default::default()
        };
        assert_eq!(field(register(request)), expected, "{message:?}");
        let request = v1::ConfigureRequest {
            policy: Some(message),
            ..Default::default()
        };
        assert_eq!(field(configure(request)), expected);
    }
}

#[test]
fn bad_registrations_and_configurations_are_refused() {
    let request = |if_exists, metadata| v1::RegisterRequest {
        name: named(None, "i"),
        if_exists,
        metadata,
        ..Default::default()
    };
    assert_eq!(field(register(request(9, entries(0)))), "if_exists");
    assert_eq!(field(register(request(-1, entries(0)))), "if_exists");
    assert!(register(request(0, entries(32))).is_ok());
    let pair = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    assert!(register(request(0, pair(&"k".repeat(64), &"v".repeat(1024)))).is_ok());
    for metadata in [
        entries(33),
        pair("", "v"),
        pair(&"k".repeat(65), "v"),
        pair("k", &"v".repeat(1025)),
    ] {
        assert_eq!(field(register(request(0, metadata))), "metadata");
    }

    let clear = |option: &str| v1::ConfigureRequest {
        clear: vec![option.to_owned()],
        ..Default::default()
    };
    for bad in ["", "max_attempt", "MAX_ATTEMPTS", "expiry.ms"] {
        assert_eq!(field(configure(clear(bad))), "clear", "{bad:?}");
    }
    for (inactive, cleanup, expected) in [
        (Some(0), None, "global.inactive_threshold_ms"),
        (Some(u64::MAX), None, "global.inactive_threshold_ms"),
        (None, Some(9), "global.cleanup_interval_ms"),
        (None, Some(u64::MAX), "global.cleanup_interval_ms"),
    ] {
        let request = v1::ConfigureRequest {
            global: Some(v1::GlobalOptions {
                inactive_threshold_ms: inactive,
                cleanup_interval_ms: cleanup,
            }),
            ..Default::default()
        };
        assert_eq!(field(configure(request)), expected);
    }
}

#[test]
fn bad_reports_are_refused_and_the_item_is_named() {
    type Change = fn(&mut v1::ReportItem);
    let cases: [(Change, &str); 16] = [
        (|item| item.name = None, "name"),
        (|item| item.name = named(None, ""), "name.identifier"),
        (|item| item.name = named(Some(""), "i"), "name.scope"),
        (|item| item.summary = None, "summary"),
        (|item| item.outcomes = vec![1], "outcomes"),
        (|item| (item.summary, item.outcomes) = (None, vec![0]), "outcomes"),
        (|item| (item.summary, item.outcomes) = (None, vec![4]), "outcomes"),
        (
            |item| (item.summary, item.outcomes) = (None, vec![1; 10_001]),
            "outcomes",
        ),
        (
            |item| (item.summary, item.outcomes) = (None, vec![1, 1]),
            "summary",
        ),
        (|item| item.summary = Some(v1::Summary::default()), "summary"),
        (
            |item| {
                item.summary = Some(v1::Summary {
                    failures: 1,
                    ..Default::default()
                });
            },
            "summary.leading_failures",
        ),
        (
            |item| {
                item.summary = Some(v1::Summary {
                    rejected: u64::MAX,
                    ..Default::default()
                });
            },
            "summary.rejected",
        ),
        (|item| item.permit_id = vec![1; 15], "permit_id"),
        (|item| item.permit_id = vec![1; 17], "permit_id"),
        (|item| item.reason = Some("r".repeat(1025)), "reason"),
        (|item| item.metadata = entries(33), "metadata"),
    ];
    for (change, expected) in cases {
        let mut bad = item();
        change(&mut bad);
        let request = v1::ReportRequest {
            session: None,
            items: vec![item(), item(), bad.clone()],
        };
        assert_eq!(field(report(request)), format!("items[2].{expected}"), "{bad:?}");
    }
    for n in [0, 1001] {
        let request = v1::ReportRequest {
            session: None,
            items: vec![item(); n],
        };
        assert_eq!(field(report(request)), "items");
    }
    for (id, sequence, expected) in [
        (0, 1, "session.id"),
        (15, 1, "session.id"),
        (17, 1, "session.id"),
        (16, 0, "session.sequence"),
    ] {
        let request = v1::ReportRequest {
            session: Some(v1::Session {
                id: vec![1; id],
                sequence,
            }),
            items: vec![item()],
        };
        assert_eq!(field(report(request)), expected);
    }
}

#[test]
fn bad_single_outcomes_and_reasons_are_refused() {
    let request = v1::SuccessRequest {
        name: named(None, "i"),
        permit_id: vec![1],
        ..Default::default()
    };
    assert_eq!(field(success(request)), "permit_id");
    let request = v1::FailureRequest {
        name: named(None, "i"),
        reason: Some("r".repeat(1025)),
        ..Default::default()
    };
    assert_eq!(field(failure(request)), "reason");
    assert_eq!(field(reason(Some("ä".repeat(513)))), "reason");
    assert!(reason(Some("r".repeat(1024))).is_ok());
    for bad in [0, 4, -1] {
        assert_eq!(field(states(&[bad])), "states");
    }
    let nested = within("outer")(Refusal::invalid("inner", "is bad"));
    assert_eq!(field::<()>(Err(nested)), "outer.inner");
}
