//! Every key, once: for the environment, for flags, and for messages.

/// What the text of an environment variable or a flag is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it stands: paths, addresses, names, durations.
    Text,
    /// A whole number.
    Number,
    /// A number with a fraction.
    Fraction,
    /// `host:port,host:port`.
    List,
    /// `1=host:port,2=host:port`.
    Members,
}

use Kind::{Fraction, List, Members, Number, Text};

/// All keys, in the order in which they are shown.
pub(super) const KEYS: &[(&str, Kind)] = &[
    ("node.id", Number),
    ("node.data_dir", Text),
    ("node.client_listen", Text),
    ("node.peer_listen", Text),
    ("node.client_address", Text),
    ("node.peer_address", Text),
    ("cluster.name", Text),
    ("cluster.members", Members),
    ("cluster.join", List),
    ("raft.election_timeout_min", Text),
    ("raft.election_timeout_max", Text),
    ("raft.heartbeat_interval", Text),
    ("raft.snapshot_every", Number),
    ("raft.keep_entries", Number),
    ("raft.compare_interval", Text),
    ("limits.max_circuits", Number),
    ("limits.max_sessions", Number),
    ("limits.max_events", Number),
    ("limits.max_event_bytes", Number),
    ("limits.max_subscribers", Number),
    ("limits.max_connections", Number),
    ("limits.min_free_bytes", Number),
    ("defaults.max_attempts", Number),
    ("defaults.expiry", Text),
    ("defaults.expiry_strategy", Text),
    ("defaults.initial_expiry", Text),
    ("defaults.max_expiry", Text),
    ("defaults.backoff_factor", Fraction),
    ("defaults.half_open_max_probes", Number),
    ("defaults.half_open_successes", Number),
    ("defaults.probe_timeout", Text),
    ("defaults.inactive_threshold", Text),
    ("defaults.cleanup_interval", Text),
    ("log.format", Text),
    ("log.level", Text),
    ("events.progress_interval", Text),
];

/// What begins the name of each environment variable.
pub(super) const PREFIX: &str = "BRAMA_";

/// Variables that begin so too, and are not settings of a node: what the client commands read.
pub(super) const OTHER_VARIABLES: &[&str] = &["BRAMA_CONFIG", "BRAMA_ENDPOINTS", "BRAMA_TIMEOUT"];

/// The key and its kind.
pub(super) fn find(key: &str) -> Option<(&'static str, Kind)> {
    KEYS.iter().find(|(name, _)| *name == key).copied()
}

/// The environment variable of a key: `node.id` is `BRAMA_NODE__ID`.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// The key that was probably meant by `text`, a key or the rest of a variable's name: the same letters, or the same last part.
pub(super) fn similar(text: &str) -> Option<&'static str> {
    let letters = |text: &str| -> String {
        text.chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect()
    };
    let wanted = letters(text);
    let last = text.rsplit(['.', '_']).next().map(letters).unwrap_or_default();
    let same = KEYS.iter().find(|(key, _)| letters(key) == wanted);
    let ends = || {
        KEYS.iter()
            .find(|(key, _)| letters(key).ends_with(&wanted) || key.ends_with(&format!(".{last}")))
    };
    same.or_else(ends).map(|(key, _)| *key)
}
