//! Hashes of the whole state, at positions on which all nodes agree without asking.
//!
//! A state that waits to be hashed costs memory: whatever is applied meanwhile is there twice. A node that starts applies all of its log in
//! moments, so one copy kept over that could be a second state. So none is taken before the node runs, nor while another one is hashed; a
//! position that is left out only means that nothing is compared at it, and the next comes within a period.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use brama_core::ClusterTime;
use brama_core::snapshot::Frozen;

use crate::environment::Environment;

/// Hashes that are kept: a node that is behind, or was away for some periods, still finds a common one.
const KEPT: usize = 8;

/// Content hashes of this node, by log index. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Contents {
    period: Duration,
    shared: Arc<Mutex<Shared>>,
    waiting: Arc<Notify>,
}

#[derive(Default)]
struct Shared {
    /// States may be offered: the node has applied again what it had applied before it was started.
    begun: bool,
    /// A state that is not hashed yet.
    waiting: Option<(u64, Frozen)>,
    /// One is being hashed.
    hashing: bool,
    done: VecDeque<(u64, u64)>,
    /// How often the state was replaced. A hash of an earlier one says nothing about the one there is.
    replaced: u64,
}

impl Contents {
    /// One position each time that cluster time enters another multiple of `period`.
    pub(crate) fn new(period: Duration) -> Self {
        Self {
            period,
            shared: Arc::default(),
            waiting: Arc::default(),
        }
    }

    /// Whether an entry that moves cluster time like this is a position: the same answer on each node.
    pub(crate) fn is_position(&self, before: ClusterTime, after: ClusterTime) -> bool {
        let period = u64::try_from(self.period.as_micros()).unwrap_or(u64::MAX).max(1);
        before.as_micros() / period != after.as_micros() / period
    }

    /// The node runs: from now on states are taken.
    pub(crate) fn begin(&self) {
        self.shared.lock().begun = true;
    }

    /// Whether a state would be taken now.
    pub(crate) fn takes(&self) -> bool {
        let shared = self.shared.lock();
        shared.begun && shared.waiting.is_none() && !shared.hashing
    }

    /// The state after the entry at `index`, which is a position. It is hashed soon, by [`Contents::run`].
    pub(crate) fn offer(&self, index: u64, state: Frozen) {
        let skipped = self.shared.lock().waiting.replace((index, state));
        self.waiting.notify_one();
        drop(skipped);
    }

    /// Another state has replaced the one there was.
    pub(crate) fn clear(&self) {
        let mut shared = self.shared.lock();
        shared.waiting = None;
        shared.done.clear();
        shared.replaced += 1;
    }

    /// The newest position that is hashed, and its hash.
    pub(crate) fn newest(&self) -> Option<(u64, u64)> {
        self.shared.lock().done.back().copied()
    }

    /// The hash at a position; `None`: it is none, not hashed yet, or no longer kept.
    pub(crate) fn at(&self, index: u64) -> Option<u64> {
        let shared = self.shared.lock();
        let found = shared.done.iter().find(|(position, _)| *position == index);
        found.map(|(_, hash)| *hash)
    }

    /// Hashes what is offered, on a thread of its own, one at a time. Ends with `stop`.
    pub(crate) async fn run(self, environment: Arc<dyn Environment>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.waiting.notified() => {}
            }
            let (taken, replaced) = {
                let mut shared = self.shared.lock();
                shared.hashing = shared.waiting.is_some();
                (shared.waiting.take(), shared.replaced)
            };
            let Some((index, state)) = taken else { continue };
            let began = Instant::now();
            let hashed = environment.blocking(move || state.content_hash()).await;
            let mut shared = self.shared.lock();
            shared.hashing = false;
            let Ok(hash) = hashed else {
                tracing::error!(index, "hashing the state has failed");
                continue;
            };
            tracing::debug!(index, took = ?began.elapsed(), "hashed the whole state");
            if shared.replaced == replaced {
                if shared.done.len() == KEPT {
                    shared.done.pop_front();
                }
                shared.done.push_back((index, hash));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use brama_core::Machine;

    use super::*;
    use crate::environment::System;

    #[test]
    fn positions_are_where_time_enters_another_period() {
        let contents = Contents::new(Duration::from_secs(60));
        let at = |seconds: u64| ClusterTime::from_micros(seconds * 1_000_000);
        let positions = [
            (0, 0),
            (0, 59),
            (59, 60),
            (60, 119),
            (119, 121),
            (121, 900),
            (900, 900),
        ];
        let found = positions.map(|(before, after)| contents.is_position(at(before), at(after)));
        assert_eq!(found, [false, false, true, false, true, true, false]);
    }

    #[tokio::test]
    async fn a_state_that_was_replaced_is_not_answered_for() {
        let contents = Contents::new(Duration::from_secs(60));
        contents.begin();
        let stop = CancellationToken::new();
        let task = tokio::spawn(contents.clone().run(Arc::new(System), stop.clone()));
        for index in 1..=KEPT as u64 + 2 {
            contents.offer(index, Machine::new().freeze());
            while contents.newest().is_none_or(|(newest, _)| newest != index) {
                tokio::task::yield_now().await;
            }
        }
        let hash = Machine::new().freeze().content_hash();
        assert_eq!(
            [2, 3, 10].map(|index| contents.at(index)),
            [None, Some(hash), Some(hash)]
        );
        contents.clear();
        assert_eq!((contents.newest(), contents.at(10)), (None, None));
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn no_state_is_taken_before_the_node_runs_nor_beside_another_one() {
        let contents = Contents::new(Duration::from_secs(60));
        assert!(!contents.takes(), "it would be kept over all of the log");
        contents.begin();
        assert!(contents.takes());
        contents.offer(1, Machine::new().freeze());
        assert!(!contents.takes(), "there would be three states");
        let stop = CancellationToken::new();
        let task = tokio::spawn(contents.clone().run(Arc::new(System), stop.clone()));
        while contents.newest().is_none() {
            tokio::task::yield_now().await;
        }
        assert!(contents.takes());
        stop.cancel();
        task.await.unwrap();
    }
}
