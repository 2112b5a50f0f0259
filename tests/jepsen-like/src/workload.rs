//! Clients that do everything a fleet does, through all nodes, and write down what came of it.
//!
//! A report carries its batch in the metadata of each item (`b` = `client-session-sequence`, `i` = position), and each act by hand a reason of
//! its own. Events repeat both, so each event names the operation that caused it, and a batch that is counted twice cannot hide behind one
//! that is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::circuits::{CircuitIndex, Circuits, expiry};
use crate::history::{Action, Answer, History, Item, Outcome, Shown};
use crate::rpc::{Failure, Nodes, answer, timed};

/// The metadata key under which an item names its batch.
pub const BATCH_KEY: &str = "b";
/// The metadata key under which an item says which of its batch it is.
pub const ITEM_KEY: &str = "i";

/// One attempt at a report or an acquire.
const ATTEMPT: Duration = Duration::from_secs(1);
/// One attempt at what is not repeated.
const ONCE: Duration = Duration::from_secs(2);
/// A report is repeated for so long. Longer than any fault: a batch that is still not acknowledged then says a lot.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Some clients are in a hurry, so that unknown outcomes happen.
const IMPATIENCE: Duration = Duration::from_millis(150);
/// Reasons of a node that did not do what it was asked, and may do it soon.
const PASSING: [&str; 5] = ["CONNECT", "NO_LEADER", "NO_ROOM", "OVERLOADED", "STOPPING"];
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);
/// A long item carries 29 KiB of metadata, and a long report up to 870 KiB.
const LONG_VALUES: usize = 29;
const LONG_VALUE_BYTES: usize = 1024;
const MOST_LONG_ITEMS: u32 = 30;
/// Sequence numbers that a client uses of one session before it begins another.
const BATCHES_PER_SESSION: u64 = 200;

/// Every fourth circuit is seldom reported on or acted on by hand, so that its probes get to run out.
fn is_quiet(circuit: CircuitIndex) -> bool {
    circuit.is_multiple_of(4)
}

/// What kinds of operations a client chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// All of them.
    Everything,
    /// Only reports with sessions.
    Reports,
    /// Only reports with sessions, and so many of a thousand are as long as a request may be, or nearly.
    LongReports(u32),
}

impl Mix {
    fn per_mille_long(self) -> u32 {
        match self {
            Self::Everything | Self::Reports => 0,
            Self::LongReports(per_mille) => per_mille,
        }
    }
}

/// One client: one operation at a time.
#[derive(Debug)]
pub struct Client {
    id: u32,
    nodes: Nodes,
    circuits: Arc<Circuits>,
    history: Arc<History>,
    mix: Mix,
    rng: StdRng,
    session: Session,
    sessions: u64,
    /// The last generation that it saw of each circuit.
    generations: Vec<Option<u64>>,
}

#[derive(Debug)]
struct Session {
    id: [u8; 16],
    name: String,
    sequence: u64,
}

impl Client {
    /// A client whose choices follow from the seed and its number.
    pub fn new(
        id: u32,
        nodes: Nodes,
        circuits: Arc<Circuits>,
        history: Arc<History>,
        mix: Mix,
        seed: u64,
    ) -> Self {
        let generations = vec![None; circuits.len()];
        let mut client = Self {
            id,
            nodes,
            circuits,
            history,
            mix,
            rng: StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9).wrapping_add(u64::from(id))),
            session: Session {
                id: [0; 16],
                name: String::new(),
                sequence: 0,
            },
            sessions: 0,
            generations,
        };
        client.begin_session();
        client
    }

    /// Works until `stop`; ends the operation that it is at.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let circuit = self.rng.random_range(0..self.circuits.len());
            let dice = match self.mix {
                Mix::Everything => self.rng.random_range(0..100),
                Mix::Reports | Mix::LongReports(_) => 0,
            };
            match dice {
                0..50 => self.report_something().await,
                50..70 => self.probe(circuit).await,
                70..76 => self.open(circuit).await,
                76..84 if is_quiet(circuit) => self.probe(circuit).await,
                76..80 => self.close(circuit).await,
                80..84 => self.reset(circuit).await,
                84..96 => self.status(circuit).await,
                _ => self.register(circuit).await,
            }
            let pause = Duration::from_millis(self.rng.random_range(1..12));
            tokio::time::sleep(pause).await;
        }
    }

    /// Registers every circuit, and insists.
    ///
    /// # Errors
    /// The last failure, when one of them is not acknowledged for a long time.
    pub async fn register_all(&mut self) -> Result<(), Failure> {
        for circuit in 0..self.circuits.len() {
            let deadline = Instant::now() + PATIENCE;
            while let Err(failure) = self.try_register(circuit).await {
                if Instant::now() > deadline {
                    return Err(failure);
                }
                tokio::time::sleep(BETWEEN_ATTEMPTS).await;
            }
        }
        Ok(())
    }

    async fn register(&mut self, circuit: CircuitIndex) {
        // What came of it is in the history.
        let _ = self.try_register(circuit).await;
    }

    async fn try_register(&mut self, circuit: CircuitIndex) -> Result<(), Failure> {
        let op = self.history.begin(self.id, Action::Register { circuit });
        let spec = self.circuits.get(circuit);
        let request = v1::RegisterRequest {
            name: Some(spec.name.clone()),
            policy: Some(spec.policy),
            if_exists: v1::IfExists::Keep.into(),
            ..Default::default()
        };
        let mut client = self.somewhere();
        let answered = answer(ONCE, client.register(timed(request, ONCE))).await;
        let outcome = answered
            .clone()
            .map(|response| Answer::Registered {
                created: response.created,
                revision: response.circuit.unwrap_or_default().revision,
            })
            .map_or_else(failed, Outcome::Ok);
        self.history.end(op, 1, outcome);
        answered.map(|_| ())
    }

    async fn report_something(&mut self) {
        let is_long = self.rng.random_range(0..1000) < self.mix.per_mille_long();
        let most_items = if is_long { MOST_LONG_ITEMS } else { 4 };
        let items = (0..self.rng.random_range(1..=most_items))
            .map(|_| {
                let circuit = self.reported_circuit();
                let length = self.rng.random_range(1..=5);
                let outcomes = match self.rng.random_range(0..10) {
                    0..4 => "F".repeat(length),
                    4..7 => "S".repeat(length),
                    _ => (0..length)
                        .map(|_| if self.rng.random_bool(0.5) { 'S' } else { 'F' })
                        .collect(),
                };
                let named = self.rng.random_bool(0.3);
                Item {
                    circuit,
                    outcomes,
                    // Sometimes of a past generation: then it counts in the totals only.
                    generation: self.generations[circuit].filter(|_| named),
                    permit: None,
                }
            })
            .collect();
        self.report(items, is_long).await;
    }

    /// Seldom a quiet one.
    fn reported_circuit(&mut self) -> CircuitIndex {
        let circuit = self.rng.random_range(0..self.circuits.len());
        if self.mix == Mix::Everything && is_quiet(circuit) && self.rng.random_bool(0.9) {
            (circuit + 1) % self.circuits.len()
        } else {
            circuit
        }
    }

    /// Reports one batch until it is acknowledged, or patience is over.
    async fn report(&mut self, items: Vec<Item>, is_long: bool) {
        if self.session.sequence >= BATCHES_PER_SESSION {
            self.begin_session();
        }
        self.session.sequence += 1;
        let batch = format!("{}-{}", self.session.name, self.session.sequence);
        let request = v1::ReportRequest {
            session: Some(v1::Session {
                id: self.session.id.to_vec(),
                sequence: self.session.sequence,
            }),
            items: items
                .iter()
                .enumerate()
                .map(|(position, item)| self.wire_item(&batch, position, item, is_long))
                .collect(),
        };
        let action = Action::Report {
            batch,
            session: self.session.name.clone(),
            items: items.clone(),
        };
        let op = self.history.begin(self.id, action);
        let patience = if self.rng.random_bool(0.15) {
            IMPATIENCE
        } else {
            PATIENCE
        };
        let (attempts, answered) = self
            .insist(patience, |mut client, within| {
                let request = timed(request.clone(), within);
                async move { client.report(request).await }
            })
            .await;
        let outcome = match answered {
            Ok(response) => {
                for (item, result) in items.iter().zip(&response.items) {
                    self.generations[item.circuit] = Some(result.generation);
                }
                let not_found = response
                    .items
                    .iter()
                    .filter(|item| item.result() == v1::ItemResult::NotFound)
                    .count()
                    + items.len().abs_diff(response.items.len());
                Outcome::Ok(Answer::Reported {
                    revision: response.revision,
                    not_found,
                })
            }
            Err(failure) => {
                // The first batch of a session may be one that was given up and never applied: then there is no session.
                if failure.to_string().contains("SESSION_EXPIRED") {
                    self.begin_session();
                }
                failed(failure)
            }
        };
        self.history.end(op, attempts, outcome);
    }

    /// Asks for admission; if it comes with a permit, mostly reports the probe.
    async fn probe(&mut self, circuit: CircuitIndex) {
        let permit: [u8; 16] = self.rng.random();
        let action = Action::Acquire {
            circuit,
            permit: hex::encode(permit),
        };
        let op = self.history.begin(self.id, action);
        let request = v1::AcquireRequest {
            name: Some(self.circuits.get(circuit).name.clone()),
            permit_id: permit.to_vec(),
        };
        let (attempts, answered) = self
            .insist(3 * ATTEMPT, |mut client, within| {
                let request = timed(request.clone(), within);
                async move { client.acquire(request).await }
            })
            .await;
        let outcome = answered.clone().map(|response| Answer::Admission {
            admitted: response.admitted,
            generation: response.generation,
            permit: (!response.permit_id.is_empty()).then(|| hex::encode(&response.permit_id)),
        });
        self.history
            .end(op, attempts, outcome.map_or_else(failed, Outcome::Ok));
        let Ok(response) = answered else { return };
        self.generations[circuit] = Some(response.generation);
        // Some probes are never heard of again, and give their place back after a while.
        let forgets = if is_quiet(circuit) { 0.8 } else { 0.4 };
        if response.permit_id.is_empty() || self.rng.random_bool(forgets) {
            return;
        }
        let thinking = Duration::from_millis(self.rng.random_range(0..200));
        tokio::time::sleep(thinking).await;
        let outcome = if self.rng.random_bool(0.6) { "S" } else { "F" };
        let item = Item {
            circuit,
            outcomes: outcome.into(),
            generation: Some(response.generation),
            permit: Some(hex::encode(response.permit_id)),
        };
        self.report(vec![item], false).await;
    }

    async fn open(&mut self, circuit: CircuitIndex) {
        let expiry_ms = self
            .rng
            .random_bool(0.7)
            .then(|| self.rng.random_range(100..1500));
        let reason = self.reason("open");
        let action = Action::Open {
            circuit,
            expiry_ms,
            reason: reason.clone(),
        };
        let request = v1::OpenCircuitRequest {
            name: Some(self.circuits.get(circuit).name.clone()),
            expiry: expiry_ms.map(expiry),
            reason: Some(reason),
        };
        self.by_hand(action, |mut client| async move {
            client.open_circuit(timed(request, ONCE)).await
        })
        .await;
    }

    async fn close(&mut self, circuit: CircuitIndex) {
        let reason = self.reason("close");
        let action = Action::Close {
            circuit,
            reason: reason.clone(),
        };
        let request = v1::CloseCircuitRequest {
            name: Some(self.circuits.get(circuit).name.clone()),
            reason: Some(reason),
        };
        self.by_hand(action, |mut client| async move {
            client.close_circuit(timed(request, ONCE)).await
        })
        .await;
    }

    async fn reset(&mut self, circuit: CircuitIndex) {
        let reason = self.reason("reset");
        let action = Action::Reset {
            circuit,
            reason: reason.clone(),
        };
        let request = v1::ResetCircuitRequest {
            name: Some(self.circuits.get(circuit).name.clone()),
            reason: Some(reason),
        };
        self.by_hand(action, |mut client| async move {
            client.reset_circuit(timed(request, ONCE)).await
        })
        .await;
    }

    /// An act by hand is asked for once: nothing would tell a second one from the first.
    async fn by_hand<Fut>(&mut self, action: Action, act: impl FnOnce(CircuitsClient<Channel>) -> Fut)
    where
        Fut: Future<Output = Result<Response<v1::ManualResponse>, Status>>,
    {
        let op = self.history.begin(self.id, action);
        let client = self.somewhere();
        let answered = answer(ONCE, act(client)).await.map(|response| {
            let circuit = response.circuit.unwrap_or_default();
            Answer::Changed {
                revision: circuit.revision,
                generation: circuit.generation,
            }
        });
        self.history.end(op, 1, answered.map_or_else(failed, Outcome::Ok));
    }

    async fn status(&mut self, circuit: CircuitIndex) {
        let op = self.history.begin(self.id, Action::Status { circuit });
        let request = v1::StatusRequest {
            name: Some(self.circuits.get(circuit).name.clone()),
            consistency: None,
        };
        let mut client = self.somewhere();
        let answered = answer(ONCE, client.status(timed(request, ONCE)))
            .await
            .map(|response| Answer::Status(shown(&response)));
        self.history.end(op, 1, answered.map_or_else(failed, Outcome::Ok));
    }

    /// Asks nodes at random until one answers, one refuses for good, or patience is over.
    async fn insist<T, Fut>(
        &mut self,
        patience: Duration,
        attempt: impl Fn(CircuitsClient<Channel>, Duration) -> Fut,
    ) -> (u32, Result<T, Failure>)
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + patience;
        let within = ATTEMPT.min(patience);
        let mut attempts = 0;
        let mut unknown = false;
        loop {
            attempts += 1;
            let client = self.somewhere();
            let failure = match answer(within, attempt(client, within)).await {
                Ok(response) => return (attempts, Ok(response)),
                Err(failure) => failure,
            };
            let for_good = failure.refusal().is_some_and(|reason| !PASSING.contains(&reason));
            unknown |= failure.refusal().is_none();
            if for_good || Instant::now() > deadline {
                // What one attempt left open, no later refusal settles.
                let failure = if unknown {
                    Failure::Unknown(failure.to_string())
                } else {
                    failure
                };
                return (attempts, Err(failure));
            }
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
    }

    fn wire_item(&self, batch: &str, position: usize, item: &Item, is_long: bool) -> v1::ReportItem {
        let outcomes = item.outcomes.chars().map(|outcome| match outcome {
            'S' => v1::Outcome::Success.into(),
            _ => v1::Outcome::Failure.into(),
        });
        let metadata = [
            (BATCH_KEY.to_owned(), batch.to_owned()),
            (ITEM_KEY.to_owned(), position.to_string()),
        ];
        let padding = if is_long { LONG_VALUES } else { 0 };
        let padding = (0..padding).map(|number| (format!("pad-{number}"), "x".repeat(LONG_VALUE_BYTES)));
        v1::ReportItem {
            name: Some(self.circuits.get(item.circuit).name.clone()),
            generation: item.generation,
            outcomes: outcomes.collect(),
            permit_id: item
                .permit
                .as_ref()
                .and_then(|permit| hex::decode(permit).ok())
                .unwrap_or_default(),
            metadata: BTreeMap::from_iter(metadata.into_iter().chain(padding)),
            ..Default::default()
        }
    }

    fn begin_session(&mut self) {
        self.sessions += 1;
        self.session = Session {
            id: self.rng.random(),
            name: format!("{}-{}", self.id, self.sessions),
            sequence: 0,
        };
    }

    fn reason(&mut self, what: &str) -> String {
        format!("{what}-{}-{:016x}", self.id, self.rng.random::<u64>())
    }

    /// A connection to a node drawn at random.
    fn somewhere(&mut self) -> CircuitsClient<Channel> {
        let node = self.rng.random_range(0..self.nodes.len());
        self.nodes.circuits(node)
    }
}

/// A circuit as an answer showed it.
pub fn shown(response: &v1::StatusResponse) -> Shown {
    let circuit = response.circuit.clone().unwrap_or_default();
    Shown {
        at: response.header.as_ref().map_or(0, |header| header.revision),
        revision: circuit.revision,
        state: circuit.state,
        generation: circuit.generation,
        failure_count: circuit.failure_count,
    }
}

fn failed(failure: Failure) -> Outcome {
    match failure {
        Failure::Refused { reason, .. } => Outcome::Refused(reason),
        Failure::Unknown(message) => Outcome::Unknown(message),
    }
}
