//! A disk that is almost full: leadership goes to a voter that is better off, and to nobody if there is none.

mod common;

use std::time::Duration;

use brama_raft::DiskState;
use common::Cluster;

/// More than any disk has.
const NEVER_ENOUGH: u64 = u64::MAX / 2;

async fn until_low(cluster: &Cluster, i: usize) {
    let replica = cluster.replica(i);
    let low = async {
        while !matches!(replica.disk_state(), DiskState::Low { .. }) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), low)
        .await
        .expect("it does not notice its disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_to_the_one_that_has_room_and_stays_there() {
    let mut cluster = Cluster::prepare(3);
    cluster.min_free_bytes = vec![NEVER_ENOUGH, NEVER_ENOUGH, 0];
    cluster.up_all().await;
    let led_by_the_third = async {
        while cluster.leader().await != 2 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), led_by_the_third)
        .await
        .expect("leadership does not move");
    let term = cluster.replica(2).status().term;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = cluster.replica(2).status();
    assert_eq!((status.leader_id, status.term), (Some(3), term));
}

#[tokio::test(flavor = "multi_thread")]
async fn if_all_are_low_the_leader_leads_on() {
    let mut cluster = Cluster::prepare(3);
    cluster.min_free_bytes = vec![NEVER_ENOUGH; 3];
    cluster.up_all().await;
    for i in 0..3 {
        until_low(&cluster, i).await;
    }
    let leader = cluster.leader().await;
    let term = cluster.replica(leader).status().term;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = cluster.replica(leader).status();
    assert_eq!((status.leader_id, status.term), (Some(leader as u64 + 1), term));
    // And another is elected when it is gone, though its disk is low too.
    cluster.down(leader).await;
    assert_ne!(cluster.leader().await, leader);
}
