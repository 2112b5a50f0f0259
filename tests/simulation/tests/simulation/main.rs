//! The simulation: the real node but for its machine, in simulated time. See the crate's README.
//!
//! Each seed runs in a process of its own, and this program starts them. Without arguments it does what a test should: the seeds that once
//! failed, some others, the same ones twice, and one with disks that lie, which must fail.

#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test may panic, and its modules are its own"
)]

mod clients;
mod faults;
mod machine;
mod network;
mod regressions;
mod run;
mod seed;
mod world;

use std::process::ExitCode;

use run::{Ended, Order, run_all, run_one};

/// So many seeds run with the tests. There is a clock over them: a machine that is busy runs fewer.
const SEEDS: u64 = 30;
const SECONDS: f64 = 20.0;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let order = Order {
        lying_disks: has("--lying-disks"),
        log: has("--log"),
    };
    if let Some(seed) = value("--worker") {
        return run::worker(seed, order);
    }
    if has("--help") {
        println!(
            "--seeds N [--from M]   runs so many seeds\n--seed N [--log]       runs one, with its trace (and what the nodes log)\n--lying-disks          with disks that say that they have written what they have not"
        );
        return ExitCode::SUCCESS;
    }
    if let Some(seed) = value("--seed") {
        let ended = run_one(seed, order);
        println!("{ended}");
        return if ended.is_well() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    if let Some(count) = value("--seeds") {
        let from = value("--from").unwrap_or(0);
        return code(run_all((from..from + count).collect(), order, None, true));
    }
    // A name that is looked for among all tests is none of this one's, unless it says so.
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    if filter.is_some_and(|filter| !"simulation".contains(filter.as_str())) {
        return ExitCode::SUCCESS;
    }
    test()
}

fn test() -> ExitCode {
    let order = Order::default();
    println!("\nsimulation: seeds that once failed");
    let once = regressions::ALL.iter().map(|(_, seed)| *seed).collect();
    if !run_all(once, order, None, false) {
        return ExitCode::FAILURE;
    }
    println!("simulation: the same seeds twice");
    for seed in [1, 2] {
        let (first, second) = std::thread::scope(|scope| {
            let other = scope.spawn(|| run_one(seed, order));
            (run_one(seed, order), other.join().unwrap())
        });
        if first.hash() != second.hash() || first.hash().is_none() {
            println!("seed {seed} does not repeat itself:\n{first}\n{second}");
            return ExitCode::FAILURE;
        }
    }
    println!("simulation: disks that lie are found out");
    let lying = Order {
        lying_disks: true,
        ..order
    };
    let found = (0..20).any(|seed| matches!(run_one(seed, lying), Ended::Broken { .. }));
    if !found {
        println!("20 seeds with disks that lie have passed: the simulation sees nothing");
        return ExitCode::FAILURE;
    }
    println!("simulation: seeds");
    code(run_all((0..SEEDS).collect(), order, Some(SECONDS), false))
}

fn code(well: bool) -> ExitCode {
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
