//! How many circuits are in which state: counted as they change, so that it costs nothing to know.

use crate::circuit::{Circuit, State};

/// Circuits by state, and the permits that are out. Derived: never written, counted anew when a state is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Census {
    /// Circuits through which all calls pass.
    pub closed: u64,
    /// Circuits through which none passes.
    pub open: u64,
    /// Circuits through which probes pass.
    pub half_open: u64,
    /// Permits of probes that are neither reported nor over.
    pub permits: u64,
}

impl Census {
    /// Counts a circuit as it is now.
    pub(crate) fn enter(&mut self, circuit: &Circuit) {
        let (place, permits) = self.place(circuit);
        *place += 1;
        self.permits += permits;
    }

    /// Counts a circuit no more as it is now; before it changes.
    pub(crate) fn leave(&mut self, circuit: &Circuit) {
        let (place, permits) = self.place(circuit);
        *place -= 1;
        self.permits -= permits;
    }

    fn place(&mut self, circuit: &Circuit) -> (&mut u64, u64) {
        match &circuit.state {
            State::Closed => (&mut self.closed, 0),
            State::Open { .. } => (&mut self.open, 0),
            State::HalfOpen { permits, .. } => (&mut self.half_open, permits.len() as u64),
        }
    }
}
