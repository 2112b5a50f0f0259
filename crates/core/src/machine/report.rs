//! Applying reports: sessions, and the outcomes of many calls.

use std::sync::Arc;

use super::moment::Moment;
use super::{Inherited, Machine, State, index, warm};
use crate::command::{CircuitId, ReportBatch, ReportItem, SessionStamp};
use crate::event::{Cause, Event, EventKind};
use crate::metadata::Metadata;
use crate::mutants::{self, Mutant};
use crate::reply::{Answer, BatchReply, ItemReply, Refusal, Reply};
use crate::session::Session;
use crate::shared_metadata::SharedMetadata;

impl Machine {
    pub(super) fn report(&mut self, batch: &ReportBatch, guessed: &[Option<CircuitId>]) -> Answer {
        if let Some(stamp) = &batch.session
            && let Some(reply) = self.repeated(stamp)?
        {
            self.tally.repeat();
            return Ok(Reply::Reported(reply));
        }
        let mut items = Vec::with_capacity(batch.items.len());
        let mut report = |machine: &mut Self, some: &[ReportItem], guessed: &[Option<CircuitId>]| {
            for (i, item) in some.iter().enumerate() {
                let reply = machine.report_item(item, guessed.get(i).copied().flatten());
                machine.tally.item(&item.summary, &reply);
                items.push(reply);
            }
        };
        if warm::is_many(batch) {
            for some in batch.items.chunks(warm::AT_ONCE) {
                let mut guesses = self.warm_items(some);
                report(self, some, guesses.next(some.len()));
            }
        } else {
            report(self, &batch.items, guessed);
        }
        let reply = BatchReply {
            revision: self.state.events.revision(),
            items,
        };
        if let Some(stamp) = &batch.session {
            let now = self.state.time;
            if self.state.sessions.is_empty() {
                self.state.sweeps.sessions_bound = now;
            }
            self.state
                .sessions
                .insert(stamp.id, Arc::new(Session::new(stamp.sequence, &reply, now)));
        }
        Ok(Reply::Reported(reply))
    }

    /// The reply to remember, if this batch was applied before; `None`: it is new.
    fn repeated(&mut self, stamp: &SessionStamp) -> Result<Option<BatchReply>, Refusal> {
        if mutants::active(Mutant::NoSessionDedup) {
            return Ok(None);
        }
        let now = self.state.time;
        let session = self
            .state
            .sessions
            .get_mut(&stamp.id)
            .filter(|session| !session.is_over(now));
        let Some(session) = session else {
            if stamp.sequence != 1 {
                return Err(Refusal::SessionExpired {
                    session: stamp.id,
                    sequence: stamp.sequence,
                });
            }
            if !self.state.sessions.contains_key(&stamp.id) {
                self.check_room_for_session()?;
            }
            return Ok(None);
        };
        match stamp.sequence.cmp(&session.newest) {
            std::cmp::Ordering::Greater => Ok(None),
            std::cmp::Ordering::Equal => {
                Arc::make_mut(session).used_at = now;
                Ok(Some(session.reply()))
            }
            std::cmp::Ordering::Less => Err(Refusal::StaleSequence {
                session: stamp.id,
                sequence: stamp.sequence,
                newest: session.newest,
            }),
        }
    }

    /// The path that decides how much a node can do: each map is looked up once.
    fn report_item(&mut self, item: &ReportItem, guess: Option<CircuitId>) -> ItemReply {
        let limits = self.state.limits();
        let State {
            cluster,
            global,
            time,
            circuits,
            census,
            events,
            ..
        } = &mut self.state;
        // A machine that only reads has none, and applies nothing.
        let Some(index) = &self.index else {
            return ItemReply::NotFound;
        };
        // It was guessed before the commands beside it were applied: the circuit may have come since, or have gone.
        let guessed = guess.or_else(|| index.guess(index::hash(&item.name)));
        let found = match guessed.map(|id| (id, circuits.get_mut(&id))) {
            Some((id, Some(circuit))) if circuit.name == item.name => Some((id, circuit)),
            // Two names with one hash, or it has gone.
            Some(_) => index
                .get(&item.name, circuits)
                .and_then(|id| circuits.get_mut(&id).map(|circuit| (id, circuit))),
            None => None,
        };
        let Some((id, circuit)) = found else {
            return ItemReply::NotFound;
        };
        let inherited = self
            .inherited
            .get_or_insert_with(|| Inherited::of(cluster.as_deref(), global));
        let policy = inherited.deciding(circuit.own.as_ref());
        self.timers.disarm(id, circuit);
        census.leave(circuit);
        let circuit = Arc::make_mut(circuit);
        let before = Moment::of(circuit);
        let metadata = merged(&circuit.metadata, &item.metadata);
        let counted = circuit.report(
            &item.summary,
            item.generation,
            item.permit,
            item.reason.as_ref(),
            policy,
            *time,
        );
        let after = Moment::of(circuit);
        census.enter(circuit);
        self.timers.arm(id, circuit);

        // The outcomes as the state at the beginning of the item met them; then what they changed.
        let settled = counted.transitions[0].is_none();
        let shown = if settled { &after } else { &before };
        let failure_count = counted.transitions[0].map_or(after.failure_count, |first| {
            if first.kind == EventKind::CircuitOpened {
                first.failure_count
            } else {
                before.failure_count
            }
        });
        let mut outcomes = [
            (EventKind::Success, item.summary.successes),
            (EventKind::Failure, item.summary.failures),
        ];
        if item.summary.trailing_failures == 0 {
            outcomes.reverse();
        }
        for (kind, count) in outcomes {
            if count > 0 {
                let reason = item.reason.clone().filter(|_| kind == EventKind::Failure);
                let event = Event {
                    count,
                    failure_count,
                    permit: item.permit,
                    reason,
                    metadata: metadata.clone(),
                    ..shown.draft(kind, Cause::Request, circuit, events.revision(), *time)
                };
                circuit.revision = event.revision;
                self.tally.event(&event);
                self.digest.event(&event);
                events.push(event, &limits);
            }
        }
        for transition in counted.transitions.into_iter().flatten() {
            let event = Event {
                reason: item.reason.clone(),
                metadata: metadata.clone(),
                ..transition.event(circuit, events.revision(), *time)
            };
            circuit.revision = event.revision;
            self.tally.event(&event);
            self.digest.event(&event);
            events.push(event, &limits);
        }
        self.digest.circuit(id, Some(circuit));
        ItemReply::Counted {
            late: counted.late,
            state: after.state,
            generation: after.generation,
            failure_count: after.failure_count,
        }
    }
}

/// A circuit's metadata with a report's over it.
fn merged(own: &SharedMetadata, over: &Metadata) -> SharedMetadata {
    if over.is_empty() {
        return own.clone();
    }
    own.overlaid(over).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Batch, Command, IfExists, Register};
    use crate::name::CircuitName;
    use crate::policy::Policy;
    use crate::report::{Outcome, Summary};
    use crate::time::ClusterTime;

    /// As many as one circuit after the other, however they come: in one batch, in many, or one by one.
    #[test]
    fn a_report_finds_its_circuit_among_names_with_one_hash() {
        let names: Vec<_> = (0..1000)
            .map(|n| CircuitName::new(None, &format!("c{n}")).expect("a name"))
            .collect();
        let mut machine = Machine::new();
        let apply = |machine: &mut Machine, commands| {
            let time = ClusterTime::from_micros(1);
            let answers = machine.apply(1, &Batch { time, commands });
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        };
        let register = |name: &CircuitName| {
            Command::Register(Register {
                name: name.clone(),
                policy: Policy::default(),
                metadata: Metadata::new(),
                if_exists: IfExists::Refuse,
            })
        };
        apply(&mut machine, names.iter().map(register).collect());
        // Every name's hash leads to the circuit of the next one first.
        let ids = names.iter().map(|name| machine.id(name).expect("registered"));
        let ids: Vec<_> = ids.collect();
        let wrong = names.iter().zip(ids.iter().cycle().skip(1));
        machine.index = Some(index::Index::misled(wrong, names.iter().zip(&ids)));
        let item = |name: &CircuitName| ReportItem {
            name: name.clone(),
            generation: None,
            permit: None,
            summary: Summary::of(Outcome::Failure),
            reason: None,
            metadata: Metadata::new(),
        };
        let report = |names: &[CircuitName]| {
            Command::Report(ReportBatch {
                session: None,
                items: names.iter().map(item).collect(),
            })
        };
        apply(&mut machine, vec![report(&names)]);
        apply(&mut machine, names.chunks(3).map(report).collect());
        for name in &names[..10] {
            apply(&mut machine, vec![report(std::slice::from_ref(name))]);
        }
        for (n, name) in names.iter().enumerate() {
            let expected = if n < 10 { 3 } else { 2 };
            let circuit = machine.circuit(name).expect("registered");
            assert_eq!(circuit.failure_count, expected, "{name}");
        }
    }
}
