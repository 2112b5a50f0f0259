//! Machine and model side by side: each operation is done to both, and all that can be seen is compared.

mod expect;

use std::sync::Arc;

use brama_core::Summary;
use brama_core::circuit::StateName;
use brama_core::command::{Bootstrap, ClusterId, Command, Due, ReportBatch, ReportItem, SessionStamp};
use brama_core::limits::Limits;
use brama_core::policy::{GlobalOptions, Policy};
use brama_core::reply::{Answer, Refusal};
use proptest::prelude::*;

use self::expect::metadata_of;
use crate::naive::Naive;
use crate::operation::{Generation, Item, NAMES, Operation};
use crate::support::{Driver, TERM, name};

/// One less than there are names.
const MAX_CIRCUITS: u64 = 3;
/// Each operation takes this long, and the cluster cleans up as often: so it is never too early to clean up.
const STEP_MS: u64 = 10;

pub(crate) struct Pair {
    machine: Driver,
    naive: Naive,
    seen: u64,
    remembered: Vec<Due>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let mut machine = Driver::new();
        let defaults = Policy {
            max_attempts: Some(3),
            probe_timeout_ms: Some(2000),
            ..Policy::default()
        };
        machine.ok(Command::Bootstrap(Bootstrap {
            cluster_id: ClusterId(1),
            defaults: defaults.clone(),
            global_defaults: GlobalOptions {
                inactive_threshold_ms: None,
                cleanup_interval_ms: Some(STEP_MS),
            },
            limits: Limits {
                max_circuits: MAX_CIRCUITS,
                ..Limits::default()
            },
        }));
        let naive = Naive::new(defaults);
        Self {
            machine,
            naive,
            seen: 0,
            remembered: Vec::new(),
        }
    }

    pub(crate) fn step(&mut self, operation: &Operation) -> Result<(), TestCaseError> {
        self.machine.pass(STEP_MS);
        self.naive.now = self.machine.now();
        match operation {
            Operation::Pass(ms) => {
                self.machine.pass(*ms);
                return Ok(());
            }
            Operation::Tick => self.tick()?,
            Operation::LookAtDue => {
                self.remembered = self.machine.machine.due(self.machine.now(), usize::MAX)
            }
            Operation::FireLate { this_term } => self.fire_late(*this_term),
            Operation::Report { session, items } => self.report(*session, items)?,
            other => {
                let (command, expected) = self.plain(other);
                self.check(command, expected)?;
            }
        }
        self.compare()
    }

    fn report(&mut self, session: Option<(u128, i64)>, items: &[Item]) -> Result<(), TestCaseError> {
        let stamp = session.map(|(id, step)| {
            let newest = self.naive.session(id).map_or(0, |session| session.newest);
            SessionStamp {
                id,
                sequence: newest.saturating_add_signed(step).max(1),
            }
        });
        let items: Vec<_> = items
            .iter()
            .map(|item| {
                let generation = match item.generation {
                    Generation::FaceValue => None,
                    Generation::Relative(by) => {
                        let status = self.naive.status(&name(item.circuit));
                        Some(
                            status
                                .map_or(1, |status| status.generation)
                                .saturating_add_signed(by),
                        )
                    }
                };
                let mut summary = Summary::of_all(item.outcomes.iter().copied());
                summary.rejected = item.rejected;
                let report = ReportItem {
                    name: name(item.circuit),
                    generation,
                    permit: item.permit,
                    summary,
                    reason: item.reason.map(Arc::from),
                    metadata: metadata_of(item.metadata),
                };
                (report, item)
            })
            .collect();
        let command = Command::Report(ReportBatch {
            session: stamp,
            items: items.iter().map(|(report, _)| report.clone()).collect(),
        });
        let expected = self.reported(stamp, &items);
        self.check(command, expected)
    }

    fn tick(&mut self) -> Result<(), TestCaseError> {
        let expected = self.naive.due();
        let mut due = self.machine.tick();
        due.retain(|due| matches!(due, Due::Expiry { .. } | Due::Probe { .. }));
        prop_assert_eq!(&due, &expected, "what was due");
        for due in expected.iter().chain(&[Due::Sessions, Due::Cleanup]) {
            self.naive.fire(due);
        }
        Ok(())
    }

    fn fire_late(&mut self, this_term: bool) {
        let due = std::mem::take(&mut self.remembered);
        if this_term {
            for due in &due {
                self.naive.fire(due);
            }
        }
        let term = if this_term { TERM } else { TERM - 1 };
        self.machine.ok(Command::Fire { term, due });
    }

    fn check(&mut self, command: Command, expected: Answer) -> Result<(), TestCaseError> {
        let early = self.machine.machine.precheck(&command);
        let answer = self.machine.apply(command);
        if let Err(refusal) = early {
            prop_assert_eq!(&answer, &Err(refusal), "precheck refused what apply does not");
        }
        // The words of a refusal are not the model's business, its field is.
        let without_words = |answer| match answer {
            Err(Refusal::InvalidArgument { field, .. }) => Err(Refusal::invalid(field, "")),
            other => other,
        };
        prop_assert_eq!(without_words(answer), without_words(expected));
        Ok(())
    }

    /// Everything that can be seen.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        let machine = &self.machine.machine;
        for circuit in NAMES.map(name) {
            let status = machine.status(&circuit);
            prop_assert_eq!(&status, &self.naive.status(&circuit));
            let (Some(status), Some(available)) = (status, machine.available(&circuit, self.machine.now()))
            else {
                continue;
            };
            // The question answers what asking for a permit would.
            let expected = match status.state {
                StateName::Closed => true,
                StateName::Open => false,
                StateName::HalfOpen => status.probes_in_flight < status.policy.half_open_max_probes,
            };
            prop_assert_eq!(available.available, expected);
        }
        let events = machine.events_after(self.seen, usize::MAX).unwrap();
        let events: Vec<_> = events.iter().map(|event| (**event).clone()).collect();
        prop_assert_eq!(&events[..], &self.naive.events[self.seen as usize..]);
        self.seen = machine.revision();
        prop_assert_eq!(machine.circuit_count(), self.naive.circuits.len() as u64);

        // No deadline lies before the next wake-up.
        let next = machine.next_due();
        for circuit in &self.naive.circuits {
            let deadlines = circuit
                .permits
                .iter()
                .map(|(_, until)| *until)
                .chain(circuit.seen.expires_at);
            for deadline in deadlines {
                prop_assert!(next.is_some_and(|next| next <= deadline));
            }
        }
        Ok(())
    }
}
