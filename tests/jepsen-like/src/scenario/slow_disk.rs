//! The disk of one node is slow: each sync of the leader takes two seconds, then each of a follower, then each write of the leader a tenth of one. The cluster stays
//! available, or the leader hands over within a bound; and timers are not later than that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use brama_proto::v1;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::power::lossy_is_impossible;
use super::pulse::Pulse;
use super::stage::Stage;
use crate::circuits::{Circuits, expiry};
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::history::{Action, Answer, History, Outcome};
use crate::lossy::LossyDisk;
use crate::rpc::{Failure, Nodes, answer, timed};
use crate::time::{Micros, percentile, show_ms};
use crate::workload::{Client, Mix};

const CLIENTS: u32 = 6;
const CIRCUITS: usize = 20;
const DISK_MIB: u64 = 1024;
const SLOW_SYNC: Duration = Duration::from_secs(2);
const SLOW_WRITE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);
const CALL: Duration = Duration::from_secs(10);
/// A circuit is opened so often, and for so long.
const OPEN_EVERY: Duration = Duration::from_millis(250);
const OPEN_MS: u64 = 500;
/// Apart from the numbers of clients and of the pulse.
const OPENER: u32 = 3000;

/// What is slow.
#[derive(Clone, Copy, Debug)]
enum Slow {
    SyncsOfTheLeader,
    SyncsOfAFollower,
    WritesOfTheLeader,
}

impl Slow {
    /// The longest time without a write, and the most that a timer may be late. A leader whose sync hangs knows after the longest election timeout (1 s), and then
    /// another one is elected: G12's bound for a leader that dies. What does not stop the leader stops nobody for longer than an election would.
    fn bound(self) -> Micros {
        match self {
            Self::SyncsOfTheLeader => 4_000_000,
            Self::SyncsOfAFollower | Self::WritesOfTheLeader => 2_000_000,
        }
    }

    fn begin(self, disk: &LossyDisk) {
        match self {
            Self::SyncsOfTheLeader | Self::SyncsOfAFollower => disk.slow_fsync(SLOW_SYNC),
            Self::WritesOfTheLeader => disk.slow_writes(SLOW_WRITE),
        }
    }
}

/// Each disk is slow for so long.
///
/// # Errors
/// When it could not be done.
pub async fn slow_disk(lasts: Duration, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    if let Some(why) = lossy_is_impossible() {
        findings.untold(why);
        return Ok(findings);
    }
    let options = ClusterOptions {
        lossy_mib: Some(DISK_MIB),
        ..Default::default()
    };
    let circuits = Circuits::random(CIRCUITS, &mut StdRng::seed_from_u64(seed));
    let stage = Stage::start(options, circuits).await?;
    let pulse = Pulse::start(&stage, (0..stage.nodes.len()).collect());
    let working = CancellationToken::new();
    let mut clients = JoinSet::new();
    for id in 1..=CLIENTS {
        let client = Client::new(
            id,
            stage.cluster.connect()?,
            stage.circuits.clone(),
            stage.history.clone(),
            Mix::Reports,
            seed,
        );
        clients.spawn(client.run(working.clone()));
    }
    clients.spawn(open_on(
        stage.nodes.clone(),
        stage.circuits.clone(),
        stage.history.clone(),
        working.clone(),
    ));
    tokio::time::sleep(Duration::from_secs(1)).await;

    let mut times = Vec::new();
    for slow in [
        Slow::SyncsOfTheLeader,
        Slow::SyncsOfAFollower,
        Slow::WritesOfTheLeader,
    ] {
        times.push(play(&stage, &pulse, slow, lasts, &mut findings).await?);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    working.cancel();
    while let Some(client) = clients.join_next().await {
        client?;
    }
    // The last opening ends.
    tokio::time::sleep(Duration::from_secs(2)).await;
    pulse.stop().await?;
    for (slow, from, until) in times {
        check_timers(&stage, slow, from, until, &mut findings);
    }
    findings.checked("G5", "timers were not later than a leader's death may make them");
    findings.checked("G12", "writes went on while one disk was slow");
    stage.finish(findings).await
}

/// Gives when it was slow.
async fn play(
    stage: &Stage,
    pulse: &Pulse,
    slow: Slow,
    lasts: Duration,
    findings: &mut Findings,
) -> anyhow::Result<(Slow, Micros, Micros)> {
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let position = match slow {
        Slow::SyncsOfTheLeader | Slow::WritesOfTheLeader => leader,
        Slow::SyncsOfAFollower => (leader + 1) % stage.nodes.len(),
    };
    let disk = &stage.cluster.lossy_disks()[position];
    let slowed = disk.counts().slowed;
    let from = stage.clock.now();
    slow.begin(disk);
    let deadline = tokio::time::Instant::now() + lasts;
    let (mut leaders, mut handed_over) = (vec![leader], None);
    while tokio::time::Instant::now() < deadline {
        if let Some(now) = stage.cluster.leader(&stage.nodes).await
            && leaders.last() != Some(&now)
        {
            leaders.push(now);
            handed_over = handed_over.or(Some(stage.clock.now() - from));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let until = stage.clock.now();
    let slowed = disk.counts().slowed - slowed;
    disk.heal();
    stage.cluster.wait_until_ready(PATIENCE).await?;
    let gap = pulse.longest_gap(from, until);
    findings.figure(
        format!("{slow:?}"),
        format!(
            "{slowed} were slow; longest time without a write {}; {}",
            show_ms(gap),
            handed_over.map_or_else(
                || "the leader stayed".to_owned(),
                |after| format!(
                    "another leader after {}, {} changes in all",
                    show_ms(after),
                    leaders.len() - 1
                )
            )
        ),
    );
    if slowed == 0 {
        findings.untold(format!("{slow:?}: the disk was never slow"));
    }
    findings.require(gap <= slow.bound(), "G12", || {
        format!(
            "{slow:?}: no write for {}, {} are allowed",
            show_ms(gap),
            show_ms(slow.bound())
        )
    });
    // Whoever is slow does not stand for election, so it is not elected again.
    findings.require(leaders.len() <= 3, "G12", || {
        format!("{slow:?}: leadership went from one to the other: {leaders:?}")
    });
    Ok((slow, from, until))
}

/// Opens one circuit after the other, for a short time, until `stop`.
async fn open_on(nodes: Nodes, circuits: Arc<Circuits>, history: Arc<History>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(OPEN_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut number = 0;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        number += 1;
        let circuit = number % circuits.len();
        let reason = format!("slow-disk-{number}");
        let action = Action::Open {
            circuit,
            expiry_ms: Some(OPEN_MS),
            reason: reason.clone(),
        };
        let request = v1::OpenCircuitRequest {
            name: Some(circuits.get(circuit).name.clone()),
            reason: Some(reason),
            expiry: Some(expiry(OPEN_MS)),
        };
        let op = history.begin(OPENER, action);
        let mut client = nodes.circuits(number % nodes.len());
        let outcome = match answer(CALL, client.open_circuit(timed(request, CALL))).await {
            Ok(response) => Outcome::Ok(Answer::changed(&response)),
            Err(Failure::Refused { reason, .. }) => Outcome::Refused(reason),
            Err(Failure::Unknown(message)) => Outcome::Unknown(message),
        };
        history.end(op, 1, outcome);
    }
}

/// How late the openings ended that touch this time.
fn check_timers(stage: &Stage, slow: Slow, from: Micros, until: Micros, findings: &mut Findings) {
    let evidence = stage.evidence();
    let asked: HashMap<&str, (Micros, Micros)> = evidence
        .ops
        .iter()
        .filter(|op| op.is_ok())
        .filter_map(|op| match &op.action {
            Action::Open { reason, .. } => Some((reason.as_str(), (op.started, op.ended))),
            _ => None,
        })
        .collect();
    let mut opened = HashMap::new();
    let (mut at_least, mut at_most) = (Vec::new(), Vec::new());
    for seen in evidence.events.values() {
        let event = &seen.event;
        let Some(circuit) = event.name.as_ref().and_then(|name| stage.circuits.find(name)) else {
            continue;
        };
        match event.r#type() {
            v1::EventType::CircuitOpened => {
                opened.insert(circuit, asked.get(event.reason()));
            }
            v1::EventType::CircuitHalfOpened => {
                let Some(Some((started, ended))) = opened.remove(&circuit) else {
                    continue;
                };
                if seen.arrived < from || *started > until {
                    continue;
                }
                at_most.push(seen.arrived.saturating_sub(started + OPEN_MS * 1000));
                at_least.push(seen.arrived.saturating_sub(ended + OPEN_MS * 1000));
            }
            _ if event.previous_state != event.new_state => {
                opened.remove(&circuit);
            }
            _ => {}
        }
    }
    at_least.sort_unstable();
    at_most.sort_unstable();
    if at_most.is_empty() {
        return findings.untold(format!("{slow:?}: no opening ended while the disk was slow"));
    }
    let worst = percentile(&at_least, 100);
    findings.figure(
        format!("{slow:?}: {} openings ended", at_most.len()),
        format!(
            "late by at most {} (p50), {} (worst); at least {} (worst)",
            show_ms(percentile(&at_most, 50)),
            show_ms(percentile(&at_most, 100)),
            show_ms(worst)
        ),
    );
    findings.require(worst <= slow.bound(), "G5", || {
        format!(
            "{slow:?}: an opening ended {} late, {} are allowed",
            show_ms(worst),
            show_ms(slow.bound())
        )
    });
}
