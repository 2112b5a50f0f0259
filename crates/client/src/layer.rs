//! A [tower] layer: a service behind a circuit.
//!
//! [tower]: https://docs.rs/tower
//!
//! The decision is taken in `call`, not in `poll_ready`: a service that is rejected is ready, and a permit is not held while the service
//! gets ready.

use std::convert::Infallible;
use std::fmt::Display;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use futures::future::BoxFuture;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::call::{CallError, Classified};
use crate::circuit::{Circuit, Decision};
use crate::permit::OwnedPermit;

/// Says what a service's result means for its circuit.
pub trait Classify<R, E> {
    /// What it means.
    fn classify(&self, result: Result<&R, &E>) -> Classified;
}

/// A response is a success, an error a failure with its text as the reason.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorIsFailure;

/// For services that answer with an `http::Response`: a status of 500 and above is a failure, as is no response; 429 (too many requests) is one too.
/// Everything else is an answer, so the dependency works.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpStatus;

/// For services that fail with a [`tonic::Status`]: a failure is what says that the dependency does not work (`UNAVAILABLE`, `DEADLINE_EXCEEDED`,
/// `INTERNAL`, `UNKNOWN`, `DATA_LOSS`, `RESOURCE_EXHAUSTED`, `UNIMPLEMENTED`). `CANCELLED` says nothing. Every other code is an answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcStatus;

impl<R, E: Display> Classify<R, E> for ErrorIsFailure {
    fn classify(&self, result: Result<&R, &E>) -> Classified {
        match result {
            Ok(_) => Classified::Success,
            Err(error) => Classified::Failure(error.to_string()),
        }
    }
}

impl<B, E: Display> Classify<http::Response<B>, E> for HttpStatus {
    fn classify(&self, result: Result<&http::Response<B>, &E>) -> Classified {
        match result {
            Ok(response) => Self::of(response.status()),
            Err(error) => Classified::Failure(error.to_string()),
        }
    }
}

impl HttpStatus {
    /// What a status means.
    pub fn of(status: http::StatusCode) -> Classified {
        if status.is_server_error() || status == http::StatusCode::TOO_MANY_REQUESTS {
            Classified::Failure(status.to_string())
        } else {
            Classified::Success
        }
    }
}

impl<R> Classify<R, tonic::Status> for GrpcStatus {
    fn classify(&self, result: Result<&R, &tonic::Status>) -> Classified {
        match result {
            Ok(_) => Classified::Success,
            Err(status) => Self::of(status),
        }
    }
}

impl GrpcStatus {
    /// What a status means.
    pub fn of(status: &tonic::Status) -> Classified {
        use tonic::Code;
        match status.code() {
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::ResourceExhausted
            | Code::Unimplemented => {
                Classified::Failure(format!("{:?}: {}", status.code(), status.message()))
            }
            Code::Cancelled => Classified::Ignore,
            _ => Classified::Success,
        }
    }
}

impl<R, E, F> Classify<R, E> for F
where
    F: Fn(Result<&R, &E>) -> Classified,
{
    fn classify(&self, result: Result<&R, &E>) -> Classified {
        self(result)
    }
}

/// Puts services behind a circuit; see [`Circuit::layer`].
#[derive(Clone, Debug)]
pub struct CircuitLayer<C = ErrorIsFailure> {
    circuit: Circuit,
    classify: C,
}

/// A service behind a circuit; see [`Circuit::wrap`].
#[derive(Clone, Debug)]
pub struct Guarded<S, C = ErrorIsFailure> {
    service: S,
    circuit: Circuit,
    classify: C,
}

impl Circuit {
    /// A layer that puts services behind this circuit: an error is a failure. [`CircuitLayer::classify`] says otherwise.
    pub fn layer(&self) -> CircuitLayer {
        CircuitLayer {
            circuit: self.clone(),
            classify: ErrorIsFailure,
        }
    }

    /// `service` behind this circuit: an error is a failure. [`Guarded::classify`] says otherwise.
    pub fn wrap<S>(&self, service: S) -> Guarded<S> {
        self.layer().layer(service)
    }
}

impl CircuitLayer {
    /// With `classify` to say what a result means: [`HttpStatus`], [`GrpcStatus`], or a closure.
    pub fn classify<C>(self, classify: C) -> CircuitLayer<C> {
        CircuitLayer {
            circuit: self.circuit,
            classify,
        }
    }
}

impl<S> Guarded<S> {
    /// With `classify` to say what a result means: [`HttpStatus`], [`GrpcStatus`], or a closure.
    pub fn classify<C>(self, classify: C) -> Guarded<S, C> {
        Guarded {
            service: self.service,
            circuit: self.circuit,
            classify,
        }
    }
}

impl<S, C: Clone> Layer<S> for CircuitLayer<C> {
    type Service = Guarded<S, C>;

    fn layer(&self, service: S) -> Self::Service {
        Guarded {
            service,
            circuit: self.circuit.clone(),
            classify: self.classify.clone(),
        }
    }
}

impl<S, C, Q> Service<Q> for Guarded<S, C>
where
    S: Service<Q> + Clone,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = CallError<S::Error>;
    type Future = GuardedFuture<S, C, Q>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(context).map_err(CallError::Inner)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        let state = match self.circuit.decide() {
            Decision::Pass(permit) => State::Calling {
                permit: Some(permit.into_owned()),
                call: self.service.call(request),
            },
            Decision::Reject(rejection) => State::Rejected {
                error: Some(rejection.into()),
            },
            Decision::Ask => {
                // The one that is ready now is called later.
                let next = self.service.clone();
                let service = std::mem::replace(&mut self.service, next);
                let circuit = self.circuit.clone();
                let ask = async move { circuit.try_acquire_owned().await }.boxed();
                State::Asking {
                    ask,
                    with: Some((service, request)),
                }
            }
        };
        GuardedFuture {
            state,
            classify: self.classify.clone(),
        }
    }
}

pin_project! {
    /// A call of a [`Guarded`] service.
    pub struct GuardedFuture<S, C, Q>
    where
        S: Service<Q>,
    {
        #[pin]
        state: State<S, S::Future, Q, S::Error>,
        classify: C,
    }
}

type Ask = BoxFuture<'static, Result<OwnedPermit, CallError<Infallible>>>;

pin_project! {
    #[project = StateProject]
    enum State<S, F, Q, E> {
        Rejected { error: Option<CallError<E>> },
        Asking { ask: Ask, with: Option<(S, Q)> },
        Calling { permit: Option<OwnedPermit>, #[pin] call: F },
    }
}

impl<S, C, Q> Future for GuardedFuture<S, C, Q>
where
    S: Service<Q>,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, CallError<S::Error>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                StateProject::Rejected { error } => match error.take() {
                    Some(error) => return Poll::Ready(Err(error)),
                    None => panic!("polled after it was ready"),
                },
                StateProject::Asking { ask, with } => {
                    let answer = ready!(ask.poll_unpin(context));
                    match (answer, with.take()) {
                        (Ok(permit), Some((mut service, request))) => State::Calling {
                            permit: Some(permit),
                            call: service.call(request),
                        },
                        (Err(error), _) => return Poll::Ready(Err(error.widen())),
                        (Ok(_), None) => panic!("polled after it was ready"),
                    }
                }
                StateProject::Calling { permit, call } => {
                    let result = ready!(call.poll(context));
                    if let Some(permit) = permit.take() {
                        permit.complete(this.classify.classify(result.as_ref()));
                    }
                    return Poll::Ready(result.map_err(CallError::Inner));
                }
            };
            this.state.set(next);
        }
    }
}

impl<S: Service<Q>, C, Q> std::fmt::Debug for GuardedFuture<S, C, Q> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedFuture").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_mean_what_they_say_of_the_dependency() {
        let http = |code: u16| HttpStatus::of(http::StatusCode::from_u16(code).unwrap());
        for works in [200, 304, 400, 404, 409] {
            assert_eq!(http(works), Classified::Success, "{works}");
        }
        for fails in [429, 500, 503] {
            assert!(matches!(http(fails), Classified::Failure(_)), "{fails}");
        }
        let grpc = |code| GrpcStatus::of(&tonic::Status::new(code, "why"));
        assert_eq!(grpc(tonic::Code::NotFound), Classified::Success);
        assert_eq!(grpc(tonic::Code::Cancelled), Classified::Ignore);
        assert_eq!(
            grpc(tonic::Code::Unavailable),
            Classified::Failure("Unavailable: why".to_owned())
        );
    }
}
