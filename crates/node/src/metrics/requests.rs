//! Metrics of gRPC: every call by method and code, how long it took, and why calls were refused.
//!
//! The port for clients counts, whatever answers. The methods are those that the services describe themselves with, found once, so that a call
//! costs a search among two dozen paths and some atomic additions.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use brama_raft::histogram::{Histogram, SHORT_MICROS};

use super::sheet::{Scale, Sheet};
use crate::api::REASONS;

/// Codes by their number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Calls since the node was started.
#[derive(Debug)]
pub(crate) struct Requests {
    /// Sorted by path; the last one is for paths that nobody serves.
    methods: Vec<Method>,
    /// As [`REASONS`], and one for those that are not among them.
    refusals: [AtomicU64; REASONS.len() + 1],
}

#[derive(Debug)]
struct Method {
    path: String,
    service: String,
    name: String,
    /// It answers with a stream: then it lasts as long as the caller likes, which says nothing of the node.
    streams: bool,
    codes: [AtomicU64; CODES.len()],
    in_flight: AtomicU64,
    took: Histogram,
}

impl Method {
    fn new(service: &str, name: &str, streams: bool) -> Self {
        Self {
            path: format!("/{service}/{name}"),
            service: service.to_owned(),
            name: name.to_owned(),
            streams,
            codes: Default::default(),
            in_flight: AtomicU64::new(0),
            took: Histogram::new(SHORT_MICROS),
        }
    }

    fn was_called(&self) -> bool {
        self.in_flight.load(Relaxed) > 0 || self.codes.iter().any(|count| count.load(Relaxed) > 0)
    }

    fn labels(&self) -> [&str; 2] {
        [&self.service, &self.name]
    }
}

impl Requests {
    /// Counts the methods of the services that these descriptor sets describe.
    ///
    /// # Errors
    /// When one cannot be read: the build is broken.
    pub(crate) fn new(descriptors: &[&[u8]]) -> Result<Self, prost::DecodeError> {
        let mut methods = Vec::new();
        for descriptors in descriptors {
            for file in FileDescriptorSet::decode(*descriptors)?.file {
                let package = file.package().to_owned();
                for service in &file.service {
                    let full_name = format!("{package}.{}", service.name());
                    let found = service.method.iter();
                    methods.extend(
                        found.map(|method| Method::new(&full_name, method.name(), method.server_streaming())),
                    );
                }
            }
        }
        methods.sort_by(|a, b| a.path.cmp(&b.path));
        methods.push(Method::new("other", "other", false));
        Ok(Self {
            methods,
            refusals: Default::default(),
        })
    }

    /// Counts an answer that was refused, for this reason.
    pub(crate) fn refused(&self, reason: &str) {
        let place = REASONS.iter().position(|known| *known == reason);
        self.refusals[place.unwrap_or(REASONS.len())].fetch_add(1, Relaxed);
    }

    /// Counts a call that begins; `None`: it is none of gRPC.
    pub(crate) fn begin<B>(self: &Arc<Self>, request: &Request<B>) -> Option<Call> {
        let content_type = request.headers().get(CONTENT_TYPE)?;
        let grpc = content_type.as_bytes().starts_with(b"application/grpc");
        grpc.then(|| Call::begin(self, request.uri().path()))
    }

    fn method(&self, path: &str) -> usize {
        let named = &self.methods[..self.methods.len() - 1];
        named
            .binary_search_by(|method| method.path.as_str().cmp(path))
            .unwrap_or(named.len())
    }

    pub(super) fn write(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        // The series of a method begin with its first call: most methods are never called on most nodes.
        let called = || self.methods.iter().filter(|method| method.was_called());
        let by_code = called().flat_map(|method| {
            let counts = CODES.iter().zip(&method.codes);
            counts.filter_map(move |(code, count)| {
                let count = count.load(Relaxed);
                let [service, name] = method.labels();
                (count > 0).then_some(([service, name, code], count))
            })
        });
        sheet.counters(
            "brama_grpc_requests_total",
            "Calls that have ended, by their code; CANCELLED: the caller went away",
            ["service", "method", "code"],
            by_code,
        )?;
        sheet.gauges(
            "brama_grpc_requests_in_flight",
            "Calls and streams that have not ended",
            ["service", "method"],
            called().map(|method| (method.labels(), method.in_flight.load(Relaxed))),
        )?;
        sheet.histograms(
            "brama_grpc_request_duration_seconds",
            "How long calls took until their answer; streams are not among them",
            Scale::Micros,
            ["service", "method"],
            called()
                .filter(|method| !method.streams)
                .map(|method| (method.labels(), method.took.read())),
        )?;
        let reasons = REASONS.iter().copied().chain(["other"]);
        let counts = self.refusals.iter().map(|count| count.load(Relaxed));
        sheet.counters(
            "brama_refusals_total",
            "Answers that were errors, by reason; on streams of reports, each batch",
            ["reason"],
            reasons.zip(counts).map(|(reason, count)| ([reason], count)),
        )
    }
}

pin_project! {
    /// A call until its answer begins.
    pub(crate) struct Answering<F> {
        #[pin]
        inner: F,
        call: Option<Call>,
    }
}

impl<F> Answering<F> {
    /// What `inner` answers, counted as that of `call`.
    pub(crate) fn new(inner: F, call: Option<Call>) -> Self {
        Self { inner, call }
    }
}

impl<F, E> Future for Answering<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(match this.call.take() {
            Some(call) => call.answered(response),
            None => response,
        }))
    }
}

/// A call that has not ended. Dropped before it has, it was cancelled.
pub(crate) struct Call {
    requests: Arc<Requests>,
    method: usize,
    began: Instant,
    ended: bool,
}

impl Call {
    fn begin(requests: &Arc<Requests>, path: &str) -> Self {
        let method = requests.method(path);
        requests.methods[method].in_flight.fetch_add(1, Relaxed);
        Self {
            requests: requests.clone(),
            method,
            began: Instant::now(),
            ended: false,
        }
    }

    fn answered(mut self, response: Response<Body>) -> Response<Body> {
        let method = &self.requests.methods[self.method];
        if !method.streams {
            method.took.observe_micros(self.began.elapsed());
        }
        // An error comes in the headers, and nothing after it.
        if let Some(status) = Status::from_header_map(response.headers()) {
            self.end(&status);
        } else if method.streams {
            return response.map(|body| Body::new(Streaming { body, call: self }));
        } else {
            self.end_with(Code::Ok);
        }
        response
    }

    fn end(&mut self, status: &Status) {
        if status.code() != Code::Ok
            && let Some(info) = status.get_details_error_info()
        {
            self.requests.refused(&info.reason);
        }
        self.end_with(status.code());
    }

    fn end_with(&mut self, code: Code) {
        if !std::mem::replace(&mut self.ended, true) {
            let method = &self.requests.methods[self.method];
            method.codes[code as usize].fetch_add(1, Relaxed);
            method.in_flight.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end_with(Code::Cancelled);
    }
}

/// A stream that has not ended: its status comes after its last message.
struct Streaming {
    body: Body,
    call: Call,
}

impl http_body::Body for Streaming {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                    self.call.end(&status);
                }
            }
            Some(Err(status)) => self.call.end(status),
            None => self.call.end_with(Code::Ok),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
