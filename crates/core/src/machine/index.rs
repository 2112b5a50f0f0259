//! Where a name's circuit is found fast. Derived from the state: never written, rebuilt when a state is restored.
//!
//! The ordered map of names is what listings, snapshots and copies of the state need; but to find one name in it is the dearest step of a
//! report, because each comparison on the way looks at another piece of memory. Nothing ever iterates over this one, so its order does not matter.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use imbl::OrdMap;

use crate::command::CircuitId;
use crate::name::CircuitName;

/// The ids of all registered names.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Keyed the same in every process: nothing random comes into the core.
    ids: HashMap<CircuitName, CircuitId, BuildHasherDefault<DefaultHasher>>,
}

impl Index {
    pub(super) fn of(names: &OrdMap<CircuitName, CircuitId>) -> Self {
        Self {
            ids: names.iter().map(|(name, id)| (name.clone(), *id)).collect(),
        }
    }

    pub(super) fn get(&self, name: &CircuitName) -> Option<CircuitId> {
        self.ids.get(name).copied()
    }

    pub(super) fn insert(&mut self, name: CircuitName, id: CircuitId) {
        self.ids.insert(name, id);
    }

    pub(super) fn remove(&mut self, name: &CircuitName) {
        self.ids.remove(name);
    }
}
