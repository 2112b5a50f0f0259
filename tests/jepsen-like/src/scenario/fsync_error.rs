//! A sync fails once: of a follower, of the leader, of both. As on Linux, what it should have written stays in the cache and is taken for written, or it was
//! written after all.
//!
//! Whoever hears of the error must acknowledge nothing any more, whatever the next sync says: it stops, and says why. The others go on. Started again it
//! finds in the cache what is not on its disk; it must not build on that. So in the end the power goes, of all at once.

use std::time::Duration;

use anyhow::bail;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::crew::Crew;
use super::power::{check_totals, come_back, lossy_is_impossible};
use super::pulse::Pulse;
use super::stage::Stage;
use super::vigil::Vigil;
use crate::circuits::Circuits;
use crate::cluster::ClusterOptions;
use crate::findings::{Findings, Verdict};
use crate::lossy::Failing;
use crate::time::{Micros, show_ms};
use crate::workload::Mix;

const CLIENTS: u32 = 6;
const CIRCUITS: usize = 20;
const DISK_MIB: u64 = 1024;
/// So many of a thousand reports are so long that a group of the journal has many pages.
const PER_MILLE_LONG: u32 = 5;
/// Under load a sync comes within this.
const STRUCK_WITHIN: Duration = Duration::from_secs(10);
/// The node notices, and ends, within this.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// While one node is gone, writes may stop for so long: G12's bound for a leader that dies.
const LONGEST_GAP: Micros = 4_000_000;
/// What the node logs.
const SAYS: &str = "the log cannot be written any more";
const ADVICE: &str = "free space or replace the disk, then restart this node";

/// Whose sync fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victims {
    Follower,
    Leader,
    /// The leader and a follower: then there is no majority, and whatever is acknowledged all the same is on no disk but one.
    Both,
}

/// Makes a sync fail, so many times of each kind.
///
/// # Errors
/// When it could not be done.
pub async fn fsync_error(times: u32, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    if let Some(why) = lossy_is_impossible() {
        findings.untold(why);
        return Ok(findings);
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let options = ClusterOptions {
        lossy_mib: Some(DISK_MIB),
        ..Default::default()
    };
    let mut stage = Stage::start(options, Circuits::random(CIRCUITS, &mut rng)).await?;
    let vigil = Vigil::start(&stage);
    let pulse = Pulse::start(&stage, (0..stage.nodes.len()).collect());
    let crew = Crew::start(&stage, 1..CLIENTS + 1, Mix::LongReports(PER_MILLE_LONG), seed)?;

    'all: for round in 1..=times {
        for victims in [Victims::Follower, Victims::Leader, Victims::Both] {
            for failing in [Failing::Unwritten, Failing::Written] {
                let nth = rng.random_range(1..=8);
                let what = format!("round {round}: {victims:?}, {failing:?}");
                if let Err(error) = play(&stage, &pulse, victims, failing, nth, &what, &mut findings).await {
                    findings.broken("G8", format!("{what}: {error:#}"));
                }
                if findings.verdict() == Verdict::Broken {
                    stage.cluster.keep_folder();
                    println!("  data and logs: {}", stage.cluster.folder().display());
                    break 'all;
                }
                tokio::time::sleep(Duration::from_millis(rng.random_range(200..600))).await;
            }
        }
    }
    pulse.stop().await?;
    crew.stop().await?;
    vigil.end(&mut findings).await?;
    if findings.verdict() == Verdict::Broken {
        return Ok(findings);
    }
    check_totals(&stage, &mut findings).await?;
    let ops = stage.history.ops();
    findings.checked(
        "G8",
        format!(
            "{} acknowledged operations are there after failed syncs and the power cuts that followed",
            ops.iter().filter(|op| op.is_ok()).count()
        ),
    );
    stage.finish(findings).await
}

async fn play(
    stage: &Stage,
    pulse: &Pulse,
    victims: Victims,
    failing: Failing,
    nth: u32,
    what: &str,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let all: Vec<usize> = (0..stage.nodes.len()).collect();
    let leader = stage.cluster.wait_for_leader(&stage.nodes, STRUCK_WITHIN).await?;
    let follower = (leader + 1) % stage.nodes.len();
    let positions = match victims {
        Victims::Follower => vec![follower],
        Victims::Leader => vec![leader],
        Victims::Both => vec![leader, follower],
    };
    let disks = stage.cluster.lossy_disks();
    let failed = |position: usize| disks[position].counts().failed.len();
    let before: Vec<usize> = positions.iter().map(|position| failed(*position)).collect();
    let begun = stage.clock.now();
    for position in &positions {
        disks[*position].fail_fsync(nth, failing);
    }
    stage
        .wait(STRUCK_WITHIN, "a sync fails", async |_| {
            let mut each = positions.iter().zip(&before);
            Ok(each.all(|(position, before)| failed(*position) > *before))
        })
        .await?;
    let struck = stage.clock.now();

    for position in &positions {
        let node = &stage.cluster.nodes()[*position];
        let id = node.spec.id;
        match node.ended(ENDS_WITHIN).await? {
            Some(status) => findings.require(!status.success(), "G8", || {
                format!("{what}: node {id} ended with {status}, as if all were well")
            }),
            None => bail!(
                "node {id} goes on, {ENDS_WITHIN:?} after a sync failed\n{}",
                node.log_tail(10)
            ),
        }
        let tail = node.log_tail(60);
        for text in [SAYS, ADVICE] {
            findings.require(tail.contains(text), "G8", || {
                format!("{what}: node {id} does not say {text:?}:\n{}", node.log_tail(10))
            });
        }
    }
    let ended = stage.clock.now();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let acknowledged: usize = positions
        .iter()
        .map(|position| pulse.through(*position, ended))
        .sum();
    findings.require(acknowledged == 0, "G8", || {
        format!("{what}: {acknowledged} writes were acknowledged by a node that had ended")
    });
    let gap = pulse.longest_gap(begun, stage.clock.now());
    if victims == Victims::Both {
        let after = pulse.first_after(ended);
        findings.require(after.is_none(), "G8", || {
            format!("{what}: one node of three acknowledged a write alone")
        });
    } else {
        findings.require(gap <= LONGEST_GAP, "G12", || {
            format!("{what}: no write for {}", show_ms(gap))
        });
    }

    // Started again, it reads what its cache has.
    come_back(stage, &positions).await?;
    let back = stage.clock.now();
    stage
        .wait(STRUCK_WITHIN, "writes go on", async |_| {
            Ok(pulse.first_after(back).is_some())
        })
        .await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    for disk in &disks {
        disk.cut();
    }
    stage.cluster.power_up(&all).await?;
    come_back(stage, &all).await?;

    let files: Vec<String> = positions
        .iter()
        .filter_map(|position| disks[*position].counts().failed.last().cloned())
        .collect();
    println!("  {what}: {} failed", files.join(", "));
    findings.figure(
        what,
        format!(
            "{} failed; the node ended {} later; longest time without a write {}",
            files.join(" and "),
            show_ms(ended - struck),
            show_ms(gap)
        ),
    );
    Ok(())
}
