//! A configuration as it is written: every key may be absent, and no other key may be there.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) node: RawNode,
    pub(super) cluster: RawCluster,
    pub(super) raft: RawRaft,
    pub(super) limits: RawLimits,
    pub(super) defaults: RawDefaults,
    pub(super) log: RawLog,
    pub(super) events: RawEvents,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNode {
    pub(super) id: Option<u64>,
    pub(super) data_dir: Option<PathBuf>,
    pub(super) client_listen: Option<String>,
    pub(super) peer_listen: Option<String>,
    pub(super) client_address: Option<String>,
    pub(super) peer_address: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCluster {
    pub(super) name: Option<String>,
    pub(super) members: Option<Vec<RawMember>>,
    pub(super) join: Option<Vec<String>>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMember {
    pub(super) id: u64,
    pub(super) peer: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRaft {
    pub(super) election_timeout_min: Option<Span>,
    pub(super) election_timeout_max: Option<Span>,
    pub(super) heartbeat_interval: Option<Span>,
    pub(super) snapshot_every: Option<u64>,
    pub(super) keep_entries: Option<u64>,
    pub(super) compare_interval: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLimits {
    pub(super) max_circuits: Option<u64>,
    pub(super) max_sessions: Option<u64>,
    pub(super) max_events: Option<u64>,
    pub(super) max_event_bytes: Option<u64>,
    pub(super) max_subscribers: Option<u32>,
    pub(super) max_connections: Option<u32>,
    pub(super) min_free_bytes: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDefaults {
    pub(super) max_attempts: Option<u32>,
    pub(super) expiry: Option<SpanOrNever>,
    pub(super) expiry_strategy: Option<RawStrategy>,
    pub(super) initial_expiry: Option<Span>,
    pub(super) max_expiry: Option<Span>,
    pub(super) backoff_factor: Option<f64>,
    pub(super) half_open_max_probes: Option<u32>,
    pub(super) half_open_successes: Option<u32>,
    pub(super) probe_timeout: Option<Span>,
    pub(super) inactive_threshold: Option<Span>,
    pub(super) cleanup_interval: Option<Span>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) format: Option<RawFormat>,
    pub(super) level: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawEvents {
    pub(super) progress_interval: Option<Span>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawStrategy {
    Fixed,
    Progressive,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawFormat {
    Text,
    Json,
}

/// A duration as people write it. `humantime-serde` reads the same, but its errors do not show how one is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span(pub(super) Duration);

/// A duration, or `never`.
#[derive(Clone, Copy, Debug)]
pub(super) enum SpanOrNever {
    Span(Duration),
    Never,
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_str(SpanVisitor { never: false })? {
            SpanOrNever::Span(duration) => Ok(Self(duration)),
            SpanOrNever::Never => Err(de::Error::custom("`never` is not allowed here")),
        }
    }
}

impl<'de> Deserialize<'de> for SpanOrNever {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SpanVisitor { never: true })
    }
}

struct SpanVisitor {
    never: bool,
}

impl Visitor<'_> for SpanVisitor {
    type Value = SpanOrNever;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration in quotes, such as \"500ms\", \"10s\" or \"1h 30m\"")?;
        if self.never {
            f.write_str(", or \"never\"")
        } else {
            Ok(())
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SpanOrNever, E> {
        if self.never && text == "never" {
            return Ok(SpanOrNever::Never);
        }
        humantime::parse_duration(text)
            .map(SpanOrNever::Span)
            .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}
