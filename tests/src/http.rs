//! A plain HTTP client: status, headers, body, and nothing clever.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// The longest any answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// An answer, whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// This answer, if its status is `status`.
    ///
    /// # Panics
    /// If it is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}

/// Keeps connections open between requests, as players do.
#[derive(Clone, Debug)]
pub struct Client(Pool<HttpConnector, Full<Bytes>>);

impl Default for Client {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(Pool::builder(TokioExecutor::new()).build(connector))
    }
}

impl Client {
    /// One request.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let url = request.uri().to_string();
        let answer = async {
            let response =
                self.0.request(request).await.map_err(|error| format!("{url}: {error:?}"))?;
            let (parts, body) = response.into_parts();
            let body =
                body.collect().await.map_err(|error| format!("{url}: {error:?}"))?.to_bytes();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        };
        tokio::time::timeout(LIMIT, answer)
            .await
            .map_err(|_| format!("{url}: no answer in {LIMIT:?}"))?
    }

    /// A GET that must be answered.
    pub async fn get(&self, url: &str) -> Answer {
        self.try_get(url).await.unwrap()
    }

    /// A GET that may fail to connect.
    pub async fn try_get(&self, url: &str) -> Result<Answer, String> {
        self.send(Request::get(url).body(Full::default()).unwrap()).await
    }

    /// A GET with headers.
    pub async fn get_with(&self, url: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Full::default()).unwrap()).await.unwrap()
    }

    /// A JSON request with a bearer key (none when empty).
    pub async fn call(&self, method: Method, url: &str, bearer: &str, body: &Value) -> Answer {
        self.try_call(method, url, bearer, body).await.unwrap()
    }

    /// A JSON request that may fail to connect.
    pub async fn try_call(
        &self,
        method: Method,
        url: &str,
        bearer: &str,
        body: &Value,
    ) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(url);
        if !bearer.is_empty() {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        if !body.is_null() {
            request = request.header("content-type", "application/json");
        }
        self.send(request.body(Full::new(bytes)).unwrap()).await
    }
}
