//! Pages for operators and their tools, over HTTP on the port for clients: `/metrics`, `/livez`, `/readyz`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::health::Health;
use crate::metrics::{Format, Metrics};

/// How long a scrape may take, with the wait for those before it.
const SCRAPE_WITHIN: Duration = Duration::from_secs(5);
const PLAIN: &str = "text/plain; charset=utf-8";

/// What the pages show.
#[derive(Clone)]
pub(crate) struct Pages {
    health: Arc<Health>,
    metrics: Arc<Metrics>,
    /// One scrape at a time: however many ask, a node spends no more than one thread on them.
    scraping: Arc<Semaphore>,
}

impl Pages {
    pub(crate) fn new(health: Arc<Health>, metrics: Arc<Metrics>) -> Self {
        Self {
            health,
            metrics,
            scraping: Arc::new(Semaphore::new(1)),
        }
    }

    /// The pages, beside the services in `router`.
    pub(crate) fn beside(self, router: Router) -> Router {
        let pages = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .with_state(self);
        router.merge(pages).fallback(nothing_here)
    }
}

async fn metrics(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let format = format(&headers);
    let scrape = async {
        let place = pages.scraping.clone().acquire_owned().await;
        let metrics = pages.metrics.clone();
        // It reads files of /proc, and looks at every subscriber.
        let page = tokio::task::spawn_blocking(move || {
            let _place = place;
            metrics.render(format)
        });
        page.await
    };
    match timeout(SCRAPE_WITHIN, scrape).await {
        Ok(Ok(Ok(page))) => text(StatusCode::OK, format.content_type(), page),
        Ok(Ok(Err(error))) => failed(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Ok(Err(panic)) => failed(StatusCode::INTERNAL_SERVER_ERROR, &panic.to_string()),
        Err(_) => failed(
            StatusCode::SERVICE_UNAVAILABLE,
            "the metrics were not written in time: too many ask for them, or this machine is overloaded",
        ),
    }
}

async fn livez(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    checks(&pages.health, "livez", true, query.as_deref())
}

async fn readyz(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    checks(&pages.health, "readyz", false, query.as_deref())
}

fn checks(health: &Health, name: &str, only_vital: bool, query: Option<&str>) -> Response {
    let excluded = match excluded(query.unwrap_or_default()) {
        Ok(excluded) => excluded,
        Err(problem) => return failed(StatusCode::BAD_REQUEST, &problem),
    };
    match health.page(name, only_vital, &excluded) {
        Ok(verdict) if verdict.passed => text(StatusCode::OK, PLAIN, verdict.page),
        Ok(verdict) => text(StatusCode::SERVICE_UNAVAILABLE, PLAIN, verdict.page),
        Err(unknown) => failed(StatusCode::BAD_REQUEST, &unknown.to_string()),
    }
}

/// The checks that a query leaves out: `exclude=NAME`, as often as wanted. `verbose`, which others need to see every line, changes nothing.
fn excluded(query: &str) -> Result<Vec<String>, String> {
    let mut excluded = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*key {
            "exclude" => excluded.push(value.into_owned()),
            "verbose" => {}
            _ => {
                return Err(format!(
                    "there is no parameter {key:?}; there are: exclude, verbose"
                ));
            }
        }
    }
    Ok(excluded)
}

fn format(headers: &HeaderMap) -> Format {
    let mut accepted = headers.get_all(ACCEPT).iter();
    let wants = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|value| value.contains("application/openmetrics-text"))
    };
    if accepted.any(wants) {
        Format::OpenMetrics
    } else {
        Format::Text
    }
}

/// A caller of gRPC hears it in the words of gRPC, anybody else in those of HTTP.
async fn nothing_here(headers: HeaderMap, uri: Uri) -> Response {
    let grpc = headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        let status = tonic::Status::unimplemented(format!("there is no service at {}", uri.path()));
        return status.into_http::<axum::body::Body>().into_response();
    }
    let page =
        "nothing is here; there are /metrics, /livez, /readyz, and the services of brama.v1 over gRPC\n";
    text(StatusCode::NOT_FOUND, PLAIN, page.into())
}

fn failed(status: StatusCode, why: &str) -> Response {
    text(status, PLAIN, format!("{why}\n"))
}

fn text(status: StatusCode, content_type: &'static str, page: String) -> Response {
    let headers = [(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")];
    (status, headers, page).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_leaves_out_what_it_names() {
        assert_eq!(excluded(""), Ok(vec![]));
        assert_eq!(
            excluded("exclude=quorum&verbose&exclude=log"),
            Ok(vec!["quorum".into(), "log".into()])
        );
        assert_eq!(excluded("exclude=a%20b"), Ok(vec!["a b".into()]));
        assert!(
            excluded("exlude=quorum").is_err(),
            "a slip must not pass for a check that is left out"
        );
    }

    #[test]
    fn openmetrics_is_for_those_who_ask() {
        let accepting = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(value));
            format(&headers)
        };
        assert_eq!(format(&HeaderMap::new()), Format::Text);
        assert_eq!(accepting("*/*"), Format::Text);
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
        assert_eq!(accepting(prometheus), Format::OpenMetrics);
    }
}
