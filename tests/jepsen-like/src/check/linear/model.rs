//! One circuit as the contract describes it (sections 2 to 5), one operation after the other.
//!
//! Written from the contract alone; it shares no line with the product. Where the contract leaves a choice open, the documented one is taken
//! (docs and golden scripts): a failed probe leaves `failure_count` as it is; opening an open circuit is a new generation at the same
//! place in the row; closing a closed circuit changes nothing; resetting a closed one is a new generation only if there was something to
//! forget; outcomes of one item count one by one, and what comes after a transition in the same item counts in the new state unless the
//! item named a generation.
//!
//! **Time.** No operation moves the clock. That an opening ends and that a permit runs out are steps which the model may take by itself
//! before an operation, once they can be due: not before the moment at which the cause can have taken effect at the earliest, plus the
//! length, less the tolerance. So an early end has no explanation. A late one has: that is what `timing` measures. The moments come from the
//! harness's clock only, never from the event log.
//!
//! **Revisions.** Answers say at which revision they were given. A state knows a bound below which the log cannot be any more, so an answer
//! that names an older one does not fit. Which revision an operation in doubt has, or a step of a timer, nobody knows: it moves no bound, so that
//! it makes no difference on which side of another operation it stands if neither shows in the other.

use super::entry::{Input, Item, Output, Position, ReasonId, Seen};
use crate::history::Totals;
use crate::rules::{Options, Rules};
use crate::time::Micros;

mod report;

/// Cluster time may run this much faster than the harness's clock: 0.1 % (in millionths).
const FASTER_PER_MILLION: u64 = 1000;

/// Everything that decides what one circuit does and shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// `None`: it is not registered.
    pub(super) life: Option<Life>,
    /// Above every generation that the name has had.
    pub(super) fresh: u64,
    /// The runtime global options.
    pub(super) global: Options,
    /// The log is at least so long.
    pub(super) revision: u64,
    /// It is at least so late.
    pub(super) now: Micros,
}

/// A registered circuit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Life {
    pub(super) phase: Phase,
    pub(super) generation: u64,
    /// Whether `generation` is only the least that it can be: nobody has seen it since it was registered.
    pub(super) vague: bool,
    pub(super) failures: u32,
    pub(super) openings: u32,
    pub(super) own: Options,
    pub(super) totals: Totals,
    pub(super) reason: Option<ReasonId>,
}

/// The three states.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Closed,
    Open {
        /// It ends not before this; `None`: until a manual act.
        until: Option<Micros>,
        lasts_ms: Option<u64>,
    },
    HalfOpen {
        successes: u32,
        /// Each with the moment before which it does not run out; in the order of the permits.
        permits: Vec<(u128, Micros)>,
    },
}

/// When something happens: not before, not after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) low: Micros,
    pub(super) high: Micros,
}

impl State {
    /// The states in which `input` can leave the circuit in this window, giving `output` (if it is known) at `position`.
    pub(super) fn step(
        &self,
        input: &Input,
        output: Option<&Output>,
        position: Position,
        window: Window,
    ) -> Vec<Self> {
        let mut after = Vec::new();
        for before in self.by_themselves(input, window) {
            before.apply(input, output, position, window.low, &mut after);
        }
        after
    }

    /// This state, and those that it can have come to by itself in the meantime, as far as `input` tells them apart.
    fn by_themselves(&self, input: &Input, window: Window) -> Vec<Self> {
        let mut states = vec![self.clone()];
        match self.life.as_ref().map(|life| &life.phase) {
            Some(Phase::Open {
                until: Some(until), ..
            }) if *until <= window.high => states.push(self.half_opened(*until)),
            Some(Phase::HalfOpen { permits, .. }) if input.looks_at_permits() => {
                let due: Vec<_> = permits
                    .iter()
                    .filter(|(_, until)| *until <= window.high)
                    .collect();
                for some in 1..1_u32 << due.len().min(10) {
                    let mut state = self.clone();
                    for (n, (permit, until)) in due.iter().enumerate() {
                        if some & (1 << n) != 0 {
                            state.expire(*permit, *until);
                        }
                    }
                    states.push(state);
                }
            }
            _ => {}
        }
        states
    }

    /// It is so late. Moments that are over make no difference any more: states that differ in nothing else become equal.
    pub(super) fn forget_before(&mut self, low: Micros) {
        self.now = self.now.max(low);
        match self.life.as_mut().map(|life| &mut life.phase) {
            Some(Phase::Open {
                until: Some(until), ..
            }) => *until = (*until).max(low),
            Some(Phase::HalfOpen { permits, .. }) => {
                for (_, until) in permits {
                    *until = (*until).max(low);
                }
            }
            _ => {}
        }
    }

    fn half_opened(&self, until: Micros) -> Self {
        let mut state = self.clone();
        state.now = state.now.max(until);
        if let Some(life) = &mut state.life {
            life.generation += 1;
            life.phase = Phase::HalfOpen {
                successes: 0,
                permits: Vec::new(),
            };
        }
        state
    }

    fn expire(&mut self, permit: u128, until: Micros) {
        self.now = self.now.max(until);
        if let Some(Life {
            phase: Phase::HalfOpen { permits, .. },
            ..
        }) = &mut self.life
        {
            permits.retain(|(id, _)| *id != permit);
        }
    }

    fn apply(
        mut self,
        input: &Input,
        output: Option<&Output>,
        position: Position,
        low: Micros,
        after: &mut Vec<Self>,
    ) {
        let low = self.now.max(low);
        if let Input::Report(items) = input {
            return self.report(items, output, position, low, after);
        }
        let fits = match (input, self.life.is_some()) {
            (Input::Register { policy, update }, _) => self.register(policy, *update, output),
            (Input::ConfigureAll { set, clear }, _) => {
                let before = self.global;
                self.global = before.configured(set, clear);
                let changed = before != self.global;
                let now = Rules::of(&Options::default(), &self.global);
                output.is_none_or(|output| {
                    matches!(output, Output::Configured { changed: said, rules } if *said == changed && *rules == now)
                })
            }
            (Input::Unregister, existed) => {
                self.unregister();
                output.is_none_or(
                    |output| matches!(output, Output::Unregistered { existed: said } if *said == existed),
                )
            }
            (_, false) => output.is_none_or(|output| *output == Output::Absent),
            (Input::Configure { set, clear }, true) => self.configure(set, clear, output),
            (Input::Acquire { permit }, true) => self.acquire(*permit, low, output),
            (Input::Open { lasts_ms, reason }, true) => {
                self.open(*lasts_ms, low);
                self.by_hand(*reason, output)
            }
            (Input::Close { reason }, true) => {
                self.close_by_hand();
                self.by_hand(*reason, output)
            }
            (Input::Reset { reason }, true) => {
                self.reset();
                self.by_hand(*reason, output)
            }
            (Input::Read, true) => match output {
                None => true,
                Some(Output::Seen(seen)) => self.shows(seen),
                Some(Output::Available {
                    available,
                    state,
                    generation,
                }) => {
                    self.is_available() == *available && self.state() == Some(*state) && self.has(*generation)
                }
                Some(_) => false,
            },
            (Input::Report(_), true) => false,
        };
        if fits && self.reach(position) {
            after.push(self);
        }
    }

    /// The log is where the answer says. False: it cannot be.
    fn reach(&mut self, position: Position) -> bool {
        if self.revision > position.most {
            return false;
        }
        self.revision = self.revision.max(position.least);
        true
    }

    fn register(&mut self, policy: &Options, update: bool, output: Option<&Output>) -> bool {
        let new = self.life.is_none();
        if new {
            self.life = Some(Life {
                phase: Phase::Closed,
                generation: self.fresh.max(1),
                vague: true,
                failures: 0,
                openings: 0,
                own: *policy,
                totals: Totals::default(),
                reason: None,
            });
        } else if update && let Some(life) = &mut self.life {
            life.own = *policy;
        }
        match output {
            None => true,
            Some(Output::Registered { created, seen }) => *created == new && self.shows(seen),
            Some(_) => false,
        }
    }

    fn unregister(&mut self) {
        if let Some(life) = self.life.take() {
            self.fresh = self.fresh.max(life.generation + 1);
        }
    }

    fn configure(
        &mut self,
        set: &Options,
        clear: &[crate::rules::OptionName],
        output: Option<&Output>,
    ) -> bool {
        let Some(life) = &mut self.life else {
            return false;
        };
        let before = life.own;
        life.own = before.configured(set, clear);
        let (changed, now) = (before != life.own, Rules::of(&life.own, &self.global));
        output.is_none_or(|output| {
            matches!(output, Output::Configured { changed: said, rules } if *said == changed && *rules == now)
        })
    }

    fn acquire(&mut self, permit: u128, low: Micros, output: Option<&Output>) -> bool {
        let Some(rules) = self.rules() else {
            return false;
        };
        let granted = match self.life.as_mut().map(|life| &mut life.phase) {
            Some(Phase::HalfOpen { permits, .. }) => {
                let is_out = permits.iter().any(|(id, _)| *id == permit);
                let is_new = !is_out && permits.len() < rules.probes as usize;
                if is_new {
                    permits.push((permit, low + at_least(rules.probe_timeout_ms)));
                    permits.sort_unstable();
                }
                is_out || is_new
            }
            _ => false,
        };
        let closed = self.life.as_ref().is_some_and(|life| life.phase == Phase::Closed);
        match output {
            None => true,
            Some(Output::Admission {
                admitted,
                state,
                generation,
                permit,
            }) => {
                *admitted == (granted || closed)
                    && *permit == granted
                    && self.state() == Some(*state)
                    && self.has(*generation)
            }
            Some(_) => false,
        }
    }

    /// Opens the circuit for the policy's time, or for another; `Some(None)`: until a manual act.
    fn open(&mut self, own: Option<Option<u64>>, low: Micros) {
        let Some(rules) = self.rules() else { return };
        if let Some(life) = &mut self.life {
            life.openings = match life.phase {
                Phase::Open { .. } => life.openings.max(1),
                Phase::Closed | Phase::HalfOpen { .. } => life.openings + 1,
            };
            let lasts_ms = own.unwrap_or_else(|| rules.opening_ms(life.openings));
            life.phase = Phase::Open {
                until: lasts_ms.map(|ms| low + at_least(ms)),
                lasts_ms,
            };
            life.generation += 1;
        }
    }

    fn close_by_hand(&mut self) {
        if let Some(life) = &mut self.life {
            life.openings = 0;
            if life.phase != Phase::Closed {
                life.phase = Phase::Closed;
                life.generation += 1;
            }
        }
    }

    fn reset(&mut self) {
        if let Some(life) = &mut self.life {
            if life.phase != Phase::Closed || life.failures > 0 || life.openings > 0 {
                life.generation += 1;
            }
            life.phase = Phase::Closed;
            life.failures = 0;
            life.openings = 0;
        }
    }

    fn by_hand(&mut self, reason: ReasonId, output: Option<&Output>) -> bool {
        if let Some(life) = &mut self.life {
            life.reason = Some(reason);
        }
        match output {
            None => true,
            Some(Output::Changed(seen)) => self.shows(seen),
            Some(_) => false,
        }
    }

    /// Whether an answer that shows this can have been given now.
    fn shows(&mut self, seen: &Seen) -> bool {
        let Some(rules) = self.rules() else {
            return false;
        };
        let state = self.state();
        let Some(life) = &mut self.life else {
            return false;
        };
        let (permits, successes, lasts_ms) = match &life.phase {
            Phase::Closed => (0, 0, None),
            Phase::Open { lasts_ms, .. } => (0, 0, *lasts_ms),
            Phase::HalfOpen { successes, permits } => (permits.len(), *successes, None),
        };
        let fits = Some(seen.state) == state
            && seen.failures == life.failures
            && seen.openings == life.openings
            && seen.totals == life.totals
            && seen.reason == life.reason
            && seen.permits as usize == permits
            && seen.successes == successes
            && seen.lasts_us == lasts_ms.map(|ms| ms * 1000)
            && seen.rules.is_none_or(|seen| seen == rules);
        fits && self.has(seen.generation)
    }

    /// Whether the circuit can have this generation; if nobody had seen it before, it has it from now on.
    fn has(&mut self, generation: u64) -> bool {
        let Some(life) = &mut self.life else {
            return false;
        };
        if life.vague && generation >= life.generation {
            life.generation = generation;
            life.vague = false;
        }
        life.generation == generation && !life.vague
    }

    fn is_available(&self) -> bool {
        match (self.life.as_ref().map(|life| &life.phase), self.rules()) {
            (Some(Phase::Closed), _) => true,
            (Some(Phase::HalfOpen { permits, .. }), Some(rules)) => permits.len() < rules.probes as usize,
            _ => false,
        }
    }

    /// As in `brama.v1.State`.
    fn state(&self) -> Option<i32> {
        let state = match self.life.as_ref()?.phase {
            Phase::Closed => 1,
            Phase::Open { .. } => 2,
            Phase::HalfOpen { .. } => 3,
        };
        Some(state)
    }

    fn rules(&self) -> Option<Rules> {
        let life = self.life.as_ref()?;
        Some(Rules::of(&life.own, &self.global))
    }
}

/// The least that so many milliseconds of cluster time can be by the harness's clock.
fn at_least(ms: u64) -> Micros {
    let us = ms * 1000;
    us - us * FASTER_PER_MILLION / 1_000_000
}
