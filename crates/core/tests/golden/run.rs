//! Runs scripts, and checks with each command what holds for all of them.

use std::error::Error;

use brama_core::census::Census;
use brama_core::circuit::StateName;
use brama_core::command::Due;
use brama_core::limits::MAX_FIRE;
use brama_core::query::{CircuitStatus, ListQuery};
use brama_core::snapshot::Frozen;
use brama_core::{Batch, ClusterTime, Command, Machine};
use goldenscript::{Context, Runner};

use crate::arguments::{Arguments, Result};
use crate::support::{START, TERM};
use crate::{commands, show};

/// A machine and its clock, and a replica beside it.
///
/// With each command it is checked that
/// - a refused command changes nothing that can be seen, and raises no event,
/// - what `precheck` refuses is refused by `apply` too, in the same words,
/// - a replica that is written to a snapshot and read back before each command has the same hash and the same answers,
/// - the census is that of the circuits.
pub(crate) struct Script {
    pub(crate) machine: Machine,
    replica: Machine,
    /// Milliseconds since [`START`].
    pub(crate) ms: u64,
    /// What was due when the script said `remember`: a leader that is slow to propose.
    pub(crate) remembered: Vec<Due>,
}

impl Runner for Script {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &Context,
    ) -> std::result::Result<String, Box<dyn Error>> {
        let mut arguments = Arguments(command.consume_args());
        let output = commands::run(self, &command.name, &mut arguments)?;
        arguments.end()?;
        Ok(output)
    }
}

impl Script {
    pub(crate) fn new() -> Self {
        Self {
            machine: Machine::new(),
            replica: Machine::new(),
            ms: 0,
            remembered: Vec::new(),
        }
    }

    pub(crate) fn now(&self) -> ClusterTime {
        START.plus_ms(self.ms)
    }

    /// Applies a command, and shows what it answered and the events that it caused.
    pub(crate) fn apply(&mut self, command: Command) -> Result<String> {
        let before = self.visible();
        let seen = self.machine.revision();
        let early = self.machine.precheck(&command);
        let batch = Batch {
            time: self.now(),
            commands: vec![command],
        };
        let answer = self.machine.apply(TERM, &batch).remove(0);
        if let Err(refusal) = &early {
            assert_eq!(
                answer.as_ref(),
                Err(refusal),
                "precheck refused what apply does not"
            );
        }
        if answer.is_err() {
            assert!(self.visible() == before, "a refused command changed something");
        }
        self.replicate(&batch, &answer);
        self.count();
        let mut lines = Vec::new();
        let reply = show::reply(&answer?);
        if !reply.is_empty() {
            lines.push(reply);
        }
        // What a very small log dropped at once cannot be shown.
        let from = seen.max(self.machine.oldest_revision() - 1);
        lines.extend(
            self.machine
                .events_after(from, usize::MAX)?
                .iter()
                .map(|event| show::event(event)),
        );
        Ok(lines.join("\n"))
    }

    fn replicate(&mut self, batch: &Batch, answer: &brama_core::reply::Answer) {
        let mut bytes = Vec::new();
        self.replica.freeze().write_to(&mut bytes).unwrap();
        self.replica = Machine::thaw(Frozen::read_from(&mut &bytes[..]).unwrap());
        assert_eq!(&self.replica.apply(TERM, batch).remove(0), answer);
        assert_eq!(self.replica.state_hash(), self.machine.state_hash());
        assert_eq!(self.replica.next_due(), self.machine.next_due());
        assert_eq!(
            self.replica.freeze().content_hash(),
            self.machine.freeze().content_hash()
        );
    }

    /// The census is that of the circuits, also in a machine that was read from a snapshot.
    fn count(&self) {
        let everything = ListQuery {
            limit: usize::MAX,
            ..ListQuery::default()
        };
        let mut counted = Census::default();
        for circuit in self.machine.list(&everything) {
            match circuit.state {
                StateName::Closed => counted.closed += 1,
                StateName::Open => counted.open += 1,
                StateName::HalfOpen => counted.half_open += 1,
            }
            counted.permits += u64::from(circuit.probes_in_flight);
        }
        assert_eq!(self.machine.census(), counted);
        assert_eq!(self.replica.census(), counted);
        assert_eq!(self.machine.freeze().reader().census(), counted);
    }

    /// Fires what is due now, until nothing is, as a leader does.
    pub(crate) fn tick(&mut self) -> Result<String> {
        let mut lines = Vec::new();
        for _ in 0..1000 {
            let due = self.machine.due(self.now(), MAX_FIRE);
            if due.is_empty() {
                return Ok(if lines.is_empty() {
                    "nothing".to_owned()
                } else {
                    lines.join("\n")
                });
            }
            let events = self.apply(Command::Fire { term: TERM, due })?;
            lines.extend(Some(events).filter(|events| !events.is_empty()));
        }
        Err("what was fired stays due".into())
    }

    /// All that a user could see.
    #[allow(clippy::type_complexity, reason = "only compared")]
    fn visible(&self) -> (Vec<CircuitStatus>, u64, u64, u64, Option<ClusterTime>, String) {
        let everything = ListQuery {
            limit: usize::MAX,
            ..ListQuery::default()
        };
        let machine = &self.machine;
        let configuration = format!(
            "{:?} {:?} {:?}",
            machine.global_config(),
            machine.defaults(),
            machine.limits()
        );
        (
            machine.list(&everything),
            machine.revision(),
            machine.oldest_revision(),
            machine.session_count(),
            machine.next_due(),
            configuration,
        )
    }
}
