//! Clients that do everything a fleet does, through all nodes, and write down what came of it.
//!
//! A report carries its batch in the metadata of each item (`b` = `client-session-sequence`, `i` = position), each act by hand a reason of
//! its own, and each registration a label in the circuit's metadata (`r`). Events repeat all three, so each event names the operation that
//! caused it, and a batch that is counted twice cannot hide behind one that is lost.

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

use crate::circuits::{CircuitIndex, Circuits};
use crate::history::{Action, Answer, History, Outcome};
use crate::rpc::{Failure, Nodes, answer};

mod acts;
mod mix;
mod reads;
mod reports;

pub use mix::{Kind, Mix};

/// The metadata key under which an item names its batch.
pub const BATCH_KEY: &str = "b";
/// The metadata key under which an item says which of its batch it is.
pub const ITEM_KEY: &str = "i";
/// The metadata key under which a circuit names its registration.
pub const LABEL_KEY: &str = "r";

/// One attempt at a report or an acquire.
const ATTEMPT: Duration = Duration::from_secs(1);
/// One attempt at what is not repeated.
const ONCE: Duration = Duration::from_secs(2);
/// A report is repeated for so long. Longer than any fault: a batch that is still not acknowledged then says a lot.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Reasons of a node that did not do what it was asked, and may do it soon.
const PASSING: [&str; 5] = ["CONNECT", "NO_LEADER", "NO_ROOM", "OVERLOADED", "STOPPING"];
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// Every fourth circuit is seldom reported on or acted on by hand, so that its probes get to run out.
fn is_quiet(circuit: CircuitIndex) -> bool {
    circuit.is_multiple_of(4)
}

/// Every fourth circuit is unregistered now and then; the others live as long as the run.
fn is_mortal(circuit: CircuitIndex) -> bool {
    circuit % 4 == 1
}

/// One client: one operation at a time.
#[derive(Debug)]
pub struct Client {
    id: u32,
    nodes: Nodes,
    circuits: Arc<Circuits>,
    /// It works on so many of them, the first ones.
    works_on: usize,
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

/// What came of asking several times.
struct Insisted<T> {
    attempts: u32,
    /// Those of which it is not known what came of them.
    doubtful: u32,
    answered: Result<T, Failure>,
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
            works_on: circuits.len(),
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

    /// Makes it leave alone all but the first so many circuits.
    #[must_use]
    pub fn on_first(mut self, circuits: usize) -> Self {
        self.works_on = circuits;
        self
    }

    /// Works until `stop`; ends the operation that it is at.
    pub async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let circuit = self.rng.random_range(0..self.works_on);
            match self.mix.choose(&mut self.rng) {
                Kind::Report => self.report_something().await,
                Kind::Single => self.report_single().await,
                Kind::Probe => self.probe(circuit).await,
                Kind::Open => self.open(circuit).await,
                // A quiet one is only opened by hand.
                Kind::Close | Kind::Reset if is_quiet(circuit) => self.probe(circuit).await,
                Kind::Close => self.close(circuit).await,
                Kind::Reset => self.reset(circuit).await,
                Kind::Register => self.register(circuit).await,
                Kind::Unregister => self.unregister_and_register(circuit).await,
                Kind::Configure => self.configure(circuit).await,
                Kind::ConfigureAll => self.configure_all().await,
                Kind::Status => self.status(circuit).await,
                Kind::StatusElsewhere => self.status_elsewhere(circuit).await,
                Kind::Available => self.available(circuit).await,
                Kind::List => self.list().await,
            }
            let pause = Duration::from_millis(self.rng.random_range(1..12));
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks nodes at random until one answers, one refuses for good, or patience is over.
    async fn insist<T, Fut>(
        &mut self,
        patience: Duration,
        attempt: impl Fn(CircuitsClient<Channel>, Duration) -> Fut,
    ) -> Insisted<T>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + patience;
        let within = ATTEMPT.min(patience);
        let (mut attempts, mut doubtful) = (0, 0);
        loop {
            attempts += 1;
            let client = self.somewhere();
            let failure = match answer(within, attempt(client, within)).await {
                Ok(response) => {
                    return Insisted {
                        attempts,
                        doubtful,
                        answered: Ok(response),
                    };
                }
                Err(failure) => failure,
            };
            let for_good = failure.refusal().is_some_and(|reason| !PASSING.contains(&reason));
            doubtful += u32::from(failure.refusal().is_none());
            if for_good || Instant::now() > deadline {
                // What one attempt left open, no later refusal settles.
                let failure = if doubtful > 0 {
                    Failure::Unknown(failure.to_string())
                } else {
                    failure
                };
                return Insisted {
                    attempts,
                    doubtful,
                    answered: Err(failure),
                };
            }
            tokio::time::sleep(BETWEEN_ATTEMPTS).await;
        }
    }

    /// Asks once, and writes down what came of it.
    async fn once<T, Fut>(
        &mut self,
        action: Action,
        ask: impl FnOnce(CircuitsClient<Channel>) -> Fut,
        answered: impl FnOnce(&T) -> Answer,
    ) -> Result<T, Failure>
    where
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let op = self.history.begin(self.id, action);
        let client = self.somewhere();
        let response = answer(ONCE, ask(client)).await;
        let outcome = match &response {
            Ok(response) => Outcome::Ok(answered(response)),
            Err(failure) => failed(failure.clone()),
        };
        self.history.end(op, 1, outcome);
        response
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

    fn name(&self, circuit: CircuitIndex) -> Option<v1::CircuitName> {
        Some(self.circuits.get(circuit).name.clone())
    }

    /// A connection to a node drawn at random.
    fn somewhere(&mut self) -> CircuitsClient<Channel> {
        let node = self.rng.random_range(0..self.nodes.len());
        self.nodes.circuits(node)
    }
}

fn failed(failure: Failure) -> Outcome {
    match failure {
        Failure::Refused { reason, .. } => Outcome::Refused(reason),
        Failure::Unknown(message) => Outcome::Unknown(message),
    }
}
