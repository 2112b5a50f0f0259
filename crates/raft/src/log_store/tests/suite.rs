//! openraft's suite for log stores and state machines, on ours.

use std::time::Duration;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{SMALL, TestLog};
use crate::agreement::Contents;
use crate::clock::ClusterClock;
use crate::environment::System;
use crate::log_store::{LogStore, Sizes};
use crate::options::TimeSource;
use crate::state_store::StateStore;
use crate::types::TypeConfig;

struct Builder(Sizes);

impl StoreBuilder<TypeConfig, LogStore, StateStore, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateStore), StorageError<TypeConfig>> {
        let TestLog { store, dir, .. } = TestLog::new(self.0);
        let snapshots = dir.path().join("snapshots");
        std::fs::create_dir(&snapshots).unwrap();
        let clock = ClusterClock::new(std::sync::Arc::new(Stopped));
        let state = StateStore::open(
            snapshots,
            clock,
            Contents::new(Duration::MAX),
            CancellationToken::new(),
            std::sync::Arc::new(System),
        )
        .unwrap();
        Ok((dir, store, state))
    }
}

struct Stopped;

impl TimeSource for Stopped {
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn wall(&self) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_suite_passes_on_small_files() {
    let sizes = Sizes {
        file_bytes: 512,
        ..SMALL
    };
    Suite::test_all(Builder(sizes)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn openrafts_suite_passes_on_the_sizes_that_nodes_use() {
    Suite::test_all(Builder(Sizes::default())).await.unwrap();
}
