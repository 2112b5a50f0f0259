//! Connections of clients: at most so many, none that never says anything, and none that outlives the node.
//!
//! Two protocols share the port. HTTP/2, which gRPC speaks, watches over its connections itself: its pings find a peer that is gone. HTTP/1.1,
//! which scrapers, probes and people with curl speak, has nothing of the kind, so its connections live by a simpler rule: after each answer
//! the next request must be there in time, as a whole.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How HTTP/2 begins. A connection that has not sent all of it, nor begun a request of HTTP/1.1, has said nothing yet.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may say nothing: after it connected, and on HTTP/1.1 after each answer. It takes no answer for longer either.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// A pause after the system could not accept a connection, usually because the process has no descriptor left.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(50);
/// Whoever opens too many connections must not fill the log as well.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// The connections that come in at `listener`. Those beyond `limit` are closed at once, so that a client goes to another node instead of
/// waiting at this one; all that are open end with `cut`. Never ends.
pub(crate) fn accept(
    listener: TcpListener,
    door: Arc<Door>,
    cut: CancellationToken,
) -> impl Stream<Item = Connection> + Send {
    let porter = Porter {
        listener,
        door,
        cut,
        complained: None,
    };
    futures::stream::unfold(
        porter,
        |mut porter| async move { Some((porter.next().await, porter)) },
    )
}

/// How many connections there may be, are, and were.
#[derive(Debug)]
pub(crate) struct Door {
    limit: u32,
    places: Arc<Semaphore>,
    accepted: AtomicU64,
    turned_away: AtomicU64,
    silent: AtomicU64,
}

impl Door {
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            limit,
            places: Arc::new(Semaphore::new(limit as usize)),
            accepted: AtomicU64::new(0),
            turned_away: AtomicU64::new(0),
            silent: AtomicU64::new(0),
        }
    }

    /// How many may be open.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// How many are.
    pub(crate) fn open(&self) -> u64 {
        u64::from(self.limit).saturating_sub(self.places.available_permits() as u64)
    }

    /// How many were let in.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// How many came beyond the limit.
    pub(crate) fn turned_away(&self) -> u64 {
        self.turned_away.load(Relaxed)
    }

    /// How many were closed because the client said nothing, or took no answer.
    pub(crate) fn silent(&self) -> u64 {
        self.silent.load(Relaxed)
    }
}

struct Porter {
    listener: TcpListener,
    door: Arc<Door>,
    cut: CancellationToken,
    /// When the log was last told that connections are turned away.
    complained: Option<Instant>,
}

impl Porter {
    async fn next(&mut self) -> Connection {
        loop {
            match self.listener.accept().await {
                Ok((stream, from)) => match self.door.places.clone().try_acquire_owned() {
                    Ok(place) => {
                        self.door.accepted.fetch_add(1, Relaxed);
                        return Connection::new(stream, place, self.door.clone(), &self.cut);
                    }
                    Err(_) => {
                        self.door.turned_away.fetch_add(1, Relaxed);
                        self.complain(from);
                    }
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
            tracing::warn!(%from, limit = self.door.limit, "closing connections: limits.max_connections is reached");
        }
    }
}

/// One connection and its place under the limit, which it gives back when it is dropped.
pub(crate) struct Connection {
    stream: TcpStream,
    /// What the client has to be watched for; `None`: its protocol watches over itself.
    patience: Option<Patience>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    door: Arc<Door>,
    _place: OwnedSemaphorePermit,
}

/// When a client that keeps silent is given up.
struct Patience {
    until: Pin<Box<Sleep>>,
    speaks: Speaks,
}

/// What a client speaks, by what it has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    /// So many bytes of [`PREFACE`], which may still be either.
    Beginning(usize),
    Http1,
    Http2,
}

impl Speaks {
    fn hear(self, bytes: &[u8]) -> Self {
        let Self::Beginning(heard) = self else {
            return self;
        };
        let awaited = &PREFACE[heard..];
        let common = awaited.len().min(bytes.len());
        if awaited[..common] != bytes[..common] {
            Self::Http1
        } else if common == awaited.len() {
            Self::Http2
        } else {
            Self::Beginning(heard + common)
        }
    }
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, door: Arc<Door>, cut: &CancellationToken) -> Self {
        // Without it an answer can wait 40 ms for the client's delayed acknowledgement. Failing means that the peer is gone already,
        // which the first read will say.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let patience = Some(Patience {
            until: Box::pin(tokio::time::sleep(SILENT_FOR)),
            speaks: Speaks::Beginning(0),
        });
        Self {
            stream,
            patience,
            cut: Box::pin(cut.clone().cancelled_owned()),
            door,
            _place: place,
        }
    }

    /// The client sent something, or, if it is nothing, will send no more.
    fn heard(&mut self, bytes: &[u8]) {
        if let Some(patience) = &mut self.patience {
            patience.speaks = patience.speaks.hear(bytes);
            if patience.speaks == Speaks::Http2 || bytes.is_empty() {
                self.patience = None;
            }
        }
    }

    /// The client took some of an answer, so that it has time for its next request.
    fn told(&mut self) {
        if let Some(Patience { until, speaks }) = &mut self.patience
            && *speaks == Speaks::Http1
        {
            until.as_mut().reset(Instant::now() + SILENT_FOR);
        }
    }

    /// Nothing comes, or nothing goes: ready with an error when that has lasted too long.
    fn poll_patience<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let Some(patience) = &mut self.patience else {
            return Poll::Pending;
        };
        ready!(patience.until.as_mut().poll(cx));
        self.patience = None;
        self.door.silent.fetch_add(1, Relaxed);
        let text = "the client kept silent, or took no answer";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(done) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            self.heard(&buf.filled()[before..]);
            return Poll::Ready(done);
        }
        if self.cut.as_mut().poll(cx).is_ready() {
            let text = "this node stops";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, text)));
        }
        self.poll_patience(cx)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(done) => {
                self.told();
                Poll::Ready(done)
            }
            Poll::Pending => self.poll_patience(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write_vectored(cx, bytes) {
            Poll::Ready(done) => {
                self.told();
                Poll::Ready(done)
            }
            Poll::Pending => self.poll_patience(cx),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pieces: &[&[u8]]) -> Speaks {
        pieces
            .iter()
            .fold(Speaks::Beginning(0), |speaks, piece| speaks.hear(piece))
    }

    #[test]
    fn a_client_speaks_http_2_once_it_has_said_all_of_the_preface() {
        assert_eq!(after(&[b"P"]), Speaks::Beginning(1));
        assert_eq!(after(&[b"PRI * HTTP"]), Speaks::Beginning(10));
        assert_eq!(
            after(&[b"PRI * HTTP", b"/2.0\r\n\r\nSM\r\n\r\n\0\0"]),
            Speaks::Http2
        );
        assert_eq!(after(&[b"GET / HTTP/1.1\r\n"]), Speaks::Http1);
        assert_eq!(after(&[b"P", b"OST / HTTP/1.1\r\n"]), Speaks::Http1);
        assert_eq!(after(&[b"PRI * HTTP/2.0\r\n\r\nSN"]), Speaks::Http1);
    }
}
