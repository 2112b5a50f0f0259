//! What the applied log says of members, to readers who ask while it is applied; and snapshots that do not fit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::vote::RaftLeaderIdExt as _;
use openraft::{EntryPayload, Membership};
use tokio_util::sync::CancellationToken;

use super::{SharedState, SnapshotFile, SnapshotFileError, Standing, StateStore};
use crate::agreement::Contents;
use crate::clock::ClusterClock;
use crate::environment::System;
use crate::options::TimeSource;
use crate::types::{Entry, Incarnation, LeaderId, LogId, Member};

const NEW: u64 = 6;

/// Time plays no part here.
struct NoTime;

impl TimeSource for NoTime {
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    fn wall(&self) -> Duration {
        Duration::ZERO
    }
}

fn open(folder: &Path) -> Result<StateStore, SnapshotFileError> {
    StateStore::open(
        folder.to_owned(),
        ClusterClock::new(Arc::new(NoTime)),
        Contents::new(Duration::MAX),
        CancellationToken::new(),
        Arc::new(System),
    )
}

fn store() -> (tempfile::TempDir, StateStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).unwrap();
    (folder, store)
}

fn member(id: u64) -> Member {
    Member {
        peer_address: format!("10.0.0.{id}:7411"),
        client_address: format!("10.0.0.{id}:7401"),
        incarnation: Incarnation(id.into()),
    }
}

fn apply(store: &StateStore, index: u64, voters: &[u64], learners: &[u64]) {
    let nodes: BTreeMap<u64, Member> = voters
        .iter()
        .chain(learners)
        .map(|id| (*id, member(*id)))
        .collect();
    let voters: BTreeSet<u64> = voters.iter().copied().collect();
    let membership = Membership::new(vec![voters], nodes).unwrap();
    let entry = Entry {
        log_id: LogId::new(LeaderId::new_committed(1, 1), index),
        payload: EntryPayload::Membership(membership),
    };
    store.apply_one((entry, None)).unwrap();
}

#[test]
fn an_id_is_unknown_then_a_member_then_removed() {
    let (_folder, store) = store();
    let shared = store.shared();
    assert_eq!(shared.standing(NEW), Standing::Unknown);
    apply(&store, 1, &[1], &[]);
    assert_eq!(shared.standing(NEW), Standing::Unknown);
    apply(&store, 2, &[1], &[NEW]);
    assert_eq!(shared.standing(NEW), Standing::Member(member(NEW)));
    apply(&store, 3, &[1], &[]);
    assert_eq!(shared.standing(NEW), Standing::Removed);
}

/// Found by replacing all nodes of a cluster: a node that caught up took itself for removed when it became a member between two looks.
#[test]
fn who_becomes_a_member_is_never_seen_as_removed() {
    for _ in 0..300 {
        let (_folder, store) = store();
        let done = Arc::new(AtomicBool::new(false));
        let watch = {
            let (shared, done): (SharedState, _) = (store.shared(), done.clone());
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    assert_ne!(shared.standing(NEW), Standing::Removed);
                }
            })
        };
        apply(&store, 1, &[1, 2, 3], &[]);
        apply(&store, 2, &[1, 2, 3], &[NEW]);
        apply(&store, 3, &[1, 2, 3, NEW], &[]);
        done.store(true, Ordering::Relaxed);
        watch.join().unwrap();
    }
}

#[test]
fn a_snapshot_must_cover_what_was_purged() {
    let (_folder, store) = store();
    store.check(None, None).unwrap();
    let purged = LogId::new(LeaderId::new_committed(1, 1), 7);
    let error = store.check(Some(purged), None).unwrap_err().to_string();
    assert!(error.contains("up to entry 7"), "{error}");
    assert!(error.contains("under a new node id"), "{error}");
}

#[test]
fn a_snapshot_of_another_version_is_not_called_damaged() {
    let (folder, store) = store();
    apply(&store, 1, &[1], &[]);
    let (head, state) = store.shared().freeze();
    SnapshotFile::write(folder.path(), &head, &state).unwrap();
    open(folder.path()).unwrap();
    let name = fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = fs::read(&name).unwrap();
    // Behind the head, whose length is behind the magic: a magic of the core, and its version.
    let length = u32::from_be_bytes(good[8..12].try_into().unwrap());
    let version = 20 + length as usize + 11;
    for (number, advice) in [
        (1, "Start the build that wrote it"),
        (good[version] + 1, "Start a newer one"),
    ] {
        let mut other = good.clone();
        other[version] = number;
        fs::write(&name, other).unwrap();
        let error = open(folder.path()).err().expect("a refusal").to_string();
        assert!(error.contains(&format!("format version {number}")), "{error}");
        assert!(
            error.contains(advice) && error.contains(&*name.to_string_lossy()),
            "{error}"
        );
        assert!(!error.contains("damaged"), "{error}");
    }
}
