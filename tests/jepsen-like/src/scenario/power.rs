//! The power goes, of all nodes at once or of one, in the middle of whatever the disks were doing; nothing that was acknowledged may be gone.
//!
//! Each node's data is on a disk of its own (see [`Disk`]). The cuts are dealt out over rounds, each with a new cluster and with other settings,
//! so that they hit appends, votes, snapshots, purges and turns of the journal.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use brama_proto::v1;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::pulse::Pulse;
use super::stage::Stage;
use crate::circuits::Circuits;
use crate::cluster::{ClusterOptions, Cut, Setting, status};
use crate::disk::Disk;
use crate::findings::{Findings, Verdict};
use crate::history::{Action, Answer, Item, Op, Outcome};
use crate::monitor::Monitor;
use crate::rpc::{Nodes, answer, timed};
use crate::time::{Micros, percentile, show_ms};
use crate::votes::Votes;
use crate::workload::{Client, Mix};

const CLIENTS: u32 = 6;
const CIRCUITS: usize = 20;
const DISK_MIB: u32 = 256;
/// After this all nodes are a cluster again.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(30);
const CALL: Duration = Duration::from_secs(5);
/// Cuts of all nodes in one round.
const A_ROUND: u32 = 5;

/// What differs between the rounds: a name, the settings, and what the clients do.
fn variant(round: u32) -> (&'static str, Vec<Setting>, Mix) {
    let short_log = |every: i64, keep: i64| -> Vec<Setting> {
        vec![
            ("raft", "snapshot_every", every.into()),
            ("raft", "keep_entries", keep.into()),
        ]
    };
    match round % 4 {
        0 => ("settings as by default", Vec::new(), Mix::Reports),
        1 => ("a snapshot every 40 entries", short_log(40, 5), Mix::Reports),
        2 => ("long batches", Vec::new(), Mix::LongReports(30)),
        _ => (
            "snapshots and long batches",
            short_log(150, 20),
            Mix::LongReports(6),
        ),
    }
}

/// Whose power is cut.
#[derive(Clone, Copy, Debug)]
enum Who {
    All,
    One(usize),
}

/// What the rounds add up to.
#[derive(Debug, Default)]
struct Sum {
    cuts: u32,
    in_the_middle: u32,
    in_flight: usize,
    acknowledged: usize,
    events: usize,
    /// From the start of the processes until all nodes are a cluster again.
    back: Vec<Micros>,
    purged: u64,
    snapshot: u64,
    compared: usize,
    terms: u64,
}

/// Cuts the power of all nodes so many `times`, and that of single ones so often, while clients report.
///
/// # Errors
/// When it could not be done.
pub async fn power(times: u32, singles: u32, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    if let Some(why) = Disk::is_impossible() {
        findings.untold(format!("the power cannot be cut here: {why}"));
        return Ok(findings);
    }
    if let Err(error) = tokio::task::block_in_place(cuts_are_cuts) {
        findings.untold(format!("the power cannot be cut here: {error:#}"));
        return Ok(findings);
    }
    let mut sum = Sum::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let rounds = times.div_ceil(A_ROUND).max(singles.div_ceil(A_ROUND)).max(1);
    for round in 0..rounds {
        let share = |of: u32| of / rounds + u32::from(round < of % rounds);
        let mut cuts = vec![Who::All; share(times) as usize];
        cuts.extend((0..share(singles)).map(|_| Who::One(rng.random_range(0..3))));
        cuts.shuffle(&mut rng);
        let found = play(round, &cuts, rng.random(), &mut sum).await?;
        let verdict = found.verdict();
        println!(
            "  round {} of {rounds} ({}): {verdict:?}",
            round + 1,
            variant(round).0
        );
        findings.merge_failures(found);
        if verdict == Verdict::Broken {
            break;
        }
    }
    sum.tell(&mut findings, times + singles);
    Ok(findings)
}

/// Otherwise a run would show nothing.
fn cuts_are_cuts() -> anyhow::Result<()> {
    let folder = TempDir::new()?;
    let mut disk = Disk::make(&folder.path().join("disk.image"), &folder.path().join("disk"), 32)?;
    disk.proves_itself()
}

/// One cluster, and these cuts.
async fn play(round: u32, cuts: &[Who], seed: u64, sum: &mut Sum) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let (name, mut settings, mix) = variant(round);
    // Every event of the round stays: a subscriber may miss none.
    settings.push(("limits", "max_events", 5_000_000.into()));
    settings.push(("limits", "max_event_bytes", 2_000_000_000.into()));
    let options = ClusterOptions {
        settings,
        disk_mib: Some(DISK_MIB),
        ..Default::default()
    };
    let mut stage = Stage::start(options, Circuits::random(CIRCUITS, &mut rng)).await?;
    let watch = Watch::start(stage.nodes.clone());
    let working = CancellationToken::new();
    let mut clients = JoinSet::new();
    for id in 1..=CLIENTS {
        let client = Client::new(
            id,
            stage.cluster.connect()?,
            stage.circuits.clone(),
            stage.history.clone(),
            mix,
            seed,
        );
        clients.spawn(client.run(working.clone()));
    }
    let pulse = Pulse::start(&stage, vec![0, 1, 2]);

    for (number, who) in (1..).zip(cuts) {
        let calm = Duration::from_millis(rng.random_range(200..1200));
        tokio::time::sleep(calm).await;
        let cut = if rng.random() {
            Cut::InTheMiddle
        } else {
            Cut::BetweenWrites
        };
        let what = format!("cut {number} of round {} ({name}; {who:?}, {cut:?})", round + 1);
        if let Err(error) = one_cut(&mut stage, *who, cut, sum).await {
            findings.broken("G8", format!("{what}: {error:#}"));
        }
        if findings.verdict() == Verdict::Broken {
            stage.cluster.keep_folder();
            println!(
                "  {what} broke something; images and logs: {}",
                stage.cluster.folder().display()
            );
            return Ok(findings);
        }
    }

    tokio::time::sleep(Duration::from_millis(300)).await;
    pulse.stop().await?;
    working.cancel();
    while let Some(client) = clients.join_next().await {
        client?;
    }
    watch.stop(sum, &mut findings).await?;
    check_totals(&stage, &mut findings).await?;
    sum.acknowledged += stage.history.ops().iter().filter(|op| op.is_ok()).count();
    sum.events += stage.ledger.events().len();
    stage.finish(findings).await
}

/// # Errors
/// When not all nodes are back in time.
async fn one_cut(stage: &mut Stage, who: Who, cut: Cut, sum: &mut Sum) -> anyhow::Result<()> {
    let positions = match who {
        Who::All => (0..stage.nodes.len()).collect(),
        Who::One(position) => vec![position],
    };
    let moment = stage.clock.now();
    stage.cluster.cut_power(&positions, cut).await?;
    // Whatever a client has heard by now was acknowledged before the cut, or by others.
    let floor = acknowledged_revision(&stage.history.ops());
    let started = stage.clock.now();
    for position in positions {
        stage.cluster.nodes()[position].start()?;
    }
    stage
        .cluster
        .wait_until_ready(PATIENCE)
        .await
        .context("not all nodes came back")?;
    // A new leader commits what it found only together with its first own entry, so this is not there at once.
    let has_all = stage.wait(
        PATIENCE,
        "what was acknowledged before the cut",
        async |stage: &Stage| {
            let statuses = stage.cluster.statuses(&stage.nodes).await;
            let revisions = statuses.iter().map(|status| status.as_ref()?.header.as_ref());
            Ok(revisions
                .into_iter()
                .all(|header| header.is_some_and(|header| header.revision >= floor)))
        },
    );
    has_all
        .await
        .with_context(|| format!("not every node has revision {floor}"))?;
    sum.back.push(stage.clock.now() - started);
    sum.cuts += 1;
    sum.in_the_middle += u32::from(cut == Cut::InTheMiddle);
    let ops = stage.history.ops();
    sum.in_flight += ops
        .iter()
        .filter(|op| op.started < moment && op.ended > moment)
        .count();
    Ok(())
}

fn acknowledged_revision(ops: &[Op]) -> u64 {
    let revisions = ops.iter().filter_map(|op| match &op.outcome {
        Outcome::Ok(
            Answer::Registered { revision, .. }
            | Answer::Reported { revision, .. }
            | Answer::Changed { revision, .. },
        ) => Some(*revision),
        Outcome::Ok(_) | Outcome::Refused(_) | Outcome::Unknown(_) => None,
    });
    revisions.max().unwrap_or(0)
}

/// The totals of each circuit hold everything that was acknowledged, and nothing that nobody reported.
async fn check_totals(stage: &Stage, findings: &mut Findings) -> anyhow::Result<()> {
    let request = v1::ListRequest {
        page_size: 1000,
        ..Default::default()
    };
    let list = answer(CALL, stage.nodes.circuits(0).list(timed(request, CALL))).await?;
    let ops = stage.history.ops();
    for circuit in list.circuits {
        let Some(index) = circuit.name.as_ref().and_then(|name| stage.circuits.find(name)) else {
            continue;
        };
        let reported = |takes: fn(&Outcome) -> bool| -> u64 {
            let reports = ops
                .iter()
                .filter(|op| takes(&op.outcome))
                .filter_map(|op| match &op.action {
                    Action::Report { items, .. } => Some(items),
                    _ => None,
                });
            let outcomes = |item: &Item| item.outcomes.len() as u64;
            reports
                .flatten()
                .filter(|item| item.circuit == index)
                .map(outcomes)
                .sum()
        };
        let least = reported(|outcome| matches!(outcome, Outcome::Ok(_)));
        let most = reported(|outcome| !matches!(outcome, Outcome::Refused(_)));
        let totals = circuit.totals.unwrap_or_default();
        let counted = totals.successes + totals.failures;
        findings.require((least..=most).contains(&counted), "G8", || {
            format!(
                "{:?} counted {counted} outcomes, but {least} were acknowledged, and {most} reported at most",
                circuit.name
            )
        });
    }
    Ok(())
}

impl Sum {
    fn tell(mut self, findings: &mut Findings, planned: u32) {
        self.back.sort_unstable();
        let (median, worst) = (percentile(&self.back, 50), percentile(&self.back, 100));
        findings.figure(
            "power cuts",
            format!(
                "{} of {planned}, {} of them in the middle of writes",
                self.cuts, self.in_the_middle
            ),
        );
        findings.figure(
            "reports on their way",
            format!("{} when the power went", self.in_flight),
        );
        findings.figure(
            "power back to cluster back",
            format!("median {}, worst {}", show_ms(median), show_ms(worst)),
        );
        findings.figure(
            "log",
            format!(
                "snapshot at {}, dropped up to {}, term {}",
                self.snapshot, self.purged, self.terms
            ),
        );
        findings.checked(
            "G8",
            format!(
                "{} acknowledged operations are there, and no vote went back",
                self.acknowledged
            ),
        );
        findings.checked("G7", format!("{} events, without gap or duplicate", self.events));
        findings.checked("G1", format!("equal states at {} log positions", self.compared));
        if self.in_flight == 0 && findings.verdict() == Verdict::Holds {
            findings.untold("no report was on its way when the power went");
        }
    }
}

/// Asks every node for its status all the time.
struct Watch {
    heard: Arc<Mutex<(Votes, Monitor)>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Watch {
    fn start(nodes: Nodes) -> Self {
        let heard = Arc::<Mutex<(Votes, Monitor)>>::default();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for position in 0..nodes.len() {
            let (nodes, heard) = (nodes.clone(), heard.clone());
            let look = async move {
                loop {
                    if let Some(status) = status(&nodes, position).await {
                        let mut heard = heard.lock();
                        heard.0.hear(&status);
                        heard.1.hear(&status);
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(look).await;
            });
        }
        Self { heard, stop, tasks }
    }

    async fn stop(mut self, sum: &mut Sum, findings: &mut Findings) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(task) = self.tasks.join_next().await {
            task?;
        }
        let mut heard = self.heard.lock();
        let (found, term) = heard.0.take();
        let observed = heard.1.observed();
        findings.merge(found);
        findings.merge(observed.findings);
        sum.terms = sum.terms.max(term);
        sum.compared += observed.compared;
        sum.purged = sum.purged.max(observed.purged);
        sum.snapshot = sum.snapshot.max(observed.snapshot);
        Ok(())
    }
}
