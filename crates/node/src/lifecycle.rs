//! The life of a node: what starts in which order, and who waits for whom when it ends.
//!
//! ```text
//! start   log and state from disk, port for nodes  (Replica::start)
//!         port for clients                          health says NOT_SERVING
//!         timers, health                            SERVING while recovered, in touch with a majority, and with room on the disk
//!
//! stop    1 health says NOT_SERVING, /readyz 503    balancers and clients look elsewhere
//!         2 leadership is handed over               nobody has to wait for an election
//!         3 the port for clients is closed          connections are told to go away
//!         4 streams end with RESUME_ELSEWHERE       subscribers go on elsewhere, with their cursor
//!         5 calls in flight are answered            at most until two thirds of the time are over, then they are cut
//!         6 consensus stops, the log is flushed     Replica::stop
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use brama_core::command::{Bootstrap, ClusterId};
use brama_raft::environment::System;
use brama_raft::{Options, Origin, Replica, TimeSource, Timing, fault_build};

use crate::api::{Api, DESCRIPTORS};
use crate::clock_source::SystemClocks;
use crate::config::{Config, DefaultsConfig, OriginConfig};
use crate::connections::{self, Door};
use crate::health::Health;
use crate::metrics::requests::Requests;
use crate::metrics::{Measured, Metrics};
use crate::news::News;
use crate::pages::Pages;
use crate::server::{self, Services};
use crate::subscribers::Subscribers;
use crate::timers;

/// How often health is looked at.
const HEALTH_EVERY: Duration = Duration::from_millis(50);
/// The names under which health is told: the node as a whole, and the services that need a cluster.
const HEALTH_NAMES: [&str; 3] = ["", "brama.v1.Circuits", "brama.v1.Events"];

/// Why a node did not start. Nothing of it is running then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory, or the port for nodes.
    #[error(transparent)]
    Replica(#[from] brama_raft::StartError),
    /// The port for clients.
    #[error("cannot listen for clients at {address}: {source}; is another node running here?")]
    Listen {
        /// `node.client_listen`.
        address: SocketAddr,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The services cannot describe themselves: the build is broken.
    #[error("the descriptors of the services cannot be read")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Likewise, where their methods are counted.
    #[error("the descriptors of the services cannot be read")]
    Descriptors(#[from] prost::DecodeError),
}

/// A running node. Dropping it does not stop it: [`Node::stop`] does.
pub struct Node {
    replica: Replica,
    client_address: SocketAddr,
    /// What health says.
    ready: watch::Receiver<bool>,
    /// Ends what only watches: health and the comparison with the log.
    watching: CancellationToken,
    /// Ends the timers.
    timers: CancellationToken,
    /// Closes the port for clients, and asks connections to end.
    closing: CancellationToken,
    /// Ends subscriptions and streams, with the advice to resume elsewhere.
    end_streams: CancellationToken,
    /// Cuts the calls that are still in flight.
    cut: CancellationToken,
    watchers: TaskTracker,
    /// The port for clients.
    server: TaskTracker,
    tasks: TaskTracker,
}

impl Node {
    /// Opens the data directory, listens for nodes and clients, and makes or joins the cluster in the background; see [`Node::ready`].
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        if let Some(why) = fault_build::broken_on_purpose() {
            tracing::error!("{why}");
        }
        warn_of_exposure(&config);
        let client_listen = config.node.client_listen;
        let refused = |source| StartError::Listen {
            address: client_listen,
            source,
        };
        let listener = connections::listen(client_listen).await.map_err(refused)?;
        let client_address = listener.local_addr().map_err(refused)?;
        let requests = Requests::new(&DESCRIPTORS)?;
        let replica = Replica::start(replica_options(&config, Arc::new(SystemClocks::new()))).await?;

        let health = HealthReporter::new();
        tell(&health, ServingStatus::NotServing).await;
        let (say_ready, ready) = watch::channel(false);
        let node = Self {
            replica: replica.clone(),
            client_address,
            ready,
            watching: CancellationToken::new(),
            timers: CancellationToken::new(),
            closing: CancellationToken::new(),
            end_streams: CancellationToken::new(),
            cut: CancellationToken::new(),
            watchers: TaskTracker::new(),
            server: TaskTracker::new(),
            tasks: TaskTracker::new(),
        };
        let (say_quorum, quorum) = watch::channel(false);
        let news = News::new();
        let telling = news
            .clone()
            .run(replica.clone(), quorum.clone(), node.end_streams.clone());
        let checks = Arc::new(Health {
            replica: replica.clone(),
            stopping: node.watching.clone(),
        });
        let requests = Arc::new(requests);
        let subscribers = Subscribers::new(config.limits.max_subscribers);
        let door = Arc::new(Door::new(config.limits.max_connections));
        let measured = Measured {
            replica: replica.clone(),
            health: checks.clone(),
            requests: requests.clone(),
            subscribers: subscribers.clone(),
            door: door.clone(),
        };
        let pages = Pages::new(checks.clone(), Arc::new(Metrics::new(&config, measured)));
        let api = Api::new(
            replica.clone(),
            news,
            &config,
            subscribers,
            requests.clone(),
            quorum,
            node.end_streams.clone(),
        );
        match api.services(HealthServer::new(HealthService::from_health_reporter(
            health.clone(),
        ))) {
            Ok(mut services) => {
                services.others = pages.beside(services.others);
                node.serve(listener, door, services);
            }
            Err(error) => {
                replica.stop(Instant::now()).await;
                return Err(error.into());
            }
        }
        node.tasks.spawn(telling);
        node.tasks
            .spawn(timers::run(replica.clone(), node.timers.clone()));
        node.watchers.spawn(watch_health(
            checks,
            health,
            say_ready,
            say_quorum,
            node.watching.clone(),
        ));
        let compare = warn_of_differences(replica, config);
        node.watchers
            .spawn(node.watching.clone().run_until_cancelled_owned(compare));
        Ok(node)
    }

    /// Stops in the order that this file's head shows, in at most `within`; what is not done then is cut off. A second call does nothing.
    pub async fn stop(&self, within: Duration) {
        if self.closing.is_cancelled() {
            return;
        }
        let deadline = Instant::now() + within;
        tracing::info!("stopping");
        // 1. Health.
        self.watching.cancel();
        self.watchers.close();
        self.watchers.wait().await;
        // 2. Leadership.
        self.hand_over(Instant::now() + within / 4).await;
        // 3. and 4. The port for clients, and streams.
        self.closing.cancel();
        self.end_streams.cancel();
        // 5. Calls in flight.
        self.server.close();
        if tokio::time::timeout_at(Instant::now() + within / 3, self.server.wait())
            .await
            .is_err()
        {
            tracing::info!("some clients keep their connections; they are cut");
            self.cut.cancel();
        }
        // 6. Consensus and the log.
        self.timers.cancel();
        self.replica.stop(deadline).await;
        self.tasks.close();
        if tokio::time::timeout_at(deadline, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some tasks did not stop in time");
        }
        tracing::info!("stopped");
    }

    /// Completes when this node cannot go on, with what a person needs to know; the process must exit then. It is out of health already.
    pub async fn failed(&self) -> String {
        self.replica.failed().await
    }

    /// Completes once its health says SERVING: every check passes, so it has recovered its state and is in touch with a majority. Never, if it is
    /// stopped before.
    pub async fn ready(&self) {
        let mut ready = self.ready.clone();
        let seen = ready.wait_for(|ready| *ready).await.is_ok();
        if !seen {
            std::future::pending().await
        }
    }

    /// Where it listens for clients.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Its part in consensus.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    fn serve(&self, listener: tokio::net::TcpListener, door: Arc<Door>, services: Services) {
        let (closing, cut) = (self.closing.clone(), self.cut.clone());
        let incoming = connections::accept(listener, door, cut.clone());
        let serving = server::serve(incoming, services, closing);
        self.server.spawn(async move {
            // `None`: it was cut.
            let _ = cut.run_until_cancelled_owned(serving).await;
        });
    }

    async fn hand_over(&self, deadline: Instant) {
        if self.replica.leadership().borrow().term.is_none() {
            return;
        }
        match tokio::time::timeout_at(deadline, self.replica.transfer_leader(None, deadline)).await {
            Ok(Ok(leader)) => tracing::info!(leader, "handed leadership over"),
            Ok(Err(error)) => tracing::info!(%error, "leadership was not handed over"),
            Err(_) => tracing::info!("nobody took leadership over in time"),
        }
    }
}

async fn tell(health: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

/// Keeps health, and what subscribers are told of the majority, up to date. Ends with `stop` or when the node has failed, out of health.
async fn watch_health(
    checks: Arc<Health>,
    health: HealthReporter,
    say_ready: watch::Sender<bool>,
    say_quorum: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let replica = &checks.replica;
    let watch = async {
        loop {
            let has_quorum = replica.has_quorum();
            say_quorum.send_if_modified(|quorum| std::mem::replace(quorum, has_quorum) != has_quorum);
            let problems = checks.problems();
            let ready = problems.is_empty();
            if ready != *say_ready.borrow() {
                let status = if ready {
                    tracing::info!("ready: recovered, and in touch with a majority");
                    ServingStatus::Serving
                } else {
                    tracing::warn!("not ready: {}", problems.join("; "));
                    ServingStatus::NotServing
                };
                tell(&health, status).await;
                say_ready.send_replace(ready);
            }
            tokio::time::sleep(HEALTH_EVERY).await;
        }
    };
    tokio::select! {
        () = watch => {}
        () = stop.cancelled() => {}
        _ = replica.failed() => {}
    }
    tell(&health, ServingStatus::NotServing).await;
}

/// Says so if the cluster was bootstrapped with other defaults or limits than this node's configuration has: they do not count any more.
async fn warn_of_differences(replica: Replica, config: Config) {
    let mut applied = replica.applied();
    let (defaults, limits) = loop {
        let replicated =
            replica.read(|machine| machine.defaults().map(|defaults| (defaults, machine.limits())));
        match replicated {
            Some(found) if replica.is_recovered() => break found,
            _ if applied.changed().await.is_err() => return,
            _ => {}
        }
    };
    let (policy, global) = defaults;
    if (DefaultsConfig { policy, global }) != config.defaults {
        tracing::warn!(
            "[defaults] of this node's configuration differ from those with which the cluster was bootstrapped, and are not used; \
             `brama configure` changes the cluster's options"
        );
    }
    if limits != config.limits.cluster {
        tracing::warn!(
            "[limits] of this node's configuration differ from those with which the cluster was bootstrapped, and are not used"
        );
    }
}

fn warn_of_exposure(config: &Config) {
    for (what, address) in [
        ("clients", config.node.client_listen),
        ("other nodes", config.node.peer_listen),
    ] {
        if !address.ip().is_loopback() {
            tracing::warn!(
                %address,
                "listening for {what} beyond this machine, without encryption and without asking who they are: whoever reaches this port \
                 can open and close every circuit; keep it inside a network that you trust"
            );
        }
    }
}

fn replica_options(config: &Config, time: Arc<dyn TimeSource>) -> Options {
    let origin = match &config.cluster.origin {
        OriginConfig::Members(members) => Origin::Bootstrap {
            members: members
                .iter()
                .map(|member| (member.id, member.peer.clone()))
                .collect(),
            first: Box::new(Bootstrap {
                cluster_id: ClusterId::default(),
                defaults: config.defaults.policy.clone(),
                global_defaults: config.defaults.global,
                limits: config.limits.cluster,
            }),
        },
        OriginConfig::Join(seeds) => Origin::Join { seeds: seeds.clone() },
    };
    Options {
        node_id: config.node.id,
        cluster_name: config.cluster.name.clone(),
        data_dir: config.node.data_dir.clone(),
        peer_listen: config.node.peer_listen,
        peer_address: config.node.peer_address.clone(),
        client_address: config.node.client_address.clone(),
        origin,
        timing: Timing {
            election_min: config.raft.election_timeout_min,
            election_max: config.raft.election_timeout_max,
            heartbeat: config.raft.heartbeat_interval,
        },
        time,
        environment: Arc::new(System),
        snapshot_every: config.raft.snapshot_every,
        keep_entries: config.raft.keep_entries,
        compare_interval: config.raft.compare_interval,
        min_free_bytes: config.limits.min_free_bytes,
    }
}
