//! Outcomes, one by one.

use super::{Item, Micros, Output, Phase, Position, State};
use crate::check::linear::entry::{APPLIED, LATE};
use crate::history::Counted;

impl State {
    /// All items of one batch that are about this circuit, in their order.
    pub(super) fn report(
        self,
        items: &[Item],
        output: Option<&Output>,
        position: Position,
        low: Micros,
        after: &mut Vec<Self>,
    ) {
        let said = match output {
            None => None,
            Some(Output::Reported(said)) if said.len() == items.len() => Some(said),
            // A single one is told that there is no such circuit.
            Some(Output::Absent) if self.life.is_none() => None,
            Some(_) => return,
        };
        let mut states = vec![self];
        for (n, item) in items.iter().enumerate() {
            let said = said.and_then(|said| said.get(n));
            states = states
                .into_iter()
                .flat_map(|state| state.item(item, said, low))
                .collect();
        }
        after.extend(
            states
                .into_iter()
                .filter_map(|mut state| state.reach(position).then_some(state)),
        );
    }

    /// More than one if the generation is not known, and the item names one that it can be.
    fn item(mut self, item: &Item, said: Option<&Counted>, low: Micros) -> Vec<Self> {
        let Some(life) = &mut self.life else {
            // Nothing to count for.
            let fits = said.is_none_or(Counted::is_not_found);
            return if fits { vec![self] } else { Vec::new() };
        };
        let mut states = Vec::new();
        match item.generation {
            Some(named) if life.vague && named >= life.generation => {
                let mut same = self.clone();
                if let Some(life) = &mut same.life {
                    life.generation = named;
                    life.vague = false;
                }
                states.extend(same.count(item, false, said, low));
                states.extend(self.count(item, true, said, low));
            }
            Some(named) => {
                let is_other = named != life.generation;
                states.extend(self.count(item, is_other, said, low));
            }
            None => states.extend(self.count(item, false, said, low)),
        }
        states
    }

    fn count(
        mut self,
        item: &Item,
        is_other_generation: bool,
        said: Option<&Counted>,
        low: Micros,
    ) -> Option<Self> {
        let late = is_other_generation || !self.give_back(item.permit);
        let generation = self.life.as_ref().map_or(0, |life| life.generation);
        for success in &item.successes {
            if let Some(life) = &mut self.life {
                life.totals.successes += u64::from(*success);
                life.totals.failures += u64::from(!*success);
                let has_moved = item.generation.is_some() && life.generation != generation;
                if !late && !has_moved {
                    self.decide(*success, low);
                }
            }
        }
        let Some(said) = said else { return Some(self) };
        let result = if late { LATE } else { APPLIED };
        let fits = said.result == result
            && Some(said.state) == self.state()
            && Some(said.failure_count) == self.life.as_ref().map(|life| life.failures)
            && self.has(said.generation);
        fits.then_some(self)
    }

    /// One outcome, by the table of section 3.
    fn decide(&mut self, success: bool, low: Micros) {
        let Some(rules) = self.rules() else { return };
        let Some(life) = &mut self.life else { return };
        match (&mut life.phase, success) {
            (Phase::Closed, true) => life.failures = 0,
            (Phase::Closed, false) => {
                life.failures += 1;
                if life.failures >= rules.max_attempts {
                    self.open(None, low);
                }
            }
            (Phase::Open { .. }, _) => {}
            (Phase::HalfOpen { successes, .. }, true) => {
                *successes += 1;
                if *successes >= rules.successes {
                    life.phase = Phase::Closed;
                    life.generation += 1;
                    life.failures = 0;
                    life.openings = 0;
                }
            }
            (Phase::HalfOpen { .. }, false) => self.open(None, low),
        }
    }

    /// Gives the permit's place back. False: a permit was named, and it is not out.
    fn give_back(&mut self, permit: Option<u128>) -> bool {
        let Some(permit) = permit else { return true };
        let Some(Phase::HalfOpen { permits, .. }) = self.life.as_mut().map(|life| &mut life.phase) else {
            return false;
        };
        let before = permits.len();
        permits.retain(|(id, _)| *id != permit);
        permits.len() < before
    }
}
