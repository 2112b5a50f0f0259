//! What reaches the director while the story goes on.

use std::time::Duration;

use brama_proto::v1;
use brama_proto::v1::cluster_client::ClusterClient;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::lines::{Calls, Told};
use crate::processes::Said;

/// The nodes are asked so often who leads.
const ASK_INTERVAL: Duration = Duration::from_millis(50);
/// A node that takes longer has no opinion.
const ASK_TIMEOUT: Duration = Duration::from_millis(200);

/// A piece of news.
pub(crate) enum News {
    /// The subscriber of this node (from 0) was told of an event.
    Told(usize, Told),
    /// The calls of this replica (from 0) so far.
    Calls(usize, Calls),
    /// Who leads (from 0).
    Leader(Option<usize>),
    /// The story cannot go on.
    Trouble(String),
}

/// Passes on what a process says.
pub(crate) async fn forward<T: DeserializeOwned>(
    mut said: Said,
    news: mpsc::Sender<News>,
    wrap: impl Fn(T) -> News + Send,
) {
    loop {
        let next = match said.next().await {
            Ok(Some(line)) => wrap(line),
            Ok(None) => return,
            Err(error) => News::Trouble(format!("{error:#}")),
        };
        if news.send(next).await.is_err() {
            return;
        }
    }
}

/// Tells whenever the leader is another.
pub(crate) async fn watch_leader(endpoints: Vec<String>, news: mpsc::Sender<News>) {
    let channel = |endpoint: String| {
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).ok()?;
        Some(endpoint.connect_timeout(ASK_TIMEOUT).connect_lazy())
    };
    let channels: Vec<Channel> = endpoints.into_iter().filter_map(channel).collect();
    let mut known = None;
    loop {
        let asked = futures::future::join_all(channels.iter().cloned().map(leads)).await;
        // A leader that was cut off may believe in itself a little longer: the highest term counts.
        let leads = asked
            .iter()
            .enumerate()
            .filter_map(|(node, term)| term.map(|term| (term, node)));
        let leader = leads.max().map(|(_, node)| node);
        if leader != known {
            known = leader;
            if news.send(News::Leader(leader)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    }
}

/// The term in which the node leads, if it does.
async fn leads(channel: Channel) -> Option<u64> {
    let mut cluster = ClusterClient::new(channel);
    let answer = tokio::time::timeout(ASK_TIMEOUT, cluster.status(v1::ClusterStatusRequest {}))
        .await
        .ok()?
        .ok()?;
    let status = answer.into_inner();
    (status.role() == v1::Role::Leader).then_some(status.term)
}
