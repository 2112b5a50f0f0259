//! The proxy of one directed link.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::pump::{End, pump};
use super::shape::{Counts, Effects, Shape};
use crate::hosts::Namespace;

/// A host that does not answer is given up, as a kernel would do much later.
const CONNECT: Duration = Duration::from_secs(10);
/// Above it the oldest is not forgotten, but a new one waits: nodes make a few connections to each other.
const MOST_CONNECTIONS: usize = 256;

/// A proxy; dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    shape: watch::Sender<Shape>,
    effects: Arc<Effects>,
    /// Ends what it does when it is dropped.
    _serving: JoinSet<()>,
}

impl Proxy {
    /// Takes connections at `at` on the host, and makes one to `target` for each, from the same host.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(host: Arc<Namespace>, at: SocketAddr, target: SocketAddr) -> anyhow::Result<Self> {
        let listener = host.listen(at)?;
        let (shape, shapes) = watch::channel(Shape::Clean);
        let effects = Arc::<Effects>::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, host, target, shapes, effects.clone()));
        Ok(Self {
            shape,
            effects,
            _serving: serving,
        })
    }

    /// From now on the link behaves so.
    pub fn set(&self, shape: Shape) {
        self.shape.send_replace(shape);
    }

    /// What it did so far.
    pub fn counts(&self) -> Counts {
        self.effects.counts()
    }
}

async fn serve(
    listener: TcpListener,
    host: Arc<Namespace>,
    target: SocketAddr,
    shapes: watch::Receiver<Shape>,
    effects: Arc<Effects>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MOST_CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((near, _)) => {
                connections.spawn(carry(near, host.clone(), target, shapes.clone(), effects.clone()));
            }
            // Too many open files, for a moment.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Carries one connection until it ends.
async fn carry(
    near: TcpStream,
    host: Arc<Namespace>,
    target: SocketAddr,
    mut shapes: watch::Receiver<Shape>,
    effects: Arc<Effects>,
) {
    if *shapes.borrow_and_update() == Shape::Reset {
        Effects::count(&effects.resets);
        return reset(&near);
    }
    let Ok(Ok(far)) = tokio::time::timeout(CONNECT, host.connect(target)).await else {
        return reset(&near);
    };
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    match pump(&near, &far, shapes, &effects).await {
        End::Finished => {}
        End::Broken => {
            reset(&near);
            reset(&far);
        }
    }
}

/// Its end is an RST.
fn reset(stream: &TcpStream) {
    // A connection that is gone already cannot be told so.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
