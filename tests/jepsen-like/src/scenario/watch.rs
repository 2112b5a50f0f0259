//! What each node says of itself while a scenario plays: no vote on disk may go back, and equal log positions have equal states.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use crate::cluster::status;
use crate::findings::Findings;
use crate::monitor::Monitor;
use crate::votes::Votes;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Asks every node for its status all the time.
pub(super) struct Watch {
    heard: Arc<Mutex<(Votes, Monitor)>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Watch {
    /// Begins to ask.
    pub(super) fn start(stage: &Stage) -> Self {
        let heard = Arc::<Mutex<(Votes, Monitor)>>::default();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for position in 0..stage.nodes.len() {
            let (nodes, heard, stop) = (stage.nodes.clone(), heard.clone(), stop.clone());
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
            tasks.spawn(async move {
                stop.run_until_cancelled(look).await;
            });
        }
        Self { heard, stop, tasks }
    }

    /// Ends, and says what was wrong.
    ///
    /// # Errors
    /// When asking failed.
    pub(super) async fn stop(mut self, findings: &mut Findings) -> anyhow::Result<()> {
        self.stop.cancel();
        while let Some(task) = self.tasks.join_next().await {
            task?;
        }
        let mut heard = self.heard.lock();
        let (found, terms) = heard.0.take();
        let observed = heard.1.observed();
        findings.merge(found);
        findings.merge(observed.findings);
        findings.checked("G8", format!("no vote went back in {terms} terms"));
        findings.checked(
            "G1",
            format!("equal states at {} log positions", observed.compared),
        );
        Ok(())
    }
}
