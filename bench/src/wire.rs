//! A gRPC stream of messages on a connection of its own, read with as little work as can be.
//!
//! A thousand subscribers live in this one process, on the processors that the servers need. A channel of tonic wakes three tasks for each message;
//! here one task reads the socket and takes the messages out of what came. It is the same for both systems.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use anyhow::{Context as _, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{Connection, SendRequest};
use h2::{RecvStream, SendStream};
use http::HeaderValue;
use http::header::{CONTENT_TYPE, TE};
use prost::Message;
use tokio::net::TcpStream;

/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// As hyper's defaults for a client, so that neither server ever waits for a window.
const STREAM_WINDOW: u32 = 2 << 20;
const CONNECTION_WINDOW: u32 = 5 << 20;

/// An open stream. Dropping it closes the connection.
pub(crate) struct Messages {
    connection: Connection<TcpStream, Bytes>,
    body: RecvStream,
    /// Kept, since the end of the requests ends a watch.
    requests: SendStream<Bytes>,
    buffer: BytesMut,
}

impl Messages {
    /// Connects, and sends one request; `last` says whether no other will follow.
    ///
    /// # Errors
    /// When there is no connection, or the server refuses the call.
    pub(crate) async fn open(
        address: SocketAddr,
        path: &str,
        request: &impl Message,
        last: bool,
    ) -> anyhow::Result<Self> {
        let (client, mut connection) = connect(address).await?;
        let head = head(format!("http://{address}{path}").parse()?);
        let mut client = client.ready().await?;
        let (response, mut requests) = client.send_request(head, false)?;
        requests.send_data(frame(request), last)?;
        let response = tokio::select! {
            response = response => response?,
            ended = &mut connection => {
                ended?;
                bail!("the connection was closed")
            }
        };
        if let Some(status) = response.headers().get("grpc-status") {
            bail!("refused with gRPC status {status:?}");
        }
        Ok(Self {
            connection,
            body: response.into_body(),
            requests,
            buffer: BytesMut::new(),
        })
    }

    /// Sends one more request; it leaves while the next message is waited for.
    ///
    /// # Errors
    /// When the stream has ended.
    pub(crate) fn send(&mut self, request: &impl Message) -> anyhow::Result<()> {
        Ok(self.requests.send_data(frame(request), false)?)
    }

    /// The next message.
    ///
    /// # Errors
    /// When the stream ends, or what comes is no message.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> anyhow::Result<M> {
        loop {
            // Where it lies: a piece of its own for each message would be most of what reading one costs.
            if let Some(message) = first(&self.buffer)? {
                let length = PREFIX_BYTES + message.len();
                let message = M::decode(message)?;
                self.buffer.advance(length);
                return Ok(message);
            }
            let data = std::future::poll_fn(|context| self.poll_data(context)).await?;
            self.body.flow_control().release_capacity(data.len())?;
            self.buffer.extend_from_slice(&data);
        }
    }

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<anyhow::Result<Bytes>> {
        // What is on the socket goes to the body first.
        let ended = Pin::new(&mut self.connection).poll(context)?.is_ready();
        if ended {
            return Poll::Ready(Err(anyhow::anyhow!("the connection was closed")));
        }
        let data = ready!(self.body.poll_data(context)).context("the stream ended")??;
        Poll::Ready(Ok(data))
    }
}

/// Opens a connection; nothing moves on it unless somebody polls it.
///
/// # Errors
/// When there is none.
pub(crate) async fn connect(
    address: SocketAddr,
) -> anyhow::Result<(SendRequest<Bytes>, Connection<TcpStream, Bytes>)> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let connected = h2::client::Builder::new()
        .enable_push(false)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(socket);
    Ok(connected.await?)
}

/// The head of a call.
pub(crate) fn head(uri: http::Uri) -> http::Request<()> {
    let mut head = http::Request::new(());
    *head.method_mut() = http::Method::POST;
    *head.uri_mut() = uri;
    let headers = head.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    head
}

/// A message as gRPC sends it.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut frame);
    frame.freeze()
}

/// The first message of what came, if all of it is there.
///
/// # Errors
/// When it is compressed, which nobody asked for.
pub(crate) fn first(came: &[u8]) -> anyhow::Result<Option<&[u8]>> {
    let Some((prefix, rest)) = came.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        bail!("a compressed message, which nobody asked for");
    }
    Ok(rest.get(..u32::from_be_bytes(length) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::told::{Told, ToldEvent};

    fn told(reason: &str) -> Told {
        let event = ToldEvent {
            revision: 7,
            reason: reason.into(),
        };
        Told { event: Some(event) }
    }

    #[test]
    fn messages_come_out_however_they_were_cut() {
        let sent: Vec<_> = ["1", "", "twenty-two"].map(told).to_vec();
        let bytes: Vec<u8> = sent.iter().flat_map(frame).collect();
        for size in 1..=bytes.len() {
            let mut buffer = BytesMut::new();
            let mut came = Vec::new();
            for piece in bytes.chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some(message) = first(&buffer).expect("well formed") {
                    let length = PREFIX_BYTES + message.len();
                    came.push(Told::decode(message).expect("well formed"));
                    buffer.advance(length);
                }
            }
            assert_eq!(came, sent, "in pieces of {size}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_compressed_message_is_refused() {
        assert!(first(&[1, 0, 0, 0, 0]).is_err());
    }
}
