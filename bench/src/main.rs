//! Load for Brama and for etcd: the same generator, the same connections, the same machine.
//!
//! `brama-bench run` measures one system; `brama-bench compare` runs both in turn and prints the ratios. `brama-bench size` and
//! `brama-bench soak` are about Brama alone: how big, and how old.

mod compare;
mod connect;
mod cpu;
mod etcd;
mod failover;
mod fanout;
mod figures;
mod floor;
mod lane;
mod load;
mod metrics;
mod operations;
mod pb;
mod size;
mod soak;
mod stream;
mod system;
mod wire;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use brama_faults::findings::{Findings, Verdict};
use clap::{Parser, Subcommand};

use crate::compare::Compare;
use crate::floor::Floor;
use crate::size::Sizes;
use crate::soak::Soak;
use crate::system::{Kind, System};
use crate::workload::Workload;

/// As the binary that is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(Parser)]
#[command(about = "Load for Brama and for etcd, side by side", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Where the nodes keep their data: the disk that is measured.
    #[arg(long, global = true, default_value_os_t = std::env::temp_dir())]
    data: PathBuf,
    /// Threads of the load generator; subscribers have one of their own besides.
    #[arg(long, global = true, default_value_t = 1)]
    threads: usize,
}

#[derive(Subcommand)]
enum Command {
    /// What one replicated write cannot beat here and now
    Floor,
    /// Starts one system and puts load on it
    Run {
        #[arg(long, value_enum, default_value = "brama")]
        on: Kind,
        /// Seconds that are measured, a workload
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// E.g. report:64, one-circuit:1024, stream:64, stream:64x4, linearizable:64, local:64, rate:1000, fanout:1000x100, kill:5
        #[arg(required = true)]
        workloads: Vec<Workload>,
    },
    /// Both systems in turn, and what their figures are to each other
    ///
    /// Exit codes: 0 it was measured; with --check: 1 a bar is missed, 3 a bar could not be told.
    Compare(Compare),
    /// Many circuits, sessions and subscribers, and what they cost
    ///
    /// Exit codes: 0 every bound holds; 1 one does not; 3 it could not be told.
    Size(Sizes),
    /// A steady load for a long time, with nodes that are restarted, and whether anything grows
    ///
    /// Exit codes: 0 all of it holds; 1 something is broken, or grows; 3 it could not be told.
    Soak(Soak),
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let runtime = if arguments.threads <= 1 {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(arguments.threads)
            .enable_all()
            .build()?
    };
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Floor => {
            let folder = arguments.data.clone();
            let floor = tokio::task::spawn_blocking(move || Floor::measure(&folder)).await??;
            println!(
                "round trip {:.3} ms, fdatasync of three at once {:.3} ms: a write takes {:.3} ms at best",
                floor.round_trip.as_secs_f64() * 1e3,
                floor.sync_of_three.as_secs_f64() * 1e3,
                floor.write().as_secs_f64() * 1e3
            );
        }
        Command::Run {
            on,
            seconds,
            workloads,
        } => {
            let mut system = System::start(on, &arguments.data).await?;
            system.prepare(operations::MANY).await?;
            for workload in workloads {
                let figures = workload
                    .run(&mut system, Duration::from_secs_f64(seconds))
                    .await?;
                println!("{}", workload::line(on, &workload, &figures));
            }
            let memory = cpu::resident_bytes(&system.pids());
            println!(
                "resident MiB: {:?}",
                memory.iter().map(|bytes| bytes >> 20).collect::<Vec<_>>()
            );
        }
        Command::Compare(compare) => return compare::run(&compare, &arguments.data).await,
        Command::Size(sizes) => return Ok(told(size::measure(&sizes, &arguments.data).await)),
        Command::Soak(soak) => return Ok(told(soak::run(&soak, &arguments.data).await)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what came of it, as the fault runs do.
fn told(outcome: anyhow::Result<Findings>) -> ExitCode {
    match outcome {
        Ok(findings) => {
            println!("{findings}");
            findings.verdict().into()
        }
        Err(error) => {
            eprintln!("it could not be told: {error:#}");
            Verdict::Unknown.into()
        }
    }
}
