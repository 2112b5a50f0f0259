//! Arguments that several commands share, and what they mean in the protocol.

use std::time::Duration;

use brama_proto::v1;
use clap::{Args, ValueEnum};

use crate::exit::Failure;

/// A circuit: its identifier, and its scope if it has one.
#[derive(Args, Clone, Debug)]
pub(crate) struct NameArg {
    /// Identifier of the circuit
    #[arg(value_name = "NAME")]
    identifier: String,
    /// Its scope; without one, the circuit of that name that has none
    #[arg(long, value_name = "SCOPE")]
    scope: Option<String>,
}

impl NameArg {
    pub(crate) fn name(&self) -> v1::CircuitName {
        v1::CircuitName {
            scope: self.scope.clone(),
            identifier: self.identifier.clone(),
        }
    }

    /// As it is given again on a command line.
    pub(crate) fn as_typed(&self) -> String {
        match &self.scope {
            Some(scope) => format!("{} --scope {scope}", self.identifier),
            None => self.identifier.clone(),
        }
    }
}

/// A circuit, or none for all of them.
#[derive(Args, Clone, Debug)]
pub(crate) struct MaybeNameArg {
    /// Identifier of the circuit; without one, the global options
    #[arg(value_name = "NAME")]
    identifier: Option<String>,
    /// Its scope
    #[arg(long, value_name = "SCOPE", requires = "identifier")]
    scope: Option<String>,
}

impl MaybeNameArg {
    pub(crate) fn name(&self) -> Option<v1::CircuitName> {
        let identifier = self.identifier.clone()?;
        Some(v1::CircuitName {
            scope: self.scope.clone(),
            identifier,
        })
    }
}

/// Options of a policy; what is not given is inherited.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Policy")]
pub(crate) struct PolicyArgs {
    /// Failures in a row that open the circuit
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// How long it stays open: 30s, 5m, or never (until somebody closes it)
    #[arg(long, value_name = "TIME", value_parser = expiry)]
    expiry: Option<v1::Expiry>,
    /// Whether openings in a row get longer
    #[arg(long, value_name = "STRATEGY")]
    strategy: Option<Strategy>,
    /// Progressive: length of the first opening in a row
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    initial_expiry: Option<u64>,
    /// Progressive: length that no opening exceeds
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    max_expiry: Option<u64>,
    /// Progressive: factor from one opening to the next, 1.0 to 100.0
    #[arg(long, value_name = "FACTOR")]
    backoff_factor: Option<f64>,
    /// Probes in flight at once while half-open, over the whole cluster
    #[arg(long, value_name = "N")]
    half_open_max_probes: Option<u32>,
    /// Successful probes that close the circuit
    #[arg(long, value_name = "N")]
    half_open_successes: Option<u32>,
    /// A probe that is not reported gives its place back after this
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    probe_timeout: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Strategy {
    Fixed,
    Progressive,
}

impl PolicyArgs {
    pub(crate) fn policy(&self) -> v1::Policy {
        v1::Policy {
            max_attempts: self.max_attempts,
            expiry: self.expiry,
            expiry_strategy: self.strategy.map(|strategy| match strategy {
                Strategy::Fixed => v1::ExpiryStrategy::Fixed.into(),
                Strategy::Progressive => v1::ExpiryStrategy::Progressive.into(),
            }),
            initial_expiry_ms: self.initial_expiry,
            max_expiry_ms: self.max_expiry,
            backoff_factor: self.backoff_factor,
            half_open_max_probes: self.half_open_max_probes,
            half_open_successes: self.half_open_successes,
            probe_timeout_ms: self.probe_timeout,
        }
    }
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ConsistencyArg {
    Linearizable,
    Local,
    AtLeast(u64),
}

impl ConsistencyArg {
    pub(crate) fn level(self) -> v1::Consistency {
        use v1::consistency::Level;
        let level = match self {
            Self::Linearizable => Level::Linearizable(true),
            Self::Local => Level::Local(true),
            Self::AtLeast(revision) => Level::AtLeast(revision),
        };
        v1::Consistency { level: Some(level) }
    }
}

/// For clap: `linearizable`, `local` or `at-least=REVISION`.
pub(crate) fn consistency(text: &str) -> Result<ConsistencyArg, String> {
    match text {
        "linearizable" => Ok(ConsistencyArg::Linearizable),
        "local" => Ok(ConsistencyArg::Local),
        _ => text
            .strip_prefix("at-least=")
            .and_then(|revision| revision.parse().ok())
            .map(ConsistencyArg::AtLeast)
            .ok_or_else(|| "expected linearizable, local or at-least=REVISION".to_owned()),
    }
}

/// For clap: `30s` or `never`. Which lengths are allowed is for the cluster to say.
pub(crate) fn expiry(text: &str) -> Result<v1::Expiry, String> {
    let kind = match text {
        "never" => v1::expiry::Kind::Never(true),
        _ => v1::expiry::Kind::Ms(milliseconds(text).map_err(|problem| format!("{problem}, or never"))?),
    };
    Ok(v1::Expiry { kind: Some(kind) })
}

/// For clap: a length in whole milliseconds.
pub(crate) fn milliseconds(text: &str) -> Result<u64, String> {
    let expected = || "expected a time in whole milliseconds, such as 500ms, 30s or 1h 30m".to_owned();
    let length: Duration = humantime::parse_duration(text).map_err(|_| expected())?;
    if !length.subsec_nanos().is_multiple_of(1_000_000) {
        return Err(expected());
    }
    u64::try_from(length.as_millis()).map_err(|_| expected())
}

/// For clap: `key=value`.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err("expected KEY=VALUE".to_owned()),
    }
}

/// For clap: a permit as `acquire` prints it.
pub(crate) fn permit(text: &str) -> Result<Permit, String> {
    match hex::decode(text) {
        Ok(bytes) if bytes.len() == 16 => Ok(Permit(bytes)),
        _ => Err("expected the 32 hexadecimal digits that `brama acquire` printed".to_owned()),
    }
}

/// The 16 bytes of a permit. A type of its own, because clap takes a bare `Vec` for a list of arguments.
#[derive(Clone, Debug)]
pub(crate) struct Permit(pub(crate) Vec<u8>);

/// For clap: the name of a state.
pub(crate) fn state(text: &str) -> Result<v1::State, String> {
    match text {
        "closed" => Ok(v1::State::Closed),
        "open" => Ok(v1::State::Open),
        "half-open" | "half_open" => Ok(v1::State::HalfOpen),
        _ => Err("expected closed, open or half-open".to_owned()),
    }
}

/// A field that the protocol always sends; an answer without it is not from a node of this version.
pub(crate) fn expect<T>(field: Option<T>, what: &str) -> Result<T, Failure> {
    field.ok_or_else(|| {
        Failure::new(
            crate::exit::Code::General,
            format!("the node's answer has no {what}; is it of another version?"),
        )
    })
}
