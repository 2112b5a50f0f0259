//! Nodes whose states differ, and nodes that only look as if they might: the first are found and leave, the others never are.
//!
//! A state is made to differ as a bad memory would do it: one byte of a circuit is another in the snapshot, whose checksums are right.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use brama_core::command::{ReportBatch, ReportItem};
use brama_core::policy::Policy;
use brama_core::report::Outcome;
use brama_core::{Command, Summary};
use brama_raft::{Compared, DataDirError, Replica, StartError};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use common::{Cluster, name, register, soon};

const INTERVAL: Duration = Duration::from_millis(300);
/// A difference is found within so long: an interval, or a period of six for what nobody touches, and room for a busy machine.
const FOUND_WITHIN: Duration = Duration::from_secs(10);
/// The circuit that is changed, and what it is changed to.
const AS_IT_WAS: &str = "circuit-as-it-was";
const AS_IT_IS: &str = "circuit-as-it-is!";

fn failure(identifier: &str) -> Command {
    Command::Report(ReportBatch {
        session: None,
        items: vec![ReportItem {
            name: name(identifier),
            generation: None,
            permit: None,
            summary: Summary::of(Outcome::Failure),
            reason: None,
            metadata: Default::default(),
        }],
    })
}

/// Three members, of which the third is down and has a snapshot that holds the circuit.
async fn prepared() -> Cluster {
    let mut cluster = Cluster::start_comparing(3, 30, 10, INTERVAL).await;
    cluster.propose(register("other", Policy::default())).await;
    let mut touched = register("touched", Policy::default());
    if let Command::Register(register) = &mut touched {
        register.metadata.insert("note", AS_IT_WAS);
    }
    cluster.propose(touched).await;
    let deadline = soon();
    while cluster.replica(2).status().snapshot_index < 30 {
        assert!(Instant::now() < deadline, "no snapshot is taken");
        cluster.propose(failure("other")).await;
    }
    cluster.down(2).await;
    cluster
}

/// Changes the circuit in the newest snapshot of a node that is down, and makes its checksum right.
fn tamper(data_dir: &Path) {
    let files = std::fs::read_dir(data_dir.join("snapshots")).unwrap();
    let newest = files.map(|file| file.unwrap().path()).max().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let is_magic = |bytes: &[u8]| bytes == b"BRAMASTA";
    let state = bytes.windows(8).position(is_magic).unwrap();
    // Circuits come before events, so the first place is the circuit itself.
    let is_note = |bytes: &[u8]| bytes == AS_IT_WAS.as_bytes();
    let note = bytes.windows(AS_IT_WAS.len()).position(is_note).unwrap();
    bytes[note..note + AS_IT_IS.len()].copy_from_slice(AS_IT_IS.as_bytes());
    let end = bytes.len() - 8;
    let checksum = xxh3_64(&bytes[state..end]);
    bytes[end..].copy_from_slice(&checksum.to_be_bytes());
    std::fs::write(&newest, bytes).unwrap();
}

impl Cluster {
    async fn propose(&self, command: Command) {
        self.replica(0).propose(command, soon()).await.unwrap();
    }
}

/// How a node says that it is out of service.
async fn leaves(replica: &Replica) -> String {
    let said = tokio::time::timeout(FOUND_WITHIN, replica.failed()).await;
    said.expect("the node finds out that it differs")
}

/// The start of a node that is out of service is refused, each time.
async fn stays_away(cluster: &mut Cluster, i: usize) {
    for _ in 0..2 {
        let refused = cluster
            .up(i)
            .await
            .expect_err("a node out of service does not start");
        let text = refused.to_string();
        assert!(
            matches!(refused, StartError::DataDir(DataDirError::OutOfService { .. })),
            "{text}"
        );
        assert!(
            text.contains("differs from the majority") && text.contains("new node id"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_applied_something_else_leaves_and_the_others_say_who() {
    for leads in [false, true] {
        let mut cluster = prepared().await;
        tamper(&cluster.data_dir(2));
        cluster.up(2).await.unwrap();
        let third = cluster.replica(2).clone();
        third.linearize(soon()).await.unwrap();
        if leads {
            cluster.replica(0).transfer_leader(Some(3), soon()).await.unwrap();
        }
        cluster.propose(failure("touched")).await;
        let said = leaves(&third).await;
        for part in [
            "node 3 differs from the majority",
            "`brama cluster remove 3`",
            "node 1 and node 2",
            "new node id",
        ] {
            assert!(said.contains(part), "{said:?} does not say {part:?}");
        }
        cluster.down(2).await;
        for i in 0..2 {
            let agreement = cluster.replica(i).agreement();
            assert!(agreement.differences > 0, "{agreement:?}");
            assert!(!agreement.members[&3].equal, "{agreement:?}");
            assert!(
                agreement
                    .members
                    .iter()
                    .all(|(id, compared)| compared.equal || *id == 3),
                "{agreement:?}"
            );
        }
        // The others go on, without waiting for an election if the third led.
        let began = Instant::now();
        cluster.propose(failure("touched")).await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        stays_away(&mut cluster, 2).await;
        // What the advice says is done: another node takes its place.
        cluster.replica(0).remove(3, soon()).await.unwrap();
        let new = cluster.join().await;
        cluster.replica(new).linearize(soon()).await.unwrap();
        cluster.replica(0).promote(new as u64 + 1, soon()).await.unwrap();
        let (_, hashes) = cluster.settle().await;
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:x?}");
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_that_nothing_touches_is_found_too() {
    let mut cluster = prepared().await;
    tamper(&cluster.data_dir(2));
    cluster.up(2).await.unwrap();
    let third = cluster.replica(2).clone();
    third.linearize(soon()).await.unwrap();
    // It is silent: all have applied the same, and their rolling hashes say so.
    let (_, hashes) = cluster.settle().await;
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:x?}");
    let said = leaves(&third).await;
    assert!(
        said.contains("node 3 differs from the majority: its hash of the whole state"),
        "{said}"
    );
    cluster.down(2).await;
    stays_away(&mut cluster, 2).await;
    cluster.propose(failure("touched")).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_both_say_so_and_stay_until_the_third_decides() {
    let mut cluster = prepared().await;
    tamper(&cluster.data_dir(2));
    cluster.down(1).await;
    cluster.up(2).await.unwrap();
    let third = cluster.replica(2).clone();
    cluster.propose(failure("touched")).await;
    let differs = |replica: &Replica, id: u64| {
        let agreement = replica.agreement();
        agreement.members.get(&id).is_some_and(|compared| !compared.equal) && agreement.differences >= 3
    };
    let deadline = Instant::now() + FOUND_WITHIN;
    while !(differs(cluster.replica(0), 3) && differs(&third, 1)) {
        assert!(Instant::now() < deadline, "{:?}", third.agreement());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for replica in [cluster.replica(0), &third] {
        let stays = tokio::time::timeout(3 * INTERVAL, replica.failed()).await;
        assert!(stays.is_err(), "{stays:?}");
    }
    // Both still serve.
    cluster.propose(failure("other")).await;
    cluster.up(1).await.unwrap();
    leaves(&third).await;
    for i in 0..2 {
        assert!(
            tokio::time::timeout(3 * INTERVAL, cluster.replica(i).failed())
                .await
                .is_err()
        );
    }
    cluster.stop().await;
}

/// Everything that makes nodes be at different positions, while all are right.
/// Nobody sends it the entry that removes it; a member that was away hears of it in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn a_removed_learner_ends_and_so_does_a_member_that_was_away() {
    let mut cluster = Cluster::start_comparing(3, 1000, 1000, INTERVAL).await;
    let learner = cluster.join().await;
    cluster.replica(learner).linearize(soon()).await.unwrap();
    cluster.down(1).await;
    for i in [learner, 1] {
        cluster.replica(0).remove(i as u64 + 1, soon()).await.unwrap();
    }
    cluster.up(1).await.unwrap();
    for i in [learner, 1] {
        let said = leaves(cluster.replica(i)).await;
        assert!(said.contains("this node was removed from the cluster"), "{said}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn load_restarts_snapshots_learners_and_changes_raise_no_alarm() {
    let interval = Duration::from_millis(100);
    let mut cluster = Cluster::start_comparing(3, 200, 50, interval).await;
    let (busy, written) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let load = {
        let (replica, busy, written) = (cluster.replica(0).clone(), busy.clone(), written.clone());
        tokio::spawn(async move {
            let mut n = 0;
            while busy.load(Ordering::Relaxed) {
                n += 1;
                let name = format!("circuit-{}", n % 50);
                let commands = vec![register(&name, Policy::default()), failure(&name)];
                let done = replica.propose_all(commands, soon()).await;
                written.fetch_add(
                    done.iter().filter(|done| done.is_ok()).count() as u64,
                    Ordering::Relaxed,
                );
            }
        })
    };
    let pause = || tokio::time::sleep(4 * interval);
    let no_alarm = |cluster: &Cluster| {
        for replica in cluster.replicas.iter().flatten() {
            let agreement = replica.agreement();
            assert_eq!(
                agreement.differences,
                0,
                "node {}: {agreement:?}",
                replica.node_id()
            );
        }
    };
    // Restarts, of the leader too.
    for i in [1, 2] {
        pause().await;
        cluster.down(i).await;
        pause().await;
        no_alarm(&cluster);
        cluster.up(i).await.unwrap();
        cluster.replica(i).linearize(soon()).await.unwrap();
        if i == 1 {
            cluster.replica(0).transfer_leader(Some(3), soon()).await.unwrap();
        }
    }
    // A learner that is left behind until only a snapshot helps.
    let learner = cluster.join().await;
    cluster.replica(learner).linearize(soon()).await.unwrap();
    pause().await;
    cluster.down(learner).await;
    let gone = cluster.replica(0).status().last_log_index;
    let deadline = Instant::now() + Duration::from_secs(30);
    while cluster.replica(cluster.leader().await).status().purged_index <= gone {
        assert!(Instant::now() < deadline, "the log is not purged");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.up(learner).await.unwrap();
    cluster.replica(learner).linearize(soon()).await.unwrap();
    // The members change under way.
    cluster
        .replica(0)
        .promote(learner as u64 + 1, soon())
        .await
        .unwrap();
    pause().await;
    cluster.replica(0).remove(2, soon()).await.unwrap();
    cluster.down(1).await;
    pause().await;
    busy.store(false, Ordering::Relaxed);
    load.await.unwrap();
    assert!(written.load(Ordering::Relaxed) > 300, "{written:?} commands");
    // And all of it was really compared: each with each, in both ways.
    let deadline = soon();
    let (index, _) = cluster.settle().await;
    for i in [0, 2, learner] {
        let others: Vec<u64> = [1, 3, 4].into_iter().filter(|id| *id != i as u64 + 1).collect();
        loop {
            let agreement = cluster.replica(i).agreement();
            let equal = |id: &u64| matches!(agreement.members.get(id), Some(Compared { equal: true, index: at }) if *at >= index);
            if others.iter().all(equal) && agreement.content_index > gone {
                break;
            }
            assert!(Instant::now() < deadline, "node {}: {agreement:?}", i + 1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    no_alarm(&cluster);
    cluster.stop().await;
}
