//! Fan-out: one circuit changes so many times a second, and so many subscribers, each on a connection of its own, hear of each change.
//!
//! Latency counts from when the change should have been sent. A change carries its number: in the reason of the report, or in the value of the key.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use brama_proto::v1;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::connect;
use crate::cpu::Meter;
use crate::figures::{Figures, Latencies};
use crate::lane::Lane;
use crate::load::WARM_UP;
use crate::operations::{circuit, key};
use crate::pb::etcd;
use crate::pb::told::Told;
use crate::system::Kind;
use crate::wire::Messages;

/// How long a change may take to reach the last subscriber before it counts as missing.
const PATIENCE: Duration = Duration::from_secs(20);
/// The circuit that changes.
const CIRCUIT: u64 = 0;

/// When each change should have been sent, and how many know of it.
struct Board {
    begin: Instant,
    rate: f64,
    subscribers: u32,
    /// Changes before this are not measured.
    first: u64,
    told: Vec<AtomicU32>,
    each: Latencies,
    last: Latencies,
    delivered: AtomicU64,
}

impl Board {
    fn intended(&self, change: u64) -> Instant {
        self.begin + Duration::from_secs_f64(change as f64 / self.rate)
    }

    fn tell(&self, change: u64) {
        let Some(told) = self.told.get(usize::try_from(change).unwrap_or(usize::MAX)) else {
            return;
        };
        let told = told.fetch_add(1, Ordering::Relaxed) + 1;
        if change < self.first {
            return;
        }
        self.delivered.fetch_add(1, Ordering::Relaxed);
        let late = self.intended(change).elapsed();
        self.each.record(late);
        if told == self.subscribers {
            self.last.record(late);
        }
    }
}

/// Subscribers that are there, and wait for changes. Dropping it ends them.
pub(crate) struct Fanout {
    kind: Kind,
    addresses: Vec<SocketAddr>,
    subscribers: u32,
    streams: JoinSet<()>,
    thread: OwnThread,
    start: tokio::sync::watch::Sender<Option<Arc<Board>>>,
}

impl Fanout {
    /// Opens the subscriptions, on the nodes in turn.
    ///
    /// # Errors
    /// When one cannot subscribe.
    pub(crate) async fn open(kind: Kind, addresses: &[SocketAddr], subscribers: u32) -> anyhow::Result<Self> {
        let (start, board) = tokio::sync::watch::channel(None::<Arc<Board>>);
        let thread = OwnThread::new()?;
        let mut streams = JoinSet::new();
        let mut opened = Vec::new();
        for n in 0..subscribers {
            let address = addresses[n as usize % addresses.len()];
            let (ready, is_ready) = tokio::sync::oneshot::channel();
            opened.push(is_ready);
            let board = board.clone();
            let stream = async move {
                let outcome = match kind {
                    Kind::Brama => subscribe(address, ready, board).await,
                    Kind::Etcd => watch(address, ready, board).await,
                };
                if let Err(error) = outcome {
                    eprintln!("    a subscriber failed: {error:#}");
                }
            };
            streams.spawn_on(stream, thread.handle());
            if n % 50 == 49 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        for each in opened {
            tokio::time::timeout(PATIENCE, each).await??;
        }
        Ok(Self {
            kind,
            addresses: addresses.to_vec(),
            subscribers,
            streams,
            thread,
            start,
        })
    }

    /// Makes `rate` changes a second, and waits until everybody knows of each, or the patience ends. The clock starts here, when all
    /// subscribers are there.
    ///
    /// # Errors
    /// Never, for addresses like these; changes that are refused are counted.
    pub(crate) async fn drive(self, rate: f64, how_long: Duration, pids: &[u32]) -> anyhow::Result<Figures> {
        let Self {
            kind,
            addresses,
            subscribers,
            mut streams,
            thread,
            start,
        } = self;
        let changes = ((how_long + WARM_UP).as_secs_f64() * rate) as u64;
        let first = (WARM_UP.as_secs_f64() * rate) as u64;
        let board = Arc::new(Board {
            begin: Instant::now() + Duration::from_millis(500),
            rate,
            subscribers,
            first,
            told: (0..changes).map(|_| AtomicU32::new(0)).collect(),
            each: Latencies::new(),
            last: Latencies::new(),
            delivered: AtomicU64::new(0),
        });
        start.send_replace(Some(board.clone()));
        let errors = Arc::new(AtomicU64::new(0));
        let lanes = connect::lanes(&addresses, 16);
        let mut writes = JoinSet::new();
        let mut meter = None;
        for change in 0..changes {
            let intended = board.intended(change);
            if intended > Instant::now() {
                tokio::time::sleep_until(intended).await;
            }
            if change >= first && meter.is_none() {
                meter = Some(Meter::start(pids));
            }
            let lane = lanes[change as usize % lanes.len()].clone();
            let errors = errors.clone();
            writes.spawn(async move {
                if write(kind, lane, change).await.is_err() {
                    errors.fetch_add(1, Ordering::Relaxed);
                }
            });
            while writes.try_join_next().is_some() {}
        }
        writes.join_all().await;
        let expected = (changes - first) * u64::from(subscribers);
        let deadline = Instant::now() + PATIENCE;
        while board.delivered.load(Ordering::Relaxed) < expected && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = board.intended(first).elapsed();
        let cost = meter.map(|meter| meter.read()).unwrap_or_default();
        streams.abort_all();
        // Gone before the next measurement begins: a thousand connections that end are work for the servers too.
        while streams.join_next().await.is_some() {}
        drop(thread);
        let mut figures = Figures::new(&board.each, took, cost, errors.load(Ordering::Relaxed));
        figures.last_told_ms = Some((board.last.quantile_ms(0.5), board.last.quantile_ms(0.99)));
        figures.missing = Some(expected.saturating_sub(board.delivered.load(Ordering::Relaxed)));
        Ok(figures)
    }
}

/// Where subscribers live: a change that a thousand of them hear of delays neither the next change nor the answers of a load beside them by
/// more than the processor that it takes.
struct OwnThread(Option<Runtime>);

impl OwnThread {
    fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        Ok(Self(Some(runtime)))
    }

    fn handle(&self) -> &Handle {
        match &self.0 {
            Some(runtime) => runtime.handle(),
            None => unreachable!("it is taken when this is dropped"),
        }
    }
}

impl Drop for OwnThread {
    fn drop(&mut self) {
        // A runtime may not be waited for within another.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn write(kind: Kind, lane: Lane, change: u64) -> Result<(), String> {
    match kind {
        Kind::Brama => {
            let request = v1::FailureRequest {
                name: Some(circuit(CIRCUIT)),
                reason: Some(change.to_string()),
                ..Default::default()
            };
            lane.call::<v1::OutcomeResponse>("/brama.v1.Circuits/Failure", &request)
                .await?;
        }
        Kind::Etcd => {
            let request = etcd::PutRequest {
                key: key(CIRCUIT),
                value: change.to_string().into_bytes(),
            };
            lane.call::<etcd::PutResponse>("/etcdserverpb.KV/Put", &request)
                .await?;
        }
    }
    Ok(())
}

type Ready = tokio::sync::oneshot::Sender<()>;
type Start = tokio::sync::watch::Receiver<Option<Arc<Board>>>;

async fn subscribe(address: SocketAddr, ready: Ready, mut start: Start) -> anyhow::Result<()> {
    let request = v1::SubscribeRequest {
        names: vec![circuit(CIRCUIT)],
        ..Default::default()
    };
    let mut messages = Messages::open(address, "/brama.v1.Events/Subscribe", &request, true).await?;
    // The first message says from where it goes on.
    messages.next::<Told>().await?;
    let _ = ready.send(());
    let board = wait(&mut start).await?;
    loop {
        let message: Told = messages.next().await?;
        if let Some(event) = message.event
            && let Ok(change) = event.reason.parse()
        {
            board.tell(change);
        }
    }
}

async fn watch(address: SocketAddr, ready: Ready, mut start: Start) -> anyhow::Result<()> {
    let request = etcd::WatchRequest {
        create_request: Some(etcd::WatchCreateRequest { key: key(CIRCUIT) }),
    };
    let mut messages = Messages::open(address, "/etcdserverpb.Watch/Watch", &request, false).await?;
    let created: etcd::WatchResponse = messages.next().await?;
    anyhow::ensure!(created.created && !created.canceled, "etcd refused to watch");
    let _ = ready.send(());
    let board = wait(&mut start).await?;
    loop {
        let message: etcd::WatchResponse = messages.next().await?;
        for event in message.events {
            let value = event.kv.map(|kv| kv.value).unwrap_or_default();
            if let Ok(change) = String::from_utf8_lossy(&value).parse() {
                board.tell(change);
            }
        }
    }
}

async fn wait(start: &mut Start) -> anyhow::Result<Arc<Board>> {
    let board = start.wait_for(Option::is_some).await?;
    board.clone().ok_or_else(|| anyhow::anyhow!("nothing begins"))
}
