//! One power cut.

use std::time::Duration;

use anyhow::Context;
use rand::Rng;
use rand::rngs::StdRng;

use super::sum::Sum;
use crate::cluster;
use crate::history::{Answer, Op, Outcome};
use crate::lossy::{LossyDisk, Mode, Moment, Trigger};
use crate::scenario::pulse::Pulse;
use crate::scenario::stage::Stage;

/// After this all nodes are a cluster again.
const PATIENCE: Duration = Duration::from_secs(30);
/// A sync, or an acknowledgement, comes within this; else the power goes without one.
const MOMENT: Duration = Duration::from_secs(3);
/// The most syncs that are waited for: some tenths of a second of load.
const SYNCS: u32 = 30;
/// The same for a cut while nodes are coming back: votes, and the first entry of a leader.
const FIRST_SYNCS: u32 = 5;

/// Whose power is cut.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who {
    All,
    One(usize),
}

/// Whose, how and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    who: Who,
    /// Before it, the process is killed there: what it had not synced stays in the cache, and the next one finds it.
    killed: Option<(Moment, u32)>,
    when: When,
    /// Another one, while the nodes come back.
    again: Option<When>,
}

#[derive(Clone, Copy, Debug)]
enum When {
    Ext4(cluster::Cut),
    Lossy(Instant, Torn),
}

/// The moment of a cut of lossy disks.
#[derive(Clone, Copy, Debug)]
enum Instant {
    Any,
    /// Of the disk of this node (of those whose power goes, counted from 0), at the n-th sync.
    Sync(usize, Moment, u32),
    Acknowledged,
}

/// `None`: all is gone that was not synced; else the seed of what is there.
type Torn = Option<u64>;

impl Cut {
    pub(super) fn ext4(who: Who, rng: &mut StdRng) -> Self {
        let when = if rng.random() {
            cluster::Cut::InTheMiddle
        } else {
            cluster::Cut::BetweenWrites
        };
        Self {
            who,
            killed: None,
            when: When::Ext4(when),
            again: None,
        }
    }

    pub(super) fn lossy(who: Who, rng: &mut StdRng) -> Self {
        let torn = |rng: &mut StdRng| rng.random_bool(0.6).then(|| u64::from(rng.random::<u32>()));
        let sync = |rng: &mut StdRng, most: u32| {
            let moments = [Moment::BeforeSync, Moment::AfterSync, Moment::AfterAnswer];
            Instant::Sync(
                rng.random_range(0..3),
                moments[rng.random_range(0..3)],
                rng.random_range(1..=most),
            )
        };
        let instant = match rng.random_range(0..6) {
            0 => Instant::Any,
            1 => Instant::Acknowledged,
            _ => sync(rng, SYNCS),
        };
        let when = When::Lossy(instant, torn(rng));
        let again = rng
            .random_bool(0.3)
            .then(|| When::Lossy(sync(rng, FIRST_SYNCS), torn(rng)));
        let killed = rng.random_bool(0.3).then(|| {
            let moments = [Moment::BeforeSync, Moment::AfterSync];
            (moments[rng.random_range(0..2)], rng.random_range(1..=SYNCS))
        });
        Self {
            who,
            killed,
            when,
            again,
        }
    }

    /// # Errors
    /// When not all nodes are back in time, with all that was acknowledged.
    pub(super) async fn play(&self, stage: &mut Stage, pulse: &Pulse, sum: &mut Sum) -> anyhow::Result<()> {
        let positions = match self.who {
            Who::All => (0..stage.nodes.len()).collect(),
            Who::One(position) => vec![position],
        };
        if let Some((moment, sync)) = self.killed {
            kill_at(stage, positions[0], moment, sync).await?;
        }
        let moment = self.when.cut(stage, pulse, &positions, sum).await?;
        if let Some(again) = self.again {
            for position in &positions {
                stage.cluster.nodes()[*position].start()?;
            }
            again.cut(stage, pulse, &positions, sum).await?;
        }
        let ops = stage.history.ops();
        let started = stage.clock.now();
        come_back(stage, &positions).await?;
        sum.back.push(stage.clock.now() - started);
        sum.cuts += 1;
        sum.in_flight += ops
            .iter()
            .filter(|op| op.started < moment && op.ended > moment)
            .count();
        Ok(())
    }
}

/// Kills a node at a sync, and starts it again; the power stays.
async fn kill_at(stage: &Stage, position: usize, moment: Moment, sync: u32) -> anyhow::Result<()> {
    let disk = &stage.cluster.lossy_disks()[position];
    disk.cut_at(Trigger {
        moment,
        sync,
        mode: None,
        others: Vec::new(),
    });
    let deadline = tokio::time::Instant::now() + MOMENT;
    while !disk.holds() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    disk.disarm();
    // This is no power cut: the disk forgets nothing.
    stage.cluster.power_up(&[position]).await?;
    stage.cluster.nodes()[position].start()?;
    stage.cluster.wait_until_ready(PATIENCE).await.with_context(|| {
        format!(
            "it did not come back when it was killed\n{}",
            stage.cluster.tails()
        )
    })
}

impl When {
    /// Returns when the power is back and no process is there; gives when it went.
    async fn cut(
        self,
        stage: &mut Stage,
        pulse: &Pulse,
        positions: &[usize],
        sum: &mut Sum,
    ) -> anyhow::Result<u64> {
        let (instant, torn) = match self {
            Self::Ext4(cut) => {
                let name = match cut {
                    cluster::Cut::InTheMiddle => "in the middle of writes",
                    cluster::Cut::BetweenWrites => "between writes",
                };
                *sum.moments.entry(name).or_default() += 1;
                let moment = stage.clock.now();
                stage.cluster.cut_power(positions, cut).await?;
                return Ok(moment);
            }
            Self::Lossy(instant, torn) => (instant, torn),
        };
        let disks = stage.cluster.lossy_disks();
        let disks: Vec<(LossyDisk, Mode)> = (0..)
            .zip(positions)
            .map(|(number, position)| {
                let mode = torn.map_or(Mode::Clear, |seed| Mode::Torn(seed.wrapping_add(number)));
                (disks[*position].clone(), mode)
            })
            .collect();
        let name = instant.arm(pulse, &disks);
        let deadline = tokio::time::Instant::now() + MOMENT;
        let is_on = |disks: &[(LossyDisk, Mode)]| disks.iter().any(|(disk, _)| disk.is_on());
        while is_on(&disks) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        pulse.on_next_nothing();
        let name = if is_on(&disks) { "at any time" } else { name };
        *sum.moments.entry(name).or_default() += 1;
        for (disk, mode) in &disks {
            disk.disarm();
            disk.cut_as(*mode);
        }
        let moment = stage.clock.now();
        stage.cluster.power_up(positions).await?;
        for (disk, _) in &disks {
            let counts = disk.counts();
            sum.lost.add(counts.cuts.last().copied().unwrap_or_default());
        }
        Ok(moment)
    }
}

impl Instant {
    /// Sees to it that the power goes then. Gives a name for it.
    fn arm(self, pulse: &Pulse, disks: &[(LossyDisk, Mode)]) -> &'static str {
        match self {
            Self::Any => {
                for (disk, mode) in disks {
                    disk.cut_as(*mode);
                }
                "at any time"
            }
            Self::Acknowledged => {
                let disks = disks.to_vec();
                pulse.on_next(move || {
                    for (disk, mode) in &disks {
                        disk.cut_as(*mode);
                    }
                });
                "just after an acknowledgement"
            }
            Self::Sync(which, moment, sync) => {
                let which = which % disks.len();
                let mut others = disks.to_vec();
                let (disk, mode) = others.swap_remove(which);
                disk.cut_at(Trigger {
                    moment,
                    sync,
                    mode: Some(mode),
                    others,
                });
                match moment {
                    Moment::BeforeSync => "just before a sync",
                    Moment::AfterSync => "just after a sync",
                    Moment::AfterAnswer => "just after a sync was answered",
                }
            }
        }
    }
}

/// Starts these nodes, and waits until all nodes have everything that was acknowledged until now.
///
/// # Errors
/// When that is not so in time.
pub(in crate::scenario) async fn come_back(stage: &Stage, positions: &[usize]) -> anyhow::Result<()> {
    // Whatever a client has heard by now was acknowledged before the power went, or by others.
    let floor = acknowledged_revision(&stage.history.ops());
    for position in positions {
        stage.cluster.nodes()[*position].start()?;
    }
    stage
        .cluster
        .wait_until_ready(PATIENCE)
        .await
        .with_context(|| format!("not all nodes came back\n{}", stage.cluster.tails()))?;
    // A new leader commits what it found only together with its first own entry, so this is not there at once.
    let has_all = stage.wait(PATIENCE, "what was acknowledged", async |stage: &Stage| {
        let statuses = stage.cluster.statuses(&stage.nodes).await;
        let revisions = statuses.iter().map(|status| status.as_ref()?.header.as_ref());
        Ok(revisions
            .into_iter()
            .all(|header| header.is_some_and(|header| header.revision >= floor)))
    });
    has_all
        .await
        .with_context(|| format!("not every node has revision {floor}"))
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
