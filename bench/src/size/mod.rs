//! How big: a hundred thousand circuits, as many sessions, ten thousand subscribers, and what they cost.
//!
//! | subject | what it asks |
//! | --- | --- |
//! | `memory` | what circuits and sessions add to a node; that one more is refused; how long reads and reports take meanwhile; a restart from the log alone |
//! | `restart` | a restart from a snapshot, and from one with as many entries after it as there can be |
//! | `snapshots` | how long snapshots hold applies up |
//! | `subscribers` | what subscribers add to a node, idle and beside a load that does not concern them; that each hears what does |
//! | `apply` | in this process: what a snapshot costs the applies that come while it is written |
//! | `churn` | in this process: whether what a state takes stays the same while circuits come and go and it is frozen again and again |

mod apply;
mod churn;
mod memory;
mod reads;
mod restart;
mod snapshots;
mod stage;
mod subscribers;

use std::path::Path;

use brama_faults::findings::Findings;
use clap::{Args, ValueEnum};

/// What a node with all of it may hold, in bytes, at any moment: also while it starts.
const NODE: u64 = 400 * 1024 * 1024;

/// How big.
#[derive(Args, Clone, Debug)]
pub(crate) struct Sizes {
    #[arg(long, default_value_t = 100_000)]
    pub(crate) circuits: u64,
    #[arg(long, default_value_t = 100_000)]
    pub(crate) sessions: u64,
    #[arg(long, default_value_t = 10_000)]
    pub(crate) subscribers: u64,
    /// [default: all]
    #[arg(value_enum)]
    subjects: Vec<Subject>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    Apply,
    Churn,
    Memory,
    Restart,
    Snapshots,
    Subscribers,
}

/// Measures all subjects, each on nodes of its own.
///
/// # Errors
/// When something could not be measured; a bound that does not hold is a finding.
pub(crate) async fn measure(sizes: &Sizes, data: &Path) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let subjects: &[Subject] = if sizes.subjects.is_empty() {
        Subject::value_variants()
    } else {
        &sizes.subjects
    };
    for subject in subjects {
        eprintln!("{subject:?} ...");
        match subject {
            Subject::Apply => {
                let circuits = sizes.circuits;
                findings.merge(tokio::task::spawn_blocking(move || apply::measure(circuits)).await??);
            }
            Subject::Churn => findings.merge(tokio::task::spawn_blocking(churn::measure).await??),
            Subject::Memory => findings.merge(memory::measure(sizes, data).await?),
            Subject::Restart => findings.merge(restart::measure_all(sizes, data).await?),
            Subject::Snapshots => findings.merge(snapshots::measure(sizes, data).await?),
            Subject::Subscribers => findings.merge(subscribers::measure(sizes, data).await?),
        }
    }
    Ok(findings)
}

/// Shows the most that a node held, and checks it.
fn check_node(findings: &mut Findings, what: &str, when: &str, most: u64) {
    findings.figure(what, shown(most as f64));
    // A process that is gone would have held nothing.
    findings.require(most > 0 && most <= NODE, "size", || {
        format!(
            "a node held {}{when}, at most {} are allowed",
            shown(most as f64),
            shown(NODE as f64)
        )
    });
}

/// For a person: bytes with a unit.
fn shown(bytes: f64) -> String {
    if bytes.abs() < 8.0 * 1024.0 {
        format!("{bytes:.0} B")
    } else if bytes.abs() < 1024.0 * 1024.0 {
        format!("{:.1} KiB", bytes / 1024.0)
    } else {
        format!("{:.0} MiB", bytes / (1024.0 * 1024.0))
    }
}
