//! The events of one circuit tell its life without a jump: each begins in the state in which the one before ended.

use brama_proto::v1::{Cause, Event, EventType, State};

use super::{Evidence, show};
use crate::findings::Findings;
use crate::time::of_timestamp;

/// A circuit as its events so far tell it.
struct Life {
    state: State,
    generation: u64,
    openings: u32,
}

pub(super) fn check(evidence: &Evidence) -> Findings {
    let mut findings = Findings::default();
    let mut time = 0;
    for seen in evidence.events.values() {
        let at = seen.event.time.as_ref().map_or(0, of_timestamp);
        findings.require(at >= time, "G4", || {
            format!(
                "{}: cluster time went back by {} us",
                show(&seen.event),
                time - at
            )
        });
        time = time.max(at);
    }
    let mut transitions = 0;
    for (_, events) in evidence.by_circuit() {
        let mut life: Option<Life> = None;
        for seen in events {
            let event = &seen.event;
            if let Some(problem) = problem(life.as_ref(), event) {
                findings.broken("G9", format!("{}: {problem}", show(event)));
            }
            transitions += u32::from(event.previous_state != event.new_state);
            life = Some(Life {
                // Unspecified: it is gone.
                state: event.new_state(),
                generation: event.generation,
                openings: event.openings_in_a_row,
            });
        }
    }
    findings.checked(
        "G9",
        format!("{transitions} transitions, each from where the one before ended"),
    );
    findings
}

/// Why `event` cannot follow.
fn problem(before: Option<&Life>, event: &Event) -> Option<String> {
    let kind = event.r#type();
    let (from, to) = (event.previous_state(), event.new_state());
    let is_gone = before.is_none_or(|before| before.state == State::Unspecified);
    if is_gone != (kind == EventType::Registration) {
        return Some(format!(
            "the circuit was {}registered",
            if is_gone { "not " } else { "" }
        ));
    }
    let before = before?;
    if is_gone {
        // A new life of the name: it has no generation that the name ever had.
        return (event.generation <= before.generation || to != State::Closed)
            .then(|| format!("the name had generation {} before", before.generation));
    }
    if from != before.state {
        return Some(format!("the circuit was {}", before.state.as_str_name()));
    }
    let steps = event.generation.checked_sub(before.generation);
    let moved = from != to;
    // An opening of an open circuit and a reset of failures are a new generation in the same state.
    let leaves = kind == EventType::ConnectionUnregistered;
    let may_step = moved && !leaves || matches!(kind, EventType::CircuitOpened | EventType::CircuitReset);
    if !matches!(
        (steps, moved && !leaves, may_step),
        (Some(1), _, true) | (Some(0), false, _)
    ) {
        return Some(format!("the generation was {}", before.generation));
    }
    let openings = match (kind, from) {
        (EventType::CircuitOpened, State::Open) => before.openings.max(1),
        (EventType::CircuitOpened, _) => before.openings + 1,
        (EventType::CircuitClosed | EventType::CircuitReset, _) => 0,
        _ => before.openings,
    };
    if event.openings_in_a_row != openings {
        return Some(format!(
            "openings in a row are {}, not {openings}",
            event.openings_in_a_row
        ));
    }
    let possible = match (kind, event.cause()) {
        (EventType::CircuitOpened, Cause::Threshold) => from == State::Closed && to == State::Open,
        (EventType::CircuitOpened, Cause::Probe) => from == State::HalfOpen && to == State::Open,
        (EventType::CircuitOpened, Cause::Manual) => to == State::Open,
        (EventType::CircuitHalfOpened, Cause::Expiry) => from == State::Open && to == State::HalfOpen,
        (EventType::CircuitClosed, Cause::Probe) => from == State::HalfOpen && to == State::Closed,
        (EventType::CircuitClosed | EventType::CircuitReset, Cause::Manual) => to == State::Closed,
        (EventType::Success | EventType::Failure | EventType::Configured, Cause::Request) => !moved,
        (EventType::ConnectionUnregistered, Cause::Manual) => to == State::Unspecified,
        (EventType::ProbeGranted, Cause::Request) | (EventType::ProbeExpired, Cause::Expiry) => {
            !moved && to == State::HalfOpen
        }
        _ => false,
    };
    (!possible).then(|| format!("with cause {} this cannot happen", event.cause().as_str_name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{Story, at, half_opened, opened_by_hand};
    use crate::findings::Verdict;

    fn story(events: impl IntoIterator<Item = Event>) -> Findings {
        let mut story = Story::new(1);
        story.register(0);
        events.into_iter().for_each(|event| story.event(event));
        check(&story.evidence())
    }

    #[test]
    fn a_life_without_jumps_is_fine() {
        let findings = story([opened_by_hand("a", 0, 1000), half_opened(1000)]);
        assert_eq!(findings.verdict(), Verdict::Holds);
    }

    #[test]
    fn a_jump_in_state_or_generation_is_found() {
        assert_eq!(story([half_opened(1000)]).count("G9"), 1, "it was closed");
        let skipped = Event {
            generation: 4,
            ..half_opened(1000)
        };
        assert_eq!(story([opened_by_hand("a", 0, 1000), skipped]).count("G9"), 1);
    }

    #[test]
    fn a_miscounted_opening_and_an_impossible_cause_are_found() {
        let second = Event {
            openings_in_a_row: 2,
            ..opened_by_hand("a", 0, 1000)
        };
        assert_eq!(story([second]).count("G9"), 1);
        let causeless = Event {
            cause: Cause::Cleanup.into(),
            ..opened_by_hand("a", 0, 1000)
        };
        assert_eq!(story([causeless]).count("G9"), 1);
    }

    fn gone(generation: u64) -> Event {
        Event {
            r#type: EventType::ConnectionUnregistered.into(),
            cause: Cause::Manual.into(),
            previous_state: State::Closed.into(),
            generation,
            ..at(0)
        }
    }

    fn registered(generation: u64) -> Event {
        Event {
            r#type: EventType::Registration.into(),
            cause: Cause::Request.into(),
            new_state: State::Closed.into(),
            generation,
            ..at(0)
        }
    }

    #[test]
    fn a_new_life_begins_with_a_new_generation() {
        assert_eq!(story([gone(1), registered(2)]).verdict(), Verdict::Holds);
        assert_eq!(story([gone(1), registered(7)]).verdict(), Verdict::Holds);
        assert_eq!(story([gone(1), registered(1)]).count("G9"), 1, "used before");
        assert_eq!(story([registered(2)]).count("G9"), 1, "it was there");
    }

    #[test]
    fn a_circuit_that_lives_on_after_its_end_is_found() {
        assert_eq!(story([gone(1), opened_by_hand("a", 0, 1000)]).count("G9"), 1);
        assert_eq!(story([gone(2)]).count("G9"), 1, "another generation");
    }

    #[test]
    fn time_that_goes_back_is_found() {
        let findings = story([
            opened_by_hand("a", 500, 1000),
            Event {
                time: at(499).time,
                ..half_opened(0)
            },
        ]);
        assert_eq!(findings.count("G4"), 1);
    }
}
