//! Connections, made the same way to both systems.

use std::net::SocketAddr;
use std::time::Duration;

use crate::lane::Lane;
use tonic::transport::{Channel, Endpoint};

/// Most TCP connections of a load that is not about connections.
pub(crate) const MOST: usize = 16;

/// A connection that is made when it is used.
///
/// # Errors
/// Never, for an address like this.
pub(crate) fn lazy(address: SocketAddr) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .connect_lazy())
}

/// As many connections as a load with so many in flight gets, to the nodes in turn.
///
/// # Errors
/// As [`lazy`].
pub(crate) fn spread(addresses: &[SocketAddr], in_flight: usize) -> anyhow::Result<Vec<Channel>> {
    (0..in_flight.clamp(1, MOST))
        .map(|n| lazy(addresses[n % addresses.len()]))
        .collect()
}

/// The same, for single calls.
pub(crate) fn lanes(addresses: &[SocketAddr], in_flight: usize) -> Vec<Lane> {
    (0..in_flight.clamp(1, MOST))
        .map(|n| Lane::to(addresses[n % addresses.len()]))
        .collect()
}
