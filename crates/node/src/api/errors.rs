//! Errors as clients see them: a gRPC code, and a `google.rpc.ErrorInfo` of domain `brama` that programs can match.
//!
//! All of it travels in HTTP/2 headers, of which many clients take 8 KiB and no more; an error beyond that reaches them as a broken
//! stream. So texts are cut, and a circuit that is attached goes without metadata that are large.

use std::collections::HashMap;
use std::time::Duration;

use prost::Message as _;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use brama_core::Refusal;
use brama_core::cursor::CursorError;
use brama_proto::v1;
use brama_raft::{AdminError, ProposeError, ReadError};

const DOMAIN: &str = "brama";
/// Every reason that an error can have.
pub(crate) const REASONS: [&str; 19] = [
    "ALREADY_REGISTERED",
    "CIRCUIT_NOT_FOUND",
    "CURSOR_FOREIGN",
    "EVENTS_COMPACTED",
    "INVALID_ARGUMENT",
    "NOT_CAUGHT_UP",
    "NO_LEADER",
    "NO_ROOM",
    "OUTCOME_UNKNOWN",
    "OVERLOADED",
    "REFUSED",
    "REQUEST_TOO_LARGE",
    "RESUME_ELSEWHERE",
    "SESSION_EXPIRED",
    "STALE_SEQUENCE",
    "STOPPING",
    "TOO_MANY_CIRCUITS",
    "TOO_MANY_SESSIONS",
    "TOO_MANY_SUBSCRIBERS",
];
/// Bytes of a message; each may become three on the way, and a field's problem is told twice.
const MAX_TEXT_BYTES: usize = 768;
/// Bytes of a circuit that is attached; its texts without metadata have less.
const MAX_CIRCUIT_BYTES: usize = 3 * 1024;
/// When to try again after a refusal that will pass.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// An error with its reason, and nothing else.
pub(crate) fn plain(code: Code, reason: &str, message: impl Into<String>) -> Status {
    with_metadata(code, reason, message, HashMap::new())
}

/// An error with its reason and facts that a program may want.
pub(crate) fn with_metadata(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    metadata: HashMap<String, String>,
) -> Status {
    Status::with_error_details(code, cut(message), info(reason, metadata))
}

fn info(reason: &str, metadata: impl Into<HashMap<String, String>>) -> ErrorDetails {
    debug_assert!(
        REASONS.contains(&reason),
        "{reason} is in the list, so that it is counted"
    );
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// A field that has to be mended.
pub(crate) fn invalid(field: &str, problem: &str) -> Status {
    violation("INVALID_ARGUMENT", field, problem)
}

fn violation(reason: &str, field: &str, problem: &str) -> Status {
    let problem = cut(problem);
    let metadata = [("field".to_owned(), field.to_owned())];
    let mut details = info(reason, metadata);
    details.add_bad_request_violation(field, &problem);
    Status::with_error_details(Code::InvalidArgument, format!("{field} {problem}"), details)
}

/// A text that is short enough to travel; it may repeat what a caller sent.
fn cut(text: impl Into<String>) -> String {
    let mut text = text.into();
    if text.len() > MAX_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        text.push_str(" ..");
    }
    text
}

fn passing(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let mut details = info(reason, HashMap::new());
    details.set_retry_info(Some(RETRY_DELAY));
    Status::with_error_details(code, cut(message), details)
}

/// What the state machine, or the check before it, refused.
pub(crate) fn refusal(refusal: Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::InvalidArgument { field, problem } => invalid(&field, &problem),
        Refusal::CircuitNotFound { .. } => plain(Code::NotFound, "CIRCUIT_NOT_FOUND", message),
        Refusal::AlreadyRegistered { circuit } => already_registered((&*circuit).into(), cut(message)),
        Refusal::TooManyCircuits { limit } => limit_reached("TOO_MANY_CIRCUITS", limit, message),
        Refusal::TooManySessions { limit } => limit_reached("TOO_MANY_SESSIONS", limit, message),
        Refusal::SessionExpired { .. } => plain(Code::FailedPrecondition, "SESSION_EXPIRED", message),
        Refusal::StaleSequence { newest, .. } => {
            let metadata = [("newest_sequence".to_owned(), newest.to_string())].into();
            with_metadata(Code::FailedPrecondition, "STALE_SEQUENCE", message, metadata)
        }
        _ => plain(Code::FailedPrecondition, "REFUSED", message),
    }
}

/// A limit of the cluster or of this node.
pub(crate) fn limit_reached(reason: &str, limit: u64, message: impl Into<String>) -> Status {
    with_metadata(
        Code::ResourceExhausted,
        reason,
        message,
        [("limit".to_owned(), limit.to_string())].into(),
    )
}

/// The existing circuit travels as a detail of its own, beside the reason.
fn already_registered(mut circuit: v1::Circuit, message: String) -> Status {
    if circuit.encoded_len() > MAX_CIRCUIT_BYTES {
        circuit.metadata.clear();
    }
    let info = tonic_types::pb::ErrorInfo {
        reason: "ALREADY_REGISTERED".into(),
        domain: DOMAIN.into(),
        metadata: HashMap::new(),
    };
    let detail = |name: &str, value: Vec<u8>| prost_types::Any {
        type_url: format!("type.googleapis.com/{name}"),
        value,
    };
    let status = tonic_types::pb::Status {
        code: Code::AlreadyExists.into(),
        message: message.clone(),
        details: vec![
            detail("google.rpc.ErrorInfo", info.encode_to_vec()),
            detail("brama.v1.Circuit", circuit.encode_to_vec()),
        ],
    };
    Status::with_details(Code::AlreadyExists, message, status.encode_to_vec().into())
}

/// A command that has no answer.
pub(crate) fn propose(error: ProposeError) -> Status {
    let message = error.to_string();
    match error {
        ProposeError::NoLeader => passing(Code::Unavailable, "NO_LEADER", message),
        ProposeError::NoRoom => passing(Code::Unavailable, "NO_ROOM", message),
        ProposeError::Overloaded => passing(Code::ResourceExhausted, "OVERLOADED", message),
        ProposeError::Refused(refused) => refusal(refused),
        ProposeError::Stopping => passing(Code::Unavailable, "STOPPING", message),
        _ => plain(Code::DeadlineExceeded, "OUTCOME_UNKNOWN", message),
    }
}

/// A read that has no answer.
pub(crate) fn read(error: ReadError) -> Status {
    let message = error.to_string();
    match error {
        ReadError::NoLeader => passing(Code::Unavailable, "NO_LEADER", message),
        ReadError::NoRoom => passing(Code::Unavailable, "NO_ROOM", message),
        ReadError::Stopping => passing(Code::Unavailable, "STOPPING", message),
        _ => passing(Code::Unavailable, "NOT_CAUGHT_UP", message),
    }
}

/// A change of the membership that was not done.
pub(crate) fn admin(error: AdminError) -> Status {
    let message = error.to_string();
    match error {
        AdminError::NoLeader => passing(Code::Unavailable, "NO_LEADER", message),
        AdminError::Refused(_) => plain(Code::FailedPrecondition, "REFUSED", message),
        _ => plain(Code::DeadlineExceeded, "OUTCOME_UNKNOWN", message),
    }
}

/// A cursor that is none, or that of another cluster.
pub(crate) fn cursor(field: &str, error: CursorError) -> Status {
    match error {
        CursorError::Foreign => violation("CURSOR_FOREIGN", field, &error.to_string()),
        _ => invalid(field, &error.to_string()),
    }
}

/// The events that were asked for are gone.
pub(crate) fn compacted(oldest_cursor: String, oldest: u64) -> Status {
    let message = format!(
        "events before revision {oldest} are no longer kept: begin with the oldest cursor, or with a new Watch"
    );
    let metadata = [
        ("oldest_cursor".to_owned(), oldest_cursor),
        ("oldest_revision".to_owned(), oldest.to_string()),
    ]
    .into();
    with_metadata(Code::OutOfRange, "EVENTS_COMPACTED", message, metadata)
}

/// A stream that this node ends because it stops.
pub(crate) fn resume_elsewhere() -> Status {
    passing(
        Code::Unavailable,
        "RESUME_ELSEWHERE",
        "this node is stopping: go on at another with the last cursor",
    )
}
