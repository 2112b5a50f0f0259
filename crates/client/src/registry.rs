//! The circuits that a program uses: found by name without a lock.

use std::hash::Hash;
use std::sync::Arc;

use arc_swap::ArcSwap;
use brama_core::CircuitName;
use hashbrown::{Equivalent, HashMap};
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;
use tokio::sync::Notify;

use crate::error::Error;
use crate::local::Local;
use crate::local::hub::Hub;

/// Circuits that one client keeps: each costs a kilobyte or so, and a place in its watch.
pub(crate) const MAX_CIRCUITS: usize = 10_000;

type Map = HashMap<CircuitName, Arc<Local>, FxBuildHasher>;

/// All circuits in use. None is ever taken out: who asks for one may hold it for as long as the client lives.
#[derive(Debug)]
pub(crate) struct Registry {
    map: ArcSwap<Map>,
    growing: Mutex<()>,
    /// Rings when there is a new one.
    pub(crate) grown: Notify,
    hub: Arc<Hub>,
}

/// A name that is only looked up.
#[derive(Clone, Copy, Hash)]
pub(crate) struct Key<'a> {
    pub(crate) scope: Option<&'a str>,
    pub(crate) identifier: &'a str,
}

impl Equivalent<CircuitName> for Key<'_> {
    fn equivalent(&self, name: &CircuitName) -> bool {
        self.identifier == name.identifier && self.scope == name.scope.as_deref()
    }
}

impl Registry {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self {
            map: ArcSwap::from_pointee(Map::default()),
            growing: Mutex::new(()),
            grown: Notify::new(),
            hub,
        }
    }

    #[inline]
    pub(crate) fn find(&self, key: &Key<'_>) -> Option<Arc<Local>> {
        self.map.load().get(key).cloned()
    }

    pub(crate) fn get(&self, name: &CircuitName) -> Option<Arc<Local>> {
        self.map.load().get(name).cloned()
    }

    /// The circuit of this name, from now on in use.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] when the name is not allowed, [`Error::LimitReached`] when the client has too many.
    pub(crate) fn get_or_insert(&self, name: &CircuitName) -> Result<Arc<Local>, Error> {
        if let Some(known) = self.get(name) {
            return Ok(known);
        }
        name.validate()?;
        let _growing = self.growing.lock();
        if let Some(known) = self.get(name) {
            return Ok(known);
        }
        let map = self.map.load();
        if map.len() >= MAX_CIRCUITS {
            return Err(Error::LimitReached {
                limit: "TOO_MANY_LOCAL_CIRCUITS".to_owned(),
                message: format!("this client uses {MAX_CIRCUITS} circuits, its limit"),
            });
        }
        let local = Local::new(name.clone(), self.hub.clone());
        let mut larger = Map::clone(&map);
        larger.insert(name.clone(), local.clone());
        self.map.store(Arc::new(larger));
        // It may have begun in the moment in which the others were told.
        if self.hub.reach.is_degraded() {
            local.go_alone();
        }
        self.grown.notify_one();
        Ok(local)
    }

    pub(crate) fn len(&self) -> usize {
        self.map.load().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Local>> {
        self.map.load().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::{OnUnreachable, Reach};

    #[test]
    fn a_circuit_is_found_by_its_pair_and_is_one() {
        let hub = Arc::new(Hub::new(OnUnreachable::default(), Reach::new()));
        let registry = Registry::new(hub);
        let names = [(None, "a:b"), (Some("a"), "b"), (None, "b"), (Some("b"), "a")];
        let made: Vec<_> = names
            .iter()
            .map(|(scope, id)| {
                registry
                    .get_or_insert(&CircuitName::new(*scope, id).unwrap())
                    .unwrap()
            })
            .collect();
        for ((scope, identifier), local) in names.into_iter().zip(&made) {
            let found = registry.find(&Key { scope, identifier }).unwrap();
            assert!(Arc::ptr_eq(&found, local));
            let again = registry.get_or_insert(local.name()).unwrap();
            assert!(Arc::ptr_eq(&again, local));
        }
        let key = Key {
            scope: Some("b"),
            identifier: "b",
        };
        assert!(registry.find(&key).is_none());
        assert_eq!(registry.len(), 4);
        let empty = CircuitName {
            scope: None,
            identifier: "".into(),
        };
        assert!(registry.get_or_insert(&empty).is_err());
    }
}
