//! HTTP requests with limits on time and size, for the control API and HLS.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use tokio::time::Instant;

use crate::{Error, url};

/// How long a connection may take to come up.
const CONNECT: Duration = Duration::from_secs(5);
const MAX_REDIRECTS: usize = 5;

/// A client with kept-alive connections; clones share them.
#[derive(Clone)]
pub(crate) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What to ask.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    pub(crate) uri: &'a Uri,
    pub(crate) bearer: Option<&'a str>,
    pub(crate) json: Option<Bytes>,
    /// Longest body taken.
    pub(crate) limit: usize,
    /// For the whole exchange.
    pub(crate) within: Duration,
}

impl<'a> Ask<'a> {
    pub(crate) fn get(uri: &'a Uri, limit: usize, within: Duration) -> Self {
        Self { method: Method::GET, uri, bearer: None, json: None, limit, within }
    }
}

/// An answer, whole.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Where it came from, after redirects.
    pub(crate) uri: Uri,
    /// From asking until its head was here.
    pub(crate) first: Duration,
    /// From asking until all of it was here.
    pub(crate) whole: Duration,
}

impl Http {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .build(connector);
        Self { client }
    }

    /// Asks once; a GET follows redirects.
    pub(crate) async fn ask(&self, ask: Ask<'_>) -> Result<Answer, Error> {
        let (within, uri) = (ask.within, ask.uri);
        tokio::time::timeout(within, self.follow(ask)).await.unwrap_or_else(|_| {
            Err(Error::TimedOut {
                what: format!("{} from {}", describe(uri), url::shown(uri)),
                seconds: within.as_secs(),
            })
        })
    }

    async fn follow(&self, ask: Ask<'_>) -> Result<Answer, Error> {
        let mut uri = ask.uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.once(&ask, uri).await?;
            let target = answer.headers.get(LOCATION).and_then(|to| to.to_str().ok());
            match target {
                Some(to) if answer.status.is_redirection() && ask.method == Method::GET => {
                    uri = url::resolve(&answer.uri, to)?;
                }
                _ => return Ok(answer),
            }
        }
        Err(Error::BadAnswer {
            url: url::shown(ask.uri),
            reason: "it redirects in circles".to_owned(),
        })
    }

    async fn once(&self, ask: &Ask<'_>, uri: Uri) -> Result<Answer, Error> {
        let broken = |reason: String| Error::BadAnswer { url: url::shown(&uri), reason };
        let asked = Instant::now();
        let (head, body) = self.open(ask, &uri, None).await?.into_parts();
        let first = asked.elapsed();
        let body = Limited::new(body, ask.limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                broken(format!("more than {} bytes", ask.limit))
            } else {
                broken(innermost(&*error))
            }
        })?;
        let body = body.to_bytes();
        let whole = asked.elapsed();
        Ok(Answer { status: head.status, headers: head.headers, body, uri, first, whole })
    }

    /// Asks, and hands out the answer before its body; `resume` is sent as
    /// Last-Event-ID.
    pub(crate) async fn open(
        &self,
        ask: &Ask<'_>,
        uri: &Uri,
        resume: Option<&str>,
    ) -> Result<Response<Incoming>, Error> {
        let broken = |reason: String| Error::BadAnswer { url: url::shown(uri), reason };
        let mut request = Request::new(Full::new(ask.json.clone().unwrap_or_default()));
        *request.method_mut() = ask.method.clone();
        *request.uri_mut() = uri.clone();
        if ask.json.is_some() {
            request
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        // The bearer goes to the host it was meant for, not along redirects.
        if let Some(bearer) = ask.bearer.filter(|_| uri.authority() == ask.uri.authority()) {
            let mut value = HeaderValue::from_str(&format!("Bearer {bearer}")).map_err(|_| {
                broken("the key or token holds characters no header can".to_owned())
            })?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        if let Some(value) = resume.and_then(|id| HeaderValue::from_str(id).ok()) {
            request.headers_mut().insert("last-event-id", value);
        }
        self.client.request(request).await.map_err(|error| {
            let reason = innermost(&error);
            if error.is_connect() {
                Error::Unreachable { url: url::shown(uri), reason }
            } else {
                broken(reason)
            }
        })
    }
}

fn describe(uri: &Uri) -> &str {
    match url::file_name(uri) {
        "" => "an answer",
        name => name,
    }
}

/// The operating system's own word stands at the end of the chain.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        last = inner.to_string();
        source = inner.source();
    }
    last
}

/// `detail` of a problem (RFC 9457), else its `title`, else the status.
pub(crate) fn problem_text(status: StatusCode, body: &[u8]) -> String {
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Problem {
        detail: String,
        title: String,
    }
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    match (problem.detail, problem.title) {
        (detail, _) if !detail.is_empty() => detail,
        (_, title) if !title.is_empty() => title,
        _ => status.to_string(),
    }
}
