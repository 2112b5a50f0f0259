//! What a replica needs of the machine it runs on, beside its clocks and its files: threads, and connections to other nodes.
//!
//! A node runs in [`System`]. The simulation (tests/simulation) has an environment of its own, in which threads and the network are made
//! up like the clocks are, so that a seed decides what happens when.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Channel, Endpoint};

pub use crate::log_store::{LogWriter, WriteGroup};

/// How HTTP/2 begins.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A connection that has not begun so by then is closed.
const GREETING_WITHIN: Duration = Duration::from_secs(5);
const GREETING_PAUSE: Duration = Duration::from_millis(10);
/// So many that have not begun yet are waited for; others wait in the kernel.
const GREETINGS_AT_ONCE: usize = 256;
/// Nodes have a few connections to each other; who opens more is none.
const MOST_CONNECTIONS: usize = 512;

/// A future without a type of its own.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Connections of other nodes, as they come.
pub type Incoming = Pin<Box<dyn Stream<Item = io::Result<PeerStream>> + Send>>;

/// The machine that a replica runs on.
pub trait Environment: Send + Sync + 'static {
    /// Does work that may block, apart from the tasks. It may never be done, if the process ends.
    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>);

    /// Lets the writer of a log run. Gives the thread that it runs on, if that has to be waited for at the end.
    ///
    /// # Errors
    /// When there can be no thread.
    fn spawn_log_writer(&self, writer: LogWriter) -> io::Result<Option<JoinHandle<()>>>;

    /// Listens for other nodes.
    fn listen(&self, address: SocketAddr) -> BoxFuture<io::Result<Incoming>>;

    /// A way to another node, which connects when it is used.
    fn connect(&self, endpoint: Endpoint) -> Channel;
}

/// Threads and TCP, as the operating system has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Environment for System {
    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        // Whoever waits for the work is told by the work itself.
        drop(tokio::task::spawn_blocking(work));
    }

    fn spawn_log_writer(&self, writer: LogWriter) -> io::Result<Option<JoinHandle<()>>> {
        let thread = std::thread::Builder::new().name("log-writer".into());
        thread.spawn(|| writer.run()).map(Some)
    }

    fn listen(&self, address: SocketAddr) -> BoxFuture<io::Result<Incoming>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            // The server's own setting does not reach connections that come in this way.
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
            let incoming = incoming
                .map(move |stream| greeted(stream, places.clone()))
                .buffer_unordered(GREETINGS_AT_ONCE)
                .filter_map(std::future::ready);
            Ok(Box::pin(incoming) as Incoming)
        })
    }

    fn connect(&self, endpoint: Endpoint) -> Channel {
        endpoint.connect_lazy()
    }
}

/// The connection, once whoever opened it has begun to speak HTTP/2, if there is a place for it. Pings find one that falls silent later, but none that
/// never says anything.
async fn greeted(stream: io::Result<TcpStream>, places: Arc<Semaphore>) -> Option<io::Result<PeerStream>> {
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => return Some(Err(error)),
    };
    let greeting = async {
        let mut begin = [0; PREFACE.len()];
        loop {
            let length = stream.peek(&mut begin).await.ok()?;
            if length == begin.len() {
                return (begin == *PREFACE).then_some(());
            }
            if length == 0 || !PREFACE.starts_with(&begin[..length]) {
                return None;
            }
            // What is there already would be seen again at once.
            tokio::time::sleep(GREETING_PAUSE).await;
        }
    };
    tokio::time::timeout(GREETING_WITHIN, greeting).await.ok()??;
    let place = places.try_acquire_owned().ok()?;
    Some(Ok(PeerStream {
        stream: Box::new(stream),
        _place: Some(place),
    }))
}

impl dyn Environment {
    /// Begins work that may block; what comes of it can be waited for.
    pub(crate) fn blocking<T, W>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<T, Unfinished>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let (done, outcome) = oneshot::channel();
        self.spawn_blocking(Box::new(move || {
            // Nobody may wait any more.
            let _ = done.send(work());
        }));
        async move { outcome.await.map_err(|_| Unfinished) }
    }
}

/// Work that blocks was not done to its end.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("work on another thread has panicked, or the process ends")]
pub(crate) struct Unfinished;

/// A connection of another node.
pub struct PeerStream {
    stream: Box<dyn Duplex>,
    /// Of [`MOST_CONNECTIONS`], on a real machine.
    _place: Option<OwnedSemaphorePermit>,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl PeerStream {
    /// A connection over whatever carries bytes both ways.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            _place: None,
        }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn who_does_not_begin_as_a_node_does_is_shut_out() {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut incoming = System.listen(address).await.unwrap();
        let server = tokio::spawn(async move {
            let mut admitted = Vec::new();
            while let Some(stream) = incoming.next().await {
                admitted.push(stream.unwrap());
            }
        });
        let shut_out = async |says: &[u8]| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(says).await.unwrap();
            // An end or a reset: either way nobody is there.
            let ended = stream.read_u8();
            tokio::time::timeout(2 * GREETING_WITHIN, ended)
                .await
                .is_ok_and(|read| read.is_err())
        };
        let mut whole = TcpStream::connect(address).await.unwrap();
        whole.write_all(PREFACE).await.unwrap();
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(&PREFACE[..5]).await.unwrap();
        let (silent, partly, other) = tokio::join!(
            shut_out(b""),
            shut_out(&PREFACE[..23]),
            shut_out(b"GET / HTTP/1.1\r\n\r\n")
        );
        assert!(silent && partly && other, "{silent} {partly} {other}");
        // One that took too long is gone too; one that began is there.
        assert!(slow.read_u8().await.is_err());
        let quiet = tokio::time::timeout(Duration::from_millis(100), whole.read_u8()).await;
        assert!(quiet.is_err(), "it was closed: {quiet:?}");
        server.abort();
    }
}
