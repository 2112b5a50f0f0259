//! A machine on which a node runs: its clocks, its disk, its threads, and the process that may end at any moment.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use brama_raft::environment::{BoxFuture, Environment, Incoming, LogWriter, PeerStream};
use brama_raft::{Options, Replica, TimeSource};
use brama_simulation::Broken;
use futures::StreamExt as _;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::network::{Network, Stream};
use crate::world::World;

/// Something that a client asks of a node.
pub(crate) type Call = Box<dyn FnOnce(Replica) -> BoxFuture<()> + Send>;

/// Where clients reach the processes that run.
pub(crate) type Doors = Arc<Mutex<BTreeMap<u64, mpsc::UnboundedSender<Call>>>>;

/// The wall clocks show some day in 2026.
const EPOCH: Duration = Duration::from_secs(1_790_000_000);

/// The port for nodes, on every machine.
const PORT: u16 = 7500;

/// Where a node listens for others.
pub(crate) fn address(node: u64) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, u8::try_from(node).unwrap()], PORT))
}

/// A machine's clocks. Its wall clock can be wrong.
pub(crate) struct Clocks {
    world: Arc<World>,
    pub(crate) wall_is_off_ms: AtomicI64,
}

impl TimeSource for Clocks {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.world.now())
    }

    fn wall(&self) -> Duration {
        let off = self.wall_is_off_ms.load(Relaxed);
        let right = i64::try_from((EPOCH + self.monotonic()).as_millis()).unwrap();
        Duration::from_millis((right + off).try_into().unwrap_or(0))
    }
}

/// How a disk fares.
pub(crate) struct Disk {
    /// The longest that a flush takes.
    pub(crate) slowest_ms: AtomicU64,
    /// It says that it has written what it has not: a bug for the simulation to find.
    pub(crate) lies: bool,
}

/// The environment of a replica on this machine.
struct Simulated {
    node: u64,
    world: Arc<World>,
    network: Network,
    disk: Arc<Disk>,
}

impl Environment for Simulated {
    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        // It is done at one moment, some time later; what has not come to that moment when the process ends never happens.
        let takes = Duration::from_millis(self.world.draw(0..=6));
        tokio::spawn(async move {
            tokio::time::sleep(takes).await;
            work();
        });
    }

    fn spawn_log_writer(&self, writer: LogWriter) -> io::Result<Option<JoinHandle<()>>> {
        tokio::spawn(write(writer, self.world.clone(), self.disk.clone()));
        Ok(None)
    }

    fn listen(&self, _: SocketAddr) -> BoxFuture<io::Result<Incoming>> {
        let mut connections = self.network.listen(self.node);
        let incoming = futures::stream::poll_fn(move |context| connections.poll_recv(context));
        let incoming: Incoming = Box::pin(incoming.map(|stream| Ok(PeerStream::new(stream))));
        Box::pin(std::future::ready(Ok(incoming)))
    }

    fn connect(&self, endpoint: Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(Connector {
            node: self.node,
            network: self.network.clone(),
        })
    }
}

/// What the log's thread does, with a disk that takes its time before a flush is done, and a process that takes some to say so.
async fn write(mut writer: LogWriter, world: Arc<World>, disk: Arc<Disk>) {
    while let Some(mut group) = writer.next_group().await {
        let most = disk.slowest_ms.load(Relaxed);
        let flush = Duration::from_millis(world.draw(0..=most));
        if disk.lies {
            writer.answer(&mut group);
            tokio::time::sleep(flush).await;
            // Now and then it writes what it has.
            if world.chance(10) {
                writer.flush(&mut group);
            }
        } else {
            tokio::time::sleep(flush).await;
            writer.flush(&mut group);
            tokio::time::sleep(Duration::from_millis(world.draw(0..=1))).await;
            writer.answer(&mut group);
        }
    }
}

#[derive(Clone)]
struct Connector {
    node: u64,
    network: Network,
}

impl tonic::codegen::Service<http::Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let last = uri.host().and_then(|host| host.rsplit('.').next());
        let to = last.and_then(|last| last.parse().ok());
        let connecting = to.map(|to| self.network.connect(self.node, to));
        Box::pin(async move {
            let connecting = connecting.ok_or(io::ErrorKind::AddrNotAvailable)?;
            let connected = connecting.await;
            connected
                .map(TokioIo::new)
                .map_err(|_| io::ErrorKind::ConnectionRefused.into())
        })
    }
}

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// `kill -9`: its connections are closed.
    Killed,
    /// The power fails: nobody is told.
    PowerCut,
}

/// See the module.
pub(crate) struct Machine {
    pub(crate) id: u64,
    world: Arc<World>,
    network: Network,
    doors: Doors,
    pub(crate) clocks: Arc<Clocks>,
    pub(crate) disk: Arc<Disk>,
    options: Options,
    process: Option<Process>,
    /// Milliseconds for which it does nothing.
    pub(crate) paused_for: u64,
    /// Processes of it that have ended, and snapshots that they got from a leader.
    pub(crate) ended: u64,
    installed: u64,
    /// It was asked to stop, and is about to.
    stopping: bool,
}

struct Process {
    runtime: Runtime,
    /// When its time began, in its own time and in that of the simulation.
    began: (Instant, u64),
    replica: Arc<Mutex<Option<Replica>>>,
    stopped: CancellationToken,
}

impl Machine {
    pub(crate) fn new(
        id: u64,
        world: Arc<World>,
        network: Network,
        doors: Doors,
        disk: Disk,
        options: impl FnOnce(Arc<Clocks>, Arc<dyn Environment>, PathBuf) -> Options,
        folder: PathBuf,
    ) -> Self {
        let clocks = Arc::new(Clocks {
            world: world.clone(),
            wall_is_off_ms: AtomicI64::new(0),
        });
        let disk = Arc::new(disk);
        let environment = Simulated {
            node: id,
            world: world.clone(),
            network: network.clone(),
            disk: disk.clone(),
        };
        Self {
            id,
            options: options(clocks.clone(), Arc::new(environment), folder),
            world,
            network,
            doors,
            clocks,
            disk,
            process: None,
            paused_for: 0,
            ended: 0,
            installed: 0,
            stopping: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Starts the process, with what is on the disk.
    pub(crate) fn start(&mut self) {
        if self.is_up() {
            return;
        }
        self.world.say(format!("node {} starts", self.id));
        self.network.up(self.id);
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        let began = {
            let _inside = runtime.enter();
            (Instant::now(), self.world.now())
        };
        let (door, calls) = mpsc::unbounded_channel();
        self.doors.lock().insert(self.id, door);
        let replica = Arc::default();
        let stopped = CancellationToken::new();
        let main = run(
            self.options.clone(),
            Arc::clone(&replica),
            calls,
            self.world.clone(),
            stopped.clone(),
        );
        runtime.spawn(main);
        self.process = Some(Process {
            runtime,
            began,
            replica,
            stopped,
        });
        self.paused_for = 0;
    }

    /// Ends the process, in whatever it was about to do. What it had not flushed is lost.
    pub(crate) fn end(&mut self, how: End) {
        let Some(process) = self.process.take() else {
            return;
        };
        self.world.say(format!("node {} ends: {how:?}", self.id));
        self.doors.lock().remove(&self.id);
        self.network.down(self.id, how == End::PowerCut);
        self.ended += 1;
        self.installed += installed(&process);
        process.replica.lock().take();
        drop(process.runtime);
        self.stopping = false;
        self.paused_for = 0;
    }

    /// Asks the process to stop in good order; see [`Machine::tick`] for its end.
    pub(crate) fn ask_to_stop(&mut self) {
        let Some(process) = &self.process else { return };
        let Some(replica) = process.replica.lock().clone() else {
            return;
        };
        self.world.say(format!("node {} is asked to stop", self.id));
        self.stopping = true;
        let stopped = process.stopped.clone();
        process.runtime.spawn(async move {
            replica.stop(Instant::now() + Duration::from_secs(5)).await;
            drop(replica);
            stopped.cancel();
        });
    }

    /// From now on it is up, whatever it was about to do.
    pub(crate) fn heal(&mut self) {
        self.paused_for = 0;
        if self.stopping {
            self.end(End::Killed);
        }
        self.start();
    }

    /// A millisecond passes. (An ended process does nothing, and neither does one that is paused: its time goes on all the same.)
    pub(crate) fn tick(&mut self) {
        if self.paused_for > 0 {
            self.paused_for -= 1;
            return;
        }
        let Some(process) = &self.process else { return };
        let (began, at) = process.began;
        let now = began + Duration::from_millis(self.world.now() - at);
        let span = tracing::info_span!("node", id = self.id);
        let _inside = span.enter();
        process.runtime.block_on(async {
            let missed = now
                .saturating_duration_since(Instant::now())
                .saturating_sub(Duration::from_millis(1));
            if !missed.is_zero() {
                tokio::time::advance(missed).await;
            }
            tokio::time::sleep_until(now).await;
        });
        if process.stopped.is_cancelled() {
            self.end(End::Killed);
        }
    }

    /// Snapshots that came from a leader.
    pub(crate) fn installed(&self) -> u64 {
        self.installed + self.process.as_ref().map_or(0, installed)
    }

    /// The node, once it has started.
    pub(crate) fn replica(&self) -> Option<Replica> {
        self.process.as_ref()?.replica.lock().clone()
    }
}

fn installed(process: &Process) -> u64 {
    let replica = process.replica.lock();
    replica
        .as_ref()
        .map_or(0, |replica| replica.figures().snapshots_installed.micros.count)
}

/// What the process of a node does.
async fn run(
    options: Options,
    slot: Arc<Mutex<Option<Replica>>>,
    mut calls: mpsc::UnboundedReceiver<Call>,
    world: Arc<World>,
    stopped: CancellationToken,
) {
    let id = options.node_id;
    let replica = match Replica::start(options).await {
        Ok(replica) => replica,
        Err(error) => return world.breaks(Broken::new("G8", format!("node {id} does not start: {error}"))),
    };
    world.say(format!("node {id} has started"));
    *slot.lock() = Some(replica.clone());
    tokio::spawn(brama_node::timers::run(replica.clone(), stopped));
    let of_failure = (replica.clone(), world.clone());
    tokio::spawn(async move {
        let (replica, world) = of_failure;
        let why = replica.failed().await;
        world.breaks(Broken::new("no node fails", format!("node {id}: {why}")));
    });
    while let Some(call) = calls.recv().await {
        tokio::spawn(call(replica.clone()));
    }
}
