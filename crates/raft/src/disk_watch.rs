//! Looks after the data directory's disk: a node whose disk fares badly does not lead, if another can.
//!
//! | state | when | what this node does |
//! | --- | --- | --- |
//! | ok | | |
//! | low | less room than `min_free_bytes` | hands leadership over to a node that is better off |
//! | slow | a flush has taken longer than the longest election timeout | the same, and does not stand for election |
//! | full | a write was refused for want of room | the same; takes what its journal still holds, and then nothing until there is room |
//!
//! One rule for all: **leadership goes to a voter that is better off, and if there is none, this node leads on.** So three nodes on one disk that
//! runs low go on as before until a write really fails, and leadership never goes back and forth. Low ends at a quarter more than it begins.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::environment::{BoxFuture, Environment, Unfinished};
use crate::free_space;
use crate::inner::Inner;
use crate::log_store::LogHandle;
use crate::status::DiskState;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// When nobody was better off, the others are asked again after so long.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Runs for as long as the node does.
pub(crate) async fn run(node: Arc<Inner>) {
    let mut room = Room::new(&node);
    let mut ask_next = Instant::now();
    let mut stepping_aside: Option<JoinHandle<()>> = None;
    let mut was_slow = false;
    loop {
        node.log.tick();
        room.look().await;
        let state = judge(&node.log, &room, node.options.timing.election_max);
        let is_slow = matches!(state, DiskState::Slow { .. });
        if std::mem::replace(&mut was_slow, is_slow) != is_slow {
            tell_slow(&state);
        }
        node.raft
            .runtime_config()
            .elect(state.may_be_elected() && !node.is_out_of_service());
        node.disk.send_replace(state);
        let busy = stepping_aside.as_ref().is_some_and(|task| !task.is_finished());
        if state.rank() > 0 && node.leads() && !busy && Instant::now() >= ask_next {
            ask_next = Instant::now() + ASK_AGAIN;
            stepping_aside = Some(node.tasks.spawn(step_aside(node.clone(), state)));
        }
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn step_aside(node: Arc<Inner>, disk: DiskState) {
    let asked = tokio::select! {
        () = node.stop.cancelled() => return,
        asked = node.step_aside(disk.rank()) => asked,
    };
    match asked {
        Some(Ok(leader)) => {
            tracing::warn!(leader, %disk, "handed leadership over: the disk of this node is not well");
        }
        // While the disk hangs, openraft waits for it with the vote for the new leader.
        Some(Err(error)) => {
            tracing::warn!(%error, %disk, "asked another node to lead, and does not know yet whether it does");
        }
        None => tracing::debug!(%disk, "no voter is better off: this node leads on"),
    }
}

fn judge(log: &LogHandle, room: &Room, patience: Duration) -> DiskState {
    if let Some(since) = log.full_since() {
        return DiskState::Full {
            free_bytes: room.free,
            since: since.elapsed(),
            takes_entries: log.takes_entries(),
        };
    }
    if let Some(flushing_for) = log.flushing_for().filter(|took| *took > patience) {
        return DiskState::Slow { flushing_for };
    }
    match room.free {
        Some(free_bytes) if room.low => DiskState::Low {
            free_bytes,
            min_free_bytes: room.min_free,
        },
        free_bytes => DiskState::Ok { free_bytes },
    }
}

fn tell_slow(state: &DiskState) {
    if let DiskState::Slow { flushing_for } = state {
        tracing::error!(?flushing_for, "the disk hangs: a flush of the log does not end");
    } else {
        tracing::info!("the disk does not hang any more");
    }
}

/// How much room there is, as far as is known: asking may take long.
struct Room {
    folder: PathBuf,
    min_free: u64,
    free: Option<u64>,
    low: bool,
    environment: Arc<dyn Environment>,
    asked: Option<BoxFuture<Result<std::io::Result<u64>, Unfinished>>>,
}

impl Room {
    fn new(node: &Inner) -> Self {
        Self {
            folder: node.options.data_dir.clone(),
            min_free: node.options.min_free_bytes,
            free: None,
            low: false,
            environment: node.options.environment.clone(),
            asked: None,
        }
    }

    async fn look(&mut self) {
        let (folder, environment) = (self.folder.clone(), &self.environment);
        let ask = || Box::pin(environment.blocking(move || free_space::of(&folder))) as BoxFuture<_>;
        let asked = self.asked.get_or_insert_with(ask);
        // A file system that hangs is asked once.
        let Ok(answer) = tokio::time::timeout(LOOK_EVERY, asked).await else {
            return;
        };
        self.asked = None;
        match answer {
            Ok(Ok(free)) => self.found(free),
            Ok(Err(error)) => tracing::debug!(%error, "the room on the disk is not known"),
            // The runtime ends.
            Err(_) => {}
        }
    }

    fn found(&mut self, free: u64) {
        let wanted = if self.low {
            self.min_free.saturating_add(self.min_free / 4)
        } else {
            self.min_free
        };
        let low = free < wanted;
        if std::mem::replace(&mut self.low, low) != low {
            let data_dir = self.folder.display();
            if low {
                tracing::warn!(
                    free_bytes = free, limits.min_free_bytes = self.min_free, %data_dir,
                    "the disk is almost full: free some of it, or this node will soon take no more; if it leads, it hands over"
                );
            } else {
                tracing::info!(free_bytes = free, %data_dir, "the disk has enough room again");
            }
        }
        self.free = Some(free);
    }
}
