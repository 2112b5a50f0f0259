//! Histories that the model itself made up, with operations that overlap at random: they must be accepted, and refused once an answer is
//! changed so that nothing explains it. Tiny ones are compared with a search that tries everything.

use std::collections::BTreeSet;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::entry::{APPLIED, Entry, Input, Item, LATE, Output, Position, Seen};
use super::model::{Phase, State, Window};
use super::search::{Verdict, search};
use crate::history::Counted;
use crate::rules::{Lasts, OptionName, Options, Rules};
use crate::time::Micros;

const BUDGET: usize = 5_000_000;

#[test]
fn what_the_model_did_is_accepted() {
    let mut doubtful = 0;
    for seed in 0..300 {
        let history = MadeUp::new(seed).run(120);
        doubtful += history.iter().filter(|entry| !entry.certain).count();
        let verdict = search(&history, &State::default(), BUDGET);
        assert!(
            matches!(verdict, Verdict::Explained(_)),
            "seed {seed}: {verdict:?}"
        );
    }
    assert!(doubtful > 1000, "only {doubtful} operations were in doubt");
}

#[test]
fn a_long_history_is_accepted_soon() {
    let history = MadeUp::new(7).in_doubt(0.03).run(20_000);
    let verdict = search(&history, &State::default(), BUDGET);
    assert!(matches!(verdict, Verdict::Explained(_)), "{verdict:?}");
}

#[test]
fn a_wrong_answer_late_in_a_long_history_is_refused() {
    let mut refused = 0;
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut history = MadeUp::new(seed).in_doubt(0.02).hinted().run(4000);
        let mut late = history.split_off(3900);
        if make_impossible(&mut late, &mut rng).is_none() {
            continue;
        }
        history.append(&mut late);
        let verdict = search(&history, &State::default(), BUDGET);
        assert!(matches!(verdict, Verdict::Refuted(_)), "seed {seed}: {verdict:?}");
        refused += 1;
    }
    assert!(refused > 5, "{refused}");
}

#[test]
fn an_answer_that_nothing_explains_is_refused() {
    let mut refused = BTreeSet::new();
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut history = MadeUp::new(seed).run(60);
        let Some(kind) = make_impossible(&mut history, &mut rng) else {
            continue;
        };
        let verdict = search(&history, &State::default(), BUDGET);
        assert!(
            matches!(verdict, Verdict::Refuted(_)),
            "seed {seed}, {kind}: {verdict:?}"
        );
        refused.insert(kind);
    }
    assert_eq!(refused.len(), 5, "{refused:?}");
}

#[test]
fn on_tiny_histories_it_agrees_with_trying_everything() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..4000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut history = MadeUp::new(seed).in_doubt(0.4).run(6);
        give_alternatives(&mut history, &mut rng);
        if seed % 4 != 0 {
            mutate(&mut history, &mut rng);
        }
        let all: Vec<usize> = (0..history.len()).collect();
        let expected = tries_everything(&history, &all, &State::default(), 0);
        let verdict = search(&history, &State::default(), BUDGET);
        match &verdict {
            Verdict::Explained(_) => assert!(expected, "seed {seed}: {verdict:?} of {history:#?}"),
            Verdict::Refuted(_) => assert!(!expected, "seed {seed}: {verdict:?} of {history:#?}"),
            Verdict::GaveUp => panic!("seed {seed}"),
        }
        accepted += u32::from(expected);
        refused += u32::from(!expected);
    }
    assert!(
        accepted > 800 && refused > 800,
        "{accepted} accepted, {refused} refused"
    );
}

/// Some of those in doubt happened then, or at another time, or never.
fn give_alternatives(history: &mut Vec<Entry>, rng: &mut StdRng) {
    for n in 0..history.len() {
        if history[n].certain || rng.random_bool(0.5) {
            continue;
        }
        history[n].op = n + 1;
        history[n].exclusive = true;
        let mut other = history[n].clone();
        other.call += rng.random_range(0..200_000);
        other.until = other
            .until
            .saturating_add(rng.random_range(0..200_000))
            .max(other.call);
        history.push(other);
    }
}

/// Every order of every choice of those in doubt.
fn tries_everything(entries: &[Entry], left: &[usize], state: &State, low: Micros) -> bool {
    let certain = || left.iter().filter(|n| entries[**n].certain);
    let Some(high) = certain().map(|n| entries[*n].until).min() else {
        return true;
    };
    left.iter().any(|n| {
        let entry = &entries[*n];
        let high = high.min(entry.until);
        let low = low.max(entry.call);
        if low > high {
            return false;
        }
        let instead = |other: &usize| entry.exclusive && entries[*other].op == entry.op;
        let others = left.iter().copied().filter(|other| other != n);
        let rest: Vec<_> = others.filter(|other| !instead(other)).collect();
        state
            .step(
                &entry.input,
                entry.output.as_ref(),
                entry.position,
                Window { low, high },
            )
            .iter()
            .filter(|state| state.now <= high)
            .any(|state| tries_everything(entries, &rest, state, low))
    })
}

/// The model at work.
struct MadeUp {
    rng: StdRng,
    state: State,
    now: Micros,
    reasons: usize,
    permits: Vec<u128>,
    /// How many of the reports are in doubt; of other operations, a tenth of that.
    doubt: f64,
    /// All in doubt are settled, as by the hints of an event log.
    is_hinted: bool,
    /// Rises with each change.
    revision: u64,
}

impl MadeUp {
    fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed ^ 0xc1bc),
            state: State::default(),
            now: 1_000_000,
            reasons: 0,
            permits: Vec::new(),
            doubt: 0.2,
            is_hinted: false,
            revision: 0,
        }
    }

    fn in_doubt(self, doubt: f64) -> Self {
        Self { doubt, ..self }
    }

    fn hinted(self) -> Self {
        Self {
            is_hinted: true,
            ..self
        }
    }

    fn run(mut self, operations: usize) -> Vec<Entry> {
        (0..operations).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> Entry {
        self.now += self.rng.random_range(1..60_000);
        let at = self.now;
        let input = self.input();
        let call = at - self.rng.random_range(0..100_000);
        let until = at + self.rng.random_range(0..100_000);
        // As in a run: a report in doubt is settled by the next one of its session; others stay in doubt, but there are few.
        let (share, settled) = match input {
            Input::Read => (0.0, 0),
            Input::Report(_) => (self.doubt, until + self.rng.random_range(0..200_000)),
            _ if self.is_hinted => (self.doubt, until + self.rng.random_range(0..200_000)),
            _ => (self.doubt / 10.0, Micros::MAX),
        };
        let in_doubt = self.rng.random_bool(share);
        if in_doubt && self.rng.random_bool(0.5) {
            return perhaps(call, settled, input);
        }
        let before = self.state.clone();
        let window = Window { low: at, high: at };
        let mut all = before.step(&input, None, Position::ANY, window);
        // What a timer does comes last; it happens sooner or later.
        let which = self.rng.random_range(0..all.len());
        let mut after = all.swap_remove(which);
        if let Some(life) = &mut after.life {
            // Here nothing is only a bound: the model knows all that there is.
            life.vague = false;
        }
        let output = answer(&before, &input, &after, window);
        self.revision += u64::from(shape_of(&before) != shape_of(&after));
        after.revision = 0;
        self.state = after;
        if in_doubt {
            return perhaps(call, settled, input);
        }
        let position = if self.rng.random_bool(0.5) {
            Position::ANY
        } else {
            Position {
                least: self.revision,
                most: self.revision,
            }
        };
        Entry {
            op: 0,
            call,
            until,
            certain: true,
            exclusive: false,
            input,
            output: Some(output),
            position,
        }
    }

    fn input(&mut self) -> Input {
        self.reasons += 1;
        let reason = self.reasons;
        let options = |rng: &mut StdRng| Options {
            max_attempts: rng.random_bool(0.7).then(|| rng.random_range(1..4)),
            expiry: Some(Lasts::Ms(rng.random_range(20..400))),
            probes: rng.random_bool(0.7).then(|| rng.random_range(1..3)),
            successes: rng.random_bool(0.7).then(|| rng.random_range(1..3)),
            probe_timeout_ms: Some(rng.random_range(20..300)),
            ..Options::default()
        };
        if self.state.life.is_none() && self.rng.random_bool(0.6) {
            return Input::Register {
                policy: options(&mut self.rng),
                update: self.rng.random_bool(0.5),
            };
        }
        let clear = vec![OptionName::ALL[self.rng.random_range(0..3)]];
        match self.rng.random_range(0..100) {
            0..40 => Input::Report(
                (0..self.rng.random_range(1..3_u32))
                    .map(|_| self.item())
                    .collect(),
            ),
            40..60 => {
                let permit = self.rng.random_range(1..20);
                self.permits.push(permit);
                Input::Acquire { permit }
            }
            60..64 => Input::Open {
                lasts_ms: self
                    .rng
                    .random_bool(0.5)
                    .then(|| Some(self.rng.random_range(10..200))),
                reason,
            },
            64..67 => Input::Close { reason },
            67..70 => Input::Reset { reason },
            70..73 => Input::Register {
                policy: options(&mut self.rng),
                update: self.rng.random_bool(0.5),
            },
            73..75 => Input::Unregister,
            75..78 => Input::Configure {
                set: options(&mut self.rng),
                clear: Vec::new(),
            },
            78..79 => Input::Configure {
                set: Options::default(),
                clear,
            },
            79..81 => Input::ConfigureAll {
                set: Options {
                    max_attempts: Some(self.rng.random_range(1..4)),
                    ..Options::default()
                },
                clear: Vec::new(),
            },
            _ => Input::Read,
        }
    }

    fn item(&mut self) -> Item {
        let permit = self.permits.last().copied().filter(|_| self.rng.random_bool(0.3));
        let generation = self.state.life.as_ref().map_or(1, |life| life.generation);
        let outcomes = if permit.is_some() {
            1
        } else {
            self.rng.random_range(1..4)
        };
        Item {
            successes: (0..outcomes).map(|_| self.rng.random_bool(0.4)).collect(),
            generation: self
                .rng
                .random_bool(0.5)
                .then(|| generation.saturating_sub(self.rng.random_range(0..2))),
            permit,
        }
    }
}

fn perhaps(call: Micros, until: Micros, input: Input) -> Entry {
    Entry {
        op: 0,
        call,
        until,
        certain: false,
        exclusive: false,
        input,
        output: None,
        position: Position::ANY,
    }
}

/// The answer with which the model goes from one state to the other.
fn answer(before: &State, input: &Input, after: &State, window: Window) -> Output {
    let leads_there = |output: &Output| {
        before
            .step(input, Some(output), Position::ANY, window)
            .iter()
            .any(|to| shape_of(to) == shape_of(after))
    };
    possible(input, after)
        .into_iter()
        .find(leads_there)
        .unwrap_or_else(|| panic!("{input:?} gives no answer between {before:?} and {after:?}"))
}

fn shape_of(state: &State) -> Option<super::model::Life> {
    state.life.as_ref().map(shape)
}

/// A life without what answers make known.
fn shape(life: &super::model::Life) -> super::model::Life {
    super::model::Life {
        vague: false,
        ..life.clone()
    }
}

fn possible(input: &Input, after: &State) -> Vec<Output> {
    let Some(seen) = seen(after) else {
        return match input {
            Input::Unregister => [true, false]
                .map(|existed| Output::Unregistered { existed })
                .into(),
            Input::ConfigureAll { .. } => configured(&Options::default(), after),
            Input::Report(items) => vec![Output::Reported(vec![NOT_FOUND; items.len()])],
            _ => vec![Output::Absent],
        };
    };
    let (state, generation) = (seen.state, seen.generation);
    match input {
        Input::Register { .. } => [true, false]
            .map(|created| Output::Registered {
                created,
                seen: seen.clone(),
            })
            .into(),
        Input::Unregister => Vec::new(),
        Input::Configure { .. } => configured(
            &after.life.as_ref().map_or(Options::default(), |life| life.own),
            after,
        ),
        Input::ConfigureAll { .. } => configured(&Options::default(), after),
        Input::Report(items) => reported(items.len(), &seen),
        Input::Acquire { .. } => [(true, true), (true, false), (false, false)]
            .map(|(admitted, permit)| Output::Admission {
                admitted,
                state,
                generation,
                permit,
            })
            .into(),
        Input::Open { .. } | Input::Close { .. } | Input::Reset { .. } => vec![Output::Changed(seen)],
        Input::Read => vec![Output::Seen(seen)],
    }
}

const NOT_FOUND: Counted = Counted {
    result: 3,
    state: 0,
    generation: 0,
    failure_count: 0,
};

/// At most two items: what the first one left is one of few things, or the same as the second one left.
fn reported(items: usize, seen: &Seen) -> Vec<Output> {
    let last = |result| Counted {
        result,
        state: seen.state,
        generation: seen.generation,
        failure_count: seen.failures,
    };
    let mut all = Vec::new();
    for result in [APPLIED, LATE] {
        if items == 1 {
            all.push(Output::Reported(vec![last(result)]));
            continue;
        }
        for state in 1..=3 {
            for back in 0..=4 {
                for failure_count in 0..=6 {
                    let first = |result| Counted {
                        result,
                        state,
                        generation: seen.generation.saturating_sub(back),
                        failure_count,
                    };
                    all.push(Output::Reported(vec![first(APPLIED), last(result)]));
                    all.push(Output::Reported(vec![first(LATE), last(result)]));
                }
            }
        }
    }
    all
}

fn configured(own: &Options, after: &State) -> Vec<Output> {
    let rules = Rules::of(own, &after.global);
    [true, false]
        .map(|changed| Output::Configured { changed, rules })
        .into()
}

fn seen(state: &State) -> Option<Seen> {
    let life = state.life.as_ref()?;
    let (number, permits, successes, lasts_ms) = match &life.phase {
        Phase::Closed => (1, 0, 0, None),
        Phase::Open { lasts_ms, .. } => (2, 0, 0, *lasts_ms),
        Phase::HalfOpen { successes, permits } => (3, permits.len() as u32, *successes, None),
    };
    Some(Seen {
        revision: 0,
        state: number,
        generation: life.generation,
        failures: life.failures,
        openings: life.openings,
        totals: life.totals,
        reason: life.reason,
        permits,
        successes,
        lasts_us: lasts_ms.map(|ms| ms * 1000),
        rules: Some(Rules::of(&life.own, &state.global)),
    })
}

/// Changes one answer a little; perhaps it can still be explained.
fn mutate(history: &mut [Entry], rng: &mut StdRng) {
    let which = rng.random_range(0..history.len());
    let up = rng.random_bool(0.5);
    let bump = |n: &mut u64| *n = if up { *n + 1 } else { n.saturating_sub(1) };
    match &mut history[which].output {
        Some(Output::Registered { seen, .. } | Output::Changed(seen) | Output::Seen(seen)) => {
            match rng.random_range(0..6) {
                0 => bump(&mut seen.generation),
                1 => bump(&mut seen.totals.failures),
                2 => bump(&mut seen.totals.successes),
                3 => seen.failures = seen.failures.wrapping_add(1),
                4 => seen.state = seen.state % 3 + 1,
                _ => seen.permits = u32::from(seen.permits == 0),
            }
        }
        Some(Output::Reported(items)) => {
            if let Some(item) = items.last_mut() {
                match rng.random_range(0..3) {
                    0 => bump(&mut item.generation),
                    1 => item.failure_count += 1,
                    _ => item.result = if item.result == LATE { APPLIED } else { LATE },
                }
            }
        }
        Some(Output::Admission {
            admitted, generation, ..
        }) => {
            if up {
                *admitted = !*admitted;
            } else {
                *generation += 1;
            }
        }
        Some(Output::Unregistered { existed }) => *existed = !*existed,
        Some(Output::Configured { changed, .. }) => *changed = !*changed,
        Some(output @ Output::Absent) => {
            *output = Output::Available {
                available: true,
                state: 1,
                generation: 1,
            };
        }
        _ => {}
    }
}

/// Changes one answer into one that no state gives. Says how.
fn make_impossible(history: &mut [Entry], rng: &mut StdRng) -> Option<&'static str> {
    let last_generation = 1_000_000;
    let which = rng.random_range(history.len() / 2..history.len());
    match history[which].output.as_mut()? {
        Output::Changed(seen) | Output::Seen(seen) => match rng.random_range(0..3) {
            0 => {
                seen.totals.failures += 1000;
                Some("counted what nobody reported")
            }
            1 => {
                seen.generation = last_generation;
                Some("a generation that nobody made")
            }
            _ => {
                seen.reason = Some(usize::MAX);
                Some("a reason that nobody gave")
            }
        },
        Output::Reported(items) => {
            let item = items.last_mut().filter(|item| !item.is_not_found())?;
            item.failure_count += 1000;
            Some("failures that nobody reported")
        }
        Output::Admission { admitted, permit, .. } => {
            *admitted = false;
            *permit = true;
            Some("a permit without admission")
        }
        _ => None,
    }
}
