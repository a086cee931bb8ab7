//! The outside: HTTP and JSON under `/v1`, the pages, health.
//!
//! `serve` holds connections and their limits, [`problem`] every refusal,
//! [`fields`] reads bodies, [`caller`] finds out who asks and about what,
//! [`client`] from where and whether too often. The rest is one file for each kind of thing.

mod broadcasts;
mod caller;
mod client;
mod fields;
mod first_bytes;
mod nodes;
mod pages;
mod problem;
mod serve;
mod users;
mod viewers;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, StatusCode};

use self::client::Client;
use self::problem::Problem;
use crate::limits::Limit;
use crate::panel::Panel;

pub use self::serve::serve;

/// Largest body, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// The longest that a request may take, its body included.
const ANSWER: Duration = Duration::from_secs(10);

type Shared = State<Arc<Panel>>;

/// Every route.
fn router(panel: Arc<Panel>, with_metrics: bool) -> Router {
    let v1 = Router::new()
        .route("/users", post(users::create))
        .route("/broadcasts", get(broadcasts::sample).post(broadcasts::create))
        .route("/broadcasts/{id}", get(broadcasts::show))
        .route("/broadcasts/{id}/end", post(broadcasts::end))
        .route("/broadcasts/{id}/viewers", get(viewers::list).post(viewers::join))
        .route("/broadcasts/{id}/viewers/{viewer}", axum::routing::delete(viewers::leave))
        .route("/broadcasts/{id}/viewers/{viewer}/kick", post(viewers::kick))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{id}/drain", post(nodes::drain).delete(nodes::undrain))
        .route("/keys", get(nodes::keys));
    let health = move |State(panel): Shared, request: Request| async move {
        let answer = panel.admin.respond(request.uri().path(), with_metrics);
        answer.map(|answer| answer.map(Body::from)).ok_or_else(no_such_path)
    };
    Router::new()
        .nest("/v1", v1)
        .route("/live/{id}/index.m3u8", get(broadcasts::nearest))
        .route("/", get(pages::home))
        .route("/watch/{id}", get(pages::watch))
        .route("/assets/{name}", get(pages::asset))
        .route("/healthz", get(health))
        .route("/readyz", get(health))
        .route("/metrics", get(health))
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
    let mut response = match client.admit(&panel, path) {
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
