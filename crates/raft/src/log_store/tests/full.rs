//! A full disk: nothing that was acknowledged is lost, nothing else is acknowledged, and the log goes on when there is room.

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use super::*;
use crate::environment::System;
use crate::log_store::LogHandle;
use crate::log_store::disk::{Disk, SyncData};

const PIECE: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// A disk that can be full: no file can be made then.
struct FullDisk {
    disk: Arc<Disk>,
    free: Arc<AtomicU64>,
}

impl FullDisk {
    fn fill(&self) {
        self.disk.set_full(true);
        self.free.store(0, SeqCst);
    }

    fn free(&self) {
        self.disk.set_full(false);
        self.free.store(u64::MAX, SeqCst);
    }
}

/// As it is, but that nothing is read from memory.
const SIZES: Sizes = Sizes {
    file_bytes: 4 * 1024 * 1024,
    cache_bytes: 0,
};

struct Fixture {
    log: TestLog,
    handle: LogHandle,
    disk: FullDisk,
    /// The next index to append.
    next: u64,
}

fn fixture() -> Fixture {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("log");
    Disk::create(&folder, SIZES.file_bytes).unwrap();
    let (disk, record) = Disk::open(&folder, None, SIZES.file_bytes).unwrap();
    let free = Arc::new(AtomicU64::new(u64::MAX));
    let free_now = free.clone();
    let free_space = Box::new(move || Ok(free_now.load(SeqCst)));
    let store = LogStore::start(disk, record, SIZES, free_space, Arc::new(System)).unwrap();
    let disk = store.shared.disk.read().clone().unwrap();
    let full = FullDisk { disk, free };
    Fixture {
        handle: store.handle(),
        log: TestLog { folder, store, dir },
        disk: full,
        next: 0,
    }
}

impl Fixture {
    fn next(&mut self) -> Vec<Entry> {
        let entry = entry(1, self.next, PIECE);
        self.next += 1;
        vec![entry]
    }

    /// Appends and waits for the disk.
    async fn append(&mut self) {
        let next = self.next();
        let appended = append(&mut self.log.store, next);
        tokio::time::timeout(PATIENCE, appended).await.unwrap().unwrap();
    }

    fn all(&self) -> Vec<Entry> {
        entries(1, 0..self.next, PIECE)
    }

    /// The disk is full, and the log takes no more entries of those who ask.
    async fn fill(&mut self) {
        self.disk.fill();
        while self.handle.takes_entries() {
            self.append().await;
            assert!(self.next < 1000, "it takes without end");
        }
        assert!(self.handle.full_since().is_some());
    }

    async fn until_it_goes_on(&self) {
        let goes_on = async {
            while self.handle.full_since().is_some() {
                self.handle.tick();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, goes_on)
            .await
            .expect("it does not go on");
    }
}

#[tokio::test]
async fn a_full_disk_is_waited_out() {
    let mut f = fixture();
    f.append().await;
    f.fill().await;
    // What the journal keeps for those who do not ask.
    let given = vote(7, 2);
    f.log.store.save_vote(&given).await.unwrap();
    f.append().await;
    // Then it is full too.
    let mut waiting = Vec::new();
    for _ in 0..32 {
        let (callback, done) = callback();
        let next = f.next();
        f.log.store.append(next, callback).await.unwrap();
        waiting.push(done);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        waiting.last_mut().unwrap().try_recv().is_err(),
        "it was acknowledged, and is nowhere on disk"
    );
    assert_eq!(f.log.all().await, f.all(), "but it can be read");

    f.disk.free();
    for done in waiting {
        tokio::time::timeout(PATIENCE, done)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
    f.until_it_goes_on().await;
    assert!(f.handle.takes_entries());
    for _ in 0..200 {
        f.append().await;
    }
    let expected = f.all();
    assert_eq!(f.log.all().await, expected);
    let log = f.log.reopen(SIZES).await;
    assert_eq!(log.all().await, expected);
    assert_eq!(log.store.reader().read_vote().await.unwrap(), Some(given));
}

#[tokio::test]
async fn it_goes_on_though_nothing_is_asked_of_it() {
    let mut f = fixture();
    f.fill().await;
    f.disk.free();
    f.until_it_goes_on().await;
    let expected = f.all();
    assert_eq!(
        f.log.all().await,
        expected,
        "from disk: memory holds nothing here"
    );
    assert_eq!(f.log.reopen(SIZES).await.all().await, expected);
}

/// The journal is written in place, but on some file systems even that takes room. Then what it was to hold is written once more, in the same
/// place.
#[tokio::test]
async fn a_journal_that_has_no_room_is_waited_for() {
    struct Journal(Arc<AtomicU64>, Box<dyn SyncData>);
    impl SyncData for Journal {
        fn sync_data(&self) -> io::Result<()> {
            if self.0.load(SeqCst) == 0 {
                return Err(io::Error::from_raw_os_error(28));
            }
            self.1.sync_data()
        }
    }
    let mut f = fixture();
    f.append().await;
    let free = f.disk.free.clone();
    let by = free.clone();
    f.disk
        .disk
        .replace_sync(move |real| Box::new(Journal(by.clone(), real)));
    f.append().await;
    f.disk.fill();
    let (callback, mut done) = callback();
    let next = f.next();
    f.log.store.append(next, callback).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        done.try_recv().is_err(),
        "it was acknowledged, and is not durable"
    );
    f.disk.free();
    let answer = tokio::time::timeout(PATIENCE, done).await.unwrap();
    answer.unwrap().unwrap();
    for _ in 0..20 {
        f.append().await;
    }
    let expected = f.all();
    assert_eq!(f.log.all().await, expected);
    assert_eq!(f.log.reopen(SIZES).await.all().await, expected);
}

#[tokio::test]
async fn what_was_acknowledged_with_a_full_disk_survives_a_crash() {
    let mut f = fixture();
    f.fill().await;
    let given = vote(7, 2);
    f.log.store.save_vote(&given).await.unwrap();
    // As a crash leaves it: what is on disk now.
    let copy = f.log.dir.path().join("copy");
    fs::create_dir_all(&copy).unwrap();
    for file in fs::read_dir(&f.log.folder).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
    }
    let store = LogStore::open_with(&copy, SIZES).unwrap();
    assert_eq!(all(&store).await, f.all());
    assert_eq!(store.reader().read_vote().await.unwrap(), Some(given));
}

#[tokio::test]
async fn a_log_is_closed_on_a_full_disk_and_loses_nothing() {
    let mut f = fixture();
    f.fill().await;
    let expected = f.all();
    assert_eq!(f.log.reopen(SIZES).await.all().await, expected);
}

#[tokio::test]
async fn whoever_waits_for_room_ends_with_the_log() {
    let mut f = fixture();
    f.fill().await;
    let mut waiting = Vec::new();
    for _ in 0..32 {
        let (callback, done) = callback();
        let next = f.next();
        f.log.store.append(next, callback).await.unwrap();
        waiting.push(done);
    }
    let closed = tokio::time::timeout(PATIENCE, f.handle.close()).await.unwrap();
    assert!(closed.is_err(), "not all could be written");
    let mut acknowledged = f.next - 32;
    for done in waiting {
        acknowledged += u64::from(done.await.unwrap().is_ok());
    }
    let log = LogStore::open_with(&f.log.folder, SIZES).unwrap();
    let found = all(&log).await;
    assert!(found.len() as u64 >= acknowledged);
    assert_eq!(found, entries(1, 0..found.len() as u64, PIECE));
}

#[tokio::test]
async fn a_full_queue_is_noticed_before_it_makes_anybody_wait() {
    let f = fixture();
    assert!(f.handle.takes_entries() && f.handle.flushing_for().is_none());
    let room = f.log.store.shared.room.clone();
    let taken = room
        .acquire_many_owned(u32::try_from(super::super::WAITING_BYTES / 1024 * 2 / 3).unwrap())
        .await
        .unwrap();
    assert!(!f.handle.takes_entries());
    drop(taken);
    assert!(f.handle.takes_entries());
}
