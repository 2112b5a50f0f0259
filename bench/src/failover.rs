//! A leader that is killed with -9: how long until a write is acknowledged again.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::lane::Lane;
use crate::load::Operation;
use crate::operations::{Failure, Put};
use crate::system::{Kind, System};

/// How often each surviving node is asked.
const PROBE_EVERY: Duration = Duration::from_millis(10);
/// How long one question may take.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(30);

/// Kills the leader, and gives how long it took until a write that was begun after that was acknowledged; starts the node again.
///
/// # Errors
/// When there is no leader, or none again.
pub(crate) async fn kill_leader(system: &mut System) -> anyhow::Result<Duration> {
    let leader = system.leader().await?.context("no leader")?;
    let addresses = system.addresses();
    let survivors = (0..addresses.len()).filter(|position| *position != leader);
    let survivors: Vec<SocketAddr> = survivors.map(|position| addresses[position]).collect();
    let kind = system.kind();
    system.kill(leader).await?;
    let killed = Instant::now();
    let took = next_write(kind, &survivors, killed).await?;
    system.start_again(leader).await?;
    // The cluster settles: a follower that has just come back takes what it missed.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(took)
}

async fn next_write(kind: Kind, survivors: &[SocketAddr], killed: Instant) -> anyhow::Result<Duration> {
    let lanes: Vec<Lane> = survivors.iter().map(|address| Lane::to(*address)).collect();
    let mut probes = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(PROBE_EVERY);
    let mut turn = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => for lane in &lanes {
                turn += 1;
                let lanes = vec![lane.clone()];
                probes.push(async move {
                    tokio::time::timeout(PROBE_PATIENCE, async {
                        match kind {
                            Kind::Brama => Failure { lanes, circuits: 1 }.run(0, turn).await,
                            Kind::Etcd => Put { lanes }.run(0, turn).await,
                        }
                    }).await
                });
            },
            Some(probe) = probes.next() => if let Ok(Ok(())) = probe {
                return Ok(killed.elapsed());
            }
        }
        if killed.elapsed() > PATIENCE {
            bail!("no write was acknowledged within {PATIENCE:?}");
        }
    }
}
