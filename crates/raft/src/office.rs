//! Taking office: what a node does between winning an election and proposing its first command.
//!
//! 1. It makes sure that its clock runs. A node that heard an earlier leader since it started has cluster time already, and asks the
//!    others only to lose nothing. If no node of a majority has heard one, the whole cluster was down: then the median counts of what
//!    that majority's wall clocks make of cluster time ([`crate::clock`]), but never less than the newest time in the log. So one clock that
//!    went wrong fires nothing early, nor does one that was wrong all the time.
//! 2. It waits until it has applied everything from before its term.
//! 3. If the log is new, it writes the cluster's first command.
//!
//! Only then do others see it as leading: proposals, timers and clock entries wait for that.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use tokio::sync::watch;

use brama_core::{ClusterTime, Command, codec};
use brama_proto::internal as pb;

use crate::inner::Inner;
use crate::options::Origin;
use crate::peers::Lane;
use crate::status::Leadership;
use crate::types::{Answers, Payload, TypeConfig};

/// How long a new leader with a running clock waits for better news of the time.
const POLITENESS: Duration = Duration::from_millis(100);
/// How long a node may take to say what time it is.
const CLOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Follows elections for as long as the node runs, and publishes when this node leads.
pub(crate) async fn run(node: Arc<Inner>, leadership: watch::Sender<Leadership>) {
    let mut metrics = node.raft.server_metrics();
    loop {
        let won = {
            let metrics = metrics.borrow_and_update();
            let leads = metrics.state == openraft::ServerState::Leader && metrics.vote.committed;
            leads.then_some(metrics.vote.leader_id.term)
        };
        if leadership.borrow().term != won {
            leadership.send_replace(Leadership { term: None });
            if let Some(term) = won {
                tracing::info!(term, "elected");
                tokio::select! {
                    biased;
                    () = node.stop.cancelled() => break,
                    changed = lost(&mut metrics, term) => {
                        if changed.is_err() { break }
                        continue;
                    }
                    () = take_office(&node, term) => {
                        tracing::info!(term, time = %node.clock.now(), "leading");
                        leadership.send_replace(Leadership { term: Some(term) });
                    }
                }
            }
        }
        tokio::select! {
            () = node.stop.cancelled() => break,
            changed = metrics.changed() => if changed.is_err() { break },
        }
    }
    leadership.send_replace(Leadership { term: None });
}

/// Returns when this node no longer leads in `term`; an error when consensus has stopped.
async fn lost(
    metrics: &mut WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
    term: u64,
) -> Result<(), openraft::async_runtime::watch::RecvError> {
    loop {
        metrics.changed().await?;
        let metrics = metrics.borrow_and_update();
        if metrics.state != openraft::ServerState::Leader || metrics.vote.leader_id.term != term {
            return Ok(());
        }
    }
}

/// Ends when this node is ready to lead; the caller gives up when the term is over.
async fn take_office(node: &Inner, term: u64) {
    loop {
        // Everything before the term is applied, so the newest time in the log is known.
        match node
            .raft
            .ensure_linearizable(openraft::ReadPolicy::ReadIndex)
            .await
        {
            Ok(_) => break,
            Err(error) => tracing::debug!(term, %error, "cannot lead yet"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while !set_clock(node).await {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    while node.state.read(|machine| machine.cluster_id()).is_none() {
        if !write_first_command(node).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn set_clock(node: &Inner) -> bool {
    let membership = node.state.membership();
    let voters: Vec<u64> = membership.membership().voter_ids().collect();
    let others = membership
        .nodes()
        .filter(|(id, _)| **id != node.options.node_id && voters.contains(*id));
    let mut asked: FuturesUnordered<_> = others
        .filter_map(|(id, member)| node.peers.client(*id, member, Lane::Heartbeat).ok())
        .map(|mut client| async move {
            tokio::time::timeout(CLOCK_TIMEOUT, client.clock(pb::ClockRequest {})).await
        })
        .collect();
    let majority = voters.len() / 2 + 1;
    let live = node.clock.is_live();
    let mut latest = live.then(|| node.clock.now());
    // Each with the moment at which it was true: waiting for the others must not hold time back.
    let mut walls = vec![(node.clock.wall(), tokio::time::Instant::now())];
    let patience = if live { POLITENESS } else { CLOCK_TIMEOUT };
    let deadline = tokio::time::Instant::now() + patience;
    while walls.len() < majority || latest.is_none() {
        match tokio::time::timeout_at(deadline, asked.next()).await {
            Ok(Some(Ok(Ok(response)))) => {
                let told = response.into_inner();
                walls.push((
                    ClusterTime::from_micros(told.wall_time_us),
                    tokio::time::Instant::now(),
                ));
                if told.live {
                    latest = latest.max(Some(ClusterTime::from_micros(told.cluster_time_us)));
                }
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    let applied = node.state.read(|machine| machine.time());
    match latest {
        Some(time) => node.clock.heard(time.max(applied)),
        None if walls.len() >= majority => {
            let aged = |(wall, at): &(ClusterTime, tokio::time::Instant)| {
                ClusterTime::from_micros(wall.as_micros() + at.elapsed().as_micros() as u64)
            };
            let median = median(&mut walls.iter().map(aged).collect::<Vec<_>>());
            tracing::info!(%applied, %median, clocks = walls.len(), "no node has a running clock: the cluster is new, or was down as a whole; taking the median of its wall clocks");
            node.clock.heard(median.max(applied));
        }
        None => return false,
    }
    true
}

/// The lower median: of two, the earlier, because late is better than early.
fn median(times: &mut [ClusterTime]) -> ClusterTime {
    times.sort_unstable();
    times[(times.len() - 1) / 2]
}

async fn write_first_command(node: &Inner) -> bool {
    let (Origin::Bootstrap { first, .. }, Some(cluster_id)) = (&node.options.origin, node.peers.cluster())
    else {
        tracing::error!("this node leads a log without a first command, and has none to write");
        return false;
    };
    let mut first = first.clone();
    first.cluster_id = cluster_id;
    let mut builder = codec::BatchBuilder::default();
    if builder
        .push(&codec::encode_command(&Command::Bootstrap(*first)))
        .is_err()
    {
        return false;
    }
    let payload = Payload(builder.finish(node.clock.stamp()).into());
    match node.raft.client_write(payload).await {
        Ok(response) => {
            matches!(&response.data, Answers { answers, .. } if answers.iter().all(Result::is_ok))
        }
        Err(error) => {
            tracing::warn!(%error, "could not write the cluster's first command");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_clock_does_not_move_the_median() {
        let at = ClusterTime::from_micros;
        assert_eq!(median(&mut [at(100), at(90_000), at(101)]), at(101));
        assert_eq!(median(&mut [at(100), at(1), at(101)]), at(100));
        assert_eq!(median(&mut [at(90_000), at(100)]), at(100), "of two, the earlier");
        assert_eq!(median(&mut [at(7)]), at(7));
    }
}
