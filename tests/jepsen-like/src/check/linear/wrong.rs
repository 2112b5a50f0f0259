//! Wrong histories, each beside the right one: only the wrong one may be refused.

use brama_proto::v1::{self, Cause, EventType};

use super::check;
use crate::check::samples::{Story, outcome, shown};
use crate::findings::Verdict;
use crate::history::{Action, Answer, Counted, Item, Level, NOT_FOUND, Outcome, Shown, Totals};
use crate::rules::Options;
use crate::time::Micros;

const CLOSED: i32 = 1;
const OPEN: i32 = 2;
const HALF_OPEN: i32 = 3;

/// One circuit (openings of 1,000 ms, one probe, five failures open it) and clients who work one after the other unless told otherwise.
struct Tale {
    story: Story,
    now: Micros,
}

impl Tale {
    fn new() -> Self {
        let mut tale = Self {
            story: Story::new(1),
            now: 0,
        };
        let circuit = Shown {
            revision: 1,
            ..shown(CLOSED, 1)
        };
        tale.register(circuit, true);
        tale
    }

    fn op(&mut self, action: Action, outcome: Outcome) {
        self.story.op(action, outcome);
        let (from, until) = (self.now, self.now + 1000);
        let op = self.story.last_op();
        op.started = from;
        op.ended = until;
        self.now = until + 1000;
    }

    /// The last operation was under way for longer.
    fn during(&mut self, from: Micros, until: Micros) {
        let op = self.story.last_op();
        op.started = from;
        op.ended = until;
    }

    fn register(&mut self, circuit: Shown, created: bool) {
        let action = Action::Register {
            circuit: 0,
            label: String::new(),
            policy: Options::of(&self.story.evidence().circuits.get(0).policy),
            update: false,
        };
        let revision = circuit.revision;
        let answer = Answer::Registered {
            created,
            revision,
            circuit,
        };
        self.op(action, Outcome::Ok(answer));
    }

    fn report(&mut self, outcomes: &str, said: Option<Counted>) {
        self.report_with(outcomes, None, said);
    }

    fn report_with(&mut self, outcomes: &str, permit: Option<&str>, said: Option<Counted>) {
        let batch = format!("1-1-{}", self.now);
        let action = Action::Report {
            session: batch.clone(),
            batch,
            items: vec![Item {
                circuit: 0,
                outcomes: outcomes.into(),
                generation: None,
                permit: permit.map(str::to_owned),
            }],
        };
        let outcome = match said {
            Some(said) => Outcome::Ok(Answer::Reported {
                revision: self.now + 10,
                items: vec![said],
            }),
            None => Outcome::Unknown("lost".into()),
        };
        self.op(action, outcome);
    }

    /// The last report had no answer, but there is an event of it.
    fn it_happened(&mut self) {
        let batch = self
            .story
            .last_op()
            .action
            .batch()
            .map(|(batch, _)| batch.to_owned());
        self.story
            .event(outcome(EventType::Failure, 1, &batch.unwrap_or_default()));
    }

    fn open(&mut self, circuit: Shown) {
        let action = Action::Open {
            circuit: 0,
            expiry_ms: None,
            reason: "open-1".into(),
        };
        self.changed(action, circuit);
    }

    fn changed(&mut self, action: Action, circuit: Shown) {
        let (revision, generation) = (circuit.revision, circuit.generation);
        let answer = Answer::Changed {
            revision,
            generation,
            circuit,
        };
        self.op(action, Outcome::Ok(answer));
    }

    fn acquire(&mut self, permit: &str, generation: u64, granted: bool) {
        let action = Action::Acquire {
            circuit: 0,
            permit: permit.into(),
        };
        let answer = Answer::Admission {
            admitted: granted,
            state: HALF_OPEN,
            generation,
            permit: granted.then(|| permit.into()),
        };
        self.op(action, Outcome::Ok(answer));
    }

    fn read(&mut self, circuit: Shown) {
        let action = Action::Status {
            circuit: 0,
            level: Level::Linearizable,
        };
        self.op(action, Outcome::Ok(Answer::Status(circuit)));
    }

    fn verdict(&self) -> Verdict {
        check(&self.story.evidence()).verdict()
    }

    fn is_right(&self) {
        let findings = check(&self.story.evidence());
        assert_eq!(findings.verdict(), Verdict::Holds, "{findings}");
    }

    fn is_wrong(&self) {
        let findings = check(&self.story.evidence());
        assert_eq!(findings.count("G2"), 1, "{findings}");
        assert!(findings.to_string().contains("not linearizable"), "{findings}");
        assert_eq!(findings.drawings().len(), 1);
    }
}

fn counted(state: i32, generation: u64, failure_count: u32) -> Option<Counted> {
    Some(Counted {
        result: 1,
        state,
        generation,
        failure_count,
    })
}

/// Of a circuit that only ever had failures reported. Answers that name no revision fit any.
fn failed(generation: u64, failures: u32) -> Shown {
    Shown {
        failure_count: failures,
        totals: totals(0, failures.into()),
        ..shown(CLOSED, generation)
    }
}

fn totals(successes: u64, failures: u64) -> Totals {
    Totals { successes, failures }
}

/// Opened by hand, for as long as the policy says.
fn opened(generation: u64) -> Shown {
    Shown {
        openings_in_a_row: 1,
        last_reason: Some("open-1".into()),
        opening_us: Some(1_000_000),
        ..shown(OPEN, generation)
    }
}

fn half_open(generation: u64) -> Shown {
    Shown {
        state: HALF_OPEN,
        opening_us: None,
        ..opened(generation)
    }
}

/// A revision that lies behind everything that the tale was told so far.
fn at(now: Micros, circuit: Shown) -> Shown {
    Shown {
        at: now + 10,
        revision: now + 10,
        ..circuit
    }
}

#[test]
fn a_lost_update_is_refused() {
    let tale = |failures| {
        let mut tale = Tale::new();
        tale.report("F", counted(CLOSED, 1, 1));
        tale.report("F", counted(CLOSED, 1, failures));
        tale
    };
    tale(2).is_right();
    tale(1).is_wrong();
}

#[test]
fn a_batch_that_counts_twice_is_refused() {
    let tale = |failures| {
        let mut tale = Tale::new();
        tale.report("F", counted(CLOSED, 1, 1));
        // Both sends of the batch together may count once.
        let now = tale.now - 2000;
        tale.read(at(now, failed(1, failures)));
        tale
    };
    tale(1).is_right();
    tale(2).is_wrong();
}

#[test]
fn a_batch_of_which_nobody_knows_counts_once_or_never_but_not_twice() {
    let tale = |failures| {
        let mut tale = Tale::new();
        tale.report("F", None);
        tale.it_happened();
        let now = tale.now;
        tale.read(at(now, failed(1, failures)));
        tale
    };
    tale(1).is_right();
    tale(2).is_wrong();
    let mut never = Tale::new();
    never.report("F", None);
    never.read(Shown {
        at: 1,
        revision: 1,
        ..failed(1, 0)
    });
    never.is_right();
}

#[test]
fn where_the_event_of_a_batch_in_doubt_lies_is_only_a_hint() {
    let tale = |first, second| {
        let mut tale = Tale::new();
        tale.report("F", None);
        // At revision 1, so before both reads; they say otherwise, and theirs is what counts.
        tale.it_happened();
        tale.read(Shown {
            at: 100,
            revision: 1,
            ..failed(1, first)
        });
        tale.read(at(100, failed(1, second)));
        tale
    };
    tale(1, 1).is_right();
    tale(0, 1).is_right();
    tale(1, 0).is_wrong();
    tale(0, 2).is_wrong();
}

#[test]
fn a_batch_in_doubt_that_comes_and_goes_is_refused() {
    let tale = |last| {
        let mut tale = Tale::new();
        tale.report("F", None);
        tale.it_happened();
        tale.read(at(100, failed(1, 1)));
        tale.read(if last == 1 {
            at(100, failed(1, 1))
        } else {
            Shown {
                at: 110,
                revision: 1,
                ..failed(1, 0)
            }
        });
        tale
    };
    tale(1).is_right();
    tale(0).is_wrong();
}

#[test]
fn a_stale_read_is_refused() {
    let tale = |circuit: Shown, from| {
        let mut tale = Tale::new();
        let now = tale.now;
        tale.open(at(now, opened(2)));
        let now = tale.now;
        tale.read(circuit);
        tale.during(from, now + 1000);
        tale
    };
    let old = Shown {
        at: 1,
        revision: 1,
        ..shown(CLOSED, 1)
    };
    // Read while it was being opened: both are right.
    tale(at(2000, opened(2)), 2500).is_right();
    tale(old.clone(), 2500).is_right();
    tale(old, 4000).is_wrong();
}

#[test]
fn two_probes_where_one_is_allowed_are_refused() {
    let tale = |second: bool| {
        let mut tale = Tale::new();
        let now = tale.now;
        tale.open(at(now, opened(2)));
        tale.now += 1_000_000;
        tale.acquire("0a", 3, true);
        tale.acquire("0b", 3, second);
        tale
    };
    tale(false).is_right();
    tale(true).is_wrong();
}

#[test]
fn a_probe_that_was_reported_makes_room_and_one_that_was_not_makes_none() {
    let tale = |permit| {
        let mut tale = Tale::new();
        let now = tale.now;
        tale.open(at(now, opened(2)));
        tale.now += 1_000_000;
        tale.acquire("0a", 3, true);
        let said = if permit == "0a" { CLOSED } else { HALF_OPEN };
        let generation = if permit == "0a" { 4 } else { 3 };
        tale.report_with("S", Some(permit), counted(said, generation, 0));
        tale
    };
    tale("0a").is_right();
    // A permit that is not out is late; to say that it was applied is wrong.
    tale("0c").is_wrong();
}

#[test]
fn an_early_timer_is_refused() {
    let tale = |after_us: Micros| {
        let mut tale = Tale::new();
        let now = tale.now;
        tale.open(at(now, opened(2)));
        tale.read(at(now + 1, half_open(3)));
        // The opening was sent at `now`, so it cannot have ended before that and 999 ms.
        tale.during(now + 2000, now + after_us);
        tale
    };
    tale(999_000).is_right();
    tale(998_999).is_wrong();
}

#[test]
fn a_circuit_that_comes_back_to_life_by_itself_is_refused() {
    let tale = |again: bool, generation| {
        let mut tale = Tale::new();
        tale.report("FF", counted(CLOSED, 1, 2));
        let now = tale.now;
        let gone = Answer::Unregistered {
            existed: true,
            at: now + 10,
        };
        let action = Action::Unregister {
            circuit: 0,
            reason: "gone-1".into(),
        };
        tale.op(action, Outcome::Ok(gone));
        if again {
            let now = tale.now;
            tale.register(at(now, shown(CLOSED, generation)), true);
        }
        let now = tale.now - 2000;
        tale.read(at(now, shown(CLOSED, generation)));
        tale
    };
    tale(true, 2).is_right();
    tale(true, 9).is_right();
    tale(false, 2).is_wrong();
    tale(false, 1).is_wrong();
    // A generation that the name had before.
    tale(true, 1).is_wrong();
}

#[test]
fn a_circuit_that_was_not_found_must_be_gone() {
    let tale = |gone| {
        let mut tale = Tale::new();
        if gone {
            let action = Action::Unregister {
                circuit: 0,
                reason: "gone-1".into(),
            };
            tale.op(action, Outcome::Unknown("lost".into()));
            tale.story.event(v1::Event {
                r#type: EventType::ConnectionUnregistered.into(),
                cause: Cause::Manual.into(),
                reason: Some("gone-1".into()),
                ..Default::default()
            });
        }
        let action = Action::Close {
            circuit: 0,
            reason: "close-1".into(),
        };
        tale.op(action, Outcome::Refused(NOT_FOUND.into()));
        tale
    };
    tale(true).is_right();
    tale(false).is_wrong();
}

#[test]
fn a_generation_that_goes_back_is_refused() {
    let tale = |generation| {
        let mut tale = Tale::new();
        let now = tale.now;
        tale.open(at(now, opened(2)));
        let now = tale.now;
        let action = Action::Close {
            circuit: 0,
            reason: "close-1".into(),
        };
        let closed = Shown {
            last_reason: Some("close-1".into()),
            ..shown(CLOSED, generation)
        };
        tale.changed(action, at(now, closed));
        tale
    };
    tale(3).is_right();
    tale(2).is_wrong();
    tale(1).is_wrong();
}

#[test]
fn a_reset_that_keeps_failures_is_refused() {
    let tale = |failures| {
        let mut tale = Tale::new();
        tale.report("FF", counted(CLOSED, 1, 2));
        let now = tale.now;
        let action = Action::Reset {
            circuit: 0,
            reason: "reset-1".into(),
        };
        let circuit = Shown {
            failure_count: failures,
            last_reason: Some("reset-1".into()),
            totals: totals(0, 2),
            ..shown(CLOSED, 2)
        };
        tale.changed(action, at(now, circuit));
        tale
    };
    tale(0).is_right();
    tale(2).is_wrong();
}

#[test]
fn an_opening_below_or_above_the_threshold_is_refused() {
    let tale = |failures: u32, state| {
        let mut tale = Tale::new();
        let outcomes = "F".repeat(failures as usize);
        let generation = if state == OPEN { 2 } else { 1 };
        tale.report(&outcomes, counted(state, generation, failures));
        tale
    };
    tale(4, CLOSED).is_right();
    tale(5, OPEN).is_right();
    tale(4, OPEN).is_wrong();
    tale(5, CLOSED).is_wrong();
}

#[test]
fn a_policy_that_is_not_in_effect_is_refused() {
    let tale = |failures: u32| {
        let mut tale = Tale::new();
        let now = tale.now;
        let set = Options {
            max_attempts: Some(2),
            ..Options::default()
        };
        let own = Options::of(&tale.story.evidence().circuits.get(0).policy);
        let action = Action::Configure {
            circuit: Some(0),
            set,
            clear: Vec::new(),
        };
        let rules = crate::rules::Rules::of(&own.configured(&set, &[]), &Options::default());
        let answer = Answer::Configured {
            changed: true,
            rules,
            at: now + 10,
        };
        tale.op(action, Outcome::Ok(answer));
        tale.report(&"F".repeat(failures as usize), counted(OPEN, 2, failures));
        tale
    };
    tale(2).is_right();
    tale(5).is_wrong();
}

#[test]
fn what_was_never_asked_of_anything_is_unknown() {
    let mut tale = Tale::new();
    tale.story = Story::new(1);
    assert_eq!(tale.verdict(), Verdict::Unknown);
}
