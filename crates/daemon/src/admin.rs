//! Health, readiness and metrics of one service.
//!
//! A service with an HTTP listener of its own asks [`Admin::respond`] first; one
//! without lets [`Admin::serve`] have the listener. Metrics stand on the
//! service's HTTP address only when that is loopback, or on `--admin`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::{Mutex, MutexGuard};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::Shutdown;
use crate::http::problem;

/// Connections at once: probes and scrapers, nobody else.
const CONNECTIONS: usize = 64;

/// Time for a request's header to arrive; also how long an idle connection is kept.
const HEADER: Duration = Duration::from_secs(10);

const HEADERS: usize = 64;
const HEADER_BYTES: usize = 16 * 1024;

/// Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Admin(Arc<Inner>);

/// What the panic hook holds weakly.
#[derive(Debug)]
pub(crate) struct Inner {
    registry: Mutex<Registry>,
    readiness: Readiness,
    panics: Counter,
}

impl Inner {
    pub(crate) fn count_panic(&self) {
        self.panics.inc();
    }
}

impl Default for Inner {
    fn default() -> Self {
        let panics = Counter::default();
        let mut registry = Registry::default();
        let help = "Panics in this process; each cost one connection";
        registry.register("spyglass_panics", help, panics.clone());
        let readiness = Readiness::default();
        readiness.set(STARTING, false);
        Self { registry: Mutex::new(registry), readiness, panics }
    }
}

/// The reason that stands from the beginning until the service has started.
const STARTING: &str = "starting";

/// Why a service would not serve, if so.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<BTreeMap<&'static str, bool>>);

impl Readiness {
    /// `reason` holds no longer (`ok`) or now stands in the way. A service
    /// begins with `starting` in the way.
    pub fn set(&self, reason: &'static str, ok: bool) {
        self.0.lock().insert(reason, ok);
    }

    /// Whether nothing stands in the way.
    pub fn is_ready(&self) -> bool {
        self.0.lock().values().all(|&ok| ok)
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.0.lock().iter().filter(|&(_, &ok)| !ok).map(|(&reason, _)| reason).collect()
    }
}

impl Admin {
    /// Not ready, and without metrics but the count of panics.
    pub fn new() -> Self {
        Self::default()
    }

    /// For registering metrics, at the start. `/metrics` waits while it is held.
    pub fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock()
    }

    /// What `/readyz` answers from.
    pub fn ready(&self) -> &Readiness {
        &self.0.readiness
    }

    pub(crate) fn downgrade(&self) -> Weak<Inner> {
        Arc::downgrade(&self.0)
    }

    /// Every metric in the OpenMetrics text format.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.0.registry.lock());
        text
    }

    /// The answer to `/healthz`, `/readyz` and, where allowed, `/metrics`;
    /// `None` for every other path.
    pub fn respond(&self, path: &str, metrics_allowed: bool) -> Option<Response<Bytes>> {
        match path {
            "/healthz" => Some(text(StatusCode::OK, "ok\n".to_owned())),
            "/readyz" => {
                let reasons = self.ready().reasons();
                Some(if reasons.is_empty() {
                    text(StatusCode::OK, "ready\n".to_owned())
                } else {
                    text(StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
                })
            }
            "/metrics" if metrics_allowed => {
                let mut response = text(StatusCode::OK, self.metrics());
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                Some(response)
            }
            _ => None,
        }
    }

    fn answer(&self, request: &Request<Incoming>, metrics_allowed: bool) -> Response<Bytes> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let detail = "only GET and HEAD are answered here";
            let mut refusal = problem(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", detail);
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        self.respond(request.uri().path(), metrics_allowed).unwrap_or_else(|| {
            let detail = if metrics_allowed {
                "here are /healthz, /readyz and /metrics"
            } else {
                "here are /healthz and /readyz; metrics stand on the --admin address"
            };
            problem(StatusCode::NOT_FOUND, "not found", detail)
        })
    }

    /// Answers on a listener of its own until `shutdown`.
    pub async fn serve(self, listener: TcpListener, metrics_allowed: bool, shutdown: Shutdown) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // Further connections wait in the kernel.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.requested() => return,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // Out of descriptors, most likely: give connections time to close.
                    warn!(%error, "cannot accept connections for health and metrics");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (admin, shutdown) = (self.clone(), shutdown.clone());
            tokio::spawn(async move {
                admin.connection(socket, metrics_allowed, shutdown).await;
                drop(place);
            });
        }
    }

    async fn connection(self, socket: TcpStream, metrics_allowed: bool, shutdown: Shutdown) {
        let service = service_fn(|request| {
            let response = self.answer(&request, metrics_allowed).map(Full::new);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(HEADER)
            .max_headers(HEADERS)
            .max_buf_size(HEADER_BYTES);
        let connection = http.serve_connection(TokioIo::new(socket), service);
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = shutdown.requested() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            debug!(%error, "a connection for health and metrics failed");
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn ready_means_that_nothing_stands_in_the_way() {
        let admin = Admin::new();
        let readyz = || admin.respond("/readyz", false).unwrap();
        assert_eq!(readyz().body(), "starting\n");
        admin.ready().set("no keys yet", false);
        admin.ready().set(STARTING, true);
        assert_eq!(readyz().status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(readyz().body(), "no keys yet\n");
        admin.ready().set("no keys yet", true);
        assert_eq!(readyz().status(), StatusCode::OK);
        assert_eq!(admin.respond("/healthz", false).unwrap().status(), StatusCode::OK);
    }

    #[test]
    fn metrics_are_shown_only_where_allowed() {
        let admin = Admin::new();
        admin.registry().register("spyglass_test", "a test", Counter::<u64>::default());
        assert!(admin.respond("/metrics", false).is_none());
        assert!(admin.respond("/v1/nodes", true).is_none());
        let response = admin.respond("/metrics", true).unwrap();
        let body = String::from_utf8(response.body().to_vec()).unwrap();
        assert!(body.contains("spyglass_test_total 0"), "{body}");
        assert!(body.ends_with("# EOF\n"), "{body}");
    }

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn its_own_server_answers_and_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let server = tokio::spawn(Admin::new().serve(listener, false, shutdown.clone()));
        let get =
            |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        assert!(ask(address, &get("/healthz")).await.starts_with("HTTP/1.1 200 "));
        assert!(ask(address, &get("/readyz")).await.starts_with("HTTP/1.1 503 "));
        assert!(ask(address, &get("/metrics")).await.starts_with("HTTP/1.1 404 "));
        let post = "POST /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let answer = ask(address, post).await;
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD"));
        shutdown.trigger();
        server.await.unwrap();
    }
}
