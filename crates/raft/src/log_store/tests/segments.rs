//! What the log holds after appends, truncations and purges, and that it holds the same when it is opened again.

use openraft::Membership;

use super::*;
use crate::types::{Incarnation, Member};

#[tokio::test]
async fn entries_of_many_files_and_sizes_come_back() {
    let mut log = TestLog::new(SMALL);
    let mut expected = entries(1, 0..50, 100);
    expected.extend([
        entry(2, 50, 100_000),
        entry(2, 51, 0),
        entry(2, 52, 1024 * 1024),
        entry(2, 53, 4 * 1024 - 30),
        entry(2, 54, 4 * 1024 - 29),
    ]);
    expected.extend(entries(2, 55..90, 8 * 1024));
    for some in expected.chunks(7) {
        log.append(some.to_vec()).await;
    }
    assert_eq!(log.all().await, expected);
    let log = log.reopen(SMALL).await;
    assert_eq!(log.all().await, expected);
    assert_eq!(log.state(), (None, Some(log_id(2, 89))));
}

/// Groups that are longer than a file, and removals between them.
#[tokio::test]
async fn groups_of_any_length_come_back() {
    let mut log = TestLog::new(SMALL);
    let mut next = 0;
    let mut expected = Vec::new();
    for bytes in [10, 700, 1_000, 16 * 1024, 70_000, 5_000_000, 30] {
        for _ in 0..4 {
            let removed = entries(1, next..next + 5, bytes);
            expected.extend_from_slice(&removed[..3]);
            log.append(removed).await;
            log.store.truncate_after(Some(log_id(1, next + 2))).await.unwrap();
            let more = entries(1, next + 3..next + 5, 10);
            expected.extend_from_slice(&more);
            log.append(more).await;
            next += 5;
        }
    }
    assert_eq!(log.all().await, expected);
    assert_eq!(log.reopen(SMALL).await.all().await, expected);
}

/// What replication reads begins where it asked, or there is nothing: openraft would send the rest as if there were no hole.
#[tokio::test]
async fn a_read_whose_beginning_was_purged_gives_nothing() {
    let mut log = TestLog::new(SMALL);
    log.append(entries(1, 0..50, 100)).await;
    log.store.purge(log_id(1, 39)).await.unwrap();
    let mut reader = log.store.reader();
    for (start, expected) in [(2, 0), (39, 0), (40, 10), (45, 5)] {
        let read = reader.limited_get_log_entries(start, 50).await.unwrap();
        assert_eq!(read, entries(1, 50 - expected..50, 100), "from {start}");
    }
}

#[tokio::test]
async fn a_membership_comes_back() {
    let mut log = TestLog::new(SMALL);
    let member = |id: u64| Member {
        peer_address: format!("peer-{id}:1"),
        client_address: format!("client-{id}:2"),
        incarnation: Incarnation(u128::MAX - u128::from(id)),
    };
    let nodes = (1..=3)
        .map(|id| (id, member(id)))
        .collect::<std::collections::BTreeMap<_, _>>();
    let membership = Membership::new(vec![[1, 2].into(), [2, 3].into()], nodes).unwrap();
    let expected = vec![
        Entry {
            log_id: log_id(1, 0),
            payload: EntryPayload::Membership(membership),
        },
        blank(1, 1),
    ];
    log.append(expected.clone()).await;
    assert_eq!(log.reopen(SMALL).await.all().await, expected);
}

#[tokio::test]
async fn vote_and_committed_come_back() {
    let mut log = TestLog::new(SMALL);
    log.store.save_vote(&vote(7, 3)).await.unwrap();
    log.append(entries(1, 0..10, 10)).await;
    log.store.save_committed(Some(log_id(1, 8))).await.unwrap();
    let mut log = log.reopen(SMALL).await;
    assert_eq!(log.store.reader().read_vote().await.unwrap(), Some(vote(7, 3)));
    assert_eq!(log.store.read_committed().await.unwrap(), Some(log_id(1, 8)));
}

#[tokio::test]
async fn committed_is_never_ahead_of_the_log() {
    let mut log = TestLog::new(SMALL);
    assert_eq!(log.store.read_committed().await.unwrap(), None);
    log.append(entries(1, 0..10, 10)).await;
    log.store.save_committed(Some(log_id(1, 30))).await.unwrap();
    let mut log = log.reopen(SMALL).await;
    assert_eq!(log.store.read_committed().await.unwrap(), Some(log_id(1, 9)));
}

#[tokio::test]
async fn truncation_across_files_is_final() {
    for keep in [None, Some(0), Some(15), Some(16), Some(40), Some(98)] {
        let mut log = TestLog::new(SMALL);
        log.append(entries(1, 0..100, 3000)).await;
        log.store
            .truncate_after(keep.map(|keep| log_id(1, keep)))
            .await
            .unwrap();
        let next = keep.map_or(0, |keep| keep + 1);
        let mut expected = entries(1, 0..next, 3000);
        assert_eq!(log.all().await, expected, "after {keep:?}");
        log.append(entries(3, next..next + 20, 20)).await;
        expected.extend(entries(3, next..next + 20, 20));
        assert_eq!(log.all().await, expected, "after {keep:?} and more");
        assert_eq!(
            log.reopen(SMALL).await.all().await,
            expected,
            "after {keep:?}, more, and a restart"
        );
    }
}

#[tokio::test]
async fn a_purge_hides_what_it_removes() {
    let mut log = TestLog::new(SMALL);
    log.append(entries(1, 0..100, 50)).await;
    log.store.purge(log_id(1, 40)).await.unwrap();
    // Purges are written in order with votes, which are waited for.
    log.store.save_vote(&vote(2, 1)).await.unwrap();
    assert_eq!(log.all().await, entries(1, 41..100, 50));
    let mut log = log.reopen(SMALL).await;
    assert_eq!(log.state(), (Some(log_id(1, 40)), Some(log_id(1, 99))));
    assert_eq!(log.all().await, entries(1, 41..100, 50));
    assert!(
        log.store.truncate_after(Some(log_id(1, 30))).await.is_err(),
        "what is purged cannot be truncated"
    );
    log.store.truncate_after(Some(log_id(1, 40))).await.unwrap();
    assert_eq!(log.state(), (Some(log_id(1, 40)), Some(log_id(1, 40))));
    let mut log = log.reopen(SMALL).await;
    log.append(entries(2, 41..43, 50)).await;
    assert_eq!(log.reopen(SMALL).await.all().await, entries(2, 41..43, 50));
}

#[tokio::test]
async fn a_purge_beyond_the_end_moves_the_log_as_a_snapshot_does() {
    let mut log = TestLog::new(SMALL);
    log.append(entries(1, 0..20, 50)).await;
    log.store.purge(log_id(4, 1000)).await.unwrap();
    assert_eq!(log.state(), (Some(log_id(4, 1000)), Some(log_id(4, 1000))));
    assert!(
        append(&mut log.store, entries(4, 1002..1003, 1)).await.is_err(),
        "a hole"
    );
    assert!(
        append(&mut log.store, entries(3, 1001..1002, 1)).await.is_err(),
        "an older term"
    );
    log.append(entries(4, 1001..1010, 50)).await;
    let log = log.reopen(SMALL).await;
    assert_eq!(log.all().await, entries(4, 1001..1010, 50));
    assert_eq!(log.state(), (Some(log_id(4, 1000)), Some(log_id(4, 1009))));
}

#[tokio::test]
async fn holes_overlaps_and_giants_are_refused_and_change_nothing() {
    let mut log = TestLog::new(SMALL);
    log.append(entries(2, 0..5, 10)).await;
    for bad in [
        entries(2, 6..7, 1),
        entries(2, 4..6, 1),
        entries(1, 5..6, 1),
        vec![entry(2, 5, 1), entry(2, 7, 1)],
    ] {
        assert!(append(&mut log.store, bad).await.is_err());
    }
    assert!(
        append(
            &mut log.store,
            vec![entry(2, 5, crate::log_store::MAX_PAYLOAD_BYTES + 1)]
        )
        .await
        .is_err()
    );
    log.append(entries(2, 5..6, 10)).await;
    assert_eq!(log.reopen(SMALL).await.all().await, entries(2, 0..6, 10));
}

#[tokio::test]
async fn limited_reads_are_bounded_and_never_empty() {
    let mut log = TestLog::new(SMALL);
    log.append(entries(1, 0..40, 100_000)).await;
    let cached = TestLog::new(Sizes::default());
    let mut cached = cached;
    cached.append(entries(1, 0..40, 100_000)).await;
    for log in [&log, &cached] {
        let some = log.store.reader().limited_get_log_entries(3, 40).await.unwrap();
        assert_eq!(some, entries(1, 3..3 + some.len() as u64, 100_000));
        assert!((10..=12).contains(&some.len()), "{}", some.len());
    }
    log.append(vec![entry(1, 40, 3_000_000)]).await;
    assert_eq!(
        log.store
            .reader()
            .limited_get_log_entries(40, 41)
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_stream_gives_every_entry_in_pieces() {
    use futures::StreamExt as _;
    let mut log = TestLog::new(SMALL);
    log.append(entries(1, 0..100, 50_000)).await;
    let mut reader = log.store.reader();
    let stream = reader.entries_stream(5..90).await;
    let got: Vec<_> = stream.map(Result::unwrap).collect().await;
    assert_eq!(got, entries(1, 5..90, 50_000));
}

/// 200,000 entries go through, 10,000 stay: the files must not grow with what went through.
#[tokio::test]
async fn the_disk_stays_flat_while_entries_come_and_go() {
    let mut log = TestLog::new(Sizes {
        cache_bytes: 1024 * 1024,
        ..Sizes::default()
    });
    let mut sizes = Vec::new();
    for round in 0..200 {
        let begin = round * 1000;
        log.append(entries(1, begin..begin + 1000, 200)).await;
        if round >= 10 {
            log.store.purge(log_id(1, begin - 9000)).await.unwrap();
        }
        if round % 20 == 19 {
            log.store.save_vote(&vote(round, 1)).await.unwrap();
            sizes.push(folder_size(&log.folder));
        }
    }
    let most = sizes.iter().max().unwrap();
    assert!(*most < 24_000_000, "the files grew: {sizes:?}");
    let log = log.reopen(Sizes::default()).await;
    assert_eq!(log.all().await, entries(1, 190_001..200_000, 200));
}

fn blank(term: u64, index: u64) -> Entry {
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Blank,
    }
}

fn folder_size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap();
    files.map(|file| file_size(&file.unwrap().path())).sum()
}
