//! The port for clients: its connections, and which service answers which path.
//!
//! tonic's own server asks a router, and boxes a request and its answer several times on the way; for calls as small as a report that is
//! a tenth of what they cost. So here the calls of `brama.v1.Circuits` go straight to their service, and only the others through the router.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::server::NamedService;

use brama_proto::v1::circuits_server::CircuitsServer;

use crate::api::Api;
use crate::connections::Connection;
use crate::gathering::{Counted, Gathering, Unanswered};
use crate::metrics::requests::{Answering, Requests};

/// What answers.
pub(crate) struct Services {
    pub(crate) circuits: CircuitsServer<Api>,
    pub(crate) others: Router,
    /// Counts the calls.
    pub(crate) requests: Arc<Requests>,
}

/// What answers one connection. Small: a node may have ten thousand of them.
struct Front {
    services: Arc<Services>,
    unanswered: Unanswered,
}

impl Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Counted<Answering<BoxFuture<'static, Result<Self::Response, Infallible>>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let call = self.services.requests.begin(&request);
        if is_of(CircuitsServer::<Api>::NAME, request.uri().path()) {
            let answer = Answering::new(self.services.circuits.clone().call(request), call);
            return self.unanswered.count(answer);
        }
        let answer = self.services.others.clone().call(request);
        let answer = async move { answer.await.map(|response| response.map(Body::new)) };
        self.unanswered.count(Answering::new(Box::pin(answer), call))
    }
}

/// Whether a path, `/<service>/<method>`, is one of this service.
fn is_of(service: &str, path: &str) -> bool {
    path.strip_prefix('/')
        .and_then(|path| path.strip_prefix(service))
        .is_some_and(|rest| rest.starts_with('/'))
}

/// Serves connections until `closing`; then asks them to end, and returns when the last one has.
pub(crate) async fn serve(
    incoming: impl Stream<Item = Connection>,
    services: Services,
    closing: CancellationToken,
) {
    let builder = builder();
    let graceful = GracefulShutdown::new();
    let services = Arc::new(services);
    {
        // When this ends, the port is closed: nobody connects to a node that will not answer.
        let mut incoming = pin!(incoming.take_until(closing.cancelled_owned()));
        while let Some(connection) = incoming.next().await {
            let unanswered = Unanswered::default();
            let front = Front {
                services: services.clone(),
                unanswered: unanswered.clone(),
            };
            let served = builder
                .serve_connection(TokioIo::new(Box::new(connection)), front)
                .into_owned();
            let served = Gathering::new(graceful.watch(served), unanswered);
            // `graceful` owns it: it is waited for below, and each connection can be cut. Not an async block, which would be twice as large:
            // it has room for the connection where it is captured, and again where it is awaited.
            tokio::spawn(served.map(|ended| {
                if let Err(error) = ended {
                    tracing::debug!(error, "a connection of a client ended");
                }
            }));
        }
    }
    graceful.shutdown().await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        // A client that is gone without a word frees its place, also while it waits for events.
        .keep_alive_interval(Some(Duration::from_secs(10)))
        .keep_alive_timeout(Duration::from_secs(20))
        // What a slow subscriber leaves unread must not use up the window of the calls beside it on the connection.
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .max_concurrent_streams(1024)
        .max_header_list_size(16 * 1024);
    // Without a timer nobody watches over a request whose head does not come.
    builder.http1().timer(TokioTimer::new());
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_its_service_only() {
        let service = "brama.v1.Circuits";
        assert!(is_of(service, "/brama.v1.Circuits/Report"));
        for other in [
            "/brama.v1.CircuitsX/Report",
            "brama.v1.Circuits/Report",
            "/brama.v1.Circuits",
            "/brama.v1.Events/Watch",
            "/",
            "",
        ] {
            assert!(!is_of(service, other), "{other:?}");
        }
    }
}
