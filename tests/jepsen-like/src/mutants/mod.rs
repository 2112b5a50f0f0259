//! Shows that the fault runs would notice: breaks the product on purpose, one promise at a time, and wants each to be found.
//!
//! The binary is a build of its own (`scripts/faults --mutants` makes it), whose nodes read from the variable `MUTANT` which promise they do
//! not keep. Each [`Mutant`] has a [`Trial`]: the scenario that must find it, as short as that can be. The scenario runs in a process of its own, so that
//! the variable reaches its nodes and no others, and so that a person can repeat it.
//!
//! The same build without a mutant must pass the same trials, or finding one means nothing.

mod plan;
mod table;
mod trial;

use std::time::Duration;

use anyhow::ensure;

pub use self::plan::{MUTANTS, Mutant};
pub use self::table::Row;
pub use self::trial::{Caught, Trial};
use crate::cluster::find_binary;
use crate::findings::{Findings, Verdict};

/// What a build that can be told to break says of itself.
const SAYS_SO: &str = "A BUILD FOR FAULT RUNS";
/// No trial takes longer, or something hangs.
const PATIENCE: Duration = Duration::from_secs(240);
/// A busy machine can hide what a trial is after: then it has shown nothing, and is played again.
const TRIES: u32 = 3;

/// Plays the trials of these mutants, or of all, and first those of the build without one; prints what came of it.
///
/// # Errors
/// When it cannot be done: there is no such mutant, or the binary cannot be told to break.
pub async fn mutants(names: &[String]) -> anyhow::Result<Findings> {
    is_fault_build().await?;
    let chosen = plan::chosen(names)?;
    let mut findings = Findings::default();
    let mut rows = Vec::new();

    for trial in plan::trials(&chosen) {
        let row = play(None, trial).await?;
        println!("{}", row.line());
        match &row.caught {
            Caught::Nothing => {}
            Caught::By(broken) => {
                findings.broken("MUT", format!("without a mutant {trial} found {broken:?}"))
            }
            Caught::Untold(why) => findings.untold(format!("without a mutant {trial}: {why}")),
        }
        rows.push(row);
    }
    for mutant in &chosen {
        let row = play(Some(mutant), mutant.trial).await?;
        println!("{}", row.line());
        match &row.caught {
            Caught::By(_) if row.is_caught() => {}
            Caught::By(broken) => findings.broken(
                "MUT",
                format!(
                    "{} breaks one of {:?}, and was taken for {broken:?}",
                    mutant.name, mutant.breaks
                ),
            ),
            Caught::Nothing => findings.broken("MUT", format!("{} was not noticed", mutant.name)),
            Caught::Untold(why) => findings.untold(format!("{}: {why}", mutant.name)),
        }
        rows.push(row);
    }

    println!("{}", table::table(&rows));
    let caught = rows.iter().filter(|row| row.is_caught()).count();
    findings.checked("MUT", format!("{caught} of {} mutants are noticed", chosen.len()));
    Ok(findings)
}

async fn play(mutant: Option<&Mutant>, trial: Trial) -> anyhow::Result<Row> {
    let mut tried = 1;
    loop {
        let (caught, took) = trial.play(mutant.map(|mutant| mutant.name), PATIENCE).await?;
        if tried < TRIES && matches!(caught, Caught::Untold(_)) {
            tried += 1;
            continue;
        }
        return Ok(Row {
            mutant: mutant.copied(),
            trial,
            caught,
            took,
        });
    }
}

async fn is_fault_build() -> anyhow::Result<()> {
    let binary = find_binary()?;
    let told = tokio::process::Command::new(&binary)
        .arg("--version")
        .output()
        .await?;
    let version = String::from_utf8_lossy(&told.stdout);
    ensure!(
        version.contains(SAYS_SO),
        "{} cannot be told to break: scripts/faults --mutants makes one that can",
        binary.display()
    );
    Ok(())
}

/// What the exit code of a scenario says.
fn verdict_of(code: Option<i32>) -> Option<Verdict> {
    match code {
        Some(0) => Some(Verdict::Holds),
        Some(1) => Some(Verdict::Broken),
        Some(3) => Some(Verdict::Unknown),
        _ => None,
    }
}
