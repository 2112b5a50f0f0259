//! The leader's way from commands to log entries.
//!
//! Commands that wait together become one entry with one cluster time. There is no tuning: while an entry is on its way to a majority, more
//! commands gather, and the next entry takes all of them. So a lone command leaves at once, and a crowd shares the cost of one fsync. Where
//! the same crowd comes back again and again, the next entry waits a moment for those who were just answered ([`crate::crowd`]).

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use brama_core::codec::{self, BatchBuilder};
use brama_core::reply::Answer;

use crate::clock::ClusterClock;
use crate::crowd::{Crowd, Queued};
use crate::errors::ProposeError;
use crate::inner::RaftHandle;
use crate::log_store::LogHandle;
use crate::state_store::SharedState;
use crate::status::{Applied, Leadership};
use crate::types::{Answers, Payload};

/// Commands that may wait on the leader.
const MAX_WAITING: usize = 16 * 1024;
/// Entries on their way at once. More would make entries smaller, and what an entry costs on three nodes weighs more than the time for which
/// the disk is idle (two: a sixth more processor time a command with 64 clients, and half as much again at p99).
const MAX_IN_FLIGHT: usize = 1;
/// Commands in one entry.
const MAX_COMMANDS: u64 = 4096;
/// Bytes of commands after which an entry takes no more.
const MAX_ENTRY_BYTES: usize = 512 * 1024;
/// While a timer is armed, an entry at least this often, so that a node that restarts on a quiet cluster hears the time.
const CLOCK_ENTRY_EVERY: Duration = Duration::from_secs(1);

/// What became of a command: the state machine's answer, and how far the state was then.
pub(crate) type Outcome = Result<(Answer, Applied), ProposeError>;

/// Commands on their way into the log, as the core's codec writes them. They came together, go into one entry, and their outcomes come
/// together, in their order.
pub(crate) struct Job {
    commands: Vec<Bytes>,
    /// Another node made them: a newer one may have commands that this one cannot read, and no log may hold.
    foreign: bool,
    reply: oneshot::Sender<Vec<Outcome>>,
}

impl Job {
    fn refuse(self, error: &ProposeError) {
        // Nobody may wait any more, which is no problem here.
        let _ = self.reply.send(vec![Err(error.clone()); self.commands.len()]);
    }
}

/// Who waits for what became of an entry.
struct Waiting {
    /// A command that did not get into the entry has its error already.
    refused: Vec<Option<ProposeError>>,
    reply: oneshot::Sender<Vec<Outcome>>,
}

impl Waiting {
    fn tell(self, mut next: impl FnMut() -> Outcome) {
        let outcomes = self
            .refused
            .into_iter()
            .map(|refused| refused.map_or_else(&mut next, Err));
        let _ = self.reply.send(outcomes.collect());
    }

    fn fail(self, error: &ProposeError) {
        self.tell(|| Err(error.clone()));
    }
}

/// Where commands for the leader's log go in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Batcher {
    jobs: mpsc::Sender<Job>,
    urgent: mpsc::Sender<Job>,
    queued: Queued,
}

impl Batcher {
    pub(crate) fn new() -> (Self, Queues) {
        let (jobs, waiting) = mpsc::channel(MAX_WAITING);
        let (urgent, waiting_urgent) = mpsc::channel(16);
        let queued = Queued::default();
        let queues = Queues {
            jobs: waiting,
            urgent: waiting_urgent,
            queued: queued.clone(),
        };
        let batcher = Self { jobs, urgent, queued };
        (batcher, queues)
    }

    /// Groups of commands that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.jobs.max_capacity() - self.jobs.capacity()
    }

    /// Queues commands that this node has encoded; what became of them comes through the receiver.
    ///
    /// # Errors
    /// [`ProposeError::Overloaded`] when too many are waiting.
    pub(crate) fn submit(
        &self,
        commands: Vec<Bytes>,
    ) -> Result<oneshot::Receiver<Vec<Outcome>>, ProposeError> {
        self.queue(commands, false)
    }

    /// [`Batcher::submit`] for commands that another node has encoded: what cannot be read is refused, alone.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn submit_foreign(
        &self,
        commands: Vec<Bytes>,
    ) -> Result<oneshot::Receiver<Vec<Outcome>>, ProposeError> {
        self.queue(commands, true)
    }

    fn queue(
        &self,
        commands: Vec<Bytes>,
        foreign: bool,
    ) -> Result<oneshot::Receiver<Vec<Outcome>>, ProposeError> {
        let (reply, outcomes) = oneshot::channel();
        let job = Job {
            commands,
            foreign,
            reply,
        };
        // Before it can be taken out.
        let number = job.commands.len();
        self.queued.enter(number);
        self.jobs.try_send(job).map_err(|error| {
            self.queued.leave(number);
            match error {
                mpsc::error::TrySendError::Full(_) => ProposeError::Overloaded,
                mpsc::error::TrySendError::Closed(_) => ProposeError::Stopping,
            }
        })?;
        Ok(outcomes)
    }

    /// Queues a timer's command: before all others, and never refused for load.
    ///
    /// # Errors
    /// [`ProposeError::Stopping`].
    pub(crate) async fn submit_urgent(
        &self,
        command: Bytes,
    ) -> Result<oneshot::Receiver<Vec<Outcome>>, ProposeError> {
        let (reply, outcome) = oneshot::channel();
        let job = Job {
            commands: vec![command],
            foreign: false,
            reply,
        };
        self.urgent.send(job).await.map_err(|_| ProposeError::Stopping)?;
        Ok(outcome)
    }
}

/// The other end of a [`Batcher`].
pub(crate) struct Queues {
    jobs: mpsc::Receiver<Job>,
    urgent: mpsc::Receiver<Job>,
    queued: Queued,
}

impl Queues {
    fn try_next(&mut self) -> Option<Job> {
        if let Ok(job) = self.urgent.try_recv() {
            return Some(job);
        }
        let job = self.jobs.try_recv().ok()?;
        self.queued.leave(job.commands.len());
        Some(job)
    }
}

/// Turns waiting commands into entries for as long as the node runs. Refuses them while it does not lead.
pub(crate) struct BatcherTask {
    pub(crate) queues: Queues,
    pub(crate) raft: RaftHandle,
    pub(crate) log: LogHandle,
    pub(crate) clock: ClusterClock,
    pub(crate) state: SharedState,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) stop: CancellationToken,
}

impl BatcherTask {
    pub(crate) async fn run(mut self) {
        let mut in_flight = FuturesUnordered::new();
        let mut crowd = Crowd::new(self.queues.queued.clone());
        let mut last_entry = Instant::now();
        let mut leading = None;
        loop {
            let term = self.leadership.borrow_and_update().term;
            if term != leading {
                leading = term;
                // A new leader's first entry tells every follower the time by its clock.
                if term.is_some() {
                    if let Some(entry) = self.propose(BatchBuilder::default(), Vec::new()).await {
                        in_flight.push(entry);
                    }
                    last_entry = Instant::now();
                }
            }
            // A log that has no room would make openraft wait, and with it the heartbeats: commands wait here. If its disk is full, there is
            // no telling how long: whoever asked is told.
            let takes = self.log.takes_entries();
            let full = !takes && self.log.full_since().is_some();
            let room = in_flight.len() < MAX_IN_FLIGHT && takes;
            let refuses = full || term.is_none();
            let gathers = room && !refuses && crowd.is_awaited();
            let first = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(commands) = in_flight.next(), if !in_flight.is_empty() => {
                    crowd.answered(commands, Instant::now());
                    continue;
                }
                changed = self.leadership.changed() => {
                    if changed.is_err() { break }
                    continue;
                }
                Some(job) = self.queues.urgent.recv(), if room || refuses => Some(job),
                () = crowd.gathered(), if gathers => continue,
                Some(job) = self.queues.jobs.recv(), if (room && !gathers) || refuses => {
                    self.queues.queued.leave(job.commands.len());
                    Some(job)
                }
                () = self.log.until_it_takes_entries(), if !takes => continue,
                () = tokio::time::sleep_until(last_entry + CLOCK_ENTRY_EVERY), if term.is_some() && room => None,
            };
            if term.is_none() {
                if let Some(job) = first {
                    job.refuse(&ProposeError::NoLeader);
                }
                continue;
            }
            if full {
                if let Some(job) = first {
                    job.refuse(&ProposeError::NoRoom);
                }
                continue;
            }
            crowd.go();
            last_entry = Instant::now();
            if first.is_none() && self.state.read(|machine| machine.next_due()).is_none() {
                continue;
            }
            // Those who are just being read from their connections come along.
            tokio::task::yield_now().await;
            let (builder, replies) = self.gather(first);
            if let Some(entry) = self.propose(builder, replies).await {
                in_flight.push(entry);
            }
        }
        // Nothing more is proposed; what is on its way still gets its answer.
        self.queues.jobs.close();
        self.queues.urgent.close();
        while let Some(job) = self.queues.try_next() {
            job.refuse(&ProposeError::Stopping);
        }
        while in_flight.next().await.is_some() {}
    }

    fn gather(&mut self, first: Option<Job>) -> (BatchBuilder, Vec<Waiting>) {
        let mut builder = BatchBuilder::default();
        let mut waiting = Vec::new();
        let mut next = first;
        while let Some(job) = next {
            // Nobody waits any more: the caller's deadline is over, and it was told that nothing is known.
            if !job.reply.is_closed() {
                let foreign = job.foreign;
                let refused = job
                    .commands
                    .iter()
                    .map(|command| push(&mut builder, command, foreign));
                waiting.push(Waiting {
                    refused: refused.collect(),
                    reply: job.reply,
                });
            }
            if builder.len() >= MAX_COMMANDS || builder.bytes() >= MAX_ENTRY_BYTES {
                break;
            }
            next = self.queues.try_next();
        }
        (builder, waiting)
    }

    /// Proposes one entry. The future that comes back ends when its replies were sent, and gives how many commands it had.
    async fn propose(
        &self,
        builder: BatchBuilder,
        waiting: Vec<Waiting>,
    ) -> Option<impl Future<Output = usize> + use<>> {
        let commands = usize::try_from(builder.len()).unwrap_or(usize::MAX);
        let payload = Payload(Bytes::from(builder.finish(self.clock.stamp())));
        let (responder, outcome) = ProgressResponder::complete_only();
        if self.raft.client_write_ff(payload, Some(responder)).await.is_err() {
            for one in waiting {
                one.fail(&ProposeError::Stopping);
            }
            return None;
        }
        Some(async move {
            let failure = match outcome.await {
                Ok(Ok(written)) => {
                    let index = written.log_id.index;
                    let Answers { answers, revision } = written.data;
                    let applied = Applied { index, revision };
                    let mut answers = answers.into_iter();
                    let mut next = || {
                        let answer = answers.next().map(|answer| (answer, applied));
                        answer.ok_or_else(|| ProposeError::unknown("the state machine gave no answer"))
                    };
                    for one in waiting {
                        one.tell(&mut next);
                    }
                    return commands;
                }
                // Rejected before it was appended.
                Ok(Err(ClientWriteError::ForwardToLeader(_))) => ProposeError::NoLeader,
                Ok(Err(error)) => ProposeError::Unknown {
                    cause: error.to_string(),
                },
                Err(_) => ProposeError::Unknown {
                    cause: "consensus stopped on the leader".into(),
                },
            };
            for one in waiting {
                one.fail(&failure);
            }
            commands
        })
    }
}

/// Adds a command to an entry; gives why, if it cannot be.
fn push(builder: &mut BatchBuilder, command: &[u8], foreign: bool) -> Option<ProposeError> {
    let readable = if foreign {
        codec::decode_command(command).map(drop)
    } else {
        Ok(())
    };
    let error = readable.and_then(|()| builder.push(command)).err()?;
    Some(brama_core::reply::Refusal::invalid("command", error.to_string()).into())
}

#[cfg(test)]
mod tests {
    use brama_core::{CircuitName, Command};

    use super::*;

    #[test]
    fn what_another_node_sends_that_is_no_command_gets_into_no_entry() {
        let command = codec::encode_command(&Command::Reset {
            name: CircuitName::new(None, "payments").unwrap(),
            reason: None,
        });
        let mut of_a_later_variant = command.clone();
        of_a_later_variant[1] = 200;
        let longer = [command.as_slice(), &[1]].concat();
        let mut builder = BatchBuilder::default();
        for wrong in [&of_a_later_variant, &longer, &vec![1], &vec![]] {
            let refused = push(&mut builder, wrong, true).expect("a refusal");
            assert!(matches!(refused, ProposeError::Refused(_)), "{refused}");
        }
        assert_eq!(push(&mut builder, &command, true).map(|e| e.to_string()), None);
        let entry = builder.finish(brama_core::ClusterTime::ZERO);
        assert_eq!(codec::decode_batch(&entry).unwrap().commands.len(), 1);
    }
}
