//! What is known of a circuit beyond the word: for rejections, and for going on alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use brama_core::ClusterTime;
use brama_core::circuit::StateName;
use brama_core::event::{Event, EventKind};
use brama_core::policy::EffectivePolicy;
use brama_core::query::CircuitStatus;

/// A circuit as this client was last told.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// `None`: there is no such circuit, or nothing was told yet.
    pub(crate) state: Option<StateName>,
    pub(crate) generation: u64,
    pub(crate) failure_count: u32,
    pub(crate) openings_in_a_row: u32,
    /// Why it is not closed.
    pub(crate) reason: Option<Arc<str>>,
    /// When the current opening began.
    pub(crate) opened_at: Option<ClusterTime>,
    /// When it half-opens, by this process's clock; `None`: it is not open, or only by hand.
    pub(crate) ends: Option<Instant>,
    pub(crate) policy: Arc<EffectivePolicy>,
    /// The newest event of the circuit that this contains.
    pub(crate) revision: u64,
}

impl View {
    /// Before anything was told.
    pub(crate) fn unknown() -> Self {
        Self {
            state: None,
            generation: 0,
            failure_count: 0,
            openings_in_a_row: 0,
            reason: None,
            opened_at: None,
            ends: None,
            policy: Arc::default(),
            revision: 0,
        }
    }

    pub(crate) fn of(status: &CircuitStatus, clock: &Clock) -> Self {
        Self {
            state: Some(status.state),
            generation: status.generation,
            failure_count: status.failure_count,
            openings_in_a_row: status.openings_in_a_row,
            reason: (status.state != StateName::Closed)
                .then(|| status.last_reason.clone())
                .flatten(),
            opened_at: status.opened_at,
            ends: status.expires_at.map(|at| clock.local(at)),
            policy: Arc::new(status.policy.clone()),
            revision: status.revision,
        }
    }

    /// This, after `event`.
    pub(crate) fn after(&self, event: &Event, clock: &Clock) -> Self {
        let mut view = Self {
            state: event.new_state,
            generation: event.generation.max(self.generation),
            failure_count: event.failure_count,
            openings_in_a_row: event.openings_in_a_row,
            revision: event.revision,
            ..self.clone()
        };
        match event.kind {
            EventKind::CircuitOpened => {
                view.reason = event.reason.clone();
                view.opened_at = Some(event.time);
                view.ends = event.expires_at.map(|at| clock.local(at));
            }
            EventKind::CircuitHalfOpened => view.ends = None,
            _ if event.new_state == Some(StateName::Open) => {}
            _ if event.new_state == Some(StateName::HalfOpen) => {}
            _ => (view.reason, view.opened_at, view.ends) = (None, None, None),
        }
        view
    }

    /// When it makes sense to ask again; `None`: when somebody has closed it by hand.
    pub(crate) fn retry_after(&self, now: Instant) -> Option<Duration> {
        match (self.state, self.ends) {
            // It is due; the cluster says when it is so.
            (Some(StateName::Open), Some(ends)) => {
                Some(ends.saturating_duration_since(now).max(Duration::from_millis(1)))
            }
            (Some(StateName::Open), None) => None,
            _ => Some(Duration::from_millis(1)),
        }
    }
}

/// What cluster time it is, as far as messages tell: each was sent when its time was, and came a little later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    time: ClusterTime,
    at: Instant,
}

impl Clock {
    /// A message of `time` came now.
    pub(crate) fn new(time: ClusterTime) -> Self {
        Self {
            time,
            at: Instant::now(),
        }
    }

    /// Another message came: the one that was fastest says best.
    pub(crate) fn hear(&mut self, time: ClusterTime) {
        let now = Instant::now();
        let expected = self.time.as_micros() + micros(now.saturating_duration_since(self.at));
        if time.as_micros() >= expected {
            *self = Self { time, at: now };
        }
    }

    /// When `time` is, by this process's clock.
    pub(crate) fn local(&self, time: ClusterTime) -> Instant {
        self.at
            .checked_add(time.since(self.time))
            .and_then(|at| at.checked_sub(self.time.since(time)))
            .unwrap_or(self.at)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_believes_the_fastest_message() {
        let mut clock = Clock::new(ClusterTime::from_micros(5_000_000));
        let first = clock.local(ClusterTime::from_micros(6_000_000));
        assert_eq!(first, clock.at + Duration::from_secs(1));
        assert_eq!(
            clock.local(ClusterTime::from_micros(4_000_000)),
            clock.at - Duration::from_secs(1)
        );
        // It was under way for long.
        clock.hear(ClusterTime::from_micros(4_000_000));
        assert_eq!(clock.local(ClusterTime::from_micros(6_000_000)), first);
        clock.hear(ClusterTime::from_micros(50_000_000));
        assert!(clock.local(ClusterTime::from_micros(50_000_000)) <= Instant::now());
    }
}
