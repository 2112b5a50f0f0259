//! Brama and etcd side by side, in turn, on the same disk, under the same load.
//!
//! A round is a turn of each system, and the order of the two is swapped from round to round. A turn measures the floor, starts a fresh cluster
//! of three, and runs the workloads one after the other. What is compared is what one round gave; the result is the median over rounds.

mod lines;
mod machine;
mod plan;
mod round;
mod sweep;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::lines::{Line, Verdict};
use self::machine::Machine;
use self::plan::{Scale, Step, Topic};
use self::round::{Round, Turn};
use self::sweep::Sweep;
use crate::cpu;
use crate::figures::Figures;
use crate::floor::Floor;
use crate::operations;
use crate::system::{Kind, System};
use crate::workload::{self, Workload};

/// The bound that makes fan-outs comparable: what lags more does not count.
const SWEEP_P99_MS: f64 = 250.0;
/// Between two workloads: what the one before left behind is done.
const PAUSE: Duration = Duration::from_millis(500);
/// What a workload may take beyond what is measured, before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// What to compare.
#[derive(Args, Debug)]
pub(crate) struct Compare {
    /// Turns of each system [default: 3; 1 with --quick]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Seconds that are measured, a workload [default: 5; 1 with --quick]
    #[arg(long)]
    seconds: Option<f64>,
    /// Leaders that are killed, in all rounds together [default: 21; 3 with --quick]
    #[arg(long)]
    kills: Option<usize>,
    /// One short round with a coarse sweep: shows that everything works; its figures are worth little
    #[arg(long)]
    quick: bool,
    /// Only these topics
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Topic>,
    /// Writes every round's figures, and where they were measured
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table for a document
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Exits with 1 when a bar is missed, with 3 when one could not be told
    #[arg(long)]
    check: bool,
}

/// All that there is to know afterwards.
#[derive(Serialize)]
struct Record<'a> {
    machine: &'a Machine,
    command: String,
    lines: &'a [Line],
    rounds: &'a [Round],
}

/// Compares, and prints the table. Ends both systems and removes their files also when it is interrupted.
///
/// # Errors
/// When a system is not installed, a file cannot be written, or it is interrupted. What cannot be measured is told in the result instead.
pub(crate) async fn run(compare: &Compare, data: &Path) -> anyhow::Result<ExitCode> {
    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        code = compare.measure(data) => code,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        _ = terminated.recv() => anyhow::bail!("terminated"),
    }
}

impl Compare {
    async fn measure(&self, data: &Path) -> anyhow::Result<ExitCode> {
        let machine = Machine::look(data)?;
        println!("{machine}");
        let topics = self.topics();
        let rounds_of_all = self.rounds.unwrap_or(if self.quick { 1 } else { 3 });
        let scale = self.scale(rounds_of_all);
        let mut rounds = Vec::new();
        for number in 1..=rounds_of_all {
            let mut order = [Kind::Brama, Kind::Etcd];
            if number.is_multiple_of(2) {
                order.reverse();
            }
            let mut round = Round {
                first: order[0],
                brama: Turn::default(),
                etcd: Turn::default(),
            };
            for kind in order {
                println!("round {number} of {rounds_of_all}, {kind:?}");
                let turn = turn(kind, &topics, &scale, data).await?;
                match kind {
                    Kind::Brama => round.brama = turn,
                    Kind::Etcd => round.etcd = turn,
                }
            }
            rounds.push(round);
            // After each round, so that a run that is broken off leaves something.
            self.write(&machine, &lines::lines(&topics, &rounds), &rounds)?;
        }
        let lines = lines::lines(&topics, &rounds);
        println!("\n{}", table::text(&lines));
        println!("medians of {rounds_of_all} rounds; a ratio is the median of the rounds' ratios");
        for note in notes(&rounds) {
            println!("{note}");
        }
        Ok(self.exit_code(&lines))
    }

    fn topics(&self) -> Vec<Topic> {
        let wanted = |topic: &Topic| self.only.is_empty() || self.only.contains(topic);
        Topic::value_variants().iter().copied().filter(wanted).collect()
    }

    fn scale(&self, rounds: u32) -> Scale {
        let seconds = self.seconds.unwrap_or(if self.quick { 1.0 } else { 5.0 });
        let kills = self.kills.unwrap_or(if self.quick { 3 } else { 21 });
        Scale {
            seconds: Duration::from_secs_f64(seconds),
            sweep_seconds: Duration::from_secs_f64(seconds.min(3.0)),
            rates: if self.quick {
                vec![1000.0]
            } else {
                vec![100.0, 500.0, 1000.0, 2000.0]
            },
            resolution: if self.quick { 2.0 } else { 1.25 },
            tries: if self.quick { 1 } else { 2 },
            kills: kills.div_ceil(rounds as usize),
        }
    }

    fn write(&self, machine: &Machine, lines: &[Line], rounds: &[Round]) -> anyhow::Result<()> {
        if let Some(path) = &self.json {
            let record = Record {
                machine,
                command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
                lines,
                rounds,
            };
            std::fs::write(path, serde_json::to_string_pretty(&record)? + "\n")
                .with_context(|| path.display().to_string())?;
        }
        if let Some(path) = &self.markdown {
            let text = format!("{machine}.\n\n{}\n", table::markdown(lines));
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn exit_code(&self, lines: &[Line]) -> ExitCode {
        let any = |verdict| lines.iter().any(|line| line.verdict == verdict);
        match self.check {
            true if any(Verdict::No) => ExitCode::from(1),
            true if any(Verdict::Unknown) => ExitCode::from(3),
            _ => ExitCode::SUCCESS,
        }
    }
}

/// One fresh cluster. What fails is noted, and the rest goes on.
async fn turn(kind: Kind, topics: &[Topic], scale: &Scale, data: &Path) -> anyhow::Result<Turn> {
    let mut turn = Turn::default();
    if topics.contains(&Topic::One) {
        let folder = data.to_owned();
        let floor = tokio::task::spawn_blocking(move || Floor::measure(&folder)).await??;
        println!(
            "  floor: a write takes {:.3} ms at best",
            floor.write().as_secs_f64() * 1e3
        );
        turn.floor = Some(floor);
    }
    let mut system = match start(kind, data).await {
        Ok(system) => system,
        Err(error) => {
            eprintln!("  it does not start: {error:#}");
            turn.failed.insert("start".into(), format!("{error:#}"));
            return Ok(turn);
        }
    };
    for step in plan::steps(topics, kind, scale) {
        match step {
            Step::Measure(workload) => {
                match measure(&mut system, workload, scale.seconds).await {
                    Ok(figures) => turn.workloads.insert(workload.to_string(), figures),
                    Err(error) => {
                        eprintln!("  {workload} failed: {error:#}");
                        turn.failed.insert(workload.to_string(), format!("{error:#}"));
                        None
                    }
                };
            }
            Step::Sweep(subscribers, start) => {
                let sweep = sweep(&mut system, subscribers, start, scale).await;
                turn.sweeps.insert(subscribers, sweep);
            }
        }
    }
    turn.resident_mib = cpu::resident_bytes(&system.pids())
        .into_iter()
        .map(|bytes| bytes >> 20)
        .collect();
    Ok(turn)
}

async fn start(kind: Kind, data: &Path) -> anyhow::Result<System> {
    let system = System::start(kind, data).await?;
    system.prepare(operations::MANY).await?;
    Ok(system)
}

async fn measure(system: &mut System, workload: Workload, how_long: Duration) -> anyhow::Result<Figures> {
    tokio::time::sleep(PAUSE).await;
    let kind = system.kind();
    let run = workload.run(system, how_long);
    let figures = tokio::time::timeout(how_long + PATIENCE, run)
        .await
        .context("it did not end")??;
    println!("  {}", workload::line(kind, &workload, &figures));
    Ok(figures)
}

/// Searches the highest rate of changes that reaches all subscribers in time.
async fn sweep(system: &mut System, subscribers: u32, start: f64, scale: &Scale) -> Sweep {
    let mut sweep = Sweep::new(start, scale.resolution, scale.tries);
    while let Some(rate) = sweep.next() {
        match measure(system, Workload::Fanout(subscribers, rate), scale.sweep_seconds).await {
            Ok(figures) => sweep.record(rate, in_time(&figures), figures),
            Err(error) => {
                eprintln!("  {rate} changes a second to {subscribers} failed: {error:#}");
                sweep.record(rate, false, Figures::default());
            }
        }
    }
    sweep
}

fn in_time(figures: &Figures) -> bool {
    figures.p99_ms < SWEEP_P99_MS && figures.missing == Some(0) && figures.errors == 0
}

/// What a reader of the table must know besides.
fn notes(rounds: &[Round]) -> Vec<String> {
    let mut notes = Vec::new();
    for (n, round) in rounds.iter().enumerate() {
        for (name, turn) in [("Brama", &round.brama), ("etcd", &round.etcd)] {
            let mut note = |what: String| notes.push(format!("round {}, {name}: {what}", n + 1));
            for (workload, figures) in &turn.workloads {
                if figures.errors > 0 {
                    note(format!(
                        "{} operations of {workload} failed, and do not count",
                        figures.errors
                    ));
                }
                if let Some(missing) = figures.missing.filter(|missing| *missing > 0) {
                    note(format!("{missing} deliveries of {workload} are missing"));
                }
            }
            for (what, error) in &turn.failed {
                note(format!("{what} could not be measured: {error}"));
            }
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(p99_ms: f64, missing: u64, errors: u64) -> Figures {
        Figures {
            p99_ms,
            missing: Some(missing),
            errors,
            ..Figures::default()
        }
    }

    #[test]
    fn a_fan_out_holds_only_when_everybody_was_told_in_time() {
        assert!(in_time(&figures(249.9, 0, 0)));
        assert!(!in_time(&figures(250.0, 0, 0)));
        assert!(!in_time(&figures(1.0, 1, 0)));
        assert!(!in_time(&figures(1.0, 0, 1)));
    }
}
