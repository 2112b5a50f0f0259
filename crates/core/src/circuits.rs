//! The registered circuits by their ids: ordered, and cheap to copy.
//!
//! An ordered map of circuits would do, but finding one of ten thousand in it takes some twenty steps, each of which waits for memory that the one
//! before has led to, and each report finds its circuit on three nodes. Ids are given out one by one, so those that are registered lie close
//! together: here circuits with neighbouring ids share a page, the ordered map is one of pages, and that map stays in the processor's caches.

use std::sync::Arc;

use imbl::OrdMap;

use crate::circuit::Circuit;
use crate::command::CircuitId;

/// Places of a page. Many make the map small; few make it cheap that a page has only one circuit left, and that a page is copied when it is changed
/// after a copy of the state was taken.
const PLACES: usize = 32;

type Page = [Option<Arc<Circuit>>; PLACES];

/// Circuits by id, in the order of ids. Its clone is O(1).
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Circuits {
    /// No page is empty.
    pages: OrdMap<u64, Arc<Page>>,
    len: usize,
}

/// The page of an id, and its place there.
fn position(id: CircuitId) -> (u64, usize) {
    let places = PLACES as u64;
    (id.0 / places, (id.0 % places) as usize)
}

impl Circuits {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get(&self, id: &CircuitId) -> Option<&Arc<Circuit>> {
        let (page, place) = position(*id);
        self.pages.get(&page)?[place].as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: &CircuitId) -> Option<&mut Arc<Circuit>> {
        let (page, place) = position(*id);
        Arc::make_mut(self.pages.get_mut(&page)?)[place].as_mut()
    }

    /// Gives the circuit that had this id before.
    pub(crate) fn insert(&mut self, id: CircuitId, circuit: Arc<Circuit>) -> Option<Arc<Circuit>> {
        let (page, place) = position(id);
        let page = self.pages.entry(page).or_default();
        let before = Arc::make_mut(page)[place].replace(circuit);
        self.len += usize::from(before.is_none());
        before
    }

    pub(crate) fn remove(&mut self, id: &CircuitId) -> Option<Arc<Circuit>> {
        let (number, place) = position(*id);
        let page = Arc::make_mut(self.pages.get_mut(&number)?);
        let circuit = page[place].take()?;
        if page.iter().all(Option::is_none) {
            self.pages.remove(&number);
        }
        self.len -= 1;
        Some(circuit)
    }

    /// All of them, in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (CircuitId, &Arc<Circuit>)> {
        self.pages.iter().flat_map(|(number, page)| {
            let first = number * PLACES as u64;
            let places = (first..).map(CircuitId).zip(page.iter());
            places.filter_map(|(id, circuit)| Some((id, circuit.as_ref()?)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::circuit;

    /// What is done to the circuit of an id.
    #[derive(Clone, Copy, Debug)]
    enum Act {
        Insert,
        Remove,
        Count,
        Copy,
    }

    fn act() -> impl Strategy<Value = (Act, u64)> {
        let acts = [Act::Insert, Act::Insert, Act::Remove, Act::Count, Act::Copy];
        // A few pages, also far apart.
        let ids = prop_oneof![0..100_u64, 1_000_000..1_000_010_u64];
        (proptest::sample::select(acts.to_vec()), ids)
    }

    fn shown(circuits: &Circuits) -> Vec<(u64, u32)> {
        let shown = circuits.iter().map(|(id, circuit)| (id.0, circuit.failure_count));
        shown.collect()
    }

    proptest! {
        /// Also a copy: it stays as it was.
        #[test]
        fn it_is_an_ordered_map(acts in proptest::collection::vec(act(), 0..300)) {
            let mut circuits = Circuits::default();
            let mut model = BTreeMap::<u64, u32>::new();
            let mut copy = (circuits.clone(), model.clone());
            for (n, (act, id)) in (0..).zip(acts) {
                let key = CircuitId(id);
                match act {
                    Act::Insert => {
                        let before = circuits.insert(key, Arc::new(circuit::sample(n)));
                        prop_assert_eq!(before.map(|circuit| circuit.failure_count), model.insert(id, n));
                    }
                    Act::Remove => {
                        let before = circuits.remove(&key);
                        prop_assert_eq!(before.map(|circuit| circuit.failure_count), model.remove(&id));
                    }
                    Act::Count => {
                        let found = circuits.get_mut(&key).map(|circuit| {
                            Arc::make_mut(circuit).failure_count = n;
                        });
                        prop_assert_eq!(found, model.get_mut(&id).map(|count| *count = n));
                    }
                    Act::Copy => copy = (circuits.clone(), model.clone()),
                }
                prop_assert_eq!(circuits.len(), model.len());
                prop_assert_eq!(circuits.is_empty(), model.is_empty());
                let found = circuits.get(&key).map(|circuit| circuit.failure_count);
                prop_assert_eq!(found, model.get(&id).copied());
            }
            prop_assert_eq!(shown(&circuits), model.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(shown(&copy.0), copy.1.into_iter().collect::<Vec<_>>());
            for id in model.keys() {
                circuits.remove(&CircuitId(*id));
            }
            prop_assert_eq!(circuits, Circuits::default());
        }
    }
}
