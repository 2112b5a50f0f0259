//! Which of the operations that nobody answered took effect at all.
//!
//! Without this, each of them could take effect at any moment until the end of the run, and there are more and more of them. What takes effect
//! leaves an event that names it; who is named by none changed nothing, or the product is broken, and then its effect has no explanation here. Only
//! that is taken from the event log: never when something happened, or what came first.

use std::collections::{HashMap, HashSet};

use brama_proto::v1::{Cause, EventType};

use crate::check::effects::named_item;
use crate::check::policies;
use crate::check::{Evidence, label};
use crate::history::{Action, Op};

/// The names that events give.
pub(super) struct Happened<'a> {
    /// Batches, reasons of acts by hand, and labels of registrations.
    names: HashSet<&'a str>,
    /// By permit: how often it was granted.
    permits: HashMap<String, usize>,
    /// Configurations that can have an event, by operation.
    configured: HashSet<usize>,
}

impl<'a> Happened<'a> {
    pub(super) fn of(evidence: &'a Evidence) -> Self {
        let mut happened = Self {
            names: HashSet::new(),
            permits: HashMap::new(),
            configured: policies::possible(evidence),
        };
        for seen in evidence.events.values() {
            let event = &seen.event;
            happened.names.extend(label(event));
            happened.names.extend(named_item(event).map(|(batch, _)| batch));
            if event.cause() == Cause::Manual {
                happened.names.extend(event.reason.as_deref());
            }
            if event.r#type() == EventType::ProbeGranted {
                *happened.permits.entry(hex::encode(&event.permit_id)).or_default() += 1;
            }
        }
        happened
    }

    /// How often an operation may have taken effect beside its answer, if it has one.
    pub(super) fn times(&self, op: &Op) -> usize {
        let name = match &op.action {
            Action::Acquire { permit, .. } => {
                let granted = self.permits.get(permit).copied().unwrap_or(0);
                let doubtful = usize::try_from(op.doubtful).unwrap_or(usize::MAX);
                return granted.min(doubtful);
            }
            Action::Configure { .. } => return usize::from(self.configured.contains(&op.id)),
            // One without a label is named by nothing.
            Action::Register { label, .. } if label.is_empty() => return 1,
            Action::Register { label, .. } => label,
            Action::Unregister { reason, .. }
            | Action::Open { reason, .. }
            | Action::Close { reason, .. }
            | Action::Reset { reason, .. } => reason,
            Action::Report { batch, .. } | Action::Single { batch, .. } => batch,
            Action::Status { .. } | Action::Available { .. } | Action::List { .. } => return 0,
        };
        usize::from(self.names.contains(name.as_str()))
    }
}
