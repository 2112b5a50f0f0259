//! Layers, unknown keys and bad values.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use brama_core::policy::{Expiry, ExpiryStrategy};

use super::keys::{KEYS, variable};
use super::*;

const MINIMAL: &str = r#"
    [node]
    id = 1
    data_dir = "data/node1"
    [cluster]
    members = [{ id = 1, peer = "127.0.0.1:7411" }, { id = 2, peer = "127.0.0.1:7412" }, { id = 3, peer = "127.0.0.1:7413" }]
"#;

/// Every key with a value other than the built-in one; `join` cannot be together with `members`.
const COMPLETE: &str = r#"
    [node]
    id = 2
    data_dir = "/var/lib/brama"
    client_listen = "0.0.0.0:1"
    peer_listen = "[::]:2"
    client_address = "node2.internal:3"
    peer_address = "node2.internal:4"
    [cluster]
    name = "prod.eu"
    members = [{ id = 1, peer = "node1.internal:4" }, { id = 2, peer = "node2.internal:4" }]
    [raft]
    election_timeout_min = "1s"
    election_timeout_max = "1s 500ms"
    heartbeat_interval = "200ms"
    snapshot_every = 7
    keep_entries = 0
    compare_interval = "30s"
    [limits]
    max_circuits = 10
    max_sessions = 11
    max_events = 12
    max_event_bytes = 13
    max_subscribers = 14
    max_connections = 15
    min_free_bytes = 16
    [defaults]
    max_attempts = 3
    expiry = "never"
    expiry_strategy = "progressive"
    initial_expiry = "1s"
    max_expiry = "1m"
    backoff_factor = 1.5
    half_open_max_probes = 2
    half_open_successes = 3
    probe_timeout = "5s"
    inactive_threshold = "1h"
    cleanup_interval = "1s"
    [log]
    format = "json"
    level = "debug"
    [events]
    progress_interval = "1s"
"#;

/// Loads a file of this text, with an environment and flags of `(key, value)`.
fn load_text(
    text: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Loaded, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("written");
    let own = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    let flag = |(key, value): &(&str, &str)| Override {
        key: key.to_string(),
        value: value.to_string(),
        flag: format!("--set {key}"),
    };
    load(&Sources {
        file: Some(file.path().to_owned()),
        environment: environment.iter().map(own).collect(),
        flags: flags.iter().map(flag).collect(),
    })
}

fn refusal(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    match load_text(text, environment, flags) {
        Ok(loaded) => panic!("this must be refused, and gave {:?}", loaded.config),
        Err(error) => error.to_string(),
    }
}

fn origin(loaded: &Loaded, key: &str) -> String {
    loaded
        .settings
        .iter()
        .find(|setting| setting.key == key)
        .expect("a key")
        .origin
        .clone()
}

#[test]
fn a_minimal_file_gets_the_built_in_values() {
    let config = load_text(MINIMAL, &[], &[]).expect("good").config;
    assert_eq!(config.node.client_listen.to_string(), "127.0.0.1:7401");
    assert_eq!(config.node.client_address, "127.0.0.1:7401");
    assert_eq!(config.node.peer_address, "127.0.0.1:7411");
    assert_eq!(config.cluster.name, "brama");
    assert_eq!(config.raft.election_timeout_min, Duration::from_millis(500));
    assert_eq!(config.raft.election_timeout_max, Duration::from_millis(1000));
    assert_eq!(config.raft.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(
        (config.raft.snapshot_every, config.raft.keep_entries),
        (50_000, 10_000)
    );
    assert_eq!(config.raft.compare_interval, Duration::from_secs(10));
    assert_eq!(config.limits.cluster, Limits::default());
    assert_eq!(config.limits.max_subscribers, 10_000);
    assert_eq!(config.defaults, DefaultsConfig::default());
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.events.progress_interval, Duration::from_secs(3));
}

#[test]
fn every_key_of_a_complete_file_is_taken_and_known_everywhere() {
    let loaded = load_text(COMPLETE, &[], &[]).expect("good");
    let config = &loaded.config;
    assert_eq!(config.node.peer_address, "node2.internal:4");
    assert_eq!(config.node.client_address, "node2.internal:3");
    assert_eq!(config.raft.election_timeout_max, Duration::from_millis(1500));
    assert_eq!((config.raft.snapshot_every, config.raft.keep_entries), (7, 0));
    assert_eq!(config.raft.compare_interval, Duration::from_secs(30));
    let limits = Limits {
        max_circuits: 10,
        max_sessions: 11,
        max_events: 12,
        max_event_bytes: 13,
    };
    assert_eq!(config.limits.cluster, limits);
    assert_eq!(
        (config.limits.max_subscribers, config.limits.max_connections),
        (14, 15)
    );
    assert_eq!(config.limits.min_free_bytes, 16);
    let policy = Policy {
        max_attempts: Some(3),
        expiry: Some(Expiry::Never),
        expiry_strategy: Some(ExpiryStrategy::Progressive),
        initial_expiry_ms: Some(1000),
        max_expiry_ms: Some(60_000),
        backoff_factor: Some(1.5),
        half_open_max_probes: Some(2),
        half_open_successes: Some(3),
        probe_timeout_ms: Some(5000),
    };
    assert_eq!(config.defaults.policy, policy);
    let global = GlobalOptions {
        inactive_threshold_ms: Some(3_600_000),
        cleanup_interval_ms: Some(1000),
    };
    assert_eq!(config.defaults.global, global);
    assert_eq!(
        (config.log.format, config.log.level.as_str()),
        (LogFormat::Json, "debug")
    );

    // The table of keys and the shape of the file agree, and each key can be shown.
    let written: toml::Table = toml::from_str(COMPLETE).expect("TOML");
    let mut in_file: BTreeSet<String> = written
        .iter()
        .flat_map(|(section, keys)| {
            keys.as_table()
                .expect("a section")
                .keys()
                .map(move |key| format!("{section}.{key}"))
        })
        .collect();
    in_file.insert("cluster.join".to_owned());
    let in_table: BTreeSet<String> = KEYS.iter().map(|(key, _)| key.to_string()).collect();
    assert_eq!(in_file, in_table);
    for setting in &loaded.settings {
        let join = setting.key == "cluster.join";
        assert_eq!(setting.value.is_none(), join, "{}", setting.key);
        assert_eq!(setting.origin == "default", join, "{}", setting.key);
    }
}

#[test]
fn flags_beat_the_environment_beats_the_file_key_by_key() {
    let text = format!("{MINIMAL}\n[raft]\nsnapshot_every = 1\nkeep_entries = 2\n");
    let environment = [
        ("BRAMA_RAFT__KEEP_ENTRIES", "3"),
        ("BRAMA_LOG__LEVEL", "warn"),
        ("PATH", "/bin"),
    ];
    let loaded = load_text(&text, &environment, &[("log.level", "debug")]).expect("good");
    assert_eq!(loaded.config.raft.snapshot_every, 1);
    assert_eq!(loaded.config.raft.keep_entries, 3);
    assert_eq!(loaded.config.log.level, "debug");
    assert!(origin(&loaded, "raft.snapshot_every").starts_with("file "));
    assert_eq!(
        origin(&loaded, "raft.keep_entries"),
        "environment BRAMA_RAFT__KEEP_ENTRIES"
    );
    assert_eq!(origin(&loaded, "log.level"), "flag --set log.level");
    assert_eq!(origin(&loaded, "raft.heartbeat_interval"), "default");
}

#[test]
fn every_key_can_come_from_the_environment_alone() {
    let loaded = load_text(COMPLETE, &[], &[]).expect("good");
    let environment: Vec<(String, String)> = loaded
        .settings
        .iter()
        .filter_map(|setting| Some((variable(setting.key), setting.value.clone()?)))
        .collect();
    let again = load(&Sources {
        file: None,
        environment,
        flags: Vec::new(),
    })
    .expect("good");
    for (one, other) in loaded.settings.iter().zip(&again.settings) {
        assert_eq!(one.value, other.value, "{}", one.key);
        if other.value.is_some() {
            assert_eq!(other.origin, format!("environment {}", variable(other.key)));
        }
    }
}

#[test]
fn joining_is_the_other_way_into_a_cluster() {
    let text = "[node]\nid = 4\ndata_dir = \"d\"\n";
    let loaded = load_text(text, &[("BRAMA_CLUSTER__JOIN", "a:1, b:2")], &[]).expect("good");
    assert_eq!(
        loaded.config.cluster.origin,
        OriginConfig::Join(vec!["a:1".to_owned(), "b:2".to_owned()])
    );
    assert!(refusal(text, &[], &[]).contains("cluster.members is missing"));
    let both = refusal(MINIMAL, &[("BRAMA_CLUSTER__JOIN", "a:1")], &[]);
    assert!(
        both.contains("cluster.join (environment BRAMA_CLUSTER__JOIN) must not be given together"),
        "{both}"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let text = refusal(&format!("{MINIMAL}\n[raft]\nsnapshot_evry = 1\n"), &[], &[]);
    assert!(
        text.contains("line 9") && text.contains("unknown field `snapshot_evry`"),
        "{text}"
    );
    let text = refusal(&format!("{MINIMAL}\n[rafft]\nx = 1\n"), &[], &[]);
    assert!(text.contains("unknown field `rafft`"), "{text}");
}

#[test]
fn an_unknown_variable_is_named_with_what_was_meant() {
    let text = refusal(MINIMAL, &[("BRAMA_NODE_ID", "1")], &[]);
    assert_eq!(
        text,
        "the environment variable BRAMA_NODE_ID is not a setting of Brama; did you mean BRAMA_NODE__ID?"
    );
    let text = refusal(MINIMAL, &[("BRAMA_NONSENSE", "1")], &[]);
    assert!(
        text.contains("BRAMA_NONSENSE") && text.contains("docs/configuration.md"),
        "{text}"
    );
    load_text(MINIMAL, &[("BRAMA_ENDPOINTS", "a:1")], &[])
        .expect("what the client commands read is no mistake");
}

#[test]
fn an_unknown_flag_key_is_named() {
    let text = refusal(MINIMAL, &[], &[("raft.keep", "1")]);
    assert!(
        text.contains("--set raft.keep") && text.contains("`raft.keep` is not a setting"),
        "{text}"
    );
}

#[test]
fn the_first_problem_does_not_depend_on_the_order_of_the_environment() {
    let one = refusal(MINIMAL, &[("BRAMA_ZZ", "1"), ("BRAMA_AA", "1")], &[]);
    assert!(one.contains("BRAMA_AA"), "{one}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let sources = Sources {
        file: Some("/nowhere/node.toml".into()),
        ..Default::default()
    };
    let text = load(&sources).expect_err("no such file").to_string();
    assert!(text.contains("/nowhere/node.toml"), "{text}");
}

#[test]
fn a_value_of_the_wrong_kind_is_named_with_its_line() {
    let text = refusal(&MINIMAL.replace("id = 1\n", "id = \"one\"\n"), &[], &[]);
    assert!(text.contains("line 3") && text.contains("one"), "{text}");
    let text = refusal(
        &format!("{MINIMAL}\n[raft]\nheartbeat_interval = \"soon\"\n"),
        &[],
        &[],
    );
    assert!(text.contains("line 9") && text.contains("\"500ms\""), "{text}");
    let text = refusal(&format!("{MINIMAL}\n[defaults]\nmax_attempts = -1\n"), &[], &[]);
    assert!(text.contains("line 9"), "{text}");
    let text = refusal(MINIMAL, &[("BRAMA_NODE__ID", "one")], &[]);
    assert_eq!(
        text,
        "node.id (environment BRAMA_NODE__ID) is \"one\", not a whole number"
    );
}

#[test]
fn bad_values_are_refused_with_key_origin_and_what_is_allowed() {
    for (key, value, expected) in [
        ("node.id", "0", "must be at least 1"),
        ("node.data_dir", "", "must not be empty"),
        ("node.client_listen", "localhost", "127.0.0.1:7401"),
        ("node.client_listen", "127.0.0.1:0", "must name a port"),
        (
            "node.peer_listen",
            "127.0.0.1:7401",
            "must not be the same as node.client_listen",
        ),
        ("node.client_address", "nowhere", "host:port"),
        ("node.client_address", "0.0.0.0:7401", "host:port"),
        ("node.client_address", "a b:7401", "host:port"),
        (
            "node.peer_address",
            "127.0.0.1:9999",
            "cluster.members has 127.0.0.1:7411 for node 1",
        ),
        ("cluster.name", "two words", "letters, digits"),
        (
            "cluster.members",
            "1=127.0.0.1:7411,1=127.0.0.1:7412",
            "node 1 twice",
        ),
        (
            "cluster.members",
            "1=127.0.0.1:7411,2=127.0.0.1:7411",
            "127.0.0.1:7411 twice",
        ),
        ("cluster.members", "2=127.0.0.1:7412", "must contain this node"),
        ("cluster.members", "0=127.0.0.1:7410,1=127.0.0.1:7411", "id 0"),
        ("cluster.members", "1:127.0.0.1:7411", "1=host:port"),
        ("raft.heartbeat_interval", "1ms", "between 10ms and 10s"),
        (
            "raft.election_timeout_min",
            "150ms",
            "at least twice raft.heartbeat_interval",
        ),
        (
            "raft.election_timeout_max",
            "500ms",
            "longer than raft.election_timeout_min",
        ),
        ("raft.election_timeout_max", "2m", "at most 60s"),
        ("raft.snapshot_every", "0", "must be at least 1"),
        ("raft.compare_interval", "999ms", "between 1s and 1h"),
        ("raft.compare_interval", "2h", "between 1s and 1h"),
        ("limits.max_circuits", "0", "must be at least 1"),
        ("limits.max_subscribers", "0", "must be at least 1"),
        ("defaults.expiry", "31days", "between 1ms and 30days"),
        ("defaults.expiry", "1500us", "whole milliseconds"),
        ("defaults.expiry", "forever", "never"),
        ("defaults.initial_expiry", "never", "not allowed"),
        ("defaults.inactive_threshold", "366days", "365days"),
        ("defaults.cleanup_interval", "1ms", "between 10ms"),
        ("defaults.expiry_strategy", "linear", "progressive"),
        ("defaults.max_attempts", "0", "defaults.max_attempts"),
        ("defaults.backoff_factor", "0.5", "defaults.backoff_factor"),
        ("log.level", "info,brama_raft=loud", "not a level"),
        ("log.format", "xml", "json"),
        ("events.progress_interval", "1ms", "between 100ms and 5m"),
    ] {
        let text = refusal(MINIMAL, &[], &[(key, value)]);
        assert!(text.contains(expected), "{key} = {value}: {text}");
        assert!(text.contains(key), "{key} = {value}: {text}");
        assert!(
            text.contains(&format!("flag --set {key}")),
            "{key} = {value}: {text}"
        );
    }
}

#[test]
fn listening_everywhere_needs_an_address_to_tell() {
    let text = refusal(MINIMAL, &[("BRAMA_NODE__CLIENT_LISTEN", "0.0.0.0:7401")], &[]);
    assert!(
        text.contains("node.client_address") && text.contains("must be given"),
        "{text}"
    );
    let told = [
        ("BRAMA_NODE__CLIENT_LISTEN", "0.0.0.0:7401"),
        ("BRAMA_NODE__CLIENT_ADDRESS", "node1:7401"),
    ];
    assert_eq!(
        load_text(MINIMAL, &told, &[])
            .expect("good")
            .config
            .node
            .client_address,
        "node1:7401"
    );
}

#[test]
fn the_times_of_consensus_fit_together() {
    let text = refusal(MINIMAL, &[], &[("raft.heartbeat_interval", "240ms")]);
    assert!(
        text.contains(
            "raft.election_timeout_max (default) must be at least five times raft.heartbeat_interval"
        ),
        "{text}"
    );
}

#[test]
fn the_example_files_are_good() {
    for id in 1..=3 {
        let path = format!("{}/../../config/node{id}.toml", env!("CARGO_MANIFEST_DIR"));
        let sources = Sources {
            file: Some(path.into()),
            ..Default::default()
        };
        let config = load(&sources).expect("good").config;
        assert_eq!(config.node.id, id);
        assert_eq!(config.node.client_address, format!("127.0.0.1:740{id}"));
        assert_eq!(config.node.peer_address, format!("127.0.0.1:741{id}"));
        assert_eq!(config.node.data_dir.to_string_lossy(), format!("data/node{id}"));
    }
}
