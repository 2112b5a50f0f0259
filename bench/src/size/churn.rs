//! Whether what a state takes stays the same while circuits come and go and it is frozen again and again: in this process, with nothing beside it.
//!
//! It is a test of the allocator as much as of the state: what is freed lies between what is not, and a frozen state makes more of it.

use anyhow::{Context, ensure};
use brama_core::command::{Batch, IfExists, Register, ReportBatch, ReportItem};
use brama_core::policy::Policy;
use brama_core::report::{Outcome, Summary};
use brama_core::snapshot::Frozen;
use brama_core::{CircuitName, ClusterTime, Command, Machine};
use brama_faults::findings::Findings;
use brama_proto::convert;

use super::{shown, stage};
use crate::cpu;

/// Circuits at once.
const CIRCUITS: u64 = 2000;
/// Entries, each with ten reports; every second one replaces the oldest circuit.
const ENTRIES: u64 = 480_000;
/// A snapshot is begun after so many entries, and done after so many more.
const SNAPSHOT: [u64; 2] = [8000, 2000];
/// Looked at so often, in the midst between two snapshots, once everything that has a bound of its own is full.
const LOOKS: u64 = 12;
/// By so much of the first look may any later one be above it.
const GROWTH: f64 = 0.15;

pub(super) fn measure() -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut churn = Churn {
        machine: Machine::new(),
        oldest: 0,
        next: 0,
        frozen: None,
    };
    let mut looks = Vec::new();
    for step in 0..ENTRIES {
        churn.entry(step)?;
        if (step + SNAPSHOT[0] / 2).is_multiple_of(ENTRIES / LOOKS) {
            let bytes = cpu::resident_bytes(&[std::process::id()]);
            looks.push(*bytes.first().context("this process has no size")? as f64);
        }
    }
    let (first, later) = looks.split_first().context("it was never looked at")?;
    let most = later.iter().copied().fold(0.0, f64::max);
    findings.figure(
        format!("this process, {} circuits later", churn.next),
        looks
            .iter()
            .map(|bytes| shown(*bytes))
            .collect::<Vec<_>>()
            .join(", "),
    );
    findings.require(most <= first * (1.0 + GROWTH), "size", || {
        format!("it grew from {} to {}", shown(*first), shown(most))
    });
    findings.checked(
        "size",
        format!("{} at first and at most {} later", shown(*first), shown(most)),
    );
    Ok(findings)
}

struct Churn {
    machine: Machine,
    /// The circuits that are there have the numbers from this one ...
    oldest: u64,
    /// ... up to this one.
    next: u64,
    frozen: Option<Frozen>,
}

impl Churn {
    fn entry(&mut self, step: u64) -> anyhow::Result<()> {
        let mut commands = Vec::new();
        if step.is_multiple_of(2) && self.next == self.oldest + CIRCUITS {
            commands.push(Command::Unregister {
                name: name(self.oldest)?,
                reason: None,
            });
            self.oldest += 1;
        }
        while self.next < self.oldest + CIRCUITS {
            commands.push(Command::Register(Register {
                name: name(self.next)?,
                policy: Policy {
                    max_attempts: Some(3),
                    ..Policy::default()
                },
                metadata: convert::metadata(stage::registration(self.next).metadata)?,
                if_exists: IfExists::Refuse,
            }));
            self.next += 1;
        }
        for n in 0..10 {
            let outcome = if n % 3 == 0 {
                Outcome::Failure
            } else {
                Outcome::Success
            };
            commands.push(Command::Report(ReportBatch {
                session: None,
                items: vec![ReportItem {
                    name: name(self.oldest + (step * 10 + n) * 7919 % CIRCUITS)?,
                    generation: None,
                    permit: None,
                    summary: Summary::of(outcome),
                    reason: Some("connect: connection refused".into()),
                    metadata: Default::default(),
                }],
            }));
        }
        let time = ClusterTime::from_micros(1_000_000_000 + step * 5000);
        let answers = self.machine.apply(1, &Batch { time, commands });
        ensure!(answers.iter().all(Result::is_ok), "a command was refused");
        let [every, takes] = SNAPSHOT;
        if step.is_multiple_of(every) {
            self.frozen = Some(self.machine.freeze());
        } else if step % every == takes
            && let Some(frozen) = self.frozen.take()
        {
            // As a node does it: written, and freed, on a thread of its own.
            let written = std::thread::spawn(move || frozen.write_to(&mut std::io::sink())).join();
            written.map_err(|_| anyhow::anyhow!("writing the state has failed"))??;
        }
        Ok(())
    }
}

fn name(n: u64) -> anyhow::Result<CircuitName> {
    let name = stage::name(n);
    Ok(CircuitName::new(name.scope.as_deref(), &name.identifier)?)
}
