//! Which operations a client chooses from, and how often.

use std::str::FromStr;

use anyhow::bail;
use rand::Rng;

/// What kinds of operations a client chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// All of them.
    Everything,
    /// Circuits come, go and are configured, and little else happens to them.
    Registers,
    /// Only reports with sessions.
    Reports,
    /// Only reports with sessions, and so many of a thousand are as long as a request may be, or nearly.
    LongReports(u32),
    /// Opened, closed and reset by hand, and looked at.
    Manual,
    /// Openings that end soon, and probes after them.
    Probes,
    /// Openings by hand and by failures, which end by themselves.
    Timers,
    /// Few writes, and reads of every kind.
    Reads,
}

/// One kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A batch with a session.
    Report,
    /// One outcome without a session.
    Single,
    /// Asking for admission, and reporting the probe.
    Probe,
    /// Opening by hand.
    Open,
    /// Closing by hand.
    Close,
    /// Resetting by hand.
    Reset,
    /// Registering what is there, mostly.
    Register,
    /// Unregistering, and soon registering again.
    Unregister,
    /// Setting options of a circuit.
    Configure,
    /// Setting the runtime global options.
    ConfigureAll,
    /// A linearizable `Status`.
    Status,
    /// A `Status` that is local, or of at least a revision.
    StatusElsewhere,
    /// `Available`.
    Available,
    /// `List`.
    List,
}

impl Mix {
    /// Their names, as [`FromStr`] takes them.
    pub const NAMES: [&'static str; 7] = [
        "everything",
        "registers",
        "reports",
        "manual",
        "probes",
        "timers",
        "reads",
    ];

    /// Each kind with its weight.
    fn weights(self) -> &'static [(Kind, u32)] {
        match self {
            Self::Everything => &[
                (Kind::Report, 36),
                (Kind::Single, 6),
                (Kind::Probe, 19),
                (Kind::Open, 6),
                (Kind::Close, 4),
                (Kind::Reset, 4),
                (Kind::Register, 4),
                (Kind::Unregister, 2),
                (Kind::Configure, 4),
                (Kind::ConfigureAll, 1),
                (Kind::Status, 10),
                (Kind::StatusElsewhere, 4),
                (Kind::Available, 3),
                (Kind::List, 2),
            ],
            Self::Registers => &[
                (Kind::Register, 25),
                (Kind::Unregister, 20),
                (Kind::Configure, 15),
                (Kind::ConfigureAll, 5),
                (Kind::Report, 10),
                (Kind::Open, 3),
                (Kind::Status, 15),
                (Kind::List, 7),
            ],
            Self::Reports | Self::LongReports(_) => &[(Kind::Report, 1)],
            Self::Manual => &[
                (Kind::Open, 25),
                (Kind::Close, 25),
                (Kind::Reset, 25),
                (Kind::Report, 10),
                (Kind::Status, 15),
            ],
            Self::Probes => &[
                (Kind::Probe, 60),
                (Kind::Open, 15),
                (Kind::Report, 5),
                (Kind::Available, 10),
                (Kind::Status, 10),
            ],
            Self::Timers => &[
                (Kind::Open, 40),
                (Kind::Report, 20),
                (Kind::Probe, 20),
                (Kind::Status, 20),
            ],
            Self::Reads => &[
                (Kind::Report, 20),
                (Kind::Open, 5),
                (Kind::Reset, 5),
                (Kind::Status, 30),
                (Kind::StatusElsewhere, 20),
                (Kind::Available, 10),
                (Kind::List, 10),
            ],
        }
    }

    /// Which operation is next.
    pub(super) fn choose(self, rng: &mut impl Rng) -> Kind {
        let weights = self.weights();
        let mut left = rng.random_range(0..weights.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in weights {
            if left < *weight {
                return *kind;
            }
            left -= weight;
        }
        Kind::Report
    }

    pub(super) fn per_mille_long(self) -> u32 {
        match self {
            Self::LongReports(per_mille) => per_mille,
            _ => 0,
        }
    }

    /// Whether circuits come and go, so that all must be registered again before the end.
    pub fn unregisters(self) -> bool {
        self.weights().iter().any(|(kind, _)| *kind == Kind::Unregister)
    }

    /// Every kind of action in the history, as [`Action::kind`](crate::history::Action::kind) names it.
    pub fn actions(self) -> Vec<&'static str> {
        let mut actions = Vec::new();
        for (kind, _) in self.weights() {
            actions.extend_from_slice(kind.actions());
        }
        actions.sort_unstable();
        actions.dedup();
        actions
    }
}

impl Kind {
    fn actions(self) -> &'static [&'static str] {
        match self {
            Self::Report => &["report"],
            Self::Single => &["single"],
            Self::Probe => &["acquire", "report"],
            Self::Open => &["open"],
            Self::Close => &["close"],
            Self::Reset => &["reset"],
            Self::Register => &["register"],
            Self::Unregister => &["unregister", "register"],
            Self::Configure => &["configure"],
            Self::ConfigureAll => &["configure-all"],
            Self::Status => &["status"],
            Self::StatusElsewhere => &["status-local", "status-at-least"],
            Self::Available => &["available"],
            Self::List => &["list"],
        }
    }
}

impl FromStr for Mix {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        Ok(match name {
            "everything" => Self::Everything,
            "registers" => Self::Registers,
            "reports" => Self::Reports,
            "manual" => Self::Manual,
            "probes" => Self::Probes,
            "timers" => Self::Timers,
            "reads" => Self::Reads,
            _ => bail!("{name:?} is no workload: one of {}", Self::NAMES.join(", ")),
        })
    }
}

impl std::fmt::Display for Mix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Everything => "everything",
            Self::Registers => "registers",
            Self::Reports | Self::LongReports(_) => "reports",
            Self::Manual => "manual",
            Self::Probes => "probes",
            Self::Timers => "timers",
            Self::Reads => "reads",
        })
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::history::Action;

    #[test]
    fn every_name_is_a_workload_of_known_actions() {
        for name in Mix::NAMES {
            let mix: Mix = name.parse().unwrap();
            assert_eq!(mix.to_string(), name);
            for action in mix.actions() {
                assert!(Action::KINDS.contains(&action), "{action}");
            }
        }
        assert!("nothing".parse::<Mix>().is_err());
        let mut all = Action::KINDS;
        all.sort_unstable();
        assert_eq!(Mix::Everything.actions(), all);
    }

    #[test]
    fn every_kind_of_a_workload_is_chosen() {
        let mut rng = StdRng::seed_from_u64(1);
        for name in Mix::NAMES {
            let mix: Mix = name.parse().unwrap();
            for (kind, _) in mix.weights() {
                assert!(
                    (0..10_000).any(|_| mix.choose(&mut rng) == *kind),
                    "{kind:?} of {name}"
                );
            }
        }
    }
}
