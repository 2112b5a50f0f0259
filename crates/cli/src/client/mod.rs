//! The client commands: one call, or one stream, and its answer for people or for scripts.

mod args;
mod circuits;
mod cluster;
mod errors;
mod events;
mod json;
mod questions;
mod remote;
mod report;
mod text;

use std::io::Write;

use clap::Subcommand;
use prost::Message;

use crate::exit::{Code, Failure, Outcome};

/// What can be asked of a cluster.
#[derive(Subcommand, Debug)]
pub(crate) enum ClientCommand {
    /// Register a circuit
    Register(circuits::Register),
    /// Remove a circuit
    Unregister(circuits::Unregister),
    /// Show a circuit
    Status(questions::Status),
    /// List circuits
    List(questions::List),
    /// Ask whether a call would pass now, without side effect (exit code 5: no)
    Available(questions::Available),
    /// Ask for admission; takes a permit if the circuit is half-open (exit code 5: rejected)
    Acquire(questions::Acquire),
    /// Report outcomes of calls
    Report(report::Report),
    /// Report one successful call
    Success(report::Success),
    /// Report one failed call
    Failure(report::Failed),
    /// Open a circuit by hand
    Open(circuits::Open),
    /// Close a circuit by hand; its failures are kept, so one more may reopen it
    Close(circuits::Switch),
    /// Close a circuit by hand and forget its failures
    Reset(circuits::Switch),
    /// Set options of one circuit, or of all that do not set their own
    Configure(circuits::Configure),
    /// Show the policy of one circuit, or the global one and the limits
    Policy(circuits::ShowPolicy),
    /// Show circuits, then what happens to them
    Watch(events::Watch),
    /// Show events
    Events(events::Events),
    /// Look at the nodes of a cluster, and change which they are
    #[command(subcommand)]
    Cluster(cluster::Cluster),
}

/// Runs a client command.
pub(crate) fn run(command: ClientCommand) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::General, format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match command {
            ClientCommand::Register(args) => circuits::register(args).await,
            ClientCommand::Unregister(args) => circuits::unregister(args).await,
            ClientCommand::Status(args) => questions::status(args).await,
            ClientCommand::List(args) => questions::list(args).await,
            ClientCommand::Available(args) => questions::available(args).await,
            ClientCommand::Acquire(args) => questions::acquire(args).await,
            ClientCommand::Report(args) => report::report(args).await,
            ClientCommand::Success(args) => report::success(args).await,
            ClientCommand::Failure(args) => report::failure(args).await,
            ClientCommand::Open(args) => circuits::open(args).await,
            ClientCommand::Close(args) => circuits::close(args).await,
            ClientCommand::Reset(args) => circuits::reset(args).await,
            ClientCommand::Configure(args) => circuits::configure(args).await,
            ClientCommand::Policy(args) => circuits::policy(args).await,
            ClientCommand::Watch(args) => events::watch(args).await,
            ClientCommand::Events(args) => events::events(args).await,
            ClientCommand::Cluster(command) => cluster::run(command).await,
        }
    })
}

/// One JSON object on a line of its own.
fn print_json<M: Message>(name: &str, message: &M) -> Outcome {
    let object = json::object(name, message)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{object}")?;
    Ok(out.flush()?)
}
