//! A leader whose wall clock is wrong by an hour: a timer must not notice.
//!
//! Some openings begin under a leader whose clock is right and end under the one whose clock is wrong: time that follows the wall clock would
//! jump by an hour in between. Others begin and end under the wrong clock.
//!
//! An opening begins somewhere between the moment at which it was asked for and the acknowledgement, so each is measured as an interval. A wrong
//! clock shows in all openings alike, and a busy machine in some of them, as a delay ([`Machine`]). Not one may end early.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use brama_proto::v1;

use super::stage::Stage;
use crate::circuits::{Circuits, Opening, Spec, expiry, name, policy_of};
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::history::{Action, Answer, Outcome};
use crate::rpc::{answer, timed};
use crate::time::{Micros, micros, percentile, show_ms};

/// The node whose clock is wrong, and its position.
const LIAR: u64 = 3;
const LIAR_AT: usize = 2;
const HONEST: u64 = 1;
const HONEST_AT: usize = 0;
const EXPIRY: Duration = Duration::from_secs(10);
const BOUND: Micros = 20_000;
/// Of each kind.
const OPENINGS: usize = 7;
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

/// What else the machine has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// Nothing: then openings are on time, in the median.
    Quiet,
    /// Something: openings may be delayed, but not all of them, as they would be by a clock that is wrong.
    Busy,
}

/// Openings of 10 s with a leader that is an hour ahead, and with one that is an hour behind (in a cluster of its own, at the same time).
///
/// # Errors
/// When it could not be done: also when the library is not installed, or had no effect.
pub async fn faketime(machine: Machine) -> anyhow::Result<Findings> {
    let library =
        library().context("SKIPPED: libfaketime is not installed (Debian: apt-get install faketime)")?;
    let (mut findings, behind) =
        tokio::try_join!(one(&library, 3600, machine), one(&library, -3600, machine))?;
    findings.merge(behind);
    Ok(findings)
}

async fn one(library: &Path, offset_s: i64, machine: Machine) -> anyhow::Result<Findings> {
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
        // Who leads is decided here, and by no election that a busy machine brings about.
        settings: vec![
            ("raft", "election_timeout_min", "5s".into()),
            ("raft", "election_timeout_max", "6s".into()),
        ],
        ..Default::default()
    };
    let stage = Stage::start(options, circuits()).await?;
    check_lie(&stage, offset_s)?;

    lead(&stage, HONEST, HONEST_AT).await?;
    let across = open_all(&stage, 0..OPENINGS).await?;
    lead(&stage, LIAR, LIAR_AT).await?;
    let within = open_all(&stage, OPENINGS..2 * OPENINGS).await?;
    let end = stage.wait(2 * EXPIRY, "the openings end", async |stage: &Stage| {
        Ok(stage.ledger.count(v1::EventType::CircuitHalfOpened) >= 2 * OPENINGS)
    });
    if end.await.is_err() {
        let ended = stage.ledger.count(v1::EventType::CircuitHalfOpened);
        findings.broken(
            "G5",
            format!(
                "{offset_s:+} s: {ended} of {} openings of {EXPIRY:?} ended within {:?}",
                2 * OPENINGS,
                3 * EXPIRY
            ),
        );
        return Ok(findings);
    }
    if stage.cluster.leader(&stage.nodes).await != Some(LIAR_AT) {
        findings.untold("the node with the wrong clock did not lead until the end");
    }

    for (when, opened) in [("across the change", across), ("under it", within)] {
        let lasted = opened
            .iter()
            .map(|opened| opened.lasted(&stage))
            .collect::<anyhow::Result<Vec<_>>>()?;
        findings.merge(judge(&format!("{offset_s:+} s, {when}"), &lasted, machine));
    }
    stage.finish(findings).await
}

/// Makes a node the leader.
async fn lead(stage: &Stage, id: u64, position: usize) -> anyhow::Result<()> {
    if stage.cluster.leader(&stage.nodes).await == Some(position) {
        return Ok(());
    }
    let request = v1::TransferLeaderRequest { node_id: Some(id) };
    answer(CALL, stage.nodes.cluster(0).transfer_leader(timed(request, CALL))).await?;
    stage
        .wait(CALL, "the chosen node leads", async |stage: &Stage| {
            Ok(stage.cluster.leader(&stage.nodes).await == Some(position))
        })
        .await
}

/// A circuit that was asked to open.
struct Opened {
    circuit: usize,
    sent: Micros,
    acknowledged: Micros,
}

/// How long an opening lasted: at least from its acknowledgement, at most from when it was asked for.
#[derive(Clone, Copy)]
struct Lasted {
    least: Micros,
    most: Micros,
}

async fn open_all(stage: &Stage, circuits: Range<usize>) -> anyhow::Result<Vec<Opened>> {
    let mut opened = Vec::new();
    for circuit in circuits {
        opened.push(open(stage, circuit).await?);
        // So that what disturbs one does not disturb all.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(opened)
}

async fn open(stage: &Stage, circuit: usize) -> anyhow::Result<Opened> {
    let reason = format!("open-1-{circuit}");
    let expiry_ms = micros(EXPIRY) / 1000;
    let action = Action::Open {
        circuit,
        expiry_ms: Some(expiry_ms),
        reason: reason.clone(),
    };
    let request = v1::OpenCircuitRequest {
        name: Some(stage.circuits.get(circuit).name.clone()),
        expiry: Some(expiry(expiry_ms)),
        reason: Some(reason),
    };
    let mut client = stage.nodes.circuits(circuit % stage.nodes.len());
    let op = stage.history.begin(1, action);
    let sent = stage.clock.now();
    let response = answer(CALL, client.open_circuit(timed(request, CALL))).await?;
    let acknowledged = stage.clock.now();
    stage.history.end(op, 1, Outcome::Ok(Answer::changed(&response)));
    Ok(Opened {
        circuit,
        sent,
        acknowledged,
    })
}

impl Opened {
    fn lasted(&self, stage: &Stage) -> anyhow::Result<Lasted> {
        let name = &stage.circuits.get(self.circuit).name;
        let half = stage
            .ledger
            .find(|event| {
                event.r#type() == v1::EventType::CircuitHalfOpened && event.name.as_ref() == Some(name)
            })
            .with_context(|| format!("circuit {} half-opened once", self.circuit))?;
        Ok(Lasted {
            // An opening that ended before it was acknowledged lasted no time at all.
            least: half.arrived.saturating_sub(self.acknowledged),
            most: half.arrived.saturating_sub(self.sent),
        })
    }
}

fn judge(what: &str, lasted: &[Lasted], machine: Machine) -> Findings {
    let mut findings = Findings::default();
    let expected = micros(EXPIRY);
    let sorted = |of: fn(&Lasted) -> Micros| {
        let mut all: Vec<Micros> = lasted.iter().map(of).collect();
        all.sort_unstable();
        all
    };
    let (least, most) = (sorted(|lasted| lasted.least), sorted(|lasted| lasted.most));
    let (median_least, median_most) = (percentile(&least, 50), percentile(&most, 50));
    let ms = |us: Micros| us as f64 / 1000.0;
    findings.figure(
        format!("10 s with a leader {what}"),
        format!(
            "{:.1} to {:.1} ms in the median of {}, the longest at most {:.1} ms",
            ms(median_least),
            ms(median_most),
            lasted.len(),
            ms(percentile(&most, 100)),
        ),
    );
    let earliest = expected - expected / 1000;
    for early in most.iter().filter(|most| **most < earliest) {
        findings.broken(
            "G4",
            format!(
                "{what}: an opening of 10 s ended {} early",
                show_ms(expected - early)
            ),
        );
    }
    // Of the measured openings, one that shows how long they last at least, and one that shows how long at most.
    let (low, high) = match machine {
        Machine::Quiet => (median_least, median_most),
        Machine::Busy => (percentile(&least, 100), percentile(&most, 0)),
    };
    let (all_longer, all_shorter) = match machine {
        Machine::Quiet => (median_least, median_most),
        Machine::Busy => (percentile(&least, 0), percentile(&most, 100)),
    };
    if all_longer > expected + BOUND || all_shorter < expected - BOUND {
        findings.broken(
            "G5",
            format!("{what}: openings of 10 s lasted {:.1} ms", ms(median_least)),
        );
    } else if low >= expected - BOUND && high <= expected + BOUND {
        findings.checked("G5", format!("{what}: 10 s last 10 s within {}", show_ms(BOUND)));
    } else {
        findings.untold(format!(
            "{what}: openings took too long to be acknowledged to tell how long they lasted"
        ));
    }
    findings
}

/// Circuits that nothing opens but us.
fn circuits() -> Circuits {
    let opening = Opening::Fixed(60_000);
    let spec = |index| Spec {
        name: name(index),
        policy: policy_of(opening),
        opening,
        max_probes: 1,
    };
    Circuits::new((0..2 * OPENINGS).map(spec).collect())
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
    let lie = (first[LIAR_AT] - first[HONEST_AT]).rem_euclid(86_400);
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
    use crate::findings::Verdict;

    /// Openings that lasted 10 s and so much more, each known to 3 ms.
    fn verdict(machine: Machine, more_us: &[i64]) -> Verdict {
        let lasted = |more: &i64| {
            let least = micros(EXPIRY).saturating_add_signed(*more);
            Lasted {
                least,
                most: least + 3_000,
            }
        };
        let all: Vec<Lasted> = more_us.iter().map(lasted).collect();
        judge("a sample", &all, machine).verdict()
    }

    #[test]
    fn one_that_ends_early_is_found_among_good_ones() {
        for machine in [Machine::Quiet, Machine::Busy] {
            assert_eq!(verdict(machine, &[0, 1_000, 2_000]), Verdict::Holds);
            assert_eq!(verdict(machine, &[0, 1_000, -14_000]), Verdict::Broken);
            assert_eq!(verdict(machine, &[0, 1_000, -10_000_000]), Verdict::Broken);
        }
    }

    #[test]
    fn late_ones_are_the_machine_as_long_as_others_are_not() {
        assert_eq!(verdict(Machine::Quiet, &[0, 1_000, 90_000]), Verdict::Holds);
        assert_eq!(verdict(Machine::Quiet, &[1_000, 21_000, 22_000]), Verdict::Broken);
        assert_eq!(verdict(Machine::Busy, &[1_000, 21_000, 22_000]), Verdict::Holds);
        assert_eq!(verdict(Machine::Busy, &[20_500, 21_000, 22_000]), Verdict::Broken);
    }

    #[test]
    fn what_is_not_known_well_enough_is_not_told() {
        for machine in [Machine::Quiet, Machine::Busy] {
            assert_eq!(verdict(machine, &[18_000, 18_000, 18_000]), Verdict::Unknown);
        }
    }

    #[test]
    fn times_of_log_lines_are_read() {
        assert_eq!(
            seconds_of_day("2026-01-02T03:04:05.678Z"),
            Some(3 * 3600 + 4 * 60 + 5)
        );
        assert_eq!(seconds_of_day("yesterday"), None);
    }
}
