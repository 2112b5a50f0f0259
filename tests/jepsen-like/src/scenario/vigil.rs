//! Watches what all nodes say of themselves while a scenario goes on: equal states, one leader a term, no vote that goes back, and how often the leader
//! changed.

use std::sync::Arc;
use std::time::Duration;

use brama_proto::v1;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use crate::cluster::status;
use crate::findings::Findings;
use crate::monitor::{Monitor, Observed};
use crate::rpc::Nodes;

const EVERY: Duration = Duration::from_millis(30);

/// Watching; it ends when it is dropped.
pub(super) struct Vigil {
    monitor: Arc<Monitor>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Vigil {
    /// Begins to watch the stage's nodes, also those that come later. One that does not answer keeps nobody from looking at the others.
    pub(super) fn start(stage: &Stage) -> Self {
        let monitor = Arc::new(Monitor::default());
        let stop = CancellationToken::new();
        let (hearing, stopped) = (monitor.clone(), stop.clone());
        let mut addresses = stage.addresses();
        let mut nodes = stage.nodes.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let watch = async {
                let mut asked = FuturesUnordered::new();
                let mut watched = 0;
                loop {
                    if addresses.has_changed().unwrap_or(false) {
                        let now = addresses.borrow_and_update().clone();
                        // They are addresses that the harness made.
                        nodes = Nodes::new(now).unwrap_or(nodes);
                    }
                    asked.extend((watched..nodes.len()).map(|position| ask(nodes.clone(), position)));
                    watched = nodes.len();
                    let Some((position, status)) = asked.next().await else {
                        break;
                    };
                    if let Some(status) = status {
                        hearing.hear(&status);
                    }
                    if position < watched {
                        asked.push(ask(nodes.clone(), position));
                    }
                }
            };
            stopped.run_until_cancelled(watch).await;
        });
        Self { monitor, stop, task }
    }

    /// Ends it. What was wrong is in `findings`, and that nothing was compared.
    pub(super) async fn end(self, findings: &mut Findings) -> anyhow::Result<Observed> {
        let mut observed = self.stop().await?;
        if observed.compared == 0 {
            findings.untold("no two nodes were ever seen at the same log position");
        }
        findings.checked(
            "G1",
            format!("equal states at {} log positions", observed.compared),
        );
        findings.checked(
            "G8",
            format!("no vote went back in {} terms", observed.newest_term),
        );
        findings.merge(std::mem::take(&mut observed.findings));
        Ok(observed)
    }

    /// Ends it, for who sums up over several.
    pub(super) async fn stop(mut self) -> anyhow::Result<Observed> {
        self.stop.cancel();
        while let Some(task) = self.task.join_next().await {
            task?;
        }
        Ok(self.monitor.observed())
    }
}

async fn ask(nodes: Nodes, position: usize) -> (usize, Option<v1::ClusterStatusResponse>) {
    tokio::time::sleep(EVERY).await;
    let status = status(&nodes, position).await;
    (position, status)
}
