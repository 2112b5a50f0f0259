//! Watches what all nodes say of themselves while a scenario goes on: equal states, one leader a term, and how often the leader changed.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use crate::cluster::status;
use crate::findings::Findings;
use crate::monitor::{Monitor, Observed};
use crate::rpc::Nodes;

const EVERY: Duration = Duration::from_millis(50);

/// Watching; it ends when it is dropped.
pub(super) struct Vigil {
    monitor: Arc<Monitor>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Vigil {
    /// Begins to watch the stage's nodes, also those that come later.
    pub(super) fn start(stage: &Stage) -> Self {
        let monitor = Arc::new(Monitor::default());
        let stop = CancellationToken::new();
        let (hearing, stopped) = (monitor.clone(), stop.clone());
        let mut addresses = stage.addresses();
        let mut nodes = stage.nodes.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            stopped
                .run_until_cancelled(async {
                    loop {
                        if addresses.has_changed().unwrap_or(false) {
                            let now = addresses.borrow_and_update().clone();
                            // They are addresses that the harness made.
                            nodes = Nodes::new(now).unwrap_or(nodes);
                        }
                        let asked = (0..nodes.len()).map(|position| status(&nodes, position));
                        for status in join_all(asked).await.into_iter().flatten() {
                            hearing.hear(&status);
                        }
                        tokio::time::sleep(EVERY).await;
                    }
                })
                .await;
        });
        Self { monitor, stop, task }
    }

    /// Ends it. What was wrong is in `findings`, and that nothing was compared.
    pub(super) async fn end(mut self, findings: &mut Findings) -> anyhow::Result<Observed> {
        self.stop.cancel();
        while let Some(task) = self.task.join_next().await {
            task?;
        }
        let mut observed = self.monitor.observed();
        if observed.compared == 0 {
            findings.untold("no two nodes were ever seen at the same log position");
        }
        findings.checked(
            "G1",
            format!("equal states at {} log positions", observed.compared),
        );
        findings.merge(std::mem::take(&mut observed.findings));
        Ok(observed)
    }
}
