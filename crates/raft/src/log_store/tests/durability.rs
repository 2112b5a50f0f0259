//! What is told to be on disk, is; and after an error nothing is told any more.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::*;
use crate::environment::System;
use crate::log_store::disk::{Disk, SyncData};

/// A disk that counts its syncs, and waits or fails when it is told to.
struct Control {
    begun: AtomicU64,
    synced: AtomicU64,
    /// So many syncs may still pass.
    passes: Mutex<u64>,
    changed: Condvar,
    failing: Mutex<bool>,
}

struct Controlled(Arc<Control>, Box<dyn SyncData>);

impl SyncData for Controlled {
    fn sync_data(&self) -> io::Result<()> {
        self.0.begun.fetch_add(1, SeqCst);
        let mut passes = self.0.passes.lock();
        while *passes == 0 {
            self.0.changed.wait(&mut passes);
        }
        *passes -= 1;
        drop(passes);
        if *self.0.failing.lock() {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.1.sync_data()?;
        self.0.synced.fetch_add(1, SeqCst);
        Ok(())
    }
}

impl Control {
    fn new() -> Self {
        Self {
            begun: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            passes: Mutex::new(u64::MAX),
            changed: Condvar::new(),
            failing: Mutex::new(false),
        }
    }

    fn hold(&self) {
        self.let_pass(0);
    }

    fn let_pass(&self, passes: u64) {
        *self.passes.lock() = passes;
        self.changed.notify_all();
    }

    fn release(&self) {
        self.let_pass(u64::MAX);
    }

    async fn until_a_sync_began(&self) {
        let began = async {
            while self.begun.load(SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), began)
            .await
            .expect("nothing is synced");
    }
}

fn controlled() -> (TestLog, Arc<Control>) {
    let dir = TempDir::new().unwrap();
    let folder = dir.path().join("log");
    Disk::create(&folder, SMALL.file_bytes).unwrap();
    let control = Arc::new(Control::new());
    let (disk, record) = Disk::open(&folder, None, SMALL.file_bytes).unwrap();
    let by = control.clone();
    disk.replace_sync(move |real| Box::new(Controlled(by.clone(), real)));
    let store = LogStore::start(disk, record, SMALL, Box::new(|| Ok(u64::MAX)), Arc::new(System)).unwrap();
    (TestLog { folder, store, dir }, control)
}

#[tokio::test]
async fn nothing_is_acknowledged_before_the_disk_has_it() {
    let (mut log, control) = controlled();
    control.hold();
    let (first, mut first_done) = callback();
    log.store.append(entries(1, 0..3, 100), first).await.unwrap();
    assert_eq!(log.all().await, entries(1, 0..3, 100), "but it can be read");
    let (second, mut second_done) = callback();
    log.store.append(entries(1, 3..5, 100), second).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(first_done.try_recv().is_err() && second_done.try_recv().is_err());
    assert_eq!(control.synced.load(SeqCst), 0);
    control.release();
    second_done.await.unwrap().unwrap();
    assert!(first_done.try_recv().unwrap().is_ok(), "callbacks come in order");
    assert!(control.synced.load(SeqCst) >= 1);
}

/// The news that entries are durable comes late, when others have taken their place: those must stay in memory until they are durable.
#[tokio::test]
async fn an_entry_that_took_anothers_place_is_read_from_memory() {
    let (mut log, control) = controlled();
    control.hold();
    let (first, first_done) = callback();
    log.store.append(entries(1, 0..5, 100), first).await.unwrap();
    control.until_a_sync_began().await;
    log.store.truncate_after(Some(log_id(1, 1))).await.unwrap();
    let (second, second_done) = callback();
    log.store.append(entries(2, 2..6, 100), second).await.unwrap();
    let expected = [entries(1, 0..2, 100), entries(2, 2..6, 100)].concat();
    control.let_pass(1);
    first_done.await.unwrap().unwrap();
    assert_eq!(log.all().await, expected);
    control.release();
    second_done.await.unwrap().unwrap();
    assert_eq!(log.reopen(SMALL).await.all().await, expected);
}

#[tokio::test]
async fn a_vote_is_on_disk_when_it_is_given() {
    let (mut log, control) = controlled();
    for term in 1..=5 {
        log.store.save_vote(&vote(term, 1)).await.unwrap();
        assert_eq!(
            control.synced.load(SeqCst),
            term,
            "each vote needs a sync of its own"
        );
    }
    control.hold();
    let next = vote(6, 1);
    let saving = log.store.save_vote(&next);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), saving)
            .await
            .is_err(),
        "it waits for the disk"
    );
    assert_eq!(log.store.reader().read_vote().await.unwrap(), Some(vote(5, 1)));
    control.release();
}

#[tokio::test]
async fn what_waits_shares_one_flush() {
    let (mut log, control) = controlled();
    control.hold();
    let mut done = Vec::new();
    for index in 0..200 {
        let (callback, answer) = callback();
        log.store
            .append(entries(1, index..index + 1, 100), callback)
            .await
            .unwrap();
        done.push(answer);
    }
    control.release();
    for answer in done {
        answer.await.unwrap().unwrap();
    }
    assert!(
        control.synced.load(SeqCst) <= 3,
        "{} syncs",
        control.synced.load(SeqCst)
    );
    let stats = log.store.handle().stats();
    assert_eq!(
        (stats.flushes(), stats.entries()),
        (control.synced.load(SeqCst), 200)
    );
    assert!(stats.longest() >= stats.last() && stats.bytes() > 20_000);
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let (mut log, control) = controlled();
    log.append(entries(1, 0..3, 100)).await;
    *control.failing.lock() = true;
    let error = append(&mut log.store, entries(1, 3..4, 100)).await.unwrap_err();
    assert!(error.to_string().contains("could not sync"), "{error}");
    // The kernel reports a lost write once. That the next sync would succeed means nothing.
    *control.failing.lock() = false;
    assert!(log.store.save_vote(&vote(2, 1)).await.is_err());
    assert!(append(&mut log.store, entries(1, 4..5, 100)).await.is_err());
    assert!(log.store.purge(log_id(1, 2)).await.is_err());
    assert!(log.store.truncate_after(None).await.is_err());
    assert_eq!(log.store.reader().read_vote().await.unwrap(), None);
    assert!(log.store.handle().close().await.is_err());
    let log = LogStore::open_with(&log.folder, SMALL).unwrap();
    assert_eq!(all(&log).await[..3], entries(1, 0..3, 100)[..]);
}

/// After a failed sync the kernel holds what is not on the disk, and takes it for written: only a write makes the next sync write it.
#[tokio::test]
async fn a_log_that_is_opened_writes_its_newest_group_again() {
    let mut log = TestLog::new(SMALL);
    for index in 0..10 {
        log.append(entries(1, index..index + 1, 3000)).await;
    }
    let folder = log.folder.clone();
    log.store.handle().close().await.unwrap();
    let long_ago = std::time::UNIX_EPOCH;
    let files = |log: &Path| -> Vec<(PathBuf, Vec<u8>, bool)> {
        let names = std::fs::read_dir(log).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = names
            .filter(|path| {
                path.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with("journal-")
            })
            .map(|path| {
                let written = path.metadata().unwrap().modified().unwrap() != long_ago;
                (path.clone(), std::fs::read(path).unwrap(), written)
            })
            .collect();
        files.sort();
        files
    };
    let before = files(&folder);
    for (path, ..) in &before {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    let (_disk, _) = Disk::open(&folder, None, SMALL.file_bytes).unwrap();
    let after = files(&folder);
    let written: Vec<_> = after.iter().filter(|(_, _, written)| *written).collect();
    assert_eq!(written.len(), 1, "the file with the newest group, and no other");
    let content = |files: &[(PathBuf, Vec<u8>, bool)]| -> Vec<Vec<u8>> {
        files.iter().map(|(_, content, _)| content.clone()).collect()
    };
    assert_eq!(content(&before), content(&after), "and nothing is changed by it");
}

#[tokio::test]
async fn writes_that_wait_when_the_disk_fails_all_fail() {
    let (mut log, control) = controlled();
    control.hold();
    let mut done = Vec::new();
    for index in 0..20 {
        let (callback, answer) = callback();
        log.store
            .append(entries(1, index..index + 1, 100), callback)
            .await
            .unwrap();
        done.push(answer);
    }
    *control.failing.lock() = true;
    control.release();
    for answer in done {
        assert!(answer.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_nothing_half_done() {
    let (mut log, control) = controlled();
    control.hold();
    let mut written = 0;
    // Until the queue is full; then the next append waits for room, and is given up.
    loop {
        let (callback, _) = callback();
        let bytes = 1_000_000;
        let appending = log
            .store
            .append(entries(1, written..written + 1, bytes), callback);
        match tokio::time::timeout(Duration::from_millis(100), appending).await {
            Ok(done) => done.unwrap(),
            Err(_) => break,
        }
        written += 1;
        assert!(written < 100, "the bytes that wait are bounded");
    }
    control.release();
    log.append(entries(1, written..written + 1, 10)).await;
    let log = log.reopen(SMALL).await;
    assert_eq!(log.state().1, Some(log_id(1, written)));
}

#[tokio::test]
async fn a_closed_log_answers_with_errors() {
    let mut log = TestLog::new(SMALL);
    log.append(entries(1, 0..3, 100)).await;
    let handle = log.store.handle();
    handle.close().await.unwrap();
    handle.close().await.unwrap();
    assert!(append(&mut log.store, entries(1, 3..4, 100)).await.is_err());
    assert!(log.store.save_vote(&vote(1, 1)).await.is_err());
    assert!(log.store.reader().try_get_log_entries(..).await.is_err());
}
