//! Every setting with the value that holds and where it came from, for `brama config show`.

use std::time::Duration;

use brama_core::policy::{Expiry, ExpiryStrategy, built_in};

use super::keys::KEYS;
use super::layers::Origins;
use super::{Config, LogFormat, OriginConfig};

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// E.g. `node.id`.
    pub key: &'static str,
    /// As a person would write it; `None`: not set, and without meaning because of what is (of `cluster.members` and `cluster.join`,
    /// only one counts).
    pub value: Option<String>,
    /// `default`, or the layer: `file config/node1.toml`, `environment BRAMA_NODE__ID`, `flag --id`.
    pub origin: String,
}

pub(super) fn settings(config: &Config, origins: &Origins<'_>) -> Vec<Setting> {
    KEYS.iter()
        .map(|(key, _)| Setting {
            key,
            value: value(config, key),
            origin: origins.of(key),
        })
        .collect()
}

fn value(config: &Config, key: &str) -> Option<String> {
    let Config {
        node,
        cluster,
        raft,
        limits,
        defaults,
        log,
        events,
    } = config;
    let (policy, global) = (&defaults.policy, &defaults.global);
    let text = |length: Duration| humantime::format_duration(length).to_string();
    let ms = |ms: u64| text(Duration::from_millis(ms));
    let number = |given: Option<u32>, built_in: u32| Some(given.unwrap_or(built_in).to_string());
    match key {
        "node.id" => Some(node.id.to_string()),
        "node.data_dir" => Some(node.data_dir.display().to_string()),
        "node.client_listen" => Some(node.client_listen.to_string()),
        "node.peer_listen" => Some(node.peer_listen.to_string()),
        "node.client_address" => Some(node.client_address.clone()),
        "node.peer_address" => Some(node.peer_address.clone()),
        "cluster.name" => Some(cluster.name.clone()),
        "cluster.members" => match &cluster.origin {
            OriginConfig::Members(members) => {
                let members = members
                    .iter()
                    .map(|member| format!("{}={}", member.id, member.peer));
                Some(members.collect::<Vec<_>>().join(","))
            }
            OriginConfig::Join(_) => None,
        },
        "cluster.join" => match &cluster.origin {
            OriginConfig::Join(seeds) => Some(seeds.join(",")),
            OriginConfig::Members(_) => None,
        },
        "raft.election_timeout_min" => Some(text(raft.election_timeout_min)),
        "raft.election_timeout_max" => Some(text(raft.election_timeout_max)),
        "raft.heartbeat_interval" => Some(text(raft.heartbeat_interval)),
        "raft.snapshot_every" => Some(raft.snapshot_every.to_string()),
        "raft.keep_entries" => Some(raft.keep_entries.to_string()),
        "raft.compare_interval" => Some(text(raft.compare_interval)),
        "limits.max_circuits" => Some(limits.cluster.max_circuits.to_string()),
        "limits.max_sessions" => Some(limits.cluster.max_sessions.to_string()),
        "limits.max_events" => Some(limits.cluster.max_events.to_string()),
        "limits.max_event_bytes" => Some(limits.cluster.max_event_bytes.to_string()),
        "limits.max_subscribers" => Some(limits.max_subscribers.to_string()),
        "limits.max_connections" => Some(limits.max_connections.to_string()),
        "limits.min_free_bytes" => Some(limits.min_free_bytes.to_string()),
        "defaults.max_attempts" => number(policy.max_attempts, built_in::MAX_ATTEMPTS),
        "defaults.expiry" => Some(match policy.expiry.unwrap_or(built_in::EXPIRY) {
            Expiry::Ms(ms) => text(Duration::from_millis(ms)),
            Expiry::Never => "never".to_owned(),
        }),
        "defaults.expiry_strategy" => {
            let name = match policy.expiry_strategy.unwrap_or(built_in::EXPIRY_STRATEGY) {
                ExpiryStrategy::Fixed => "fixed",
                ExpiryStrategy::Progressive => "progressive",
            };
            Some(name.to_owned())
        }
        // These two follow each circuit's own expiry, unless they are set.
        "defaults.initial_expiry" => Some(policy.initial_expiry_ms.map_or_else(|| "expiry".to_owned(), ms)),
        "defaults.max_expiry" => {
            let derived = || format!("{} x expiry", built_in::MAX_EXPIRY_FACTOR);
            Some(policy.max_expiry_ms.map_or_else(derived, ms))
        }
        "defaults.backoff_factor" => Some(
            policy
                .backoff_factor
                .unwrap_or(built_in::BACKOFF_FACTOR)
                .to_string(),
        ),
        "defaults.half_open_max_probes" => {
            number(policy.half_open_max_probes, built_in::HALF_OPEN_MAX_PROBES)
        }
        "defaults.half_open_successes" => number(policy.half_open_successes, built_in::HALF_OPEN_SUCCESSES),
        "defaults.probe_timeout" => Some(ms(policy.probe_timeout_ms.unwrap_or(built_in::PROBE_TIMEOUT_MS))),
        "defaults.inactive_threshold" => Some(ms(global
            .inactive_threshold_ms
            .unwrap_or(built_in::INACTIVE_THRESHOLD_MS))),
        "defaults.cleanup_interval" => Some(ms(global
            .cleanup_interval_ms
            .unwrap_or(built_in::CLEANUP_INTERVAL_MS))),
        "log.format" => Some(match log.format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        }),
        "log.level" => Some(log.level.clone()),
        "events.progress_interval" => Some(text(events.progress_interval)),
        _ => None,
    }
}
