//! What holds on a cluster without any fault, asked for on purpose, through all nodes: each part is the shortest way to see one
//! promise broken.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::Context;
use brama_proto::v1;
use brama_proto::v1::subscribe_request::From as Start;

use super::acts::{self, Batch};
use super::crew::Crew;
use super::stage::Stage;
use crate::circuits::{CircuitIndex, Circuits, Opening, Spec, name, policy_of};
use crate::cluster::ClusterOptions;
use crate::findings::{Findings, Verdict};
use crate::ledger::Seen;
use crate::workload::Mix;

const CALL: Duration = Duration::from_secs(10);
const CLIENTS: u32 = 4;
const SESSION: u8 = 1;
/// As `max_attempts` is by default.
const ENOUGH_TO_OPEN: &str = "FFFFF";

/// What each circuit is there for.
const REPEATED: CircuitIndex = 0;
const LATE: CircuitIndex = 1;
const PROBED: CircuitIndex = 2;
const READ: CircuitIndex = 3;
const CIRCUITS: usize = 8;

const REPEATS: u64 = 20;
const READS: u64 = 40;
const ASK_AT_ONCE: u8 = 12;
const WATCHES: usize = 6;

/// Batches that are sent again, late reports, permits asked for at once, reads right after writes, watches among writes, progress.
///
/// # Errors
/// When it could not be done.
pub async fn promises() -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let stage = Stage::start(ClusterOptions::default(), circuits()).await?;

    reads_contain_what_was_acknowledged(&stage, &mut findings).await?;
    late_reports_only_count(&stage, &mut findings).await?;
    as_many_permits_as_places(&stage, &mut findings).await?;
    batches_count_once(&stage, &mut findings).await?;
    progress_is_not_ahead(&stage, &mut findings).await?;
    let watched = watch_among_writes(&stage).await?;

    if findings.verdict() == Verdict::Broken {
        return Ok(findings);
    }
    let (ledger, circuits) = (stage.ledger.clone(), stage.circuits.clone());
    let mut findings = stage.finish(findings).await?;
    check_watches(&circuits, &watched, &ledger.events(), &mut findings);
    Ok(findings)
}

/// G2: whoever was acknowledged anything finds it in a read through any node that begins then.
async fn reads_contain_what_was_acknowledged(stage: &Stage, findings: &mut Findings) -> anyhow::Result<()> {
    let nodes = stage.nodes.len();
    for number in 0..READS {
        let node = number as usize % nodes;
        let batch = Batch::new(stage, SESSION + 1, number + 1, READ, "S", None);
        let acknowledged = batch.report(stage, node).await?.revision;
        for reader in 0..nodes {
            let shown = acts::status(stage, reader, READ, CALL).await?;
            findings.require(shown.at >= acknowledged, "G2", || {
                format!(
                    "a linearizable read through node {} shows revision {}, but {acknowledged} was acknowledged before it began",
                    reader + 1,
                    shown.at
                )
            });
        }
    }
    findings.checked(
        "G2",
        format!("{READS} writes, each in a read through every node right after it"),
    );
    Ok(())
}

/// A report of a generation that is over changes totals, and nothing else.
async fn late_reports_only_count(stage: &Stage, findings: &mut Findings) -> anyhow::Result<()> {
    let before = acts::status(stage, 0, LATE, CALL).await?;
    acts::open(stage, 1, LATE, 600_000).await?;
    let closed = acts::close(stage, 2, LATE).await?;
    let late = Batch::new(
        stage,
        SESSION + 2,
        1,
        LATE,
        ENOUGH_TO_OPEN,
        Some(before.generation),
    );
    late.report(stage, 0).await?;
    let after = acts::status(stage, 1, LATE, CALL).await?;
    let unchanged = after.generation == closed.generation
        && after.state == i32::from(v1::State::Closed)
        && after.failure_count == closed.failure_count;
    findings.require(unchanged, "G9", || {
        format!(
            "{} failures of generation {} changed the circuit in generation {}: {after:?}",
            ENOUGH_TO_OPEN.len(),
            before.generation,
            closed.generation
        )
    });
    // Else the report was not one that could have opened it.
    let fresh = Batch::new(
        stage,
        SESSION + 2,
        2,
        LATE,
        ENOUGH_TO_OPEN,
        Some(after.generation),
    );
    fresh.report(stage, 0).await?;
    let opened = acts::status(stage, 2, LATE, CALL).await?;
    if unchanged && opened.state != i32::from(v1::State::Open) {
        findings.untold(format!("the same failures did not open the circuit: {opened:?}"));
    }
    findings.checked("G9", "failures of a past generation change nothing");
    Ok(())
}

/// G6: as many probes as places, however many ask through however many nodes.
async fn as_many_permits_as_places(stage: &Stage, findings: &mut Findings) -> anyhow::Result<()> {
    acts::open(stage, 0, PROBED, 50).await?;
    stage
        .wait(CALL, "the circuit is half-open", async |stage: &Stage| {
            Ok(acts::status(stage, 0, PROBED, CALL).await?.state == i32::from(v1::State::HalfOpen))
        })
        .await?;
    let nodes = stage.nodes.len();
    let asked = (1..=ASK_AT_ONCE)
        .map(|number| acts::acquire(stage, usize::from(number) % nodes, PROBED, [number; 16]));
    let admitted = futures::future::join_all(asked).await.into_iter();
    let admitted = admitted.collect::<Result<Vec<_>, _>>()?;
    let admitted = admitted.iter().filter(|answer| answer.admitted).count();
    let places = stage.circuits.get(PROBED).max_probes as usize;
    findings.require(admitted <= places, "G6", || {
        format!("{admitted} of {ASK_AT_ONCE} who asked at once were given a permit, {places} is allowed")
    });
    if admitted == 0 {
        findings.untold("nobody was given a permit");
    }
    findings.checked(
        "G6",
        format!("{admitted} permit for {ASK_AT_ONCE} who asked at once"),
    );
    Ok(())
}

/// G3: a batch that is sent again, through other nodes, changes nothing and gets the first answer.
async fn batches_count_once(stage: &Stage, findings: &mut Findings) -> anyhow::Result<()> {
    let nodes = stage.nodes.len();
    for sequence in 1..=REPEATS {
        let batch = Batch::new(stage, SESSION, sequence, REPEATED, "SF", None);
        let node = sequence as usize % nodes;
        let first = batch.report(stage, node).await?;
        let others = (1..nodes).map(|step| batch.again(stage, (node + step) % nodes));
        for again in futures::future::join_all(others).await {
            let again = again?;
            let same = again.revision == first.revision && again.items == first.items;
            findings.require(same, "G3", || {
                format!(
                    "batch {sequence} was answered with revision {} first, and with {} when it was sent again",
                    first.revision, again.revision
                )
            });
        }
    }
    findings.checked(
        "G3",
        format!("{REPEATS} batches sent {nodes} times each, with one answer and one effect"),
    );
    Ok(())
}

/// G7: a subscriber that has much to read is not told that it is further than it is.
async fn progress_is_not_ahead(stage: &Stage, findings: &mut Findings) -> anyhow::Result<()> {
    use v1::subscribe_response::Message;
    for node in 0..stage.nodes.len() {
        let request = v1::SubscribeRequest {
            from: Some(Start::Oldest(true)),
            ..Default::default()
        };
        let mut stream = stage.nodes.events(node).subscribe(request).await?.into_inner();
        let mut newest = 0;
        while newest == 0 {
            let response = tokio::time::timeout(CALL, stream.message()).await??;
            match response.and_then(|response| response.message) {
                Some(Message::Event(event)) => newest = event.revision,
                Some(Message::Progress(progress)) => {
                    findings.require(progress.revision == 0, "G7", || {
                        format!(
                            "node {} told a subscriber that it is at revision {} before it had any event",
                            node + 1,
                            progress.revision
                        )
                    });
                }
                None => anyhow::bail!("the stream of node {} ended", node + 1),
            }
        }
    }
    findings.checked("G7", "progress is where the subscriber is");
    Ok(())
}

/// What a watch showed: the place from which its events go on, and each circuit's last event.
struct Watched {
    node: usize,
    revision: u64,
    circuits: BTreeMap<CircuitIndex, u64>,
}

async fn watch_among_writes(stage: &Stage) -> anyhow::Result<Vec<Watched>> {
    let crew = Crew::start(stage, 1..CLIENTS + 1, Mix::Reports, 1)?;
    let mut watched = Vec::new();
    for number in 0..WATCHES {
        tokio::time::sleep(Duration::from_millis(150)).await;
        watched.push(watch(stage, number % stage.nodes.len()).await?);
    }
    crew.stop().await?;
    Ok(watched)
}

async fn watch(stage: &Stage, node: usize) -> anyhow::Result<Watched> {
    use v1::watch_response::Message;
    let request = v1::WatchRequest {
        snapshot_only: true,
        ..Default::default()
    };
    let mut stream = stage.nodes.events(node).watch(request).await?.into_inner();
    let mut circuits = BTreeMap::new();
    loop {
        let response = tokio::time::timeout(CALL, stream.message()).await??;
        match response.and_then(|response| response.message) {
            Some(Message::Snapshot(page)) => {
                for circuit in page.circuits {
                    let index = circuit.name.as_ref().and_then(|name| stage.circuits.find(name));
                    circuits.insert(
                        index.context("a circuit that nobody registered")?,
                        circuit.revision,
                    );
                }
            }
            Some(Message::Synced(synced)) => {
                return Ok(Watched {
                    node,
                    revision: synced.revision,
                    circuits,
                });
            }
            Some(Message::Event(_) | Message::Progress(_)) => {}
            None => anyhow::bail!("the watch on node {} ended", node + 1),
        }
    }
}

/// G7: circuits and cursor are of one moment, so that no event lies between.
fn check_watches(
    circuits: &Circuits,
    watched: &[Watched],
    events: &BTreeMap<u64, Seen>,
    findings: &mut Findings,
) {
    let mut moving = 0;
    for watch in watched {
        let mut newest: HashMap<CircuitIndex, u64> = HashMap::new();
        for seen in events.range(..=watch.revision).map(|(_, seen)| seen) {
            if let Some(index) = seen.event.name.as_ref().and_then(|name| circuits.find(name)) {
                newest.insert(index, seen.event.revision);
            }
        }
        moving += usize::from(events.keys().next_back() > Some(&watch.revision));
        for (circuit, shown) in &watch.circuits {
            let told = newest.get(circuit).copied().unwrap_or(0);
            findings.require(told == *shown, "G7", || {
                format!(
                    "a watch on node {} goes on after revision {}, and shows circuit {circuit} as of {shown}, although its event {told} is in between",
                    watch.node + 1,
                    watch.revision
                )
            });
        }
    }
    if moving == 0 {
        findings.untold("nothing happened while circuits were watched");
    }
    findings.checked(
        "G7",
        format!(
            "{} watches, each of one moment, {moving} of them among writes",
            watched.len()
        ),
    );
}

fn circuits() -> Circuits {
    let opening = Opening::Fixed(60_000);
    let spec = |index| Spec {
        name: name(index),
        policy: v1::Policy {
            half_open_max_probes: Some(1),
            ..policy_of(opening)
        },
        opening,
        max_probes: 1,
    };
    Circuits::new((0..CIRCUITS).map(spec).collect())
}
