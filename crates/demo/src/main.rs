//! The programs of `scripts/demo`, in one binary.
//!
//! Without a subcommand it is the *director*: it starts three nodes (`brama serve`), an upstream, nine replicas and three subscribers as processes of
//! their own, plays the story, checks that it went as it must, and ends with a table. The other roles are subcommands, which only the
//! director uses; each ends when its standard input does, so that none outlives the director.

mod checks;
mod director;
mod lines;
mod news;
mod processes;
mod replica;
mod screen;
mod story;
mod subscriber;
mod tables;
mod upstream;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Three nodes, a failing upstream, nine replicas, and a leader that is killed on the way
#[derive(Parser, Debug)]
#[command(name = "brama-demo", version)]
struct Demo {
    #[command(subcommand)]
    role: Option<Role>,
    /// The binary `brama`
    #[arg(long, default_value = "target/release/brama")]
    brama: PathBuf,
    /// Where node1.toml .. node3.toml are
    #[arg(long, default_value = "config")]
    config: PathBuf,
}

#[derive(Subcommand, Debug)]
enum Role {
    #[command(hide = true)]
    Upstream,
    #[command(hide = true)]
    Replica(replica::Args),
    #[command(hide = true)]
    Subscriber(subscriber::Args),
}

fn main() -> ExitCode {
    let demo = Demo::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        let outcome = match demo.role {
            None => return director::run(&demo.brama, &demo.config).await,
            Some(Role::Upstream) => upstream::run().await,
            Some(Role::Replica(args)) => replica::run(args).await,
            Some(Role::Subscriber(args)) => subscriber::run(args).await,
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        }
    });
    // What still runs (a read of standard input) must not hold the process.
    runtime.shutdown_background();
    code
}
