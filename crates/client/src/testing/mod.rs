//! For tests of programs that use Brama: a cluster in the process, with the real state machine behind it and a clock that the test moves.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use brama_client::testing::FakeCluster;
//! use brama_client::{Policy, StateName};
//!
//! let cluster = FakeCluster::start().await?;
//! let client = cluster.client()?;
//! let payments = client.circuit("payment_api");
//! payments.register_with(Policy { max_attempts: Some(3), ..Policy::default() }).await?;
//!
//! cluster.add_failures(&payments, 3).await?;
//! assert!(payments.try_acquire().await.is_err());
//! cluster.advance(Duration::from_secs(60)).await;
//! assert_eq!(payments.known_state(), Some(StateName::HalfOpen));
//! cluster.simulate_recovery(&payments).await?;
//! payments.try_acquire().await?.success();
//! # Ok(()) }
//! ```
//!
//! The client is the real one, and speaks with it over a connection of this machine. So time passes twice: the cluster's only when the test says
//! so, and the client's own (deadlines, `report_interval`, `unreachable_after`) as always. What the test does to the cluster, it does when the
//! clients of the cluster have told what they had counted, and returns when they know what came of it.

mod services;
mod world;

use std::sync::Arc;
use std::time::Duration;

use brama_core::circuit::StateName;
use brama_core::command::{ClusterId, Command, PermitId, ReportBatch, ReportItem};
use brama_core::event::Event;
use brama_core::policy::Expiry;
use brama_core::query::CircuitStatus;
use brama_core::reply::Reply;
use brama_core::report::{Outcome, Summary};
use brama_core::{CircuitName, Metadata};
use brama_proto::v1::circuits_server::CircuitsServer;
use brama_proto::v1::events_server::EventsServer;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use self::services::Services;
use self::world::World;
use crate::{Circuit, Client, ClientBuilder, Error};

/// How long clients may take to tell and to learn.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);
/// Probes that a recovery takes at most.
const MAX_PROBES: u32 = 1_000_000;

/// A cluster of one, in this process.
#[derive(Debug)]
pub struct FakeCluster {
    world: Arc<World>,
    address: String,
    clients: Mutex<Vec<Client>>,
    end: CancellationToken,
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl FakeCluster {
    /// Starts one, on a port of its own.
    ///
    /// # Errors
    /// When there is no port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let cluster = ClusterId(rand::random());
        let world = Arc::new(World::new(cluster));
        let services = Services {
            world: world.clone(),
            cluster,
        };
        let end = CancellationToken::new();
        let ended = end.clone();
        let server = Server::builder()
            .add_service(CircuitsServer::new(services.clone()))
            .add_service(EventsServer::new(services));
        tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tokio::select! {
                result = server.serve_with_incoming(incoming) => {
                    if let Err(error) = result {
                        tracing::error!(%error, "the fake cluster stopped");
                    }
                }
                () = ended.cancelled() => {}
            }
        });
        Ok(Self {
            world,
            address,
            clients: Mutex::default(),
            end,
        })
    }

    /// Where it listens, `host:port`: for clients that [`FakeCluster::settle`] does not wait for.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// A client of it.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect_lazy`].
    pub fn client(&self) -> Result<Client, Error> {
        self.client_with(Client::builder())
    }

    /// A client of it with other settings.
    ///
    /// # Errors
    /// As [`ClientBuilder::connect_lazy`].
    pub fn client_with(&self, settings: ClientBuilder) -> Result<Client, Error> {
        let client = settings.endpoints([self.address.clone()]).connect_lazy()?;
        self.clients.lock().push(client.clone());
        Ok(client)
    }

    /// Brings a circuit into a state, by the way that leads there: opened or reset by hand, or its expiry passed (for this circuit alone).
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_state(&self, circuit: &Circuit, state: StateName) -> Result<(), Error> {
        self.settle().await;
        let name = circuit.name().clone();
        match state {
            StateName::Closed => self.apply(Command::Reset { name, reason: None })?,
            StateName::Open => self.open(name, None)?,
            StateName::HalfOpen => {
                self.open(name, Some(Expiry::Ms(1)))?;
                self.world.advance(Duration::from_millis(1));
            }
        }
        self.settle().await;
        Ok(())
    }

    /// So many calls of somebody else failed, one after the other. None for 0.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn add_failures(&self, circuit: &Circuit, count: u32) -> Result<(), Error> {
        self.settle().await;
        self.status(circuit.name())?;
        for _ in 0..count {
            self.report(circuit.name(), Outcome::Failure, None)?;
        }
        self.settle().await;
        Ok(())
    }

    /// The dependency works again: an opening ends (at once, whatever is left of it), and probes of somebody else succeed until the circuit is
    /// closed; of a closed circuit, a call succeeds.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Protocol`] when probes of others are out that leave no place.
    pub async fn simulate_recovery(&self, circuit: &Circuit) -> Result<(), Error> {
        if self.status(circuit.name())?.state == StateName::Open {
            self.set_state(circuit, StateName::HalfOpen).await?;
        }
        self.settle().await;
        for _ in 0..MAX_PROBES {
            if self.status(circuit.name())?.state == StateName::Closed {
                break;
            }
            let permit = PermitId(rand::random());
            let name = circuit.name().clone();
            let acquired = self.world.apply(Command::Acquire { name, permit });
            match acquired.map_err(Error::from)? {
                (Reply::Admission(admission), _) if admission.admitted => {}
                _ => return Err(Error::protocol("every place of a probe is taken")),
            }
            self.report(circuit.name(), Outcome::Success, Some(permit))?;
        }
        self.report(circuit.name(), Outcome::Success, None)?;
        self.settle().await;
        Ok(())
    }

    /// Lets the cluster's clock run; whatever gets due on the way happens at its time.
    pub async fn advance(&self, by: Duration) {
        self.settle().await;
        self.world.advance(by);
        self.settle().await;
    }

    /// From now on nobody gets an answer. Clients find out by themselves, after their
    /// [`unreachable_after`](ClientBuilder::unreachable_after).
    pub fn cut_off(&self) {
        self.world.set_in_reach(false);
    }

    /// It answers again. Clients find out by themselves, a moment later.
    pub fn reconnect(&self) {
        self.world.set_in_reach(true);
    }

    /// Everything that happened, from the oldest that is kept (100,000 events).
    pub fn events(&self) -> Vec<Arc<Event>> {
        let (mut events, mut after) = (
            Vec::new(),
            self.world.read(|machine| machine.oldest_revision()) - 1,
        );
        loop {
            let page = self.world.events_after(after);
            match page.last() {
                Some(last) => after = last.revision,
                None => return events,
            }
            events.extend(page.iter().map(|event| Arc::new(Event::clone(event))));
        }
    }

    /// The circuit, as the cluster has it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn status(&self, name: &CircuitName) -> Result<CircuitStatus, Error> {
        let found = self.world.read(|machine| machine.status(name));
        found.ok_or_else(|| Error::NotFound {
            message: format!("no circuit is registered as {name}"),
        })
    }

    /// Waits until every client has told what it had counted, and knows everything that happened. Gives up after 10 s, and while the cluster is cut
    /// off.
    pub async fn settle(&self) {
        let clients = self.clients.lock().clone();
        let settled = async {
            for client in &clients {
                let _ = client.flush().await;
            }
            let mut revision = self.world.revision();
            let newest = *revision.borrow_and_update();
            for client in &clients {
                while !client.knows(newest) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        if *self.world.in_reach().borrow() && tokio::time::timeout(SETTLE_WITHIN, settled).await.is_err() {
            tracing::warn!("clients of the fake cluster did not settle within {SETTLE_WITHIN:?}");
        }
    }

    fn open(&self, name: CircuitName, expiry: Option<Expiry>) -> Result<(), Error> {
        let reason = Some(Arc::from("set by a test"));
        self.apply(Command::Open { name, expiry, reason })
    }

    fn report(&self, name: &CircuitName, outcome: Outcome, permit: Option<PermitId>) -> Result<(), Error> {
        let item = ReportItem {
            name: name.clone(),
            generation: None,
            permit,
            summary: Summary::of(outcome),
            reason: (outcome == Outcome::Failure).then(|| Arc::from("failed by a test")),
            metadata: Metadata::new(),
        };
        let items = vec![item];
        self.apply(Command::Report(ReportBatch { session: None, items }))
    }

    fn apply(&self, command: Command) -> Result<(), Error> {
        self.world.apply(command).map(|_| ()).map_err(Error::from)
    }
}
