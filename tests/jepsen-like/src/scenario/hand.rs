//! Single things that a scenario asks for itself, at a moment and through a node of its choice. They go to the history as those of clients do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use brama_proto::v1;
use tokio::time::Instant;

use super::lasting::Opened;
use super::stage::Stage;
use crate::circuits::{Circuits, expiry};
use crate::history::{Action, Answer, History, Item, Level, Outcome, Shown};
use crate::rpc::{Failure, Nodes, answer, timed};
use crate::time::micros;
use crate::workload::{BATCH_KEY, ITEM_KEY};

/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// One who asks. Each asks for one thing at a time; copies count as the same one.
#[derive(Clone)]
pub(super) struct Hand {
    /// Apart from the numbers of clients.
    client: u32,
    nodes: Nodes,
    circuits: Arc<Circuits>,
    history: Arc<History>,
    asked: Arc<AtomicU64>,
}

/// A session, for batches that count once.
#[derive(Clone, Debug)]
pub(super) struct HandSession {
    id: [u8; 16],
    name: String,
    sequence: u64,
}

/// A batch that can be sent again, as often as one likes.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    name: String,
    session: String,
    items: Vec<Item>,
    request: v1::ReportRequest,
    /// Once it was reported.
    op: Option<usize>,
}

impl Hand {
    pub(super) fn of(stage: &Stage, client: u32) -> Self {
        Self {
            client,
            nodes: stage.nodes.clone(),
            circuits: stage.circuits.clone(),
            history: stage.history.clone(),
            asked: Arc::default(),
        }
    }

    /// Opens a circuit for so long.
    pub(super) async fn open(&self, node: usize, circuit: usize, lasts: Duration) -> Result<Opened, Failure> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let reason = format!("open-{}-{number}", self.client);
        let expiry_ms = micros(lasts) / 1000;
        let action = Action::Open {
            circuit,
            expiry_ms: Some(expiry_ms),
            reason: reason.clone(),
        };
        let request = v1::OpenCircuitRequest {
            name: Some(self.circuits.get(circuit).name.clone()),
            expiry: Some(expiry(expiry_ms)),
            reason: Some(reason),
        };
        let op = self.history.begin(self.client, action);
        let sent = self.history.now();
        let answered = answer(CALL, self.nodes.circuits(node).open_circuit(timed(request, CALL))).await;
        let acknowledged = self.history.now();
        self.end(op, answered.as_ref().map(Answer::changed).map_err(Clone::clone));
        answered.map(|response| Opened {
            circuit,
            generation: response.circuit.unwrap_or_default().generation,
            lasts: micros(lasts),
            sent,
            acknowledged,
        })
    }

    /// Reads a circuit, linearizably.
    pub(super) async fn read(&self, node: usize, circuit: usize) -> Result<Shown, Failure> {
        let op = self.history.begin(
            self.client,
            Action::Status {
                circuit,
                level: Level::Linearizable,
            },
        );
        let request = v1::StatusRequest {
            name: Some(self.circuits.get(circuit).name.clone()),
            consistency: None,
        };
        let answered = answer(CALL, self.nodes.circuits(node).status(timed(request, CALL)))
            .await
            .map(|response| Shown::of(response.header.as_ref(), response.circuit.as_ref()));
        self.end(op, answered.clone().map(Answer::Status));
        answered
    }

    /// Reports a batch.
    pub(super) async fn report(&self, node: usize, batch: &mut Batch) -> Result<v1::ReportResponse, Failure> {
        let op = self.begin(batch);
        let answered = self.call(node, batch).await;
        self.end(op, answered.as_ref().map(Answer::reported).map_err(Clone::clone));
        answered
    }

    /// Reports a batch, through one node after the other, until it is acknowledged.
    pub(super) async fn insist(
        &self,
        first: usize,
        batch: &mut Batch,
        patience: Duration,
    ) -> Result<v1::ReportResponse, Failure> {
        let op = self.begin(batch);
        let deadline = Instant::now() + patience;
        let (mut attempts, mut doubtful) = (0, 0);
        loop {
            let node = (first + attempts as usize) % self.nodes.len();
            attempts += 1;
            let answered = self.call(node, batch).await;
            if let Err(failure) = &answered {
                doubtful += u32::from(failure.refusal().is_none());
                if Instant::now() < deadline {
                    tokio::time::sleep(BETWEEN_ATTEMPTS).await;
                    continue;
                }
            }
            let outcome = outcome_of(answered.as_ref().map(Answer::reported).map_err(Clone::clone));
            self.history.end_with(op, attempts, doubtful, outcome);
            return answered;
        }
    }

    /// Sends a batch again that was reported before: it must not count twice, and get the same answer.
    pub(super) async fn send_again(&self, node: usize, batch: &Batch) -> Result<v1::ReportResponse, Failure> {
        let answered = self.call(node, batch).await;
        if let Some(op) = batch.op {
            let outcome = outcome_of(answered.as_ref().map(Answer::reported).map_err(Clone::clone));
            self.history.again(op, outcome);
        }
        answered
    }

    fn begin(&self, batch: &mut Batch) -> usize {
        let action = Action::Report {
            batch: batch.name.clone(),
            session: batch.session.clone(),
            items: batch.items.clone(),
        };
        let op = self.history.begin(self.client, action);
        batch.op = Some(op);
        op
    }

    async fn call(&self, node: usize, batch: &Batch) -> Result<v1::ReportResponse, Failure> {
        let request = timed(batch.request.clone(), CALL);
        answer(CALL, self.nodes.circuits(node).report(request)).await
    }

    fn end(&self, op: usize, answered: Result<Answer, Failure>) {
        self.history.end(op, 1, outcome_of(answered));
    }

    /// A new session, which no other has.
    pub(super) fn session(&self) -> HandSession {
        HandSession {
            id: rand::random(),
            name: format!("{}-{}", self.client, self.asked.fetch_add(1, Ordering::Relaxed)),
            sequence: 0,
        }
    }

    /// The next batch of a session: these outcomes (`S`, `F`) of each of these circuits.
    pub(super) fn batch(&self, session: &mut HandSession, circuits: &[usize], outcomes: &str) -> Batch {
        session.sequence += 1;
        let name = format!("{}-{}", session.name, session.sequence);
        let items: Vec<Item> = circuits
            .iter()
            .map(|circuit| Item {
                circuit: *circuit,
                outcomes: outcomes.to_owned(),
                generation: None,
                permit: None,
            })
            .collect();
        let wire = |(position, item): (usize, &Item)| v1::ReportItem {
            name: Some(self.circuits.get(item.circuit).name.clone()),
            outcomes: item.outcomes.chars().map(outcome).collect(),
            metadata: [
                (BATCH_KEY.to_owned(), name.clone()),
                (ITEM_KEY.to_owned(), position.to_string()),
            ]
            .into(),
            ..Default::default()
        };
        let request = v1::ReportRequest {
            session: Some(v1::Session {
                id: session.id.to_vec(),
                sequence: session.sequence,
            }),
            items: items.iter().enumerate().map(wire).collect(),
        };
        Batch {
            name,
            session: session.name.clone(),
            items,
            request,
            op: None,
        }
    }
}

fn outcome_of(answered: Result<Answer, Failure>) -> Outcome {
    match answered {
        Ok(answer) => Outcome::Ok(answer),
        Err(Failure::Refused { reason, .. }) => Outcome::Refused(reason),
        Err(Failure::Unknown(message)) => Outcome::Unknown(message),
    }
}

fn outcome(letter: char) -> i32 {
    match letter {
        'S' => v1::Outcome::Success.into(),
        _ => v1::Outcome::Failure.into(),
    }
}
