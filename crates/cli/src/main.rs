//! The binary `brama`: a node (`serve`), a throw-away cluster (`dev`), and commands for clients and operators.

mod client;
mod config;
mod dev;
mod exit;
mod process;
mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::client::ClientCommand;
use crate::config::{ConfigArgs, ConfigCommand};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A circuit breaker that a whole fleet shares
#[derive(Parser, Debug)]
#[command(name = "brama", version = VERSION, propagate_version = true, max_term_width = 100)]
struct Brama {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a node of a cluster
    Serve(ConfigArgs),
    /// Run a cluster of three in this process, with data that is thrown away
    Dev(dev::DevArgs),
    /// Check or show a node's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(flatten)]
    Client(ClientCommand),
}

/// A build that can be told to break says so wherever it says its name.
const VERSION: &str = if brama_node::fault_build::IS_ONE {
    concat!(
        env!("CARGO_PKG_VERSION"),
        ", A BUILD FOR FAULT RUNS: it breaks when it is told to"
    )
} else {
    env!("CARGO_PKG_VERSION")
};

fn main() -> ExitCode {
    exit::finish(match Brama::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Dev(args) => dev::run(&args),
        Command::Config(command) => config::run(command),
        Command::Client(command) => client::run(command),
    })
}
