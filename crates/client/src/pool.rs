//! Connections to the nodes, and which node is asked next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::error::Error;

/// A connection that is not there after this long is given up. A healthy one takes one round trip.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A ping each 10 s, also on an idle connection: tonic sends none by default, and would wait on a dead peer for ever.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// A ping not answered for this long ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One connection a node, made when it is first needed and made anew once it broke; and the node that answered last.
#[derive(Debug)]
pub(crate) struct Pool {
    nodes: Vec<Node>,
    preferred: AtomicUsize,
}

#[derive(Debug)]
struct Node {
    endpoint: Endpoint,
    connection: Mutex<Option<Connection>>,
}

/// A connection, or the attempt to make it, shared by all calls that wait for it: a node that is gone costs them all one connect timeout,
/// not one after the other.
type Connection = Shared<BoxFuture<'static, Result<Channel, Arc<str>>>>;

impl Pool {
    /// A pool of these `host:port` or `http://host:port`, that begins with the `first`-th.
    pub(crate) fn new(endpoints: &[String], first: usize) -> Result<Self, Error> {
        let nodes = endpoints
            .iter()
            .map(|text| Node::new(text))
            .collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            return Err(Error::InvalidEndpoint {
                endpoint: String::new(),
            });
        }
        let preferred = AtomicUsize::new(first % nodes.len());
        Ok(Self { nodes, preferred })
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node to ask first.
    pub(crate) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// The one after `node`. It is preferred from now on, unless another call has moved on already.
    pub(crate) fn move_on(&self, node: usize) -> usize {
        let next = (node + 1) % self.nodes.len();
        let _ = self
            .preferred
            .compare_exchange(node, next, Ordering::Relaxed, Ordering::Relaxed);
        next
    }

    /// The shared connection to `node`.
    ///
    /// # Errors
    /// What the connect attempt said; nothing was sent.
    pub(crate) async fn channel(&self, node: usize) -> Result<Channel, Arc<str>> {
        let node = &self.nodes[node];
        let connection = node
            .connection
            .lock()
            .get_or_insert_with(|| connect(node.endpoint.clone()))
            .clone();
        let channel = connection.clone().await;
        if channel.is_err() {
            node.forget(&connection);
        }
        channel
    }

    /// The next call makes a new connection: this one broke, and a channel that reconnects by itself would make its callers wait in line.
    pub(crate) fn drop_connection(&self, node: usize) {
        self.nodes[node].connection.lock().take();
    }

    /// A connection to `node` for one stream alone: streams that are read slowly fill a connection's window.
    ///
    /// # Errors
    /// What the connect attempt said; nothing was sent.
    pub(crate) async fn own_channel(&self, node: usize) -> Result<Channel, Arc<str>> {
        connect(self.nodes[node].endpoint.clone()).await
    }

    /// As [`Pool::own_channel`], for a stream whose end must be noticed soon: a peer that does not answer a ping each `ping` for as long is gone.
    ///
    /// # Errors
    /// As [`Pool::own_channel`].
    pub(crate) async fn watch_channel(&self, node: usize, ping: Duration) -> Result<Channel, Arc<str>> {
        let endpoint = self.nodes[node].endpoint.clone();
        connect(endpoint.http2_keep_alive_interval(ping).keep_alive_timeout(ping)).await
    }

    /// For messages.
    pub(crate) fn address(&self, node: usize) -> String {
        self.nodes[node].endpoint.uri().to_string()
    }
}

impl Node {
    fn new(text: &str) -> Result<Self, Error> {
        let invalid = || Error::InvalidEndpoint {
            endpoint: text.to_owned(),
        };
        let url = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let endpoint = Endpoint::from_shared(url).map_err(|_| invalid())?;
        if endpoint.uri().port_u16().is_none() || endpoint.uri().scheme_str() != Some("http") {
            return Err(invalid());
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(Self {
            endpoint,
            connection: Mutex::new(None),
        })
    }

    fn forget(&self, connection: &Connection) {
        let mut current = self.connection.lock();
        if current.as_ref().is_some_and(|current| current.ptr_eq(connection)) {
            current.take();
        }
    }
}

fn connect(endpoint: Endpoint) -> Connection {
    async move {
        // tonic's own timeout covers the TCP connection; this one covers all there is.
        match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(Arc::from(format!("{}: {}", endpoint.uri(), with_causes(&error)))),
            Err(_) => Err(Arc::from(format!(
                "{}: not connected after {CONNECT_TIMEOUT:?}",
                endpoint.uri()
            ))),
        }
    }
    .boxed()
    .shared()
}

/// `transport error` alone helps nobody.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_sent() {
        for good in ["127.0.0.1:7401", "http://brama-1:7401", "[::1]:7401"] {
            assert!(Pool::new(&[good.to_owned()], 0).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1", "https://x:1", "a b:1", "host:99999"] {
            assert!(Pool::new(&[bad.to_owned()], 0).is_err(), "{bad}");
        }
        assert!(Pool::new(&[], 0).is_err());
    }

    #[test]
    fn moving_on_counts_once_however_many_calls_failed() {
        let three: Vec<String> = (1..=3).map(|n| format!("127.0.0.1:{n}")).collect();
        let pool = Pool::new(&three, 2).unwrap();
        assert_eq!(pool.preferred(), 2);
        assert_eq!(pool.move_on(2), 0);
        assert_eq!(pool.move_on(2), 0);
        assert_eq!(pool.preferred(), 0);
    }
}
