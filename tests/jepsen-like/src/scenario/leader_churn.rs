//! The leader changes every two seconds (row 16 of the matrix): it is killed, told to hand over, and stopped, in an order that the seed decides, while clients
//! do everything. Openings of ten seconds, which five leaders see, end when they are due: what a new leader counts anew would never end.
//!
//! It fails when an opening begins again or is forgotten with a leader, when a batch that was repeated through another one counts twice, and when
//! states differ.

use std::collections::BTreeMap;
use std::time::Duration;

use brama_proto::v1;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::crew::Crew;
use super::hand::Hand;
use super::lasting::{Late, Opened, judge};
use super::stage::Stage;
use super::vigil::Vigil;
use crate::circuits::{Circuits, Opening, Spec, name, policy_of};
use crate::cluster::ClusterOptions;
use crate::findings::Findings;
use crate::rpc::{answer, timed};
use crate::time::{Micros, percentile, show_ms};
use crate::workload::Mix;

const PATIENCE: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(3);
const EVERY: Duration = Duration::from_secs(2);
const CLIENTS: std::ops::Range<u32> = 1..5;
/// Of the clients.
const CIRCUITS: usize = 16;
/// Opened by hand, one after the other; no client touches them.
const MEASURED: usize = 48;
const LASTS: Duration = Duration::from_secs(10);
const OPEN_EVERY: Duration = Duration::from_millis(400);
const OPENER: u32 = 2000;
/// What is due while there is no leader waits for the next one: at most four times the longest election timeout. The first openings are not due then.
const LATE: Late = Late {
    each: 4_000_000,
    first: 100_000,
};

/// How a leader goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Kill,
    Transfer,
    Pause,
}

impl Change {
    const ALL: [Self; 3] = [Self::Kill, Self::Transfer, Self::Pause];
}

/// Changes the leader for so long.
///
/// # Errors
/// When it could not be done.
pub async fn leader_churn(lasts: Duration, seed: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let stage = Stage::start(ClusterOptions::default(), circuits(&mut rng)).await?;
    let vigil = Vigil::start(&stage);
    let crew = Crew::on_first(CIRCUITS, &stage, CLIENTS, Mix::Everything, seed)?;
    let opening = CancellationToken::new();
    let mut opener = JoinSet::new();
    opener.spawn(open_on(Hand::of(&stage, OPENER), opening.clone(), seed));

    let mut changed: BTreeMap<Change, Vec<Micros>> = BTreeMap::new();
    let mut tried = 0_usize;
    let deadline = Instant::now() + lasts;
    let mut bag = Vec::new();
    while Instant::now() < deadline {
        if bag.is_empty() {
            bag = Change::ALL.to_vec();
            bag.shuffle(&mut rng);
        }
        let Some(change) = bag.pop() else { continue };
        let next = Instant::now() + EVERY;
        tried += 1;
        if let Some(took) = replace_leader(&stage, change, &mut rng).await? {
            changed.entry(change).or_default().push(took);
        }
        tokio::time::sleep_until(next).await;
    }
    stage.cluster.wait_until_ready(PATIENCE).await?;
    opening.cancel();
    let mut opened = Vec::new();
    while let Some(all) = opener.join_next().await {
        opened.extend(all?);
    }
    // The last ones end, in calm.
    tokio::time::sleep(LASTS + Duration::from_secs(1)).await;
    crew.stop().await?;
    let observed = vigil.end(&mut findings).await?;

    for (change, took) in &mut changed {
        took.sort_unstable();
        findings.figure(
            format!("{change:?}: until another led"),
            format!(
                "{} times, p50 {}, worst {}",
                took.len(),
                show_ms(percentile(took, 50)),
                show_ms(percentile(took, 100))
            ),
        );
    }
    findings.figure("terms with a leader", observed.leaders.to_string());
    let lasted: Vec<_> = opened.iter().map(|opened| opened.lasted(&stage)).collect();
    findings.merge(judge("10 s under five leaders", &lasted, LATE));
    findings.merge(coverage(&changed, tried));
    stage.finish_with_all_checks(findings).await
}

/// Takes the leader's office from it. Returns how long it took until another led; `None`: nobody else did.
async fn replace_leader(stage: &Stage, change: Change, rng: &mut StdRng) -> anyhow::Result<Option<Micros>> {
    let leader = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
    let node = &stage.cluster.nodes()[leader];
    let hold = Duration::from_millis(rng.random_range(1000..1400));
    let from = stage.clock.now();
    let mended = Instant::now() + hold;
    match change {
        Change::Kill => node.kill().await?,
        Change::Pause => node.pause()?,
        Change::Transfer => {
            let request = v1::TransferLeaderRequest { node_id: None };
            // Refused, or without an answer: then nobody else leads, and this is no change.
            let _ = answer(
                CALL,
                stage.nodes.cluster(leader).transfer_leader(timed(request, CALL)),
            )
            .await;
        }
    }
    let mut took = None;
    while took.is_none() && Instant::now() < mended {
        let now = stage.cluster.leader(&stage.nodes).await;
        if now.is_some_and(|now| now != leader) {
            took = Some(stage.clock.now() - from);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    match change {
        Change::Kill => {
            tokio::time::sleep_until(mended).await;
            node.start()?;
        }
        Change::Pause => {
            tokio::time::sleep_until(mended).await;
            node.resume()?;
        }
        Change::Transfer => {}
    }
    if took.is_none() {
        let now = stage.cluster.wait_for_leader(&stage.nodes, PATIENCE).await?;
        took = (now != leader).then(|| stage.clock.now() - from);
    }
    Ok(took)
}

/// Opens one circuit after the other, through nodes at random. Only what was acknowledged can be measured.
async fn open_on(hand: Hand, stop: CancellationToken, seed: u64) -> Vec<Opened> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x09e4);
    let mut opened = Vec::new();
    for number in 0.. {
        let pause = tokio::time::sleep(OPEN_EVERY);
        if stop.run_until_cancelled(pause).await.is_none() {
            break;
        }
        let circuit = CIRCUITS + number % MEASURED;
        if let Ok(one) = hand.open(rng.random_range(0..3), circuit, LASTS).await {
            opened.push(one);
        }
    }
    opened
}

fn coverage(changed: &BTreeMap<Change, Vec<Micros>>, tried: usize) -> Findings {
    let mut findings = Findings::default();
    for change in Change::ALL {
        if changed.get(&change).is_none_or(Vec::is_empty) {
            findings.untold(format!("no leader was replaced by a {change:?}"));
        }
    }
    let all: usize = changed.values().map(Vec::len).sum();
    if all * 3 < tried * 2 {
        findings.untold(format!("only {all} of {tried} times somebody else led"));
    }
    findings.figure("leaders replaced", format!("{all} of {tried} times"));
    findings
}

fn circuits(rng: &mut StdRng) -> Circuits {
    let opening = Opening::Fixed(60_000);
    let measured = |index| Spec {
        name: name(index),
        policy: policy_of(opening),
        opening,
        max_probes: 1,
    };
    let worked_on = Circuits::random(CIRCUITS, rng);
    let worked_on = worked_on.iter().map(|(_, spec)| spec.clone());
    Circuits::new(
        worked_on
            .chain((CIRCUITS..CIRCUITS + MEASURED).map(measured))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Verdict;

    #[test]
    fn a_run_in_which_leaders_stay_shows_nothing() {
        let run = |kills: usize, transfers, pauses, tried| {
            let all = [
                (Change::Kill, vec![1; kills]),
                (Change::Transfer, vec![1; transfers]),
                (Change::Pause, vec![1; pauses]),
            ];
            coverage(&all.into(), tried).verdict()
        };
        assert_eq!(run(3, 3, 3, 9), Verdict::Holds);
        assert_eq!(run(3, 0, 3, 9), Verdict::Unknown);
        assert_eq!(run(1, 1, 1, 9), Verdict::Unknown);
    }
}
