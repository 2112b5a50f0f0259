//! `brama serve`: one node, until it is told to stop.

use std::num::NonZero;
use std::time::Duration;

use brama_node::config::Config;
use brama_node::{Node, fault_build, logging};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::ConfigArgs;
use crate::exit::{Code, Failure, Outcome};
use crate::process;

/// A node that was told to stop is gone within 5 seconds; this leaves some of them to the process itself.
const STOP_WITHIN: Duration = Duration::from_millis(4500);
/// What may still run when the node has stopped gets so long: a blocking call cannot be cut.
const LEAVE_WITHIN: Duration = Duration::from_millis(200);

/// Runs the node of this configuration.
pub(crate) fn run(args: ConfigArgs) -> Outcome {
    let config = args.load()?.config;
    logging::init(&config.log).map_err(|error| Failure::new(Code::General, error.to_string()))?;
    fault_build::prepare().map_err(Failure::usage)?;
    process::prepare(config.limits.max_connections);
    let runtime =
        runtime().map_err(|error| Failure::new(Code::General, format!("cannot start threads: {error}")))?;
    let outcome = runtime.block_on(serve(config));
    runtime.shutdown_timeout(LEAVE_WITHIN);
    outcome
}

/// One core is left to the thread that writes the log: a worker there would only be woken to take work from another, which costs a small
/// machine more than it gains (two cores: a sixth of a report's latency). `TOKIO_WORKER_THREADS` says otherwise.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        builder.worker_threads(cores.saturating_sub(1).max(1));
    }
    builder.enable_all().build()
}

async fn serve(config: Config) -> Outcome {
    // From here on a signal is not lost, also while the node starts.
    let mut stop = StopSignals::new()?;
    let starting = Node::start(config.clone());
    let node = tokio::select! {
        node = starting => node.map_err(|error| Failure::new(Code::General, error.to_string()))?,
        () = stop.wait() => return Ok(()),
    };
    tracing::info!(
        node = config.node.id,
        cluster = config.cluster.name,
        clients = %node.client_address(),
        nodes = %config.node.peer_listen,
        data_dir = %config.node.data_dir.display(),
        "started"
    );
    let outcome = tokio::select! {
        message = node.failed() => Err(Failure::new(Code::General, format!("this node cannot go on: {message}"))),
        () = stop.wait() => Ok(()),
    };
    tokio::select! {
        () = node.stop(STOP_WITHIN) => outcome,
        () = stop.wait() => Err(Failure::new(Code::General, "told twice to stop: stopped at once, without handing over")),
    }
}

/// SIGINT and SIGTERM.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::new(Code::General, format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Completes with the next one.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
