//! The leader's side of linearizable reads: one question to a majority for all who wait (Raft's ReadIndex).

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use brama_core::mutants::{self, Mutant};

use crate::inner::RaftHandle;

/// Reads that may wait on the leader.
const MAX_WAITING: usize = 16 * 1024;

/// A read may be answered from a state that has applied this index; `None`: this node cannot say (it does not lead, or no
/// majority answered).
pub(crate) type ReadIndex = Option<u64>;

/// Where linearizable reads ask on the leader. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reads {
    asks: mpsc::Sender<oneshot::Sender<ReadIndex>>,
}

impl Reads {
    pub(crate) fn new() -> (Self, mpsc::Receiver<oneshot::Sender<ReadIndex>>) {
        let (asks, waiting) = mpsc::channel(MAX_WAITING);
        (Self { asks }, waiting)
    }

    /// The index that a read which begins now has to wait for.
    pub(crate) async fn index(&self) -> ReadIndex {
        let (reply, answer) = oneshot::channel();
        self.asks.send(reply).await.ok()?;
        answer.await.ok()?
    }
}

/// Answers reads for as long as the node runs. Whoever arrives while a question is under way waits for the next one: an answer
/// may only serve reads that began before it was asked.
pub(crate) async fn run(
    mut waiting: mpsc::Receiver<oneshot::Sender<ReadIndex>>,
    raft: RaftHandle,
    patience: Duration,
    stop: CancellationToken,
) {
    let mut group = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            n = waiting.recv_many(&mut group, MAX_WAITING) => if n == 0 { break },
        }
        // Those who are just being read from their connections come along.
        tokio::task::yield_now().await;
        while group.len() < MAX_WAITING
            && let Ok(reply) = waiting.try_recv()
        {
            group.push(reply);
        }
        if mutants::active(Mutant::LeaderReads) {
            for reply in group.drain(..) {
                let _ = reply.send(Some(0));
            }
            continue;
        }
        let answer =
            tokio::time::timeout(patience, raft.get_read_log_id(openraft::ReadPolicy::ReadIndex)).await;
        let index = match answer {
            Ok(Ok((read, _applied))) => Some(read.index()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "no linearizable read");
                None
            }
            Err(_) => None,
        };
        for reply in group.drain(..) {
            let _ = reply.send(index);
        }
    }
}
