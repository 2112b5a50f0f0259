//! Where a name's circuit is found fast. Derived from the state: never written, rebuilt when a state is restored.
//!
//! The ordered map of names is what listings, snapshots and copies of the state need; but to find one name in it is the dearest step of a
//! report, because each comparison on the way looks at another piece of memory. Nothing ever iterates over this one, so its order does not matter.
//! It holds hashes, not names: a name has its circuit to be compared with, and a second copy of a hundred thousand would take 5 MiB more.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use hashbrown::HashTable;
use imbl::OrdMap;

use crate::circuits::Circuits;
use crate::command::CircuitId;
use crate::name::CircuitName;

/// The ids of all registered names.
#[derive(Debug, Default)]
pub(super) struct Index {
    ids: HashTable<(u64, CircuitId)>,
}

impl Index {
    pub(super) fn of(names: &OrdMap<CircuitName, CircuitId>) -> Self {
        let mut index = Self {
            ids: HashTable::with_capacity(names.len()),
        };
        for (name, id) in names {
            index.insert(name, *id);
        }
        index
    }

    /// The id of a name, given what it is the index of.
    pub(super) fn get(&self, name: &CircuitName, circuits: &Circuits) -> Option<CircuitId> {
        let hash = hash(name);
        let is_it = |(each, id): &(u64, CircuitId)| {
            *each == hash && circuits.get(id).is_some_and(|circuit| circuit.name == *name)
        };
        self.ids.find(hash, is_it).map(|(_, id)| *id)
    }

    /// The id of the first name with this [`hash`], most likely the one that is meant. Looks at no circuit.
    pub(super) fn guess(&self, hash: u64) -> Option<CircuitId> {
        self.ids.find(hash, |(each, _)| *each == hash).map(|(_, id)| *id)
    }

    /// One in which the first entry of a hash is wrong.
    #[cfg(test)]
    pub(super) fn misled<'a>(
        wrong: impl Iterator<Item = (&'a CircuitName, &'a CircuitId)>,
        right: impl Iterator<Item = (&'a CircuitName, &'a CircuitId)>,
    ) -> Self {
        let mut index = Self::default();
        wrong.chain(right).for_each(|(name, id)| index.insert(name, *id));
        index
    }

    /// A name that is not there yet.
    pub(super) fn insert(&mut self, name: &CircuitName, id: CircuitId) {
        let hash = hash(name);
        self.ids.insert_unique(hash, (hash, id), |(hash, _)| *hash);
    }

    pub(super) fn remove(&mut self, name: &CircuitName, id: CircuitId) {
        if let Ok(entry) = self.ids.find_entry(hash(name), |(_, each)| *each == id) {
            entry.remove();
        }
    }
}

/// The same in every process: nothing random comes into the core.
pub(super) fn hash(name: &CircuitName) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(name)
}
