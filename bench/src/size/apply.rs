//! What a snapshot costs the applies that come while it is written: in this process, with nothing beside it.
//!
//! Taking the frozen state is O(1). What comes after it is not free: whatever an apply touches first is copied once, for as long as the frozen
//! state lives. Each entry here touches circuits that no other does, which is as bad as it gets.

use std::time::Duration;

use anyhow::ensure;
use brama_core::command::{Batch, IfExists, Register, ReportBatch, ReportItem};
use brama_core::policy::Policy;
use brama_core::report::{Outcome, Summary};
use brama_core::{CircuitName, ClusterTime, Command, Machine};
use brama_faults::findings::Findings;
use brama_proto::convert;
use nix::time::{ClockId, clock_gettime};

use super::stage;

/// Reports in an entry: a usual one, and the largest that the batcher makes.
const ENTRIES: [usize; 2] = [64, 4096];
/// What a snapshot may hold an apply up.
const HELD_UP: Duration = Duration::from_millis(20);

pub(super) fn measure(circuits: u64) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    let mut machine = Machine::new();
    let mut time = 1_000_000_000;
    let names = (0..circuits).map(|n| {
        let name = stage::name(n);
        Ok(CircuitName::new(name.scope.as_deref(), &name.identifier)?)
    });
    let names: Vec<CircuitName> = names.collect::<anyhow::Result<_>>()?;
    let mut apply = |machine: &mut Machine, commands: Vec<Command>| {
        time += 1000;
        let batch = Batch {
            time: ClusterTime::from_micros(time),
            commands,
        };
        let began = processor_time();
        let answers = machine.apply(1, &batch);
        (
            processor_time().saturating_sub(began),
            answers.iter().all(Result::is_ok),
        )
    };
    for chunk in names.chunks(1000) {
        let commands = chunk.iter().enumerate().map(|(n, name)| {
            Ok(Command::Register(Register {
                name: name.clone(),
                policy: Policy::default(),
                metadata: convert::metadata(stage::registration(n as u64).metadata)?,
                if_exists: IfExists::Refuse,
            }))
        });
        let (_, all) = apply(&mut machine, commands.collect::<anyhow::Result<_>>()?);
        ensure!(all, "a registration was refused");
    }
    for size in ENTRIES {
        let mut plain = Vec::new();
        let mut beside = Vec::new();
        for round in 0..6 {
            let frozen = (round % 2 == 1).then(|| machine.freeze());
            // Far apart in the order of names and of numbers: few share a leaf of the maps.
            for start in 0..(names.len() / size).min(200) {
                let commands = (0..size).map(|n| report(&names[(start * size + n) * 7919 % names.len()]));
                let (took, all) = apply(&mut machine, commands.collect());
                ensure!(all, "a report was refused");
                if frozen.is_some() { &mut beside } else { &mut plain }.push(took);
            }
            // As a node does it: the copy goes on the thread that wrote it.
            std::thread::spawn(move || drop(frozen));
        }
        let (plain, beside) = (quantiles(plain), quantiles(beside));
        findings.figure(format!("an entry of {size} reports"), shown(plain));
        findings.figure(
            format!("an entry of {size} reports beside a snapshot"),
            shown(beside),
        );
        let added = beside[1].saturating_sub(plain[1]);
        findings.require(added <= HELD_UP, "size", || {
            format!("a snapshot adds {added:?} to an apply (p99.9), at most {HELD_UP:?} are allowed")
        });
        findings.checked(
            "size",
            format!("a snapshot adds {added:.1?} to an apply of {size} reports (p99.9)"),
        );
    }
    Ok(findings)
}

fn report(name: &CircuitName) -> Command {
    let item = ReportItem {
        name: name.clone(),
        generation: None,
        permit: None,
        summary: Summary::of(Outcome::Success),
        reason: None,
        metadata: Default::default(),
    };
    Command::Report(ReportBatch {
        session: None,
        items: vec![item],
    })
}

/// Of this thread, so that what else the machine does counts for nothing.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The median, p99.9 and the longest.
fn quantiles(mut took: Vec<Duration>) -> [Duration; 3] {
    took.sort_unstable();
    let at = |quantile: f64| {
        let index = (took.len() as f64 * quantile) as usize;
        took.get(index.min(took.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    [at(0.5), at(0.999), at(1.0)]
}

fn shown([median, most, longest]: [Duration; 3]) -> String {
    format!("p50 {median:.2?}, p99.9 {most:.2?}, longest {longest:.2?}")
}
