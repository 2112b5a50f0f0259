//! Wall clocks lie while openings run and probes go on (row 13 of the matrix): they jump by an hour, flicker by a second, stand still and run a tenth too
//! fast, the leader's alone and all of them.
//!
//! Of each kind some openings begin before the lie and end under it: a timer that follows the wall clock would jump there. It fails
//! when one of them ends more than 0.1 % early, and when all of them end late, as they would by a clock that is slow or stands.

use std::time::Duration;

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::crew::Crew;
use super::faketime::library;
use super::hand::Hand;
use super::lasting::{Late, Opened, judge};
use super::stage::Stage;
use super::vigil::Vigil;
use crate::circuits::{Circuits, Opening, Spec, name, policy_of};
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::nemesis::{FakeClock, Lie};
use crate::workload::Mix;

const PATIENCE: Duration = Duration::from_secs(20);
const CLIENTS: std::ops::Range<u32> = 1..5;
const OPENER: u32 = 2000;
/// Of the clients.
const WORKED_ON: usize = 16;
const LASTS: Duration = Duration::from_secs(5);
/// Openings before a lie, and as many under it.
const OPENINGS: usize = 4;
const HOUR: i64 = 3600;
const LATE: Late = Late {
    each: 1_000_000,
    first: 50_000,
};

/// Whose clocks lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Leaders,
    All,
}

const FULL: [(Whose, Lie); 10] = [
    (Whose::Leaders, Lie::Jump { seconds: HOUR }),
    (Whose::Leaders, Lie::Jump { seconds: -HOUR }),
    (Whose::Leaders, Lie::Strobe),
    (Whose::Leaders, Lie::Stopped),
    (Whose::Leaders, Lie::Fast),
    (Whose::All, Lie::Jump { seconds: HOUR }),
    (Whose::All, Lie::Jump { seconds: -HOUR }),
    (Whose::All, Lie::Strobe),
    (Whose::All, Lie::Stopped),
    (Whose::All, Lie::Fast),
];
const SHORT: [(Whose, Lie); 3] = [FULL[4], FULL[5], FULL[7]];

/// All lies, or a few of them.
///
/// # Errors
/// When it could not be done: also when libfaketime is not installed, or a clock does not lie.
pub async fn clocks(short: bool, seed: u64) -> anyhow::Result<Findings> {
    library().context("SKIPPED: libfaketime is not installed (Debian: apt-get install faketime)")?;
    let mut findings = Findings::default();
    let folder = tempfile::Builder::new().prefix("brama-clocks-").tempdir()?;
    let clocks = make_clocks(&folder)?;
    let options = ClusterOptions {
        env: (1..).zip(&clocks).map(|(id, clock)| (id, clock.env())).collect(),
        // Who leads is decided by no election that a busy machine brings about.
        settings: vec![
            ("raft", "election_timeout_min", "5s".into()),
            ("raft", "election_timeout_max", "6s".into()),
        ],
        ..Default::default()
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let stage = Stage::start(options, circuits(&mut rng)).await?;
    let vigil = Vigil::start(&stage);
    let crew = Crew::on_first(WORKED_ON, &stage, CLIENTS, Mix::Everything, seed)?;
    let hand = Hand::of(&stage, OPENER);
    let lies: &[_] = if short { &SHORT } else { &FULL };
    for (whose, lie) in lies {
        findings.merge(one(&stage, &clocks, &hand, *whose, *lie).await?);
    }
    crew.stop().await?;
    vigil.end(&mut findings).await?;
    stage.finish_with_all_checks(findings).await
}

/// One for each of three nodes; right, until they are told to lie.
pub(super) fn make_clocks(folder: &TempDir) -> anyhow::Result<Vec<FakeClock>> {
    (1..=3)
        .map(|id| FakeClock::make(folder.path().join(format!("clock{id}"))))
        .collect()
}

async fn one(
    stage: &Stage,
    clocks: &[FakeClock],
    hand: &Hand,
    whose: Whose,
    lie: Lie,
) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let liars = match whose {
        Whose::Leaders => vec![leader],
        Whose::All => vec![0, 1, 2],
    };
    let mut opened = open(stage, hand, 0).await?;
    let mut lying = JoinSet::new();
    for liar in &liars {
        clocks[*liar].lie(lie)?;
        let clock = clocks[*liar].clone();
        lying.spawn(async move { clock.keep_lying(lie).await });
    }
    for liar in &liars {
        let process = stage.cluster.nodes()[*liar]
            .pid()
            .context("the node has a process")?;
        clocks[*liar].prove(process, lie).await?;
    }
    opened.extend(open(stage, hand, OPENINGS).await?);
    // Those that never end are found when they are judged.
    let _ = stage
        .wait(LASTS + PATIENCE, "the openings end", async |stage: &Stage| {
            Ok(opened.iter().all(|one| one.ended(stage).is_some()))
        })
        .await;
    if let Some(Ok(Err(error))) = lying.try_join_next() {
        return Err(error.context("a clock could not go on lying"));
    }
    drop(lying);
    let what = match whose {
        Whose::Leaders => format!("the leader's clock, {lie:?}"),
        Whose::All => format!("all clocks, {lie:?}"),
    };
    if stage.cluster.leader(&stage.nodes).await != Some(leader) {
        findings.untold(format!("{what}: the leader changed"));
    }
    for liar in &liars {
        clocks[*liar].be_right()?;
    }
    let lasted: Vec<_> = opened.iter().map(|one| one.lasted(stage)).collect();
    findings.merge(judge(&what, &lasted, LATE));
    Ok(findings)
}

async fn open(stage: &Stage, hand: &Hand, first: usize) -> anyhow::Result<Vec<Opened>> {
    let mut opened = Vec::new();
    for number in first..first + OPENINGS {
        opened.push(
            hand.open(number % stage.nodes.len(), WORKED_ON + number, LASTS)
                .await?,
        );
        // So that what disturbs one does not disturb all.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(opened)
}

fn circuits(rng: &mut StdRng) -> Circuits {
    let opening = Opening::Fixed(60_000);
    let measured = |index| Spec {
        name: name(index),
        policy: policy_of(opening),
        opening,
        max_probes: 1,
    };
    let worked_on = Circuits::random(WORKED_ON, rng);
    let worked_on = worked_on.iter().map(|(_, spec)| spec.clone());
    Circuits::new(
        worked_on
            .chain((WORKED_ON..WORKED_ON + 2 * OPENINGS).map(measured))
            .collect(),
    )
}
