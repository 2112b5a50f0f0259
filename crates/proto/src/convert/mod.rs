//! Between messages and core types. Towards the core everything is checked, and a [`Refusal`](brama_core::Refusal) names the field by its path
//! in the message.

mod commands;
mod shown;
#[cfg(test)]
mod tests;

pub use commands::*;
pub use shown::*;

use brama_core::ClusterTime;

/// A cluster time as the well-known timestamp.
pub fn timestamp(time: ClusterTime) -> prost_types::Timestamp {
    let micros = time.as_micros();
    prost_types::Timestamp {
        seconds: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        // Below a second, so it fits.
        nanos: ((micros % 1_000_000) * 1000) as i32,
    }
}

/// The cluster time that a timestamp stands for; before 1970 is 1970.
pub fn cluster_time(timestamp: &prost_types::Timestamp) -> ClusterTime {
    let seconds = u64::try_from(timestamp.seconds).unwrap_or(0);
    let micros = u64::try_from(timestamp.nanos).unwrap_or(0) / 1000;
    ClusterTime::from_micros(seconds.saturating_mul(1_000_000).saturating_add(micros))
}
