//! The power goes, of all nodes at once or of one, in the middle of whatever the disks were doing; nothing that was acknowledged may be gone.
//!
//! Each node's data is on a disk of its own: an ext4 image (see [`Disk`]), or a [`LossyDisk`](crate::lossy::LossyDisk). The cuts are dealt out over rounds,
//! each with a new cluster and with other settings, so that they hit appends, votes, snapshots, purges and turns of the journal.
//!
//! | file | what it is about |
//! | --- | --- |
//! | `cuts` | one cut: when, whose, and what must be there afterwards |
//! | `first_start` | first starts that are cut short, at each of their syncs |
//! | `sum` | what all rounds add up to |

mod cuts;
mod first_start;
mod sum;

use std::time::Duration;

use brama_proto::v1;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use self::cuts::Who;
pub(super) use self::cuts::come_back;
use self::sum::Sum;
use super::crew::Crew;
use super::pulse::Pulse;
use super::stage::Stage;
use super::vigil::Vigil;
use crate::circuits::Circuits;
use crate::cluster::{ClusterOptions, Setting};
use crate::disk::Disk;
use crate::findings::{Findings, Verdict};
use crate::history::{Action, Item, Outcome};
use crate::lossy::LossyMount;
use crate::rpc::{answer, timed};
use crate::workload::Mix;

const CLIENTS: u32 = 6;
const CIRCUITS: usize = 20;
const DISK_MIB: u32 = 256;
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

/// On which disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Ext4,
    Lossy,
}

/// Cuts the power of all nodes so many `times`, and that of single ones so often, while clients report. The disks are ext4 images.
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
    rounds(How::Ext4, times, singles, seed, &mut findings).await?;
    Ok(findings)
}

/// The same on lossy disks, which tear what was not synced, and lose power just before and just after syncs and acknowledgements. Before that, first starts
/// are cut short, at every `stride`-th of their syncs.
///
/// # Errors
/// When it could not be done.
pub async fn lossy_power(times: u32, singles: u32, stride: u32, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    if let Some(why) = lossy_is_impossible() {
        findings.untold(why);
        return Ok(findings);
    }
    first_start::cut_short(stride, seed, &mut findings).await?;
    if findings.verdict() != Verdict::Broken {
        rounds(How::Lossy, times, singles, seed, &mut findings).await?;
    }
    Ok(findings)
}

/// Why nodes cannot have lossy disks here, or why a run on them would show nothing.
pub(super) fn lossy_is_impossible() -> Option<String> {
    let proof = || -> anyhow::Result<()> {
        let folder = TempDir::new()?;
        let mount = LossyMount::new(&folder.path().join("disk"), 16)?;
        mount.proves_itself()
    };
    let why = LossyMount::is_impossible()
        .or_else(|| Some(format!("{:#}", tokio::task::block_in_place(proof).err()?)));
    why.map(|why| format!("there can be no lossy disk here: {why}"))
}

async fn rounds(
    how: How,
    times: u32,
    singles: u32,
    seed: u64,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let mut sum = Sum::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let rounds = times.div_ceil(A_ROUND).max(singles.div_ceil(A_ROUND)).max(1);
    for round in 0..rounds {
        let share = |of: u32| of / rounds + u32::from(round < of % rounds);
        let mut cuts = vec![Who::All; share(times) as usize];
        cuts.extend((0..share(singles)).map(|_| Who::One(rng.random_range(0..3))));
        cuts.shuffle(&mut rng);
        let found = play(how, round, &cuts, rng.random(), &mut sum).await?;
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
    sum.tell_of_lost(how, findings);
    sum.tell(findings, times + singles);
    Ok(())
}

/// Otherwise a run would show nothing.
fn cuts_are_cuts() -> anyhow::Result<()> {
    let folder = TempDir::new()?;
    let mut disk = Disk::make(&folder.path().join("disk.image"), &folder.path().join("disk"), 32)?;
    disk.proves_itself()
}

/// One cluster, and these cuts.
async fn play(how: How, round: u32, cuts: &[Who], seed: u64, sum: &mut Sum) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let (name, settings, mix) = variant(round);
    let options = ClusterOptions {
        settings,
        disk_mib: (how == How::Ext4).then_some(DISK_MIB),
        lossy_mib: (how == How::Lossy).then_some(DISK_MIB.into()),
        ..Default::default()
    };
    let mut stage = Stage::start(options, Circuits::random(CIRCUITS, &mut rng)).await?;
    let vigil = Vigil::start(&stage);
    let crew = Crew::start(&stage, 1..CLIENTS + 1, mix, seed)?;
    let pulse = Pulse::start(&stage, vec![0, 1, 2]);

    for (number, who) in (1..).zip(cuts) {
        let calm = Duration::from_millis(rng.random_range(200..1200));
        tokio::time::sleep(calm).await;
        let cut = match how {
            How::Ext4 => cuts::Cut::ext4(*who, &mut rng),
            How::Lossy => cuts::Cut::lossy(*who, &mut rng),
        };
        let what = format!("cut {number} of round {} ({name}; {cut:?})", round + 1);
        if let Err(error) = cut.play(&mut stage, &pulse, sum).await {
            findings.broken("G8", format!("{what}: {error:#}"));
        }
        if findings.verdict() == Verdict::Broken {
            stage.cluster.keep_folder();
            println!(
                "  {what} broke something; data and logs: {}",
                stage.cluster.folder().display()
            );
            return Ok(findings);
        }
    }

    tokio::time::sleep(Duration::from_millis(300)).await;
    pulse.stop().await?;
    crew.stop().await?;
    let mut observed = vigil.stop().await?;
    findings.merge(std::mem::take(&mut observed.findings));
    sum.terms = sum.terms.max(observed.newest_term);
    sum.compared += observed.compared;
    sum.purged = sum.purged.max(observed.purged);
    sum.snapshot = sum.snapshot.max(observed.snapshot);
    check_totals(&stage, &mut findings).await?;
    sum.acknowledged += stage.history.ops().iter().filter(|op| op.is_ok()).count();
    sum.events += stage.ledger.events().len();
    stage.finish(findings).await
}

/// The totals of each circuit hold everything that was acknowledged, and nothing that nobody reported.
pub(super) async fn check_totals(stage: &Stage, findings: &mut Findings) -> anyhow::Result<()> {
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
