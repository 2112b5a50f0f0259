//! A write every 10 ms, whatever became of the ones before: it shows when a cluster takes writes, and when it does not.

use std::sync::Arc;
use std::time::Duration;

use brama_proto::v1;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use crate::circuits::Circuits;
use crate::history::{Action, Answer, History, Item, Outcome};
use crate::rpc::{Failure, Nodes, answer, timed};
use crate::time::Micros;
use crate::workload::{BATCH_KEY, ITEM_KEY};

const EVERY: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(3);
/// Twice as many as patience allows; more would be a leak.
const MOST_IN_FLIGHT: usize = 600;
/// Apart from the numbers of clients.
pub(super) const CLIENT: u32 = 1000;

/// A running pulse; it ends when it is dropped.
pub(super) struct Pulse {
    targets: Arc<Mutex<Targets>>,
    on_next: OnNext,
    acknowledged: Arc<Mutex<Vec<Beat>>>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

/// To be done once, in the moment of an acknowledgement.
type OnNext = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// An acknowledged write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    /// The position of the node that it went through.
    pub(super) node: usize,
    pub(super) started: Micros,
    pub(super) ended: Micros,
}

struct Targets {
    nodes: Nodes,
    /// Positions, in turn.
    positions: Vec<usize>,
}

impl Pulse {
    /// Begins to write successes of the stage's first circuit, through these nodes in turn.
    pub(super) fn start(stage: &Stage, positions: Vec<usize>) -> Self {
        Self::every(stage, positions, EVERY)
    }

    /// The same, less often or more.
    pub(super) fn every(stage: &Stage, positions: Vec<usize>, every: Duration) -> Self {
        let pulse = Self {
            targets: Arc::new(Mutex::new(Targets {
                nodes: stage.nodes.clone(),
                positions,
            })),
            on_next: Arc::default(),
            acknowledged: Arc::default(),
            stop: CancellationToken::new(),
            task: JoinSet::new(),
        };
        let beating = beat_on(
            stage.history.clone(),
            stage.circuits.clone(),
            pulse.targets.clone(),
            (pulse.acknowledged.clone(), pulse.on_next.clone()),
            pulse.stop.clone(),
            every,
        );
        let mut pulse = pulse;
        pulse.task.spawn(beating);
        pulse
    }

    /// Goes on through these nodes.
    pub(super) fn aim(&self, stage: &Stage, positions: Vec<usize>) {
        *self.targets.lock() = Targets {
            nodes: stage.nodes.clone(),
            positions,
        };
    }

    /// Does this as soon as the next write is acknowledged, before anybody else learns of it.
    pub(super) fn on_next(&self, does: impl FnOnce() + Send + 'static) {
        *self.on_next.lock() = Some(Box::new(does));
    }

    /// Takes back what [`Pulse::on_next`] was told, if it was not done.
    pub(super) fn on_next_nothing(&self) {
        self.on_next.lock().take();
    }

    /// The writes through this node that were sent at this moment or later, and acknowledged.
    pub(super) fn through(&self, node: usize, since: Micros) -> usize {
        let acknowledged = self.acknowledged.lock();
        let all = acknowledged.iter();
        all.filter(|beat| beat.node == node && beat.started >= since)
            .count()
    }

    /// Writes that were acknowledged.
    pub(super) fn count(&self) -> u64 {
        self.acknowledged.lock().len() as u64
    }

    /// When the first write was acknowledged of those that were sent at this moment or later.
    pub(super) fn first_after(&self, moment: Micros) -> Option<Micros> {
        let acknowledged = self.acknowledged.lock();
        let after = acknowledged.iter().filter(|beat| beat.started >= moment);
        after.map(|beat| beat.ended).min()
    }

    /// The longest time between two acknowledgements, of those that `from..until` touches.
    pub(super) fn longest_gap(&self, from: Micros, until: Micros) -> Micros {
        let mut ends: Vec<_> = self.acknowledged.lock().iter().map(|beat| beat.ended).collect();
        ends.sort_unstable();
        ends.windows(2)
            .filter(|pair| pair[1] >= from && pair[0] <= until)
            .map(|pair| pair[1] - pair[0])
            .max()
            .unwrap_or(Micros::MAX)
    }

    /// Ends it, when everything on its way has ended.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(task) = self.task.join_next().await {
            task?;
        }
        Ok(())
    }
}

async fn beat_on(
    history: Arc<History>,
    circuits: Arc<Circuits>,
    targets: Arc<Mutex<Targets>>,
    (acknowledged, on_next): (Arc<Mutex<Vec<Beat>>>, OnNext),
    stop: CancellationToken,
    every: Duration,
) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut beats = JoinSet::new();
    let mut number = 0_usize;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        while beats.try_join_next().is_some() {}
        if beats.len() >= MOST_IN_FLIGHT {
            continue;
        }
        number += 1;
        let (nodes, node) = {
            let targets = targets.lock();
            (
                targets.nodes.clone(),
                targets.positions[number % targets.positions.len()],
            )
        };
        let (history, circuits) = (history.clone(), circuits.clone());
        let (acknowledged, on_next) = (acknowledged.clone(), on_next.clone());
        beats.spawn(async move {
            if let Some(beat) = beat(&history, &circuits, &nodes, node, number).await {
                if let Some(does) = on_next.lock().take() {
                    does();
                }
                acknowledged.lock().push(beat);
            }
        });
    }
    while beats.join_next().await.is_some() {}
}

/// One write. It has no session, so it is never repeated.
async fn beat(
    history: &History,
    circuits: &Circuits,
    nodes: &Nodes,
    node: usize,
    number: usize,
) -> Option<Beat> {
    let batch = format!("pulse-{number}");
    let item = Item {
        circuit: 0,
        outcomes: "S".into(),
        generation: None,
        permit: None,
    };
    let request = v1::ReportRequest {
        session: None,
        items: vec![v1::ReportItem {
            name: Some(circuits.get(0).name.clone()),
            outcomes: vec![v1::Outcome::Success.into()],
            metadata: [
                (BATCH_KEY.to_owned(), batch.clone()),
                (ITEM_KEY.to_owned(), "0".to_owned()),
            ]
            .into(),
            ..Default::default()
        }],
    };
    let action = Action::Report {
        session: batch.clone(),
        batch,
        items: vec![item],
    };
    let op = history.begin(CLIENT, action);
    let started = history.now();
    let outcome = answer(PATIENCE, nodes.circuits(node).report(timed(request, PATIENCE))).await;
    let ended = history.now();
    let is_ok = outcome.is_ok();
    let outcome = match outcome {
        Ok(response) => Outcome::Ok(Answer::reported(&response)),
        Err(Failure::Refused { reason, .. }) => Outcome::Refused(reason),
        Err(Failure::Unknown(message)) => Outcome::Unknown(message),
    };
    history.end(op, 1, outcome);
    is_ok.then_some(Beat { node, started, ended })
}
