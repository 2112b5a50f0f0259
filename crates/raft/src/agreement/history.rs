//! The newest rolling hashes, by log index: so that a node can answer for a position that it has left behind.

use std::collections::VecDeque;

/// How many are kept: some seconds of a cluster that is as busy as it can be, in 256 KiB.
pub(crate) const KEPT: usize = 32 * 1024;

/// The rolling hash after each of the newest entries. Entering one is O(1), and so is finding one.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Index of the newest.
    newest: u64,
    hashes: VecDeque<u64>,
}

impl History {
    /// The entry at `index` was applied, and the hash is this now. What does not follow the newest one begins anew: a state that was
    /// restored, or that a snapshot replaced.
    pub(crate) fn enter(&mut self, index: u64, hash: u64) {
        if self.hashes.is_empty() || self.newest.checked_add(1) != Some(index) {
            self.hashes.clear();
        }
        if self.hashes.len() == KEPT {
            self.hashes.pop_front();
        }
        self.hashes.push_back(hash);
        self.newest = index;
    }

    /// Forgets all of it: another state begins.
    pub(crate) fn clear(&mut self) {
        self.hashes.clear();
    }

    /// The hash after the entry at `index`; `None`: it is not applied yet, or no longer kept.
    pub(crate) fn at(&self, index: u64) -> Option<u64> {
        let back = usize::try_from(self.newest.checked_sub(index)?).ok()?;
        let position = self.hashes.len().checked_sub(back + 1)?;
        self.hashes.get(position).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// So many entries, one after the other.
        Apply(usize),
        /// A snapshot, so far ahead of the newest entry (or behind it).
        Install(i64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (1_usize..40).prop_map(Step::Apply),
            1 => Just(Step::Apply(KEPT + 3)),
            1 => (-50_i64..50_000).prop_map(Step::Install),
        ];
        prop::collection::vec(step, 0..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever was entered is found for as long as it is kept, and nothing else ever is.
        #[test]
        fn it_finds_the_newest_ones_and_nothing_else(first in 0_u64..3, steps in steps()) {
            let mut history = History::default();
            let mut model = BTreeMap::new();
            let mut next = first;
            for step in steps {
                match step {
                    Step::Apply(count) => for _ in 0..count {
                        history.enter(next, !next);
                        model.insert(next, !next);
                        next += 1;
                    },
                    Step::Install(ahead) => {
                        next = next.saturating_add_signed(ahead);
                        history.clear();
                        history.enter(next, !next);
                        model = BTreeMap::from([(next, !next)]);
                        next += 1;
                    }
                }
                while model.len() > KEPT {
                    model.pop_first();
                }
                let edges = model.keys().next().into_iter().chain(model.keys().next_back()).copied();
                let asked: Vec<u64> = edges.flat_map(|edge| edge.saturating_sub(2)..edge + 3).chain([0, u64::MAX]).collect();
                for index in asked {
                    prop_assert_eq!(history.at(index), model.get(&index).copied(), "at {}", index);
                }
            }
        }
    }

    #[test]
    fn an_entry_that_does_not_follow_begins_anew() {
        let mut history = History::default();
        history.enter(7, 70);
        history.enter(8, 80);
        history.enter(10, 100);
        assert_eq!(
            [7, 8, 9, 10].map(|index| history.at(index)),
            [None, None, None, Some(100)]
        );
    }
}
