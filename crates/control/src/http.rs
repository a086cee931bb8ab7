//! The outside: HTTP and JSON under `/v1`, the pages, health.
//!
//! `serve` holds connections and their limits, [`problem`] every refusal,
//! [`fields`] reads bodies, [`caller`] finds out who asks and about what,
//! [`client`] from where and whether too often. The rest is one file for each kind of thing:
//! its handlers and, as [`operation`]s, what is said of them.

mod audit;
mod broadcasts;
mod caller;
mod census;
mod client;
mod delay;
mod events;
mod fields;
mod first_bytes;
mod following;
mod idle;
mod keys;
mod nodes;
mod openapi;
mod operation;
mod pages;
mod paging;
mod problem;
mod query;
mod schemas;
mod serve;
mod users;
mod viewers;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, StatusCode};

use spyglass_daemon::http::names_one_host;

use self::client::Client;
use self::operation::{Content, Operation, Who, get};
use self::problem::Problem;
use crate::limits::Limit;
use crate::panel::Panel;

pub use self::serve::serve;

/// Largest body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The longest that a request may take, its body included.
const ANSWER: Duration = Duration::from_secs(10);

type Shared = State<Arc<Panel>>;

/// Everything that can be asked for: the router and `/openapi.json` are made
/// from this and nothing else. `with_metrics`: whether they may be seen here.
fn operations(with_metrics: bool) -> Vec<Operation> {
    let groups = [
        users::operations(),
        following::operations(),
        census::operations(),
        events::operations(),
        webhooks::operations(),
        broadcasts::operations(),
        viewers::operations(),
        delay::operations(),
        nodes::operations(),
        keys::operations(),
        audit::operations(),
        pages::operations(),
        health(with_metrics),
        vec![openapi::own_operation()],
    ];
    groups.into_iter().flatten().collect()
}

fn health(with_metrics: bool) -> Vec<Operation> {
    let health = move |State(panel): Shared, request: Request| async move {
        let answer = panel.admin.respond(request.uri().path(), with_metrics);
        answer.map(|answer| answer.map(Body::from)).ok_or_else(no_such_path)
    };
    let text = || Content::Other("text/plain");
    vec![
        get("/healthz", health).is("getHealth", Who::Anyone, "Whether it is alive", 200, text()),
        get("/readyz", health)
            .is("getReadiness", Who::Anyone, "Whether it would serve", 200, text())
            .details("503 with a line for each reason why not.")
            .or(503, text()),
        get("/metrics", health)
            .is(
                "getMetrics",
                Who::Anyone,
                "Metrics for Prometheus",
                200,
                Content::Other("application/openmetrics-text"),
            )
            .details("404 where they stand on the --admin address.")
            .refuses(404),
    ]
}

/// The API's description (OpenAPI 3.1), as `/openapi.json` has it.
pub fn openapi() -> serde_json::Value {
    openapi::document()
}

/// Every route.
fn router(panel: Arc<Panel>, with_metrics: bool) -> Router {
    operation::router(operations(with_metrics), &panel)
        .fallback(async || no_such_path())
        .method_not_allowed_fallback(async |method: Method| {
            let detail = format!("{method} is not possible here; the Allow header says what is");
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(Arc::clone(&panel), around))
        .with_state(panel)
}

fn no_such_path() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path")
}

/// What a handler answers, when it does so in time.
async fn answer(handler: impl Future<Output = Response>) -> Response {
    tokio::time::timeout(ANSWER, handler).await.unwrap_or_else(|_| {
        let detail = "this took longer than 10 s; try again";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(1).into_response()
    })
}

/// Limits how often and how long is asked, counts, and marks the answer.
async fn around(State(panel): Shared, mut request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let client = Client::of(&panel, &request);
    let path = route.as_ref().map(MatchedPath::as_str);
    let admitted = client.admit(&panel, path).and_then(|()| {
        let named = names_one_host(request.version(), request.headers());
        named.then_some(()).ok_or_else(|| {
            Problem::bad(
                "send the Host header once, with the host that is asked (RFC 9112 section 3.2)",
            )
        })
    });
    let mut response = match admitted {
        Ok(()) => {
            request.extensions_mut().insert(client);
            answer(next.run(request)).await
        }
        Err(problem) => problem.into_response(),
    };
    if response.status() == StatusCode::NOT_FOUND && path.is_some_and(client::names_broadcast) {
        client.failed(&panel, Limit::UnknownId);
    }
    let route = route.as_ref().map_or("none", MatchedPath::as_str).to_owned();
    let labels = [("route", route), ("status", response.status().as_str().to_owned())];
    panel.metrics.requests.get_or_create(&labels).inc();
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
