//! The load: so many commands a second, made of what clients of a breaker do.
//!
//! | of a hundred | command |
//! | --- | --- |
//! | 78 | a batch of reports with a session, for one to three circuits |
//! | 6 | an acquire, and the report that completes it if it got a permit |
//! | 4 | a manual act: open, close or reset |
//! | 6 | a registration |
//! | 6 | a removal |
//!
//! Each client sends at its own steady pace and counts latency from when a command should have been sent, so a stall counts in full. A command that
//! is not answered is asked again, through the next node, until it is; all of them are safe to repeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use brama_faults::cluster::Cluster;
use brama_faults::findings::Findings;
use brama_faults::rpc::{Failure, Nodes, answer, timed};
use brama_proto::v1;
use brama_proto::v1::circuits_client::CircuitsClient;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tonic::{Response, Status};

use super::{REACHED, Soak};
use crate::figures::Latencies;

const CLIENTS: u32 = 200;
/// A client's session ends, and the next begins, after so many batches.
const SESSION: u64 = 300;
/// One attempt.
const ATTEMPT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(50);
/// A command that has no answer after this has failed.
const PATIENCE: Duration = Duration::from_secs(15);

/// What clients do, and what came of it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Traffic {
    shared: Arc<Shared>,
}

struct Shared {
    nodes: Nodes,
    rate: f64,
    circuits: u64,
    /// Circuits with numbers from the first to before the second are registered, or nearly.
    low: AtomicU64,
    high: AtomicU64,
    done: AtomicU64,
    again: AtomicU64,
    failed: AtomicU64,
    failure: Mutex<Option<String>>,
    /// Since somebody looked last.
    recent: Mutex<Latencies>,
    all: Latencies,
}

/// What happened since somebody looked last.
pub(super) struct Recent {
    pub(super) done: u64,
    pub(super) p99_ms: f64,
}

/// Registers the first circuits.
///
/// # Errors
/// When one is refused.
pub(super) async fn prepare(cluster: &Cluster, soak: &Soak) -> anyhow::Result<()> {
    let nodes = cluster.connect()?;
    futures::stream::iter(0..soak.circuits.max(1))
        .map(|n| {
            let mut client = nodes.circuits(n as usize % nodes.len());
            async move { client.register(registration(n)).await.map(|_| ()) }
        })
        .buffer_unordered(64)
        .try_collect::<()>()
        .await?;
    Ok(())
}

impl Traffic {
    /// Lets the clients begin.
    ///
    /// # Errors
    /// When there are no connections.
    pub(super) fn start(
        cluster: &Cluster,
        soak: &Soak,
        begin: Instant,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            nodes: cluster.connect()?,
            rate: soak.rate,
            circuits: soak.circuits.max(1),
            low: AtomicU64::new(0),
            high: AtomicU64::new(soak.circuits.max(1)),
            done: AtomicU64::new(0),
            again: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            failure: Mutex::new(None),
            recent: Mutex::new(Latencies::new()),
            all: Latencies::new(),
        });
        for n in 0..CLIENTS {
            let client = Client {
                shared: shared.clone(),
                rng: SmallRng::seed_from_u64(n.into()),
                node: n as usize % shared.nodes.len(),
                session: (rand::random(), 0),
            };
            tasks.spawn(stop.clone().run_until_cancelled_owned(client.run(n, begin)));
        }
        Ok(Self { shared })
    }

    /// What happened since this was asked last.
    pub(super) fn recent(&self) -> Recent {
        let recent = std::mem::replace(&mut *self.shared.recent.lock(), Latencies::new());
        Recent {
            done: recent.count(),
            p99_ms: recent.quantile_ms(0.99),
        }
    }

    /// The sum of it, after so long.
    pub(super) fn findings(&self, lasted: Duration) -> Findings {
        let mut findings = Findings::default();
        let shared = &self.shared;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let rate = load(&shared.done) as f64 / lasted.as_secs_f64();
        findings.figure("commands", format!("{} ({rate:.0} a second)", load(&shared.done)));
        findings.figure("... asked again", load(&shared.again).to_string());
        let at = |quantile| shared.all.quantile_ms(quantile);
        let text = format!(
            "p50 {:.1}, p99 {:.1}, longest {:.0} ms",
            at(0.5),
            at(0.99),
            at(1.0)
        );
        findings.figure("... answered after", text);
        findings.figure("circuits that came and went", load(&shared.low).to_string());
        if let Some(failure) = &*shared.failure.lock() {
            let text = format!(
                "{} commands have no answer after {PATIENCE:?}; the first: {failure}",
                load(&shared.failed)
            );
            findings.broken("G12", text);
        }
        if rate < REACHED * shared.rate {
            findings.untold(format!(
                "the load was {rate:.0} commands a second, not {}",
                shared.rate
            ));
        }
        findings.checked("G12", "every command was answered");
        findings
    }
}

/// One replica of a service.
struct Client {
    shared: Arc<Shared>,
    rng: SmallRng,
    node: usize,
    /// Its id, and the newest sequence number.
    session: (u128, u64),
}

impl Client {
    async fn run(mut self, number: u32, begin: Instant) {
        let pace = Duration::from_secs_f64(f64::from(CLIENTS) / self.shared.rate);
        // All at once would be a load of bursts.
        let first = Instant::now().max(begin) + pace * number / CLIENTS;
        for turn in 0.. {
            let intended = first + pace * turn;
            tokio::time::sleep_until(intended).await;
            self.act(intended).await;
        }
    }

    async fn act(&mut self, intended: Instant) {
        let live = self.high() - self.low();
        let command = match self.rng.random_range(0..100) {
            78..84 => return self.acquire(intended).await,
            84..88 => self.steering(),
            88..94 if live < self.shared.circuits * 11 / 10 => {
                Command::Register(registration(self.shared.high.fetch_add(1, Ordering::Relaxed)))
            }
            94.. if live > self.shared.circuits * 9 / 10 => Command::Remove(v1::UnregisterRequest {
                name: Some(name(self.shared.low.fetch_add(1, Ordering::Relaxed))),
                reason: None,
            }),
            _ => self.batch(),
        };
        self.insist(intended, &command).await;
    }

    async fn acquire(&mut self, intended: Instant) {
        let permit_id = self.rng.random::<u128>().to_be_bytes().to_vec();
        let name = Some(name(self.pick()));
        let acquire = Command::Acquire(v1::AcquireRequest {
            name: name.clone(),
            permit_id: permit_id.clone(),
        });
        if self.insist(intended, &acquire).await {
            let item = v1::ReportItem {
                name,
                permit_id,
                ..self.item(1)
            };
            // Late, if it is repeated: then it counts in the totals only.
            let complete = v1::ReportRequest {
                session: None,
                items: vec![item],
            };
            self.insist(Instant::now(), &Command::Report(complete)).await;
        }
    }

    fn batch(&mut self) -> Command {
        let (id, sequence) = &mut self.session;
        if *sequence == SESSION {
            (*id, *sequence) = (self.rng.random(), 0);
        }
        *sequence += 1;
        let session = v1::Session {
            id: id.to_be_bytes().to_vec(),
            sequence: *sequence,
        };
        let items = (0..self.rng.random_range(1..=3)).map(|_| {
            let calls = self.rng.random_range(1..=4);
            self.item(calls)
        });
        Command::Report(v1::ReportRequest {
            items: items.collect(),
            session: Some(session),
        })
    }

    fn steering(&mut self) -> Command {
        let name = Some(name(self.pick()));
        let reason = Some("a person wants it so".to_owned());
        match self.rng.random_range(0..3) {
            0 => Command::Open(v1::OpenCircuitRequest {
                name,
                expiry: Some(expiry(self.rng.random_range(100..3000))),
                reason,
            }),
            1 => Command::Close(v1::CloseCircuitRequest { name, reason }),
            _ => Command::Reset(v1::ResetCircuitRequest { name, reason }),
        }
    }

    fn item(&mut self, calls: usize) -> v1::ReportItem {
        let outcome = |rng: &mut SmallRng| {
            let fails = rng.random_bool(0.2);
            i32::from(if fails {
                v1::Outcome::Failure
            } else {
                v1::Outcome::Success
            })
        };
        v1::ReportItem {
            name: Some(name(self.pick())),
            outcomes: (0..calls).map(|_| outcome(&mut self.rng)).collect(),
            reason: Some("connect: connection refused".to_owned()),
            ..Default::default()
        }
    }

    /// Asks one node after the other until there is an answer. True: it was a permit.
    async fn insist(&mut self, intended: Instant, command: &Command) -> bool {
        let shared = self.shared.clone();
        let permit = loop {
            let client = shared.nodes.circuits(self.node);
            let failure = match answer(ATTEMPT, command.ask(client)).await {
                Ok(permit) => break permit,
                // An answer too: the circuit has gone, or is there already.
                Err(failure) if is_answer(&failure) => break false,
                Err(failure) => failure,
            };
            shared.again.fetch_add(1, Ordering::Relaxed);
            if intended.elapsed() > PATIENCE {
                shared.failed.fetch_add(1, Ordering::Relaxed);
                shared.failure.lock().get_or_insert_with(|| failure.to_string());
                return false;
            }
            self.node = (self.node + 1) % shared.nodes.len();
            tokio::time::sleep(PAUSE).await;
        };
        shared.done.fetch_add(1, Ordering::Relaxed);
        shared.recent.lock().record(intended.elapsed());
        shared.all.record(intended.elapsed());
        permit
    }

    fn pick(&mut self) -> u64 {
        let (low, high) = (self.low(), self.high());
        self.rng.random_range(low..high.max(low + 1))
    }

    fn low(&self) -> u64 {
        self.shared.low.load(Ordering::Relaxed)
    }

    fn high(&self) -> u64 {
        self.shared.high.load(Ordering::Relaxed).max(self.low())
    }
}

/// What a client sends.
enum Command {
    Report(v1::ReportRequest),
    Acquire(v1::AcquireRequest),
    Open(v1::OpenCircuitRequest),
    Close(v1::CloseCircuitRequest),
    Reset(v1::ResetCircuitRequest),
    Register(v1::RegisterRequest),
    Remove(v1::UnregisterRequest),
}

impl Command {
    /// One attempt. True: it got a permit.
    async fn ask(&self, mut client: CircuitsClient<Channel>) -> Result<Response<bool>, Status> {
        fn nothing<T>(response: Response<T>) -> Response<bool> {
            response.map(|_| false)
        }
        match self {
            Self::Report(request) => client.report(timed(request.clone(), ATTEMPT)).await.map(nothing),
            Self::Acquire(request) => {
                let answer = client.acquire(timed(request.clone(), ATTEMPT)).await?;
                Ok(answer.map(|answer| !answer.permit_id.is_empty()))
            }
            Self::Open(request) => client
                .open_circuit(timed(request.clone(), ATTEMPT))
                .await
                .map(nothing),
            Self::Close(request) => client
                .close_circuit(timed(request.clone(), ATTEMPT))
                .await
                .map(nothing),
            Self::Reset(request) => client
                .reset_circuit(timed(request.clone(), ATTEMPT))
                .await
                .map(nothing),
            Self::Register(request) => client
                .register(timed(request.clone(), ATTEMPT))
                .await
                .map(nothing),
            Self::Remove(request) => client
                .unregister(timed(request.clone(), ATTEMPT))
                .await
                .map(nothing),
        }
    }
}

fn is_answer(failure: &Failure) -> bool {
    let told = ["CIRCUIT_NOT_FOUND", "ALREADY_REGISTERED"];
    failure.refusal().is_some_and(|reason| told.contains(&reason))
}

/// Scopes that circuits are spread over.
pub(super) const SCOPES: u64 = 20;

/// The name of a circuit; no two have the same, however long the soak lasts.
pub(super) fn name(n: u64) -> v1::CircuitName {
    v1::CircuitName {
        scope: Some(scope(n)),
        identifier: format!("card-authorisation-{}.http.{n:08}", n % 17),
    }
}

pub(super) fn scope(n: u64) -> String {
    format!("checkout-{}.eu-west-1", n % SCOPES)
}

fn registration(n: u64) -> v1::RegisterRequest {
    v1::RegisterRequest {
        name: Some(name(n)),
        policy: Some(v1::Policy {
            max_attempts: Some(3),
            expiry: Some(expiry(1500)),
            ..Default::default()
        }),
        metadata: [("team".to_owned(), format!("payments-{}", n % 23))].into(),
        if_exists: v1::IfExists::Keep.into(),
    }
}

fn expiry(ms: u64) -> v1::Expiry {
    v1::Expiry {
        kind: Some(v1::expiry::Kind::Ms(ms)),
    }
}
