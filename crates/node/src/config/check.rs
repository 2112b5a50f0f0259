//! From what was written to what is known to be good.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use brama_core::command::{Bootstrap, ClusterId};
use brama_core::limits::{Limits, MAX_EXPIRY_MS, MAX_INACTIVE_THRESHOLD_MS, MIN_CLEANUP_INTERVAL_MS};
use brama_core::policy::{Expiry, ExpiryStrategy, GlobalOptions, Policy};
use brama_core::{Command, Machine, Refusal};

use super::error::ConfigError;
use super::layers::Origins;
use super::raw::{
    Raw, RawCluster, RawDefaults, RawFormat, RawLimits, RawLog, RawNode, RawRaft, RawStrategy, Span,
    SpanOrNever,
};
use super::{
    ClusterConfig, Config, DefaultsConfig, EventsConfig, LimitsConfig, LogConfig, LogFormat, MemberConfig,
    NodeConfig, OriginConfig, RaftConfig,
};

/// Fills in what is built in, and checks every value by itself and against the others.
pub(super) fn check(raw: Raw, origins: &Origins<'_>) -> Result<Config, ConfigError> {
    let checker = Checker { origins };
    let listed = raw.cluster.members.as_ref().and_then(|members| {
        members
            .iter()
            .find(|member| Some(member.id) == raw.node.id)
            .map(|member| member.peer.clone())
    });
    let node = checker.node(raw.node, listed)?;
    let cluster = checker.cluster(raw.cluster, &node)?;
    let progress = raw
        .events
        .progress_interval
        .map_or(Duration::from_secs(3), |Span(length)| length);
    let between = Duration::from_millis(100)..=Duration::from_secs(300);
    if !between.contains(&progress) {
        return Err(checker.invalid("events.progress_interval", "must be between 100ms and 5m"));
    }
    Ok(Config {
        node,
        cluster,
        raft: checker.raft(&raw.raft)?,
        limits: checker.limits(&raw.limits)?,
        defaults: checker.defaults(&raw.defaults)?,
        log: checker.log(raw.log)?,
        events: EventsConfig {
            progress_interval: progress,
        },
    })
}

struct Checker<'a> {
    origins: &'a Origins<'a>,
}

impl Checker<'_> {
    fn invalid(&self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::Invalid {
            key: key.to_owned(),
            origin: self.origins.of(key),
            problem: problem.into(),
        }
    }

    /// `listed` is this node's peer address in `cluster.members`.
    fn node(&self, raw: RawNode, listed: Option<String>) -> Result<NodeConfig, ConfigError> {
        let missing = |key, problem: &str| ConfigError::Missing {
            key,
            problem: problem.to_owned(),
        };
        let id = raw.id.ok_or_else(|| {
            missing("node.id", "each node of a cluster has a number of its own; set it in [node], as BRAMA_NODE__ID or with --id")
        })?;
        if id == 0 {
            return Err(self.invalid("node.id", "must be at least 1"));
        }
        let data_dir: PathBuf = raw.data_dir.ok_or_else(|| {
            missing("node.data_dir", "the directory that holds the node's log and snapshots; set it in [node], as BRAMA_NODE__DATA_DIR or with --data-dir")
        })?;
        if data_dir.as_os_str().is_empty() {
            return Err(self.invalid("node.data_dir", "must not be empty"));
        }
        let client_listen = self.listen("node.client_listen", raw.client_listen, "127.0.0.1:7401")?;
        let peer_listen = self.listen("node.peer_listen", raw.peer_listen, "127.0.0.1:7411")?;
        if client_listen == peer_listen {
            return Err(self.invalid("node.peer_listen", "must not be the same as node.client_listen"));
        }
        let client_address = self.advertised("node.client_address", raw.client_address, client_listen)?;
        let peer_address = match (raw.peer_address, listed) {
            (Some(own), Some(listed)) if own != listed => {
                let text = format!(
                    "is {own}, but cluster.members has {listed} for node {id}; they must be the same"
                );
                return Err(self.invalid("node.peer_address", text));
            }
            (own, listed) => self.advertised("node.peer_address", own.or(listed), peer_listen)?,
        };
        Ok(NodeConfig {
            id,
            data_dir,
            client_listen,
            peer_listen,
            client_address,
            peer_address,
        })
    }

    fn listen(&self, key: &str, given: Option<String>, built_in: &str) -> Result<SocketAddr, ConfigError> {
        let text = given.unwrap_or_else(|| built_in.to_owned());
        let address: SocketAddr = text.parse().map_err(|_| {
            self.invalid(key, format!("is {text:?}, not an address to listen at, such as 127.0.0.1:7401, 0.0.0.0:7401 or [::1]:7401"))
        })?;
        if address.port() == 0 {
            return Err(self.invalid(key, "must name a port: others have to find it"));
        }
        Ok(address)
    }

    /// An address that others are told; by default the one that is listened at.
    fn advertised(
        &self,
        key: &str,
        given: Option<String>,
        listen: SocketAddr,
    ) -> Result<String, ConfigError> {
        match given {
            Some(text) => self.address(key, &text).map(|()| text),
            None if listen.ip().is_unspecified() => Err(self.invalid(
                key,
                format!("must be given: nobody can be told to come to {listen}"),
            )),
            None => Ok(listen.to_string()),
        }
    }

    /// `host:port`.
    fn address(&self, key: &str, text: &str) -> Result<(), ConfigError> {
        let bad = || {
            self.invalid(
                key,
                format!("has {text:?}, not host:port, such as 10.0.0.7:7411 or node1.internal:7411"),
            )
        };
        if let Ok(address) = text.parse::<SocketAddr>() {
            let reachable = !address.ip().is_unspecified() && address.port() != 0;
            return if reachable { Ok(()) } else { Err(bad()) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let named = !host.is_empty()
            && host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        let port_known = port.parse::<u16>().is_ok_and(|port| port != 0);
        if named && port_known { Ok(()) } else { Err(bad()) }
    }

    fn cluster(&self, raw: RawCluster, node: &NodeConfig) -> Result<ClusterConfig, ConfigError> {
        let name = raw.name.unwrap_or_else(|| "brama".to_owned());
        let plain = name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if name.is_empty() || name.len() > 64 || !plain {
            return Err(self.invalid(
                "cluster.name",
                "must be 1 to 64 letters, digits, dots, dashes or underscores",
            ));
        }
        let origin = match (raw.members, raw.join) {
            (Some(_), Some(_)) => {
                let text = "must not be given together with cluster.members: a node either makes a cluster or joins one";
                return Err(self.invalid("cluster.join", text));
            }
            (None, None) => {
                return Err(ConfigError::Missing {
                    key: "cluster.members",
                    problem: "say with whom this node makes a new cluster (cluster.members), or which node it asks to join one (cluster.join)".to_owned(),
                });
            }
            (Some(members), None) => {
                let members = members.into_iter().map(|member| MemberConfig {
                    id: member.id,
                    peer: member.peer,
                });
                OriginConfig::Members(self.members(members.collect(), node)?)
            }
            (None, Some(seeds)) => {
                if seeds.is_empty() {
                    return Err(self.invalid("cluster.join", "must name at least one node's peer address"));
                }
                for seed in &seeds {
                    self.address("cluster.join", seed)?;
                }
                OriginConfig::Join(seeds)
            }
        };
        Ok(ClusterConfig { name, origin })
    }

    fn members(
        &self,
        members: Vec<MemberConfig>,
        node: &NodeConfig,
    ) -> Result<Vec<MemberConfig>, ConfigError> {
        let key = "cluster.members";
        for (position, member) in members.iter().enumerate() {
            if member.id == 0 {
                return Err(self.invalid(key, "has a node with id 0; ids are at least 1"));
            }
            self.address(key, &member.peer)?;
            for earlier in &members[..position] {
                if earlier.id == member.id {
                    return Err(self.invalid(key, format!("has node {} twice", member.id)));
                }
                if earlier.peer == member.peer {
                    return Err(self.invalid(key, format!("has the address {} twice", member.peer)));
                }
            }
        }
        if !members.iter().any(|member| member.id == node.id) {
            let text = format!("must contain this node, which is node {} by node.id", node.id);
            return Err(self.invalid(key, text));
        }
        Ok(members)
    }

    fn raft(&self, raw: &RawRaft) -> Result<RaftConfig, ConfigError> {
        let or = |given: Option<Span>, ms| given.map_or(Duration::from_millis(ms), |Span(length)| length);
        let raft = RaftConfig {
            election_timeout_min: or(raw.election_timeout_min, 500),
            election_timeout_max: or(raw.election_timeout_max, 1000),
            heartbeat_interval: or(raw.heartbeat_interval, 100),
            snapshot_every: raw.snapshot_every.unwrap_or(50_000),
            keep_entries: raw.keep_entries.unwrap_or(10_000),
            compare_interval: or(raw.compare_interval, 10_000),
        };
        let second = Duration::from_secs(1);
        if !(Duration::from_millis(10)..=10 * second).contains(&raft.heartbeat_interval) {
            return Err(self.invalid("raft.heartbeat_interval", "must be between 10ms and 10s"));
        }
        if raft.election_timeout_min < 2 * raft.heartbeat_interval {
            let text =
                "must be at least twice raft.heartbeat_interval, or one lost heartbeat starts an election";
            return Err(self.invalid("raft.election_timeout_min", text));
        }
        if raft.election_timeout_max <= raft.election_timeout_min || raft.election_timeout_max > 60 * second {
            let text = "must be longer than raft.election_timeout_min and at most 60s";
            return Err(self.invalid("raft.election_timeout_max", text));
        }
        if raft.election_timeout_max < 5 * raft.heartbeat_interval {
            let text = "must be at least five times raft.heartbeat_interval";
            return Err(self.invalid("raft.election_timeout_max", text));
        }
        if raft.snapshot_every == 0 {
            return Err(self.invalid("raft.snapshot_every", "must be at least 1"));
        }
        // Often enough to mean something; rare enough that hashing the whole state now and then is no load.
        if !(second..=3600 * second).contains(&raft.compare_interval) {
            return Err(self.invalid("raft.compare_interval", "must be between 1s and 1h"));
        }
        Ok(raft)
    }

    fn limits(&self, raw: &RawLimits) -> Result<LimitsConfig, ConfigError> {
        let built_in = Limits::default();
        let at_least_one = |key: &str, given: Option<u64>, built_in: u64| match given {
            Some(0) => Err(self.invalid(key, "must be at least 1")),
            given => Ok(given.unwrap_or(built_in)),
        };
        let small = |key: &str, given: Option<u32>, built_in: u32| match given {
            Some(0) => Err(self.invalid(key, "must be at least 1")),
            given => Ok(given.unwrap_or(built_in)),
        };
        let cluster = Limits {
            max_circuits: at_least_one("limits.max_circuits", raw.max_circuits, built_in.max_circuits)?,
            max_sessions: at_least_one("limits.max_sessions", raw.max_sessions, built_in.max_sessions)?,
            max_events: at_least_one("limits.max_events", raw.max_events, built_in.max_events)?,
            max_event_bytes: at_least_one(
                "limits.max_event_bytes",
                raw.max_event_bytes,
                built_in.max_event_bytes,
            )?,
        };
        Ok(LimitsConfig {
            cluster,
            max_subscribers: small("limits.max_subscribers", raw.max_subscribers, 10_000)?,
            max_connections: small("limits.max_connections", raw.max_connections, 20_000)?,
            // 0 is a choice too: then only a write that is refused counts.
            min_free_bytes: raw.min_free_bytes.unwrap_or(64 * 1024 * 1024),
        })
    }

    fn defaults(&self, raw: &RawDefaults) -> Result<DefaultsConfig, ConfigError> {
        let expiry_ms = |key: &str, given: Option<Span>| {
            given
                .map(|Span(length)| self.ms(key, length, 1, MAX_EXPIRY_MS, "1ms and 30days"))
                .transpose()
        };
        let expiry = match raw.expiry {
            None => None,
            Some(SpanOrNever::Never) => Some(Expiry::Never),
            Some(SpanOrNever::Span(length)) => self
                .ms(
                    "defaults.expiry",
                    length,
                    1,
                    MAX_EXPIRY_MS,
                    "1ms and 30days, or \"never\"",
                )
                .map(Expiry::Ms)
                .map(Some)?,
        };
        let policy = Policy {
            max_attempts: raw.max_attempts,
            expiry,
            expiry_strategy: raw.expiry_strategy.map(|strategy| match strategy {
                RawStrategy::Fixed => ExpiryStrategy::Fixed,
                RawStrategy::Progressive => ExpiryStrategy::Progressive,
            }),
            initial_expiry_ms: expiry_ms("defaults.initial_expiry", raw.initial_expiry)?,
            max_expiry_ms: expiry_ms("defaults.max_expiry", raw.max_expiry)?,
            backoff_factor: raw.backoff_factor,
            half_open_max_probes: raw.half_open_max_probes,
            half_open_successes: raw.half_open_successes,
            probe_timeout_ms: expiry_ms("defaults.probe_timeout", raw.probe_timeout)?,
        };
        let inactive = raw.inactive_threshold.map(|Span(length)| {
            self.ms(
                "defaults.inactive_threshold",
                length,
                1,
                MAX_INACTIVE_THRESHOLD_MS,
                "1ms and 365days",
            )
        });
        let cleanup = raw.cleanup_interval.map(|Span(length)| {
            self.ms(
                "defaults.cleanup_interval",
                length,
                MIN_CLEANUP_INTERVAL_MS,
                MAX_EXPIRY_MS,
                "10ms and 30days",
            )
        });
        let global = GlobalOptions {
            inactive_threshold_ms: inactive.transpose()?,
            cleanup_interval_ms: cleanup.transpose()?,
        };
        // The breaker's own rules, as it will apply them to the first command of a cluster, in its own words:
        // `policy.max_expiry_ms` is `defaults.max_expiry` here.
        let first = Bootstrap {
            cluster_id: ClusterId::default(),
            defaults: policy.clone(),
            global_defaults: global,
            limits: Limits::default(),
        };
        Machine::new()
            .precheck(&Command::Bootstrap(first))
            .map_err(|refusal| match refusal {
                Refusal::InvalidArgument { field, problem } => {
                    let option = field.rsplit('.').find(|part| *part != "ms").unwrap_or_default();
                    self.invalid(&format!("defaults.{}", option.trim_end_matches("_ms")), problem)
                }
                other => self.invalid("defaults", other.to_string()),
            })?;
        Ok(DefaultsConfig { policy, global })
    }

    /// A duration in whole milliseconds, within bounds that `allowed` names.
    fn ms(&self, key: &str, length: Duration, min: u64, max: u64, allowed: &str) -> Result<u64, ConfigError> {
        let whole = length.subsec_nanos().is_multiple_of(1_000_000);
        match u64::try_from(length.as_millis()) {
            Ok(ms) if whole && (min..=max).contains(&ms) => Ok(ms),
            _ => Err(self.invalid(key, format!("must be whole milliseconds, between {allowed}"))),
        }
    }

    fn log(&self, raw: RawLog) -> Result<LogConfig, ConfigError> {
        let level = raw.level.unwrap_or_else(|| "info".to_owned());
        if level.trim().is_empty() || tracing_subscriber::EnvFilter::try_new(&level).is_err() {
            let text = format!(
                "is {level:?}, not a level (error, warn, info, debug, trace, off) or a list like \"info,brama_raft=debug\""
            );
            return Err(self.invalid("log.level", text));
        }
        let format = match raw.format {
            None | Some(RawFormat::Text) => LogFormat::Text,
            Some(RawFormat::Json) => LogFormat::Json,
        };
        Ok(LogConfig { format, level })
    }
}
