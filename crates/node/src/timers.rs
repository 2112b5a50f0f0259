//! The leader's timers: openings that end, probes that are not reported, sessions and circuits that are idle.
//!
//! What is due is derived from the replicated state and cluster time, so a new leader goes on where the old one was, neither earlier nor
//! later. This loop only asks the state what is due and proposes that it happens; the state machine decides. Nothing is forgotten
//! when it is proposed: it is due until its effect is applied.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use brama_core::ClusterTime;
use brama_core::limits::MAX_FIRE;
use brama_core::mutants::{self, Mutant};
use brama_raft::Replica;
use brama_raft::failpoints::{self, Point};

/// A sleep ends up to this much early, and the rest is waited for with a finer grain: tokio's timer rounds up to the next millisecond.
const FINE: Duration = Duration::from_millis(1);
/// A pause before trying again when a proposal was not taken.
const RETRY: Duration = Duration::from_millis(5);
/// Even with nothing due, look again after so long: cluster time leans, so a computed wait is only nearly exact.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Fires what is due for as long as this node leads, whenever it does; ends with `stop`.
pub async fn run(replica: Replica, stop: CancellationToken) {
    let mut leadership = replica.leadership();
    loop {
        let term = leadership.borrow_and_update().term;
        let lead = async {
            match term {
                Some(term) => fire_while_leading(&replica, term).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
            () = lead => {}
        }
    }
}

async fn fire_while_leading(replica: &Replica, term: u64) {
    let mut applied = replica.applied();
    let forgotten = if mutants::active(Mutant::TimerForgottenWhenDue) {
        // As if this node had struck them out when they were due, because the leader would see to them.
        replica.read(|machine| machine.due(replica.now(), MAX_FIRE))
    } else {
        Vec::new()
    };
    loop {
        applied.borrow_and_update();
        let next = replica.read(|machine| machine.next_due());
        if !wait_until_due(replica, next, &mut applied).await {
            continue;
        }
        let now = replica.now();
        let mut due = replica.read(|machine| machine.due(now, MAX_FIRE));
        if mutants::active(Mutant::TimerForgottenWhenDue) {
            due.retain(|due| !forgotten.contains(due));
            tokio::time::sleep(RETRY).await;
        }
        if due.is_empty() {
            continue;
        }
        failpoints::pass(Point::TimerBefore);
        // One command at a time: the next one must not name what this one is about to do. Reports share its entry, and go on.
        if let Err(error) = replica.fire(term, due).await {
            tracing::debug!(term, %error, "timers were not fired; trying again");
            tokio::time::sleep(RETRY).await;
        } else {
            failpoints::pass(Point::TimerAfter);
        }
    }
}

/// True when `next` is due; false when the state has changed, so that something else may be due first.
async fn wait_until_due(
    replica: &Replica,
    next: Option<ClusterTime>,
    applied: &mut tokio::sync::watch::Receiver<brama_raft::Applied>,
) -> bool {
    let Some(next) = next else {
        // Nothing is armed: only an applied entry can arm something. The sender lives as long as the replica.
        return applied.changed().await.is_err();
    };
    loop {
        let wait = replica.until(next).min(LOOK_AGAIN);
        if wait.is_zero() {
            return true;
        }
        let nap = wait.saturating_sub(FINE).max(Duration::from_micros(200));
        tokio::select! {
            () = tokio::time::sleep(nap) => {}
            changed = applied.changed() => return changed.is_err(),
        }
    }
}
