//! One scenario, played in a process of its own.

use std::fmt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;

use super::verdict_of;
use crate::findings::Verdict;

/// A scenario as it is played to find a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// As on the command line of `brama-faults`.
    pub scenario: &'static [&'static str],
    /// `FAILPOINTS` of its nodes; empty: none. It makes the moment longer in which a mutant shows.
    pub failpoints: &'static str,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caught {
    /// All of it held.
    Nothing,
    /// Guarantees are broken: each finding that was shown, with its guarantee.
    By(Vec<(String, String)>),
    /// It could not be told: why.
    Untold(String),
}

impl Trial {
    /// Plays it with nodes that are this mutant, or none. Gives how long it took, too.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn play(self, mutant: Option<&str>, patience: Duration) -> anyhow::Result<(Caught, Duration)> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(self.scenario)
            .env_remove("MUTANT")
            .env_remove("FAILPOINTS")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(mutant) = mutant {
            command.env("MUTANT", mutant);
        }
        if !self.failpoints.is_empty() {
            command.env("FAILPOINTS", self.failpoints);
        }
        let began = Instant::now();
        let Ok(told) = tokio::time::timeout(patience, command.output()).await else {
            return Ok((
                Caught::Untold(format!("it did not end in {patience:?}")),
                patience,
            ));
        };
        let told = told?;
        let out = String::from_utf8_lossy(&told.stdout);
        let problem = String::from_utf8_lossy(&told.stderr);
        Ok((judge(told.status.code(), &out, &problem), began.elapsed()))
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.failpoints.is_empty() {
            write!(f, "FAILPOINTS='{}' ", self.failpoints)?;
        }
        write!(f, "{}", self.scenario.join(" "))
    }
}

/// A scenario says what it found on lines of their own: see [`Findings`](crate::findings::Findings).
fn judge(code: Option<i32>, out: &str, problem: &str) -> Caught {
    let of = |mark: &'static str| {
        out.lines()
            .filter_map(move |line| Some(line.trim_start().strip_prefix(mark)?.trim()))
    };
    let broken = of("BROKEN ").map(|line| {
        let (guarantee, finding) = line.split_once(' ').unwrap_or((line, ""));
        (guarantee.to_owned(), finding.trim().to_owned())
    });
    let broken: Vec<_> = broken.collect();
    match verdict_of(code) {
        Some(Verdict::Holds) if broken.is_empty() => Caught::Nothing,
        Some(Verdict::Broken) if !broken.is_empty() => Caught::By(broken),
        _ => {
            let why = of("UNKNOWN ").chain(problem.lines()).next();
            Caught::Untold(why.map_or_else(|| format!("it ended with {code:?}"), str::to_owned))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Findings;

    fn judged(findings: &Findings) -> Caught {
        let code = match findings.verdict() {
            Verdict::Holds => 0,
            Verdict::Broken => 1,
            Verdict::Unknown => 3,
        };
        judge(Some(code), &findings.to_string(), "")
    }

    #[test]
    fn what_a_scenario_says_is_understood() {
        let mut findings = Findings::default();
        findings.checked("G3", "12 batches");
        assert_eq!(judged(&findings), Caught::Nothing);
        findings.untold("no leader was ever paused");
        assert_eq!(
            judged(&findings),
            Caught::Untold("no leader was ever paused".into())
        );
        findings.broken("G3", "batch 1-1-1 counted twice");
        findings.broken("G8", "batch 1-1-2 is gone");
        let by = [("G3", "batch 1-1-1 counted twice"), ("G8", "batch 1-1-2 is gone")];
        let by = by.map(|(guarantee, finding)| (guarantee.to_owned(), finding.to_owned()));
        assert_eq!(judged(&findings), Caught::By(by.into()));
    }

    #[test]
    fn a_scenario_that_failed_has_found_nothing() {
        let untold = |code, out| matches!(judge(code, out, "no such file"), Caught::Untold(_));
        assert!(untold(Some(2), ""), "wrong usage");
        assert!(untold(Some(3), ""), "it could not be done");
        assert!(untold(None, "  BROKEN  G3   something"), "it was killed");
        assert!(
            untold(Some(1), ""),
            "it says that something is broken, and not what"
        );
        assert!(untold(Some(101), ""), "it panicked");
    }
}
