//! Asks every node for its status all the time: votes must not go back, and equal log positions must have equal states.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::status;
use crate::findings::Findings;
use crate::monitor::{Monitor, Observed};
use crate::rpc::Nodes;
use crate::votes::Votes;

const LOOK_EVERY: Duration = Duration::from_millis(30);

pub(in crate::scenario) struct Watch {
    heard: Arc<Mutex<(Votes, Monitor)>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Watch {
    pub(in crate::scenario) fn start(nodes: Nodes) -> Self {
        let heard = Arc::<Mutex<(Votes, Monitor)>>::default();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for position in 0..nodes.len() {
            let (nodes, heard) = (nodes.clone(), heard.clone());
            let look = async move {
                loop {
                    if let Some(status) = status(&nodes, position).await {
                        let mut heard = heard.lock();
                        heard.0.hear(&status);
                        heard.1.hear(&status);
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            };
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(look).await;
            });
        }
        Self { heard, stop, tasks }
    }

    /// What was wrong goes to the findings; gives what was seen, and the newest term.
    pub(in crate::scenario) async fn stop(
        mut self,
        findings: &mut Findings,
    ) -> anyhow::Result<(Observed, u64)> {
        self.stop.cancel();
        while let Some(task) = self.tasks.join_next().await {
            task?;
        }
        let mut heard = self.heard.lock();
        let (found, term) = heard.0.take();
        let mut observed = heard.1.observed();
        findings.merge(found);
        findings.merge(std::mem::take(&mut observed.findings));
        Ok((observed, term))
    }
}
