//! How long the building of a snapshot holds applies up.
//!
//! Seen twice: by the node, which measures every apply while it builds one and logs how many took longer than 20 ms, and by clients, whose reports come at a
//! steady rate and are sorted by whether any node was building when they should have been sent.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use brama_faults::findings::Findings;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::reads::One;
use super::stage::Stage;
use super::{Sizes, shown};
use crate::figures::Latencies;
use crate::load::Operation;

/// What a snapshot may hold an apply up: the node counts those that took longer ...
const HELD_UP: Duration = Duration::from_millis(20);
/// ... and of so many one may (p99.9), because the system may give the processor to somebody else in the midst of one.
const ONE_OF: u64 = 1000;
/// Reports a second; each of another circuit.
const RATE: f64 = 500.0;
const HOW_LONG: Duration = Duration::from_secs(60);
/// A snapshot after so many entries: several in the time that is measured.
const SNAPSHOT_EVERY: i64 = 1000;

/// A line of a node's log, as far as it matters.
#[derive(Deserialize)]
struct Line {
    timestamp: String,
    message: String,
    bytes: Option<u64>,
    took_ms: Option<u64>,
    applies: Option<u64>,
    applies_held_up: Option<u64>,
    slowest_apply_us: Option<u64>,
}

/// One snapshot of one node.
struct Built {
    bytes: u64,
    took: Duration,
    ended: SystemTime,
    applies: u64,
    held_up: u64,
    slowest_apply: Duration,
}

pub(super) async fn measure(sizes: &Sizes, data: &Path) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let settings = vec![("raft", "snapshot_every", SNAPSHOT_EVERY.into())];
    let stage = Stage::start(data, settings).await?;
    stage.register(0..sizes.circuits).await?;
    stage.report(0..sizes.circuits).await?;
    stage.open_sessions(0..sizes.sessions, sizes.circuits).await?;
    stage.settle().await?;
    let began = SystemTime::now();
    let seen = load(&stage, sizes).await;
    let mut built = Vec::new();
    for node in stage.cluster.nodes() {
        let log = std::fs::read_to_string(node.log_path())?;
        built.extend(log.lines().filter_map(read).filter(|built| built.ended >= began));
    }
    let (beside, apart) = (Latencies::new(), Latencies::new());
    for (intended, latency) in seen {
        let overlaps =
            |built: &Built| intended + latency >= built.ended - built.took && intended <= built.ended;
        if built.iter().any(overlaps) {
            &beside
        } else {
            &apart
        }
        .record(latency);
    }
    if built.is_empty() {
        findings.untold("no snapshot was built");
        return Ok(findings);
    }
    let longest = built.iter().map(|built| built.took).max().unwrap_or_default();
    let bytes = built.iter().map(|built| built.bytes).max().unwrap_or_default();
    let applies: u64 = built.iter().map(|built| built.applies).sum();
    let held_up: u64 = built.iter().map(|built| built.held_up).sum();
    let slowest = built
        .iter()
        .map(|built| built.slowest_apply)
        .max()
        .unwrap_or_default();
    findings.figure(
        "snapshots",
        format!(
            "{}, of {}, the longest in {longest:?}",
            built.len(),
            shown(bytes as f64)
        ),
    );
    findings.figure(
        format!("applies beside one that took longer than {HELD_UP:?}"),
        format!("{held_up} of {applies}, the slowest {slowest:?}"),
    );
    for (what, latencies) in [("beside snapshots", &beside), ("without", &apart)] {
        let at = |quantile| latencies.quantile_ms(quantile);
        findings.figure(
            format!("{RATE} reports a second, {what}"),
            format!(
                "p50 {:.1}, p99 {:.1}, p99.9 {:.1} ms of {}",
                at(0.5),
                at(0.99),
                at(0.999),
                latencies.count()
            ),
        );
    }
    if applies < ONE_OF {
        findings.untold(format!(
            "only {applies} applies came beside snapshots: too few for p99.9"
        ));
    }
    findings.require(held_up * ONE_OF <= applies, "size", || {
        format!(
            "{held_up} of {applies} applies took longer than {HELD_UP:?} beside a snapshot, at most one of {ONE_OF} may"
        )
    });
    findings.checked(
        "size",
        format!(
            "of {applies} applies beside {} snapshots {held_up} took longer than {HELD_UP:?}",
            built.len()
        ),
    );
    Ok(findings)
}

/// When each report should have been sent, and how long after that it was answered.
async fn load(stage: &Stage, sizes: &Sizes) -> Vec<(SystemTime, Duration)> {
    let operation = One {
        lanes: stage.lanes(),
        circuits: sizes.circuits,
    };
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (begin, wall) = (Instant::now(), SystemTime::now());
    let mut tasks = tokio::task::JoinSet::new();
    for turn in 0.. {
        let after = Duration::from_secs_f64(f64::from(turn) / RATE);
        if after > HOW_LONG {
            break;
        }
        tokio::time::sleep_until(begin + after).await;
        let (operation, seen) = (operation.clone(), seen.clone());
        tasks.spawn(async move {
            if operation.run(turn as usize, 0).await.is_ok() {
                seen.lock().push((wall + after, (begin + after).elapsed()));
            }
        });
        while tasks.try_join_next().is_some() {}
    }
    tasks.join_all().await;
    Arc::try_unwrap(seen).map(Mutex::into_inner).unwrap_or_default()
}

fn read(line: &str) -> Option<Built> {
    let line: Line = serde_json::from_str(line).ok()?;
    if line.message != "wrote a snapshot" {
        return None;
    }
    let ended: prost_types::Timestamp = line.timestamp.parse().ok()?;
    Some(Built {
        bytes: line.bytes?,
        took: Duration::from_millis(line.took_ms?),
        ended: ended.try_into().ok()?,
        applies: line.applies?,
        held_up: line.applies_held_up?,
        slowest_apply: Duration::from_micros(line.slowest_apply_us?),
    })
}
