//! Metrics of who is connected: subscribers and how far behind they are, and the port for clients.

use std::fmt;

use brama_raft::Replica;

use super::sheet::Sheet;
use crate::connections::Door;
use crate::subscribers::Subscribers;

/// Lags above which subscribers are counted, in events.
const BEHIND: [(&str, u64); 5] = [
    ("0", 0),
    ("10", 10),
    ("100", 100),
    ("1000", 1000),
    ("10000", 10_000),
];

pub(super) fn write(
    sheet: &mut Sheet<'_>,
    replica: &Replica,
    subscribers: &Subscribers,
    door: &Door,
) -> fmt::Result {
    // In this order a subscriber is never ahead.
    let positions = subscribers.positions();
    let newest = replica.read(|machine| machine.revision());
    let lags: Vec<u64> = positions
        .iter()
        .map(|position| newest.saturating_sub(*position))
        .collect();
    sheet.gauge(
        "brama_subscribers",
        "Subscriptions and watches that are open",
        lags.len(),
    )?;
    let behind = BEHIND.map(|(more_than, events)| {
        let count = lags.iter().filter(|lag| **lag > events).count();
        ([more_than], count)
    });
    sheet.gauges(
        "brama_subscribers_behind",
        "Subscribers that are more than so many events behind the newest",
        ["more_than"],
        behind,
    )?;
    sheet.gauge(
        "brama_subscriber_lag_max_events",
        "Events that the slowest subscriber is behind the newest",
        lags.iter().max().copied().unwrap_or(0),
    )?;
    let open = door.open();
    sheet.gauge("brama_connections", "Connections of clients that are open", open)?;
    sheet.counter(
        "brama_connections_accepted_total",
        "Connections of clients that were accepted",
        door.accepted(),
    )?;
    sheet.counters(
        "brama_connections_refused_total",
        "Connections that were closed: beyond the limit, or because the client kept silent",
        ["reason"],
        [(["limit"], door.turned_away()), (["silent"], door.silent())],
    )?;
    let limits = [
        (["subscribers"], subscribers.limit()),
        (["connections"], door.limit()),
    ];
    sheet.gauges(
        "brama_node_limit",
        "Limits of this node, as its configuration sets them",
        ["limit"],
        limits,
    )
}
