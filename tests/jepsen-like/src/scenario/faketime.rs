//! A leader whose wall clock is wrong by an hour: a timer must not notice.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use brama_proto::v1;

use super::kill_leader::one_circuit;
use super::stage::Stage;
use crate::circuits::expiry;
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::history::{Action, Answer, Outcome};
use crate::rpc::{answer, timed};
use crate::time::{Micros, micros, show_ms};

/// The node whose clock is wrong.
const LIAR: u64 = 3;
const EXPIRY: Duration = Duration::from_secs(10);
const BOUND: Micros = 20_000;
const CALL: Duration = Duration::from_secs(10);

/// Where Debian and its relatives put libfaketime; `None`: it is not installed.
pub fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib")
        .ok()?
        .flatten()
        .map(|entry| entry.path());
    folders
        .chain([PathBuf::from("/usr/lib")])
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.is_file())
}

/// An opening of 10 s under a leader that is an hour ahead, and one that is an hour behind.
///
/// # Errors
/// When it could not be done: also when the library is not installed, or had no effect.
pub async fn faketime() -> anyhow::Result<Findings> {
    let library =
        library().context("SKIPPED: libfaketime is not installed (Debian: apt-get install faketime)")?;
    let mut findings = Findings::default();
    for offset_s in [3600_i64, -3600] {
        findings.merge(one(&library, offset_s).await?);
    }
    Ok(findings)
}

async fn one(library: &std::path::Path, offset_s: i64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let env = [
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", format!("{offset_s:+}s")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("FAKETIME_NO_CACHE", "1".into()),
    ];
    let env = env.map(|(key, value)| (key.to_owned(), value)).into();
    let options = ClusterOptions {
        env: vec![(LIAR, env)],
        ..Default::default()
    };
    let stage = Stage::start(options, one_circuit()).await?;
    check_lie(&stage, offset_s)?;
    let liar = stage
        .cluster
        .nodes()
        .iter()
        .position(|node| node.spec.id == LIAR)
        .context("the node with the wrong clock exists")?;
    let request = v1::TransferLeaderRequest { node_id: Some(LIAR) };
    answer(CALL, stage.nodes.cluster(0).transfer_leader(timed(request, CALL))).await?;
    stage
        .wait(
            CALL,
            "the node with the wrong clock leads",
            async |stage: &Stage| Ok(stage.cluster.leader(&stage.nodes).await == Some(liar)),
        )
        .await?;
    // The clock of a new leader has settled.
    tokio::time::sleep(Duration::from_secs(1)).await;

    let reason = "open-1-1";
    let expiry_ms = micros(EXPIRY) / 1000;
    let action = Action::Open {
        circuit: 0,
        expiry_ms: Some(expiry_ms),
        reason: reason.into(),
    };
    let request = v1::OpenCircuitRequest {
        name: Some(stage.circuits.get(0).name.clone()),
        expiry: Some(expiry(expiry_ms)),
        reason: Some(reason.into()),
    };
    let op = stage.history.begin(1, action);
    let sent = stage.clock.now();
    let response = answer(CALL, stage.nodes.circuits(0).open_circuit(timed(request, CALL))).await?;
    let acknowledged = stage.clock.now();
    let circuit = response.circuit.unwrap_or_default();
    let changed = Answer::Changed {
        revision: circuit.revision,
        generation: circuit.generation,
    };
    stage.history.end(op, 1, Outcome::Ok(changed));
    stage
        .wait(2 * EXPIRY, "the opening ends", async |stage: &Stage| {
            Ok(stage.ledger.count(v1::EventType::CircuitHalfOpened) > 0)
        })
        .await?;
    ensure!(
        stage.cluster.leader(&stage.nodes).await == Some(liar),
        "the node with the wrong clock does not lead any more: nothing was measured"
    );
    let half = stage
        .ledger
        .find(|event| event.r#type() == v1::EventType::CircuitHalfOpened)
        .context("the event was there")?;

    let expected = micros(EXPIRY);
    let (at_least, at_most) = (half.arrived - acknowledged, half.arrived - sent);
    findings.figure(
        format!("10 s with a wall clock {offset_s:+} s"),
        format!(
            "{:.1} ms after the acknowledgement, {:.1} ms after it was sent",
            at_least as f64 / 1000.0,
            at_most as f64 / 1000.0
        ),
    );
    findings.require(at_least.abs_diff(expected) <= BOUND, "G5", || {
        format!(
            "an opening of 10 s under a leader {offset_s:+} s wrong took {} more or less",
            show_ms(at_least.abs_diff(expected))
        )
    });
    findings.require(at_most >= expected - expected / 1000, "G4", || {
        format!("an opening of 10 s ended {} early", show_ms(expected - at_most))
    });
    findings.checked("G5", format!("10 s last 10 s within {}", show_ms(BOUND)));
    stage.finish(findings).await
}

/// The node's own log shows what time it believes it is.
fn check_lie(stage: &Stage, offset_s: i64) -> anyhow::Result<()> {
    let mut first = Vec::new();
    for node in stage.cluster.nodes() {
        let log = std::fs::read_to_string(node.log_path())?;
        let line = log.lines().find(|line| line.contains("\"timestamp\""));
        let line: serde_json::Value = serde_json::from_str(line.context("a node has logged something")?)?;
        let stamp = line["timestamp"].as_str().context("a log line has a time")?;
        first.push(seconds_of_day(stamp).with_context(|| format!("{stamp} is a time"))?);
    }
    let lie = (first[2] - first[0]).rem_euclid(86_400);
    let expected = offset_s.rem_euclid(86_400);
    ensure!(
        lie.abs_diff(expected) <= 60,
        "the wall clock of node {LIAR} is {lie} s off, not {expected}: libfaketime had no effect"
    );
    Ok(())
}

/// Of `2026-01-02T03:04:05.678Z`.
fn seconds_of_day(stamp: &str) -> Option<i64> {
    let clock = stamp.split_once('T')?.1.get(..8)?;
    let mut parts = clock.split(':').map(str::parse::<i64>);
    let mut next = || parts.next()?.ok();
    Some(next()? * 3600 + next()? * 60 + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_log_lines_are_read() {
        assert_eq!(
            seconds_of_day("2026-01-02T03:04:05.678Z"),
            Some(3 * 3600 + 4 * 60 + 5)
        );
        assert_eq!(seconds_of_day("yesterday"), None);
    }
}
