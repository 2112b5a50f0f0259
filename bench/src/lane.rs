//! Single calls on a connection that many workers share, with as little work as can be.
//!
//! The load is made on the processors that the servers need. A channel of tonic hands each call through three tasks and back; here a worker
//! writes its frames itself, and one task a connection moves them. It is the same for both systems.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Uri};
use prost::Message;

use crate::wire;

/// How long making a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// How long a call may take: a system that hangs shall not hang its measurement.
const CALL_WITHIN: Duration = Duration::from_secs(30);

/// A connection to one node, made when it is used, and anew when it was lost. Cheap to clone; clones share it.
#[derive(Clone)]
pub(crate) struct Lane {
    inner: Arc<Inner>,
}

struct Inner {
    address: SocketAddr,
    open: Mutex<Option<SendRequest<Bytes>>>,
    /// One at a time connects.
    connecting: tokio::sync::Mutex<()>,
}

impl Lane {
    pub(crate) fn to(address: SocketAddr) -> Self {
        Self {
            inner: Arc::new(Inner {
                address,
                open: Mutex::default(),
                connecting: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Calls `/<service>/<method>`, and waits for its one answer.
    ///
    /// # Errors
    /// When there is no connection, it breaks, there is no answer within half a minute, or it is not a success; all as text, with the gRPC
    /// status if there is one.
    pub(crate) async fn call<M: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
    ) -> Result<M, String> {
        match tokio::time::timeout(CALL_WITHIN, self.try_call(path, request)).await {
            Ok(called) => called.map_err(|error| format!("{error:#}")),
            Err(_) => Err(format!("no answer within {CALL_WITHIN:?}")),
        }
    }

    async fn try_call<M: Message + Default>(
        &self,
        path: &'static str,
        request: &impl Message,
    ) -> anyhow::Result<M> {
        let mut client = self.client().await?.ready().await?;
        let uri = Uri::builder()
            .scheme("http")
            .authority("node")
            .path_and_query(path)
            .build()?;
        let (response, mut body) = client.send_request(wire::head(uri), false)?;
        body.send_data(wire::frame(request), true)?;
        let response = response.await?;
        if !response.status().is_success() {
            bail!("HTTP status {}", response.status());
        }
        // Without a message there are no trailers, but all is in the head.
        if response.headers().contains_key("grpc-status") {
            check(response.headers())?;
        }
        let mut body = response.into_body();
        let mut buffer = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            buffer.extend_from_slice(&data);
        }
        check(&body.trailers().await?.context("an answer without trailers")?)?;
        let message = wire::first(&buffer)?.context("an answer without a message")?;
        Ok(M::decode(message)?)
    }

    async fn client(&self) -> anyhow::Result<SendRequest<Bytes>> {
        if let Some(client) = self.opened() {
            return Ok(client);
        }
        let _one = self.inner.connecting.lock().await;
        if let Some(client) = self.opened() {
            return Ok(client);
        }
        let connected = tokio::time::timeout(CONNECT_WITHIN, wire::connect(self.inner.address));
        let (client, connection) = connected.await.context("no connection in time")??;
        *self.lock() = Some(client.clone());
        let lane = self.clone();
        tokio::spawn(async move {
            // Whoever waits for an answer hears of it as well.
            let _ = connection.await;
            lane.lock().take();
        });
        Ok(client)
    }

    fn opened(&self) -> Option<SendRequest<Bytes>> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SendRequest<Bytes>>> {
        // It holds a handle, whole at any moment.
        self.inner.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(headers: &HeaderMap) -> anyhow::Result<()> {
    let status = headers.get("grpc-status").context("an answer without a status")?;
    if status != "0" {
        let message = headers
            .get("grpc-message")
            .map(|message| String::from_utf8_lossy(message.as_bytes()));
        bail!("gRPC status {status:?}: {}", message.unwrap_or_default());
    }
    Ok(())
}
