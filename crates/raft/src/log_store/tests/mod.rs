//! Tests of the log store: openraft's own suite, what is on disk and when, crashes, damage.

mod crash;
mod damage;
mod durability;
mod full;
mod segments;
mod suite;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogReader as _, RaftLogStorage as _};
use openraft::type_config::TypeConfigExt as _;
use tempfile::TempDir;

use super::codec::log_id;
use super::{LogStore, Sizes};
use crate::types::{Entry, LeaderId, LogId, Payload, TypeConfig, Vote};

/// Many files, and next to no cache: whatever is durable is read from disk.
const SMALL: Sizes = Sizes {
    file_bytes: 16 * 1024,
    cache_bytes: 0,
};

/// A new log in a folder that goes away.
struct TestLog {
    folder: PathBuf,
    store: LogStore,
    dir: TempDir,
}

impl TestLog {
    fn new(sizes: Sizes) -> Self {
        let dir = TempDir::new().unwrap();
        let folder = dir.path().join("log");
        super::Disk::create(&folder, sizes.file_bytes).unwrap();
        let store = LogStore::open_with(&folder, sizes).unwrap();
        Self { folder, store, dir }
    }

    async fn reopen(self, sizes: Sizes) -> Self {
        let Self { folder, store, dir } = self;
        store.handle().close().await.unwrap();
        drop(store);
        let store = LogStore::open_with(&folder, sizes).unwrap();
        Self { folder, store, dir }
    }

    async fn append(&mut self, entries: Vec<Entry>) {
        append(&mut self.store, entries).await.unwrap();
    }

    async fn all(&self) -> Vec<Entry> {
        all(&self.store).await
    }

    fn state(&self) -> (Option<LogId>, Option<LogId>) {
        self.store.shared.tail.lock().ends()
    }
}

/// Appends and waits for the disk.
async fn append(store: &mut LogStore, entries: Vec<Entry>) -> std::io::Result<()> {
    let (callback, done) = callback();
    store.append(entries, callback).await?;
    done.await.unwrap()
}

fn callback() -> (
    IOFlushed<TypeConfig>,
    tokio::sync::oneshot::Receiver<std::io::Result<()>>,
) {
    let (tx, rx) = TypeConfig::oneshot();
    (IOFlushed::signal(tx), rx)
}

async fn all(store: &LogStore) -> Vec<Entry> {
    store.reader().try_get_log_entries(..).await.unwrap()
}

/// An entry whose payload says which it is.
fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let seed = xxhash_rust::xxh3::xxh3_64(&[term.to_le_bytes(), index.to_le_bytes()].concat());
    let payload: Vec<u8> = (0..bytes as u64)
        .map(|at| (seed.rotate_left((at % 64) as u32) ^ at) as u8)
        .collect();
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(Payload(Bytes::from(payload))),
    }
}

fn entries(term: u64, indexes: std::ops::Range<u64>, bytes: usize) -> Vec<Entry> {
    indexes.map(|index| entry(term, index, bytes)).collect()
}

fn vote(term: u64, node: u64) -> Vote {
    use openraft::vote::{RaftLeaderId as _, RaftVote as _};
    Vote::from_leader_id(LeaderId::new(term, node), false)
}

fn file_size(path: &Path) -> u64 {
    path.metadata().unwrap().len()
}
