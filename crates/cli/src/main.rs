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
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A circuit breaker that a whole fleet shares
#[derive(Parser, Debug)]
#[command(name = "brama", version, propagate_version = true, max_term_width = 100)]
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

fn main() -> ExitCode {
    exit::finish(match Brama::parse().command {
        Command::Serve(args) => serve::run(args),
        Command::Dev(args) => dev::run(&args),
        Command::Config(command) => config::run(command),
        Command::Client(command) => client::run(command),
    })
}
