//! From a node's error to what a person reads, what a person can do, and the code that a script sees.

use tonic::Status;
use tonic_types::StatusExt;

use super::remote::{Miss, Repeat};
use crate::exit::{Code, Failure};

/// Reasons with which a node says that nothing was done.
const NOT_DONE: [&str; 5] = [
    "NO_LEADER",
    "NO_ROOM",
    "STOPPING",
    "OVERLOADED",
    "RESUME_ELSEWHERE",
];

/// Whether the node says that nothing was done.
pub(super) fn not_done(status: &Status) -> bool {
    reason(status).is_some_and(|reason| NOT_DONE.contains(&reason.as_str()))
}

/// Whether a stream that ended so can be resumed elsewhere.
pub(super) fn resumable(status: &Status) -> bool {
    use tonic::Code::{Cancelled, DeadlineExceeded, Unavailable, Unknown};
    matches!(
        status.code(),
        Unavailable | Unknown | Cancelled | DeadlineExceeded
    )
}

/// The failure that a status means for a command.
pub(super) fn explain(status: &Status, repeat: Repeat) -> Failure {
    let reason = reason(status).unwrap_or_default();
    let message = status.message();
    let unknown = |message: String| {
        Failure::new(Code::Unknown, format!("the outcome is unknown: {message}"))
            .advise("it may have been done, or may still be; look with `brama status` before you do it again")
    };
    match (status.code(), reason.as_str()) {
        (tonic::Code::NotFound, _) => Failure::new(Code::NotFound, message).advise(
            "`brama list` shows what there is; `brama register NAME` makes it; a scope is given with --scope",
        ),
        (tonic::Code::AlreadyExists, _) => Failure::new(Code::AlreadyExists, message).advise(
            "--if-exists keep leaves it as it is, --if-exists update gives it this policy and metadata",
        ),
        (tonic::Code::InvalidArgument, "CURSOR_FOREIGN") => Failure::new(Code::Usage, message)
            .advise("a cursor is good on every node of the cluster that gave it, and on no other cluster"),
        (tonic::Code::InvalidArgument, _) => Failure::new(Code::Usage, with_fields(status)),
        (tonic::Code::OutOfRange, _) => compacted(status),
        (tonic::Code::FailedPrecondition, _) => Failure::new(Code::General, message),
        (_, "OUTCOME_UNKNOWN") if repeat == Repeat::IfNotDone => unknown(message.to_owned()),
        _ if not_done(status) => Failure::new(Code::Unavailable, message)
            .advise("`brama cluster status` shows which nodes are there and who leads; a majority is needed"),
        (
            tonic::Code::Unavailable
            | tonic::Code::Unknown
            | tonic::Code::Cancelled
            | tonic::Code::DeadlineExceeded,
            _,
        ) => {
            let message = if message.is_empty() {
                "the connection was lost"
            } else {
                message
            };
            if repeat == Repeat::IfNotDone {
                unknown(message.to_owned())
            } else {
                Failure::new(Code::Unavailable, format!("no node answered in time: {message}"))
                    .advise("`brama cluster status` shows which nodes are there; --timeout waits longer")
            }
        }
        (tonic::Code::ResourceExhausted, _) => Failure::new(Code::General, message),
        (code, _) => Failure::new(Code::General, format!("{message} ({code:?})")),
    }
}

/// No node could be connected to.
pub(super) fn unreachable(misses: &[Miss]) -> Failure {
    let all: Vec<String> = misses
        .iter()
        .map(|(endpoint, problem)| format!("{endpoint}: {problem}"))
        .collect();
    Failure::new(Code::Unavailable, format!("no node answers ({})", all.join("; "))).advise(
        "`brama dev` starts a cluster to try things with; --endpoints or BRAMA_ENDPOINTS names other nodes",
    )
}

fn compacted(status: &Status) -> Failure {
    let details = status.get_error_details();
    let oldest = details
        .error_info()
        .and_then(|info| info.metadata.get("oldest_cursor").cloned());
    let advice = match oldest {
        Some(cursor) => {
            format!("--from oldest, or --from {cursor}, begins with the oldest event that is kept")
        }
        None => "--from oldest begins with the oldest event that is kept".to_owned(),
    };
    Failure::new(Code::Compacted, status.message()).advise(advice)
}

/// The message, and each field that is wrong if the message does not name it.
fn with_fields(status: &Status) -> String {
    let mut text = status.message().to_owned();
    if let Some(request) = status.get_error_details().bad_request() {
        for violation in &request.field_violations {
            if !text.contains(&violation.field) {
                text.push_str(&format!("; {}: {}", violation.field, violation.description));
            }
        }
    }
    text
}

fn reason(status: &Status) -> Option<String> {
    status
        .get_error_details()
        .error_info()
        .map(|info| info.reason.clone())
}
