//! Whether a node is alive, and whether it is ready to serve: a list of checks.
//!
//! The list is what `/livez` and `/readyz` show line by line, what `grpc.health.v1` sums up, and what the metric `brama_check_ok` tells. None
//! of the checks waits or works: each looks at what the parts of the node know of themselves. One more check is one more line in
//! [`CHECKS`].

use std::fmt::Write as _;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use brama_raft::Replica;

/// Consensus and the task that applies answer twice a second; a node in which they do not answer for so long does not come back by
/// itself. Much longer than any apply, any snapshot and any pause of a busy machine.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// One thing that must be right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Check {
    /// For `?exclude=` and as a label.
    pub(crate) name: &'static str,
    /// Whether only a restart would help, so that it counts for `/livez` too.
    pub(crate) vital: bool,
    /// What is wrong; `None`: nothing.
    pub(crate) problem: fn(&Health) -> Option<String>,
}

/// All checks, in the order in which they are shown.
pub(crate) const CHECKS: &[Check] = &[
    Check::vital("core", Health::core),
    Check::vital("consensus", Health::consensus),
    Check::new("log", Health::log),
    Check::new("disk", Health::disk),
    Check::new("recovered", Health::recovered),
    Check::new("quorum", Health::quorum),
    Check::new("shutdown", Health::shutdown),
];

impl Check {
    const fn new(name: &'static str, problem: fn(&Health) -> Option<String>) -> Self {
        Self {
            name,
            vital: false,
            problem,
        }
    }

    const fn vital(name: &'static str, problem: fn(&Health) -> Option<String>) -> Self {
        Self {
            vital: true,
            ..Self::new(name, problem)
        }
    }
}

/// What the checks look at.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) replica: Replica,
    /// Cancelled when the node begins to stop.
    pub(crate) stopping: CancellationToken,
}

/// What a page of checks says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether all that were not left out pass.
    pub(crate) passed: bool,
    /// A line a check, and one for all.
    pub(crate) page: String,
}

/// A check that was to be left out, and that there is none of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no check {name:?} to exclude; there are: {}", known.join(", "))]
pub(crate) struct UnknownCheck {
    name: String,
    known: Vec<&'static str>,
}

impl Health {
    /// What is wrong with this node, in the order of the checks; nothing: it is ready.
    pub(crate) fn problems(&self) -> Vec<String> {
        CHECKS.iter().filter_map(|check| (check.problem)(self)).collect()
    }

    /// The page `name` (`livez`, `readyz`): the vital checks, or all of them, without those that are left out.
    ///
    /// # Errors
    /// When a check that there is none of is left out.
    pub(crate) fn page(
        &self,
        name: &str,
        only_vital: bool,
        excluded: &[String],
    ) -> Result<Verdict, UnknownCheck> {
        let checks = || CHECKS.iter().filter(|check| check.vital || !only_vital);
        if let Some(unknown) = excluded
            .iter()
            .find(|name| checks().all(|check| check.name != **name))
        {
            return Err(UnknownCheck {
                name: unknown.clone(),
                known: checks().map(|check| check.name).collect(),
            });
        }
        let mut page = String::new();
        let mut passed = true;
        for check in checks() {
            let name = check.name;
            // Writing to a string does not fail.
            let _ = if excluded.iter().any(|excluded| excluded == name) {
                writeln!(page, "[ ]{name} excluded")
            } else if let Some(problem) = (check.problem)(self) {
                passed = false;
                let one_line: Vec<&str> = problem.lines().map(str::trim).collect();
                writeln!(page, "[-]{name} failed: {}", one_line.join(" "))
            } else {
                writeln!(page, "[+]{name} ok")
            };
        }
        let _ = writeln!(page, "{name} check {}", if passed { "passed" } else { "failed" });
        Ok(Verdict { passed, page })
    }

    fn core(&self) -> Option<String> {
        // What waits for room on the disk goes on by itself when there is some: no restart makes any.
        let waits = !self.replica.disk_state().serves();
        let silent = self.replica.silent_for();
        (silent > DEAD_AFTER && !waits).then(|| {
            format!(
                "consensus, or the task that applies the log, has not answered for {} seconds; restart the node",
                silent.as_secs()
            )
        })
    }

    fn consensus(&self) -> Option<String> {
        self.replica.failure()
    }

    fn log(&self) -> Option<String> {
        let problem = self.replica.log_is_writable().err()?;
        Some(format!("the log cannot be written: {problem}"))
    }

    fn disk(&self) -> Option<String> {
        let disk = self.replica.disk_state();
        (!disk.serves()).then(|| format!("the disk of this node is not well: {disk}"))
    }

    fn recovered(&self) -> Option<String> {
        let recovered = self.replica.is_recovered();
        (!recovered).then(|| "this node has not yet caught up with what it knew before it was started".into())
    }

    fn quorum(&self) -> Option<String> {
        let quorum = self.replica.has_quorum();
        (!quorum).then(|| "this node is out of touch with a majority of the cluster".into())
    }

    fn shutdown(&self) -> Option<String> {
        self.stopping
            .is_cancelled()
            .then(|| "this node is stopping".into())
    }
}
