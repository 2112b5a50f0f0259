//! Hashes of the whole state, at positions on which all nodes agree without asking.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use brama_core::ClusterTime;
use brama_core::snapshot::Frozen;

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
    /// A state that is not hashed yet: only the newest, so that a node that catches up does not fall behind with this.
    waiting: Option<(u64, Frozen)>,
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
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.waiting.notified() => {}
            }
            let (taken, replaced) = {
                let mut shared = self.shared.lock();
                (shared.waiting.take(), shared.replaced)
            };
            let Some((index, state)) = taken else { continue };
            let began = Instant::now();
            let hashing = tokio::task::spawn_blocking(move || state.content_hash());
            let Ok(hash) = hashing.await else {
                tracing::error!(index, "hashing the state has failed");
                continue;
            };
            tracing::debug!(index, took = ?began.elapsed(), "hashed the whole state");
            let mut shared = self.shared.lock();
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
        let stop = CancellationToken::new();
        let task = tokio::spawn(contents.clone().run(stop.clone()));
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
}
