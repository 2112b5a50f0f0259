//! Which scenario must find which mutant.

use anyhow::Context;

use super::trial::Trial;

/// A promise that the product can be told not to keep, and how that is found.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// As `MUTANT` has it.
    pub name: &'static str,
    /// What must find it.
    pub trial: Trial,
    /// The guarantees of which one is seen to be broken. Another one is another bug.
    pub breaks: &'static [&'static str],
}

const fn trial(scenario: &'static [&'static str]) -> Trial {
    Trial {
        scenario,
        failpoints: "",
    }
}

const PROMISES: Trial = trial(&["promises"]);
const LAGGING: Trial = trial(&["lagging", "--times", "1", "--seed", "1"]);
const POWER: Trial = trial(&["power", "--times", "4", "--singles", "1", "--seed", "5"]);
const KILL_ALL: Trial = trial(&["kill-all", "--times", "3", "--seed", "1"]);
const FAKETIME: Trial = trial(&["faketime"]);
const TAKEOVER: Trial = trial(&["takeover", "--times", "2"]);
const STALE_READS: Trial = trial(&["stale-reads", "--times", "3"]);
const RECOVERY: Trial = trial(&["recovery", "--times", "2"]);
const LOST_ANSWERS: Trial = trial(&[
    "failpoints",
    "--point",
    "forwarded.after",
    "--times",
    "8",
    "--seed",
    "1",
]);
/// With disks that are slow: what was acknowledged and is not written yet is more.
const KILL_ALL_SLOW: Trial = Trial {
    scenario: KILL_ALL.scenario,
    failpoints: "write.before=1+->sleep(30)",
};

const fn mutant(name: &'static str, trial: Trial, breaks: &'static [&'static str]) -> Mutant {
    Mutant { name, trial, breaks }
}

/// Every one of the product's, by name.
pub const MUTANTS: &[Mutant] = &[
    mutant("ack-before-flush", KILL_ALL_SLOW, &["G1", "G3", "G7", "G8"]),
    mutant("no-fdatasync", POWER, &["G8"]),
    mutant("vote-not-synced", KILL_ALL, &["G2", "G8"]),
    mutant("no-generation-check", PROMISES, &["G9"]),
    mutant("no-session-dedup", PROMISES, &["G3"]),
    mutant("sessions-not-in-snapshot", LAGGING, &["G1", "G3"]),
    mutant("event-lost-at-install", LAGGING, &["G1", "G7", "G8"]),
    mutant("permits-per-node", PROMISES, &["G6"]),
    mutant("wall-clock-timers", FAKETIME, &["G4", "G5"]),
    mutant("timer-forgotten-when-due", TAKEOVER, &["G5"]),
    mutant("follower-reads", STALE_READS, &["G2"]),
    mutant("leader-reads", STALE_READS, &["G2"]),
    mutant("reads-before-recovery", RECOVERY, &["G7"]),
    mutant("progress-ahead", PROMISES, &["G7"]),
    mutant("watch-in-two-moments", PROMISES, &["G7"]),
    mutant("retry-of-unknown", LOST_ANSWERS, &["G3", "G8", "G9"]),
];

/// Those with these names, or all.
///
/// # Errors
/// When there is none of a name.
pub(super) fn chosen(names: &[String]) -> anyhow::Result<Vec<Mutant>> {
    if names.is_empty() {
        return Ok(MUTANTS.to_vec());
    }
    let named = |name: &String| {
        let found = MUTANTS.iter().find(|mutant| mutant.name == name);
        found.copied().with_context(|| {
            let all: Vec<_> = MUTANTS.iter().map(|mutant| mutant.name).collect();
            format!("there is no mutant {name:?}, only {}", all.join(", "))
        })
    };
    names.iter().map(named).collect()
}

/// The trials of these mutants, each once.
pub(super) fn trials(mutants: &[Mutant]) -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    for mutant in mutants {
        if !trials.contains(&mutant.trial) {
            trials.push(mutant.trial);
        }
    }
    trials
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_of_the_product_has_a_trial() {
        let mut product = brama_core::mutants::Mutant::ALL
            .map(|mutant| mutant.name())
            .to_vec();
        let mut here: Vec<_> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        product.sort_unstable();
        here.sort_unstable();
        assert_eq!(here, product);
    }

    #[test]
    fn a_name_that_is_none_is_refused() {
        assert!(chosen(&["no-fdatasync".to_owned()]).is_ok_and(|chosen| chosen.len() == 1));
        assert!(chosen(&["no-such".to_owned()]).is_err());
    }
}
