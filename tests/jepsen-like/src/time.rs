//! The harness's own clock.

use std::time::{Duration, Instant};

/// Microseconds of the harness's monotonic clock since the run began.
pub type Micros = u64;

/// Counts from the moment at which it was made; copies count alike.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that shows zero now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn now(&self) -> Micros {
        micros(self.0.elapsed())
    }
}

/// Whole microseconds of a duration.
pub fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds since the epoch of a protobuf timestamp; zero for what lies before it.
pub fn of_timestamp(timestamp: &prost_types::Timestamp) -> Micros {
    let seconds = u64::try_from(timestamp.seconds).unwrap_or(0);
    let nanos = u64::try_from(timestamp.nanos).unwrap_or(0);
    seconds * 1_000_000 + nanos / 1000
}

/// Milliseconds, for people.
pub fn show_ms(us: Micros) -> String {
    let ms = us as f64 / 1000.0;
    if ms < 100.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{ms:.0} ms")
    }
}

/// The value below which `percent` of the sorted values lie (nearest rank); zero of none.
pub fn percentile(sorted: &[Micros], percent: usize) -> Micros {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&values, 50), 50);
        assert_eq!(percentile(&values, 99), 99);
        assert_eq!(percentile(&values, 100), 100);
        assert_eq!(percentile(&values, 0), 1);
        assert_eq!(percentile(&[7], 50), 7);
        assert_eq!(percentile(&[], 99), 0);
    }
}
