//! What a replica needs of the machine it runs on, beside its clocks and its files: threads, and connections to other nodes.
//!
//! A node runs in [`System`]. The simulation (tests/simulation) has an environment of its own, in which threads and the network are made
//! up like the clocks are, so that a seed decides what happens when.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::server::{Connected, TcpIncoming};
use tonic::transport::{Channel, Endpoint};

pub use crate::log_store::{LogWriter, WriteGroup};

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
            let incoming = incoming.map(|stream| stream.map(PeerStream::new));
            Ok(Box::pin(incoming) as Incoming)
        })
    }

    fn connect(&self, endpoint: Endpoint) -> Channel {
        endpoint.connect_lazy()
    }
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
pub struct PeerStream(Box<dyn Duplex>);

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl PeerStream {
    /// A connection over whatever carries bytes both ways.
    pub fn new(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Box::new(stream))
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
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
