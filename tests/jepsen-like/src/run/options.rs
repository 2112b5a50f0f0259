//! What to run.

use crate::nemesis::Family;
use crate::report::Folder;
use crate::workload::Mix;

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How long things are broken, in seconds.
    pub seconds: u64,
    /// Decides what happens.
    pub seed: u64,
    /// Clients at once.
    pub clients: u32,
    /// Three to five.
    pub nodes: u64,
    /// What goes wrong; `None`: all that this machine can do.
    pub faults: Option<Vec<Family>>,
    /// What clients do.
    pub mix: Mix,
    /// Snapshots every few entries and a short event log, so that both are installed and compacted in the run.
    pub small_log: bool,
    /// What becomes of the folder with history, events and logs.
    pub keep: Keep,
    /// Where the page about it is written; `None`: nowhere.
    pub report: Option<Folder>,
}

/// When the folder of a run stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// When something is broken, or the run could not be done.
    IfBroken,
    /// Also when something could not be told.
    UnlessItHolds,
    /// Always.
    Always,
}

impl RunOptions {
    /// Does the same again.
    pub fn command(&self) -> String {
        let mut command = format!(
            "scripts/faults --seconds {} --seed {} --clients {} --nodes {}",
            self.seconds, self.seed, self.clients, self.nodes
        );
        if self.faults.is_some() {
            command += &format!(" --faults {}", self.kinds());
        }
        if self.mix != Mix::Everything {
            command += &format!(" --workload {}", self.mix);
        }
        if self.small_log {
            command += " --small-log";
        }
        command
    }

    /// Name and value of each.
    pub(super) fn shown(&self) -> Vec<(String, String)> {
        [
            ("seconds", self.seconds.to_string()),
            ("seed", self.seed.to_string()),
            ("clients", self.clients.to_string()),
            ("nodes", self.nodes.to_string()),
            ("faults", self.kinds()),
            ("workload", self.mix.to_string()),
            ("small log", if self.small_log { "yes" } else { "no" }.to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn kinds(&self) -> String {
        match &self.faults {
            Some(families) => {
                let names: Vec<_> = families.iter().map(|family| family.name()).collect();
                names.join(",")
            }
            None => "all".into(),
        }
    }
}
