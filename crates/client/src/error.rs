//! What can go wrong, as a caller wants to tell it apart.
//!
//! A node says what is wrong in a `google.rpc.ErrorInfo` of domain `brama` whose reason is stable; [`Error::from_status`] reads it.

use std::time::Duration;

use brama_core::query::CircuitStatus;
use brama_proto::v1;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::subscribe::Cursor;
use crate::wire;

/// The domain of the `ErrorInfo` that a Brama node sends.
const DOMAIN: &str = "brama";
/// The type of the circuit that comes with ALREADY_REGISTERED.
const CIRCUIT_TYPE_URL: &str = "type.googleapis.com/brama.v1.Circuit";

/// Why a call on the cluster did not give an answer.
///
/// Unless a variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A function behind `#[circuit_breaker]` was called before [`install`](crate::install). Nobody was asked.
    #[error(
        "no client is installed: `brama_client::install` comes before the first call of a `#[circuit_breaker]` function"
    )]
    NoClient,
    /// No circuit has this name: it was never registered, or was unregistered or cleaned up since.
    #[error("{message}")]
    NotFound {
        /// What the node said; it names the circuit.
        message: String,
    },
    /// The name is taken. `if_exists` of [`Register`](crate::Register) makes registering idempotent.
    #[error("{message}")]
    AlreadyRegistered {
        /// The circuit that has the name; `None` if the node did not send it.
        circuit: Option<Box<CircuitStatus>>,
        /// What the node said.
        message: String,
    },
    /// A value is not allowed. The same call will never succeed.
    #[error("{message}")]
    InvalidArgument {
        /// The field, by its name in the API; empty if the node named none.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// A limit of the cluster or of the node is reached.
    #[error("{message}")]
    LimitReached {
        /// TOO_MANY_CIRCUITS, TOO_MANY_SESSIONS, TOO_MANY_SUBSCRIBERS or REQUEST_TOO_LARGE.
        limit: String,
        /// What the node said; it names the number.
        message: String,
    },
    /// No node knew a leader until the deadline: an election, or no majority. Certainly nothing was applied.
    #[error("the cluster has no leader (asked for {waited:?}): {message}")]
    NoLeader {
        /// How long was tried.
        waited: Duration,
        /// What the last node said.
        message: String,
    },
    /// Every node that was reached turned the call away until the deadline. Certainly nothing was applied.
    #[error("the cluster is overloaded (asked for {waited:?}): {message}")]
    Overloaded {
        /// How long was tried.
        waited: Duration,
        /// What the last node said.
        message: String,
    },
    /// The request was sent and no answer came: it may have been applied, or may be one day. Repeating it blindly could apply it twice;
    /// a [`Reporter`](crate::Reporter) may always repeat.
    #[error("the outcome is unknown (waited {waited:?}): {message}")]
    OutcomeUnknown {
        /// How long was tried.
        waited: Duration,
        /// What happened on the last attempt.
        message: String,
    },
    /// No node could be connected to until the deadline (or, of a call that only reads, none answered). Certainly nothing was applied.
    #[error("none of {endpoints} nodes answers (tried for {waited:?}): {message}")]
    Unreachable {
        /// How many nodes were tried.
        endpoints: usize,
        /// How long was tried.
        waited: Duration,
        /// What happened on the last attempt.
        message: String,
    },
    /// The events after a cursor are no longer kept: some were missed. Start anew with [`watch`](crate::Client::watch) or from the oldest.
    #[error("{message}")]
    EventsCompacted {
        /// Subscribing after it gives the oldest event that is kept; `None` if the node did not send it.
        oldest: Option<Cursor>,
        /// What the node said.
        message: String,
    },
    /// The cursor comes from another cluster.
    #[error("{message}")]
    CursorForeign {
        /// What the node said.
        message: String,
    },
    /// The session is not known any more, see [`ReportError`](crate::ReportError), which is where callers meet it.
    #[error("{message}")]
    SessionExpired {
        /// What the node said.
        message: String,
    },
    /// The caller is not known (`UNAUTHENTICATED`) or may not do this (`PERMISSION_DENIED`).
    #[error("not allowed: {message}")]
    Denied {
        /// What the node said.
        message: String,
    },
    /// An address that is none, given to the builder.
    #[error("`{endpoint}` is not an address of a node, such as `127.0.0.1:7401`")]
    InvalidEndpoint {
        /// As it was given.
        endpoint: String,
    },
    /// The answer is not what this version understands: the node may be newer, or something between is not a Brama node.
    #[error("the answer is not understood: {what}")]
    Protocol {
        /// What is wrong with it.
        what: String,
    },
    /// Anything else a node said.
    #[error("{}: {}", status.code(), status.message())]
    Other {
        /// As it came.
        #[source]
        status: Box<Status>,
    },
}

/// What an attempt that got no answer means for the next one.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Certainly not applied: any call may be repeated.
    NotApplied(Why),
    /// Perhaps applied: only idempotent calls may be repeated.
    Unknown(String),
    /// Repeating does not help.
    Final(Error),
}

/// Why an attempt was certainly not applied.
#[derive(Debug)]
pub(crate) enum Why {
    /// No connection.
    Connect(String),
    /// The node knows no leader.
    NoLeader(String),
    /// The node, or the leader, has too much to do.
    Overloaded(String),
    /// The node is about to stop, or behind; another may do it.
    Elsewhere(String),
}

impl Error {
    /// What `status` says, for a call that is not repeated.
    pub fn from_status(status: Status) -> Self {
        let zero = Duration::ZERO;
        match classify(status) {
            Attempt::Final(error) => error,
            Attempt::Unknown(message) => Self::OutcomeUnknown {
                waited: zero,
                message,
            },
            Attempt::NotApplied(why) => why.into_error(1, zero),
        }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol { what: what.into() }
    }
}

impl From<brama_core::Refusal> for Error {
    /// Of checks made before anything is sent.
    fn from(refusal: brama_core::Refusal) -> Self {
        let message = refusal.to_string();
        match refusal {
            brama_core::Refusal::InvalidArgument { field, .. } => Self::InvalidArgument { field, message },
            brama_core::Refusal::CircuitNotFound { .. } => Self::NotFound { message },
            _ => Self::InvalidArgument {
                field: String::new(),
                message,
            },
        }
    }
}

impl Why {
    pub(crate) fn into_error(self, endpoints: usize, waited: Duration) -> Error {
        match self {
            Self::Connect(message) | Self::Elsewhere(message) => Error::Unreachable {
                endpoints,
                waited,
                message,
            },
            Self::NoLeader(message) => Error::NoLeader { waited, message },
            Self::Overloaded(message) => Error::Overloaded { waited, message },
        }
    }
}

/// What `status` means for the next attempt.
///
/// Only what a Brama node says about itself, and a connection that was never made, is *certainly not applied*: `UNAVAILABLE` alone is not, since
/// a proxy or a broken connection says so too.
pub(crate) fn classify(status: Status) -> Attempt {
    if never_connected(&status) {
        return Attempt::NotApplied(Why::Connect(status.message().to_owned()));
    }
    let message = status.message().to_owned();
    let info = status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN);
    let reason = info.as_ref().map_or("", |info| info.reason.as_str());
    match reason {
        "NO_LEADER" => return Attempt::NotApplied(Why::NoLeader(message)),
        "OVERLOADED" => return Attempt::NotApplied(Why::Overloaded(message)),
        "OUTCOME_UNKNOWN" => return Attempt::Unknown(message),
        // NO_ROOM, STOPPING, RESUME_ELSEWHERE, NOT_CAUGHT_UP, and whatever a newer node calls it.
        reason if !reason.is_empty() && status.code() == Code::Unavailable => {
            return Attempt::NotApplied(Why::Elsewhere(message));
        }
        _ => {}
    }
    Attempt::Final(match (status.code(), reason) {
        (_, "CIRCUIT_NOT_FOUND") => Error::NotFound { message },
        (_, "ALREADY_REGISTERED") => Error::AlreadyRegistered {
            circuit: attached_circuit(&status),
            message,
        },
        (_, "SESSION_EXPIRED" | "STALE_SEQUENCE") => Error::SessionExpired { message },
        (_, "CURSOR_FOREIGN") => Error::CursorForeign { message },
        (_, "EVENTS_COMPACTED") => {
            let oldest = info.and_then(|mut info| info.metadata.remove("oldest_cursor"));
            Error::EventsCompacted {
                oldest: oldest.map(Cursor::from),
                message,
            }
        }
        (Code::ResourceExhausted, limit) if !limit.is_empty() => Error::LimitReached {
            limit: limit.to_owned(),
            message,
        },
        (Code::InvalidArgument, _) => invalid_argument(&status, message),
        (Code::Unauthenticated | Code::PermissionDenied, _) => Error::Denied { message },
        // Without a reason of ours: the connection broke, a deadline passed on the way, or something between us answered.
        (
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded,
            "",
        ) => {
            return Attempt::Unknown(format!("{}: {message}", status.code()));
        }
        _ => Error::Other {
            status: Box::new(status),
        },
    })
}

/// Whether the request never left: the channel found no connection.
fn never_connected(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn invalid_argument(status: &Status, message: String) -> Error {
    let violation = status
        .get_details_bad_request()
        .and_then(|bad| bad.field_violations.into_iter().next());
    let field = violation.map(|violation| violation.field).unwrap_or_default();
    Error::InvalidArgument { field, message }
}

fn attached_circuit(status: &Status) -> Option<Box<CircuitStatus>> {
    let details = tonic_types::pb::Status::decode(status.details()).ok()?;
    let any = details
        .details
        .into_iter()
        .find(|any| any.type_url == CIRCUIT_TYPE_URL)?;
    let circuit = v1::Circuit::decode(any.value.as_slice()).ok()?;
    wire::circuit(circuit).ok().map(Box::new)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, reason: &str) -> Status {
        let details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
        Status::with_error_details(code, "said so", details)
    }

    #[test]
    fn only_what_a_node_says_of_itself_is_certainly_not_applied() {
        for reason in [
            "NO_LEADER",
            "NO_ROOM",
            "OVERLOADED",
            "STOPPING",
            "RESUME_ELSEWHERE",
            "NOT_CAUGHT_UP",
        ] {
            let attempt = classify(status(Code::Unavailable, reason));
            assert!(matches!(attempt, Attempt::NotApplied(_)), "{reason}: {attempt:?}");
        }
        for code in [
            Code::Unavailable,
            Code::Unknown,
            Code::Internal,
            Code::Cancelled,
            Code::DeadlineExceeded,
        ] {
            let attempt = classify(Status::new(code, "connection reset"));
            assert!(matches!(attempt, Attempt::Unknown(_)), "{code:?}: {attempt:?}");
        }
        let attempt = classify(status(Code::DeadlineExceeded, "OUTCOME_UNKNOWN"));
        assert!(matches!(attempt, Attempt::Unknown(_)), "{attempt:?}");
    }

    #[test]
    fn a_reason_of_another_domain_says_nothing() {
        let details = ErrorDetails::with_error_info("NO_LEADER", "example.com", HashMap::new());
        let attempt = classify(Status::with_error_details(Code::Unavailable, "no", details));
        assert!(matches!(attempt, Attempt::Unknown(_)), "{attempt:?}");
    }

    #[test]
    fn refusals_keep_what_the_node_said() {
        let final_of = |status| match classify(status) {
            Attempt::Final(error) => error,
            other => panic!("{other:?}"),
        };
        assert!(matches!(
            final_of(status(Code::NotFound, "CIRCUIT_NOT_FOUND")),
            Error::NotFound { .. }
        ));
        let error = final_of(status(Code::ResourceExhausted, "TOO_MANY_CIRCUITS"));
        assert!(matches!(error, Error::LimitReached { limit, .. } if limit == "TOO_MANY_CIRCUITS"));

        let mut details =
            ErrorDetails::with_bad_request_violation("policy.max_attempts", "must be at least 1");
        details.set_error_info("INVALID_ARGUMENT", DOMAIN, HashMap::new());
        let error = final_of(Status::with_error_details(Code::InvalidArgument, "bad", details));
        assert!(matches!(error, Error::InvalidArgument { field, .. } if field == "policy.max_attempts"));

        let metadata = HashMap::from([("oldest_cursor".to_owned(), "c1ff".to_owned())]);
        let details = ErrorDetails::with_error_info("EVENTS_COMPACTED", DOMAIN, metadata);
        let error = final_of(Status::with_error_details(Code::OutOfRange, "gone", details));
        assert!(
            matches!(error, Error::EventsCompacted { oldest: Some(oldest), .. } if oldest.as_str() == "c1ff")
        );
    }
}
