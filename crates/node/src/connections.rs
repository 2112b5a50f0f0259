//! Connections of clients: at most so many, none that never says anything, and none that outlives the node.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A connection that has sent nothing after this is closed; from the first byte on, HTTP/2 keepalive watches over it.
const FIRST_BYTE_WITHIN: Duration = Duration::from_secs(10);
/// A pause after the system could not accept a connection, usually because the process has no descriptor left.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);
/// Whoever opens too many connections must not fill the log as well.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// The connections that come in at `listener`. Those beyond `limit` are closed at once, so that a client goes to another node instead of
/// waiting at this one; all that are open end with `cut`. Never ends.
pub(crate) fn accept(
    listener: TcpListener,
    limit: u32,
    cut: CancellationToken,
) -> impl Stream<Item = Connection> + Send {
    let door = Door {
        listener,
        limit,
        places: Arc::new(Semaphore::new(limit as usize)),
        cut,
        complained: None,
    };
    futures::stream::unfold(door, |mut door| async move { Some((door.next().await, door)) })
}

struct Door {
    listener: TcpListener,
    limit: u32,
    places: Arc<Semaphore>,
    cut: CancellationToken,
    /// When the log was last told that connections are turned away.
    complained: Option<Instant>,
}

impl Door {
    async fn next(&mut self) -> Connection {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => match self.places.clone().try_acquire_owned() {
                    Ok(place) => return Connection::new(stream, place, &self.cut),
                    Err(_) => self.complain(from),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    fn complain(&mut self, from: SocketAddr) {
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::warn!(%from, limit = self.limit, "closing connections: limits.max_connections is reached");
        }
    }
}

/// One connection and its place under the limit, which it gives back when it is dropped.
pub(crate) struct Connection {
    stream: TcpStream,
    /// Until the first byte.
    patience: Option<Pin<Box<Sleep>>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, cut: &CancellationToken) -> Self {
        // Without it an answer can wait 40 ms for the client's delayed acknowledgement. Failing means that the peer is gone already,
        // which the first read will say.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let patience = Some(Box::pin(tokio::time::sleep(FIRST_BYTE_WITHIN)));
        Self {
            stream,
            patience,
            cut: Box::pin(cut.clone().cancelled_owned()),
            _place: place,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(done) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            self.patience = None;
            return Poll::Ready(done);
        }
        if self.cut.as_mut().poll(cx).is_ready() {
            let text = "this node stops";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, text)));
        }
        match &mut self.patience {
            Some(patience) => {
                ready!(patience.as_mut().poll(cx));
                let text = "the client sent nothing after it connected";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
            }
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Listens at `address`, so that a restarted node gets its port back at once.
///
/// # Errors
/// What the system answered; usually that the port is taken.
pub(crate) async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    // tokio sets SO_REUSEADDR, which on Unix only lets a new process pass connections of the old one that are still closing.
    TcpListener::bind(address).await
}
