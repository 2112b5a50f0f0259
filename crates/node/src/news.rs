//! News of events, for subscribers.
//!
//! A task reads the log of events once for all of them. It wakes only those whom an event concerns: ten thousand subscribers whose circuits are
//! quiet cost nothing while others are busy. For each circuit that somebody follows by name it keeps the newest events, so that a subscriber
//! does not look through everything to find its own; one that is further behind reads the log by itself.
//!
//! The more are woken the longer the task waits before it wakes them again. What happens meanwhile reaches them together, which costs hardly more
//! than one event: so a crowd on a busy circuit is told a little later, instead of falling behind.

mod board;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use brama_core::name::CircuitName;
use brama_raft::Replica;

use self::board::Board;
pub(crate) use self::board::Found;

/// Events that are read from the log at once; the log is locked meanwhile.
const PAGE: usize = 256;
/// What it takes to tell one subscriber, about: until that is over for all who were woken, they are not woken again.
const TELLING_ONE: Duration = Duration::from_micros(60);
/// But nobody waits longer than this.
const LONGEST_PAUSE: Duration = Duration::from_millis(40);

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
    pub(crate) fn follow(&self, names: Arc<[CircuitName]>) -> Following {
        let bell = Arc::new(Notify::new());
        let number = self.board.lock().enter(&names, bell.clone());
        Following {
            news: self.clone(),
            number,
            names,
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
        loop {
            let woken = self.tell(&replica);
            let pause = (TELLING_ONE * woken).min(LONGEST_PAUSE);
            let until = Instant::now() + pause;
            let news = async {
                // A pause shorter than the timer's grain is none.
                if pause >= Duration::from_millis(1) {
                    tokio::time::sleep_until(until).await;
                }
                // The replica is gone only when the node is stopping.
                if applied.changed().await.is_err() {
                    end.cancelled().await;
                }
            };
            tokio::select! {
                () = end.cancelled() => break,
                Ok(()) = quorum.changed() => self.board.lock().wake_all(),
                () = news => {}
            }
        }
        self.board.lock().wake_all();
    }

    /// Takes in what the log has; returns how many it woke.
    fn tell(&self, replica: &Replica) -> u32 {
        let mut woken = 0;
        loop {
            let position = self.board.lock().position();
            let page = replica.read(|machine| {
                let page = machine.events_after(position, PAGE);
                page.map_err(|_compacted| machine.revision())
            });
            let mut board = self.board.lock();
            match page {
                Ok(page) if page.is_empty() => {
                    woken += board.wake_concerned();
                    return woken;
                }
                Ok(page) => board.take_in(&page),
                // It was too slow, or a snapshot came. Subscribers find out by themselves whether the log still has what they need.
                Err(newest) => board.skip_to(newest),
            }
        }
    }
}

/// A subscriber's place at the board; given back when it is dropped.
pub(crate) struct Following {
    news: News,
    number: u64,
    names: Arc<[CircuitName]>,
    bell: Arc<Notify>,
}

impl Following {
    /// Waits until there may be something new: events, another quorum, or the node's end. What came since the last call is not missed.
    pub(crate) async fn bell(&self) {
        self.bell.notified().await;
    }

    /// What the circuits that it follows have had after revision `after`.
    pub(crate) fn read(&self, after: u64) -> Found {
        self.news.board.lock().read(&self.names, after)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.news.board.lock().leave(self.number, &self.names);
    }
}
