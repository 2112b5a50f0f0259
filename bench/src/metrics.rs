//! What a node shows at `/metrics`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

const PATIENCE: Duration = Duration::from_secs(5);

/// The page, in the text format of Prometheus.
///
/// # Errors
/// When the node does not answer, or has no such page.
pub(crate) async fn scrape(address: SocketAddr) -> anyhow::Result<String> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let ask = async {
        let answer = client.get(format!("http://{address}/metrics").parse()?).await?;
        anyhow::ensure!(answer.status().is_success(), "the answer is {}", answer.status());
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(body.into())?)
    };
    tokio::time::timeout(PATIENCE, ask)
        .await
        .context("/metrics does not come in time")?
}

/// The value of a gauge or counter without labels.
pub(crate) fn value(page: &str, name: &str) -> Option<f64> {
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_whole_name() {
        let page = "# TYPE a gauge\na_long 1\na{x=\"y\"} 2\na 3.5\nb 4 1700000000\n";
        assert_eq!(value(page, "a"), Some(3.5));
        assert_eq!(value(page, "b"), Some(4.0));
        assert_eq!(value(page, "a_lon"), None);
    }
}
