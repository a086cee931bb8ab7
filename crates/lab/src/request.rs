//! One HTTP request with limits, and how long it took. Connections are
//! [`tls`]'s.

pub mod tls;

use std::io::Read as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use self::tls::{Connector, Tls};

/// Redirects in a row.
const REDIRECTS: usize = 5;

/// A client with connections that are kept; clones share them.
#[derive(Clone)]
pub struct Http(Client<Connector, Empty<Bytes>>);

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As it came.
    pub status: StatusCode,
    /// As they came.
    pub headers: HeaderMap,
    /// Unpacked when it was gzip.
    pub body: Bytes,
    /// It came as gzip.
    pub gzip: bool,
    /// From asking to the head of the answer.
    pub first: Duration,
    /// From asking to the last byte.
    pub took: Duration,
}

impl Answer {
    /// A header's text, when it has one.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not an URL that can be asked.
    #[error("{0} is no http:// or https:// URL")]
    Url(String),
    /// What is to be believed of servers cannot be read.
    #[error("certificates: {0}")]
    Trust(String),
    /// The connection or the exchange failed.
    #[error("{0}")]
    Failed(String),
    /// No whole answer in time.
    #[error("no whole answer within {0:?}")]
    TimedOut(Duration),
}

impl Http {
    /// A client with no connection yet.
    pub fn new(tls: Tls) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .build(Connector::new(tls));
        Self(client)
    }

    /// As [`Http::get`], but goes where redirects lead; the answer and whose it is.
    ///
    /// # Errors
    /// Those of each request, and more redirects than players follow.
    pub async fn follow(
        &self,
        uri: &Uri,
        limit: usize,
        within: Duration,
    ) -> Result<(Uri, Answer), Error> {
        let mut uri = uri.clone();
        for _ in 0..=REDIRECTS {
            let answer = self.get(&uri, limit, within).await?;
            match answer.header("location").filter(|_| answer.status.is_redirection()) {
                Some(location) => uri = resolve(&uri, location)?,
                None => return Ok((uri, answer)),
            }
        }
        Err(Error::Failed(format!("more than {REDIRECTS} redirects")))
    }

    /// GET, gzip accepted, redirects not followed.
    ///
    /// # Errors
    /// When there is no whole answer of at most `limit` bytes, packed or
    /// unpacked, within the time.
    pub async fn get(&self, uri: &Uri, limit: usize, within: Duration) -> Result<Answer, Error> {
        let began = Instant::now();
        let mut request = Request::new(Empty::new());
        request.uri_mut().clone_from(uri);
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let exchange = async {
            let response = self.0.request(request).await.map_err(failed)?;
            let first = began.elapsed();
            let (head, body) = response.into_parts();
            let body = Limited::new(body, limit).collect().await;
            let body = body.map_err(|error| Error::Failed(error.to_string()))?.to_bytes();
            Ok((head, body, first))
        };
        let answer = tokio::time::timeout(within, exchange).await;
        let (head, body, first) = answer.map_err(|_| Error::TimedOut(within))??;
        let took = began.elapsed();
        let gzip = head.headers.get(CONTENT_ENCODING).is_some_and(|value| value == "gzip");
        let body = if gzip { unpack(&body, limit)? } else { body };
        Ok(Answer { status: head.status, headers: head.headers, body, gzip, first, took })
    }
}

fn failed(error: hyper_util::client::legacy::Error) -> Error {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    Error::Failed(text)
}

fn unpack(packed: &[u8], limit: usize) -> Result<Bytes, Error> {
    let mut plain = Vec::new();
    let mut reader = flate2::read::GzDecoder::new(packed).take(limit as u64 + 1);
    reader.read_to_end(&mut plain).map_err(|error| Error::Failed(format!("bad gzip: {error}")))?;
    if plain.len() > limit {
        return Err(Error::Failed(format!("more than {limit} bytes when unpacked")));
    }
    Ok(plain.into())
}

/// `reference` as it stands in a document at `base` (RFC 3986 section 5, as far
/// as playlists go).
///
/// # Errors
/// When the result is no `http://` or `https://` URL.
pub fn resolve(base: &Uri, reference: &str) -> Result<Uri, Error> {
    let bad = || Error::Url(reference.to_owned());
    let text = if reference.contains("://") {
        reference.to_owned()
    } else {
        let authority = base.authority().ok_or_else(bad)?;
        let scheme = base.scheme_str().unwrap_or("http");
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        match reference.strip_prefix('/') {
            Some(absolute) => format!("{scheme}://{authority}/{absolute}"),
            None => format!("{scheme}://{authority}{folder}/{reference}"),
        }
    };
    parse(&text).map_err(|_| bad())
}

/// An absolute URL that can be asked.
///
/// # Errors
/// When it is none.
pub fn parse(text: &str) -> Result<Uri, Error> {
    let uri: Uri = text.parse().map_err(|_| Error::Url(text.to_owned()))?;
    let fits = matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some();
    if fits { Ok(uri) } else { Err(Error::Url(text.to_owned())) }
}

/// `uri` with `query` added to its query.
pub fn with_query(uri: &Uri, query: &str) -> Uri {
    let joint = if uri.query().is_some() { '&' } else { '?' };
    format!("{uri}{joint}{query}").parse().unwrap_or_else(|_| uri.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_resolved() {
        let base = parse("http://h:1/v/secret/id/chunklist.m3u8?a=1").unwrap();
        let resolved = |reference| resolve(&base, reference).unwrap().to_string();
        assert_eq!(resolved("1-2.m4s"), "http://h:1/v/secret/id/1-2.m4s");
        assert_eq!(resolved("/x"), "http://h:1/x");
        assert_eq!(resolved("http://other/x?y"), "http://other/x?y");
        assert!(resolve(&base, "ftp://h/x").is_err());
        assert_eq!(with_query(&base, "b=2").query(), Some("a=1&b=2"));
    }
}
