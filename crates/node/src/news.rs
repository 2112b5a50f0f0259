//! News of events, for subscribers.
//!
//! A task reads the log of events once for all of them. It wakes only those whom an event concerns: ten thousand subscribers whose circuits are
//! quiet cost nothing while others are busy. For each circuit that somebody follows by name it keeps the newest events, so that a subscriber
//! does not look through everything to find its own; one that is further behind reads the log by itself.
//!
//! The more are woken the longer the task waits before it wakes them again ([`pace`]), unless a circuit changes its state.

mod board;
mod pace;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use brama_core::name::CircuitName;
use brama_raft::Replica;
use brama_raft::failpoints::{self, Point};

use self::board::Board;
pub(crate) use self::board::{Found, Interest};
use self::pace::Pace;

/// Events that are read from the log at once; the log is locked meanwhile.
const PAGE: usize = 256;

/// Where subscribers follow the log of events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct News {
    board: Arc<Mutex<Board>>,
}

impl News {
    /// Nothing is told until [`News::run`] runs.
    pub(crate) fn new() -> Self {
        Self {
            board: Arc::new(Mutex::new(Board::new())),
        }
    }

    /// Follows these circuits, or all if there are none.
    pub(crate) fn follow(&self, names: Arc<[CircuitName]>, interest: Interest) -> Following {
        let bell = Arc::new(Notify::new());
        let number = self.board.lock().enter(&names, interest, bell.clone());
        Following {
            news: self.clone(),
            number,
            names,
            interest,
            bell,
        }
    }

    /// Tells what is applied, and wakes everybody when `quorum` changes. Ends with `end`, after a last call to everybody.
    pub(crate) async fn run(
        self,
        replica: Replica,
        mut quorum: watch::Receiver<bool>,
        end: CancellationToken,
    ) {
        let mut applied = replica.applied();
        let mut pace = Pace::new(Instant::now());
        // Not told yet: anything; a change of state.
        let (mut news, mut urgent) = (false, false);
        loop {
            (news, urgent) = self.take_in(&replica, (news, urgent));
            let now = Instant::now();
            if news && pace.next(urgent) <= now {
                let woken = self.board.lock().wake_concerned();
                failpoints::pass(Point::PublishAfter);
                pace.woke(now, replica.now(), woken);
                (news, urgent) = (false, false);
            }
            let change = async {
                // The replica is gone only when the node is stopping.
                if applied.changed().await.is_err() {
                    end.cancelled().await;
                }
            };
            tokio::select! {
                () = end.cancelled() => break,
                Ok(()) = quorum.changed() => self.board.lock().wake_all(),
                () = change => {}
                () = tokio::time::sleep_until(pace.next(urgent)), if news => {}
            }
        }
        self.board.lock().wake_all();
    }

    /// Takes in what the log has. Returns whether there is anything that was not told yet, and whether a change of state is among it.
    fn take_in(&self, replica: &Replica, (mut news, mut urgent): (bool, bool)) -> (bool, bool) {
        loop {
            let position = self.board.lock().position();
            let page = replica.read(|machine| {
                let page = machine.events_after(position, PAGE);
                page.map_err(|_compacted| machine.revision())
            });
            match page {
                Ok(page) if page.is_empty() => return (news, urgent),
                Ok(page) => {
                    failpoints::pass(Point::PublishBefore);
                    news = true;
                    urgent |= page.iter().any(|event| event.changes_state());
                    self.board.lock().take_in(&page);
                }
                // It was too slow, or a snapshot came. Subscribers find out by themselves whether the log still has what they need.
                Err(newest) => self.board.lock().skip_to(newest),
            }
        }
    }
}

/// A subscriber's place at the board; given back when it is dropped.
pub(crate) struct Following {
    news: News,
    number: u64,
    names: Arc<[CircuitName]>,
    interest: Interest,
    bell: Arc<Notify>,
}

impl Following {
    /// Waits until there may be something new: events, another quorum, or the node's end. What came since the last call is not missed.
    pub(crate) async fn bell(&self) {
        self.bell.notified().await;
    }

    /// What the circuits that it follows have had after revision `after` that is of interest.
    pub(crate) fn read(&self, after: u64) -> Found {
        self.news.board.lock().read(&self.names, self.interest, after)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.news
            .board
            .lock()
            .leave(self.number, &self.names, self.interest);
    }
}
