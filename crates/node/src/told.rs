//! What a watcher that wants changes only was told last.
//!
//! Such a watcher is a replica of a service that decides by what it watches. Each report of each other replica would be news to it, and nearly
//! none changes what it decides. Reports do change state and generation, but each such change has an event of its own, and those are always
//! sent. So all that a success or a failure can change for it is whether the circuit holds failures: then its next success matters.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;

use brama_core::event::{Event, EventKind};
use brama_core::name::CircuitName;
use brama_core::query::CircuitStatus;

/// Whether an event matters to who decides by its circuit, and was told whether it held failures before.
pub(crate) fn is_news(event: &Event, was_failing: bool) -> bool {
    let is_report = matches!(event.kind, EventKind::Success | EventKind::Failure);
    !is_report || was_failing != is_failing(event)
}

/// Whether the circuit holds failures after it.
pub(crate) fn is_failing(event: &Event) -> bool {
    event.failure_count > 0 && event.new_state.is_some()
}

/// The circuits that a watcher was last told to hold failures. Clones share it: the snapshot tells, then the events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    failing: Arc<Mutex<HashSet<CircuitName>>>,
}

impl Told {
    /// The watcher is sent this circuit.
    pub(crate) fn tell(&self, circuit: &CircuitStatus) {
        if circuit.failure_count > 0 {
            self.failing.lock().insert(circuit.name.clone());
        }
    }

    /// Whether the watcher is to be sent this event; if so, it counts as told.
    pub(crate) fn is_news(&self, event: &Event) -> bool {
        let Some(name) = &event.name else {
            return true;
        };
        let mut failing = self.failing.lock();
        if !is_news(event, failing.contains(name)) {
            return false;
        }
        if is_failing(event) {
            failing.insert(name.clone());
        } else {
            failing.remove(name);
        }
        true
    }
}
