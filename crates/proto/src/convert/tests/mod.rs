//! That nothing is lost on the way, and that nothing bad gets through.

mod refused;
mod shown;
mod there_and_back;

use std::collections::BTreeMap;

use brama_core::report::Outcome;
use brama_core::{Refusal, Summary};

use crate::v1;

fn named(scope: Option<&str>, identifier: &str) -> Option<v1::CircuitName> {
    Some(v1::CircuitName {
        scope: scope.map(str::to_owned),
        identifier: identifier.to_owned(),
    })
}

fn ms(ms: u64) -> Option<v1::Expiry> {
    Some(v1::Expiry {
        kind: Some(v1::expiry::Kind::Ms(ms)),
    })
}

fn never(never: bool) -> Option<v1::Expiry> {
    Some(v1::Expiry {
        kind: Some(v1::expiry::Kind::Never(never)),
    })
}

/// Every option set, each to another value.
fn full_policy() -> v1::Policy {
    v1::Policy {
        max_attempts: Some(7),
        expiry: ms(1000),
        expiry_strategy: Some(v1::ExpiryStrategy::Progressive.into()),
        initial_expiry_ms: Some(200),
        max_expiry_ms: Some(3000),
        backoff_factor: Some(1.5),
        half_open_max_probes: Some(4),
        half_open_successes: Some(5),
        probe_timeout_ms: Some(600),
    }
}

fn item() -> v1::ReportItem {
    v1::ReportItem {
        name: named(Some("team"), "api"),
        generation: Some(3),
        summary: Some((&Summary::of(Outcome::Failure)).into()),
        outcomes: Vec::new(),
        permit_id: vec![1; 16],
        reason: Some("refused".into()),
        metadata: [("host".to_owned(), "a".to_owned())].into(),
    }
}

fn entries(n: usize) -> BTreeMap<String, String> {
    (0..n).map(|i| (format!("key{i}"), String::new())).collect()
}

/// The field that a refusal names.
fn field<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
    match result {
        Err(Refusal::InvalidArgument { field, problem }) => {
            assert!(!problem.is_empty());
            field
        }
        other => panic!("expected an invalid argument, got {other:?}"),
    }
}
