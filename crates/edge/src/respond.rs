//! Answers. All of an answer that does not differ from request to request,
//! headers and bytes, is built once per version and shared; what is left per
//! request is a copy of the header table and three values in it.

use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, AGE, ALLOW,
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    RETRY_AFTER, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use sha2::{Digest as _, Sha256};
use spyglass_media::{NodeId, Resource};

use crate::delays::Measured;
use crate::filling::{Broken, Filling, Reader};
use crate::negotiate::{Terms, Wanted};
use crate::outcome::{CacheStatus, CacheStatusValues};
use crate::priority::{self, PRIORITY};
use crate::refusal::Refusal;
use crate::slot::{Listing, Meta, Span};

/// The bytes of an answer.
#[derive(Debug)]
pub enum Body {
    /// In one piece of memory, shared with every other answer of it.
    Whole(Full<Bytes>),
    /// On their way from upstream.
    Filling(Reader),
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(Full::new(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self.get_mut() {
            Self::Whole(whole) => {
                Pin::new(whole).poll_frame(context).map_err(|never| match never {})
            }
            Self::Filling(reader) => Pin::new(reader).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Filling(reader) => reader.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Filling(reader) => reader.size_hint(),
        }
    }
}

/// SHA-256 of an object.
pub type Digest = [u8; 32];

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const EXPOSED: HeaderValue =
    HeaderValue::from_static("Age, Cache-Status, Content-Range, Date, ETag");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
const ANY: HeaderValue = HeaderValue::from_static("*");
const VARIES: HeaderValue = HeaderValue::from_static("Accept-Encoding");

/// How the bytes of a list are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Identity,
    /// gzip.
    Gzip,
}

/// What an answer says besides its bytes.
#[derive(Clone, Debug)]
pub struct Head {
    headers: HeaderMap,
    private: HeaderValue,
    etag: String,
    digest: Digest,
}

impl Head {
    /// Of the object with these bytes: the ETag depends on nothing else, so it
    /// is the same on every edge and another for every encoding.
    pub fn new(resource: Resource, encoding: Encoding, digest: Digest) -> Self {
        let list = matches!(resource, Resource::Index | Resource::Chunklist);
        let mut head = Self::build(resource.content_type(), list, encoding, digest);
        head.headers.insert(PRIORITY, priority::of(Some(resource)));
        head
    }

    /// `list`: it changes.
    fn build(content_type: &'static str, list: bool, encoding: Encoding, digest: Digest) -> Self {
        let mut etag = String::with_capacity(34);
        etag.push('"');
        for byte in &digest[..16] {
            etag.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            etag.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
        }
        etag.push('"');
        let (public, private) = match list {
            true => ("public, max-age=1", "private, max-age=1"),
            false => {
                ("public, max-age=31536000, immutable", "private, max-age=31536000, immutable")
            }
        };
        let mut headers = common(public);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if encoding == Encoding::Gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if !list {
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        // Hex digits between quotes.
        headers.insert(ETAG, etag.parse().unwrap_or(HeaderValue::from_static("\"\"")));
        Self { headers, private: HeaderValue::from_static(private), etag, digest }
    }

    /// Of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

/// One representation, ready to be sent any number of times.
#[derive(Debug)]
pub struct Prebuilt {
    head: Head,
    body: Bytes,
}

impl Prebuilt {
    /// Hashes the bytes.
    pub fn new(resource: Resource, encoding: Encoding, body: Bytes) -> Self {
        let digest = Sha256::digest(&body).into();
        Self { head: Head::new(resource, encoding, digest), body }
    }

    /// `steering.json`, which lives as long as a list.
    pub fn steering(body: Bytes) -> Self {
        let digest = Sha256::digest(&body).into();
        let mut head = Head::build("application/json", true, Encoding::Identity, digest);
        head.headers.insert(PRIORITY, priority::of(None));
        Self { head, body }
    }

    /// What its answer says besides the bytes.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// The strong validator, quotes included.
    pub fn etag(&self) -> &str {
        &self.head.etag
    }

    /// The bytes.
    pub fn body(&self) -> &Bytes {
        &self.body
    }
}

/// Headers of every answer. Age and Cache-Status have their place already, so
/// that setting them moves nothing.
fn common(cache_control: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(16);
    headers.insert(CACHE_STATUS, HeaderValue::from_static("-"));
    headers.insert(AGE, HeaderValue::from_static("0"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache_control));
    headers.insert(VARY, VARIES);
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers
}

/// A list in the encodings that it came in.
#[derive(Debug)]
pub struct Forms {
    identity: Prebuilt,
    gzip: Option<Prebuilt>,
}

impl Forms {
    /// Builds the answers of one playlist.
    pub fn new(resource: Resource, identity: Bytes, gzip: Option<Bytes>) -> Self {
        Self {
            identity: Prebuilt::new(resource, Encoding::Identity, identity),
            gzip: gzip.map(|bytes| Prebuilt::new(resource, Encoding::Gzip, bytes)),
        }
    }

    /// As it is, and packed.
    pub fn bodies(&self) -> [Option<&Bytes>; 2] {
        [Some(self.identity.body()), self.gzip.as_ref().map(Prebuilt::body)]
    }

    /// The one that the client prefers.
    pub fn choose(&self, terms: &Terms) -> &Prebuilt {
        match &self.gzip {
            Some(gzip) if terms.gzip() => gzip,
            _ => &self.identity,
        }
    }
}

/// One version of a broadcast's lists.
#[derive(Debug)]
pub struct Lists {
    /// What they say of themselves.
    pub meta: Meta,
    /// `chunklist.m3u8`.
    pub media: Forms,
    /// Its delta update, when there is one.
    pub delta: Option<Forms>,
    /// `index.m3u8`.
    pub index: Forms,
    /// How long an answer to a blocking request may be kept.
    pub blocking: BlockingLifetime,
    /// The names in it, when it is written as ours are.
    pub span: Option<Span>,
}

impl Listing for Arc<Lists> {
    fn span(&self) -> Option<&Span> {
        self.span.as_ref()
    }
}

/// Cache-Control of a list that was waited for by its number: what is asked for
/// by that name does not change any more, so it may be kept for 6 target
/// durations (rule L10).
#[derive(Clone, Debug)]
pub struct BlockingLifetime {
    public: HeaderValue,
    private: HeaderValue,
}

impl BlockingLifetime {
    /// For lists of this target duration.
    pub fn new(target: Duration) -> Self {
        let seconds = (6 * target).as_secs();
        let value = |who: &str| {
            let value = format!("{who}, max-age={seconds}").parse();
            value.unwrap_or(HeaderValue::from_static("no-store"))
        };
        Self { public: value("public"), private: value("private") }
    }
}

/// An init, chunk or part.
#[derive(Debug)]
pub struct Object {
    /// Its one representation.
    pub answer: Prebuilt,
    /// When it came here.
    pub arrived: Instant,
    /// How long it took; nothing for what is measured by nobody.
    pub measured: Option<Measured>,
}

/// What a request wants to know besides the object.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// HEAD: everything but the body.
    pub head: bool,
    /// A joined viewer asks: no shared cache may keep the answer.
    pub private: bool,
    /// The answer was waited for by its number.
    pub blocking: Option<&'a BlockingLifetime>,
    /// What its headers ask.
    pub terms: &'a Terms,
}

impl Asked<'_> {
    /// Nothing but the whole object will do, headers and bytes.
    pub fn wants_all(&self) -> bool {
        !self.head && self.terms.whole()
    }
}

/// Answers in the name of one edge.
#[derive(Debug)]
pub struct Responder {
    statuses: CacheStatusValues,
    refusals: Vec<(Refusal, HeaderMap)>,
}

impl Responder {
    /// For the edge of this name.
    pub fn new(node: &NodeId) -> Self {
        let refusals = Refusal::ALL.map(|refusal| {
            let mut headers = common(match refusal {
                Refusal::NotFound | Refusal::Gone => "max-age=1",
                _ => "no-store",
            });
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            if refusal.passes() {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            if refusal == Refusal::Method {
                headers.insert(ALLOW, METHODS);
            }
            if refusal == Refusal::Body {
                headers.insert(http::header::CONNECTION, HeaderValue::from_static("close"));
            }
            (refusal, headers)
        });
        Self { statuses: CacheStatusValues::new(node), refusals: refusals.into() }
    }

    fn headers(
        &self,
        head: &Head,
        status: CacheStatus,
        age: Duration,
        asked: Asked<'_>,
    ) -> HeaderMap {
        let mut headers = head.headers.clone();
        headers.insert(CACHE_STATUS, self.statuses.get(status));
        headers.insert(AGE, seconds(age));
        match (asked.blocking, asked.private) {
            (Some(blocking), true) => headers.insert(CACHE_CONTROL, blocking.private.clone()),
            (Some(blocking), false) => headers.insert(CACHE_CONTROL, blocking.public.clone()),
            (None, true) => headers.insert(CACHE_CONTROL, head.private.clone()),
            (None, false) => None,
        };
        headers
    }

    /// The answer to a request for something that is on its way: all of it, as
    /// it comes. What asks for a range, or whether it has changed, waits for
    /// the whole ([`Asked::wants_all`]).
    pub fn filling(
        &self,
        filling: &Arc<Filling>,
        status: CacheStatus,
        asked: Asked<'_>,
    ) -> Response<Body> {
        let headers = self.headers(filling.head(), status, Duration::ZERO, asked);
        let mut response = Response::new(Body::Filling(Reader::new(Arc::clone(filling))));
        *response.headers_mut() = headers;
        response
    }

    /// The answer to a request for something that is here.
    pub fn found(
        &self,
        found: &Prebuilt,
        status: CacheStatus,
        age: Duration,
        asked: Asked<'_>,
    ) -> Response<Body> {
        let etag = found.etag();
        let mut headers = self.headers(&found.head, status, age, asked);
        if asked.terms.unchanged(etag) {
            headers.remove(CONTENT_TYPE);
            headers.remove(CONTENT_ENCODING);
            return response(StatusCode::NOT_MODIFIED, headers, Bytes::new());
        }
        if asked.head {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(found.body.len()));
            return response(StatusCode::OK, headers, Bytes::new());
        }
        match asked.terms.range(etag, found.body.len()) {
            Wanted::Whole => response(StatusCode::OK, headers, found.body.clone()),
            Wanted::Part(range) => {
                let (first, last) = (range.start, range.end.saturating_sub(1));
                let value = format!("bytes {first}-{last}/{}", found.body.len());
                headers.insert(CONTENT_RANGE, value.parse().unwrap_or(ANY));
                response(StatusCode::PARTIAL_CONTENT, headers, found.body.slice(range))
            }
            Wanted::Unsatisfiable => {
                for name in [CONTENT_TYPE, CONTENT_ENCODING, ETAG] {
                    headers.remove(name);
                }
                let value = format!("bytes */{}", found.body.len());
                headers.insert(CONTENT_RANGE, value.parse().unwrap_or(ANY));
                headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
                const PROBLEM: &str = r#"{"type":"about:blank","title":"Range Not Satisfiable","status":416,"detail":"the object is shorter than that"}"#;
                response(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    headers,
                    Bytes::from_static(PROBLEM.as_bytes()),
                )
            }
        }
    }

    /// A refusal.
    pub fn refused(&self, refusal: Refusal, status: CacheStatus, head: bool) -> Response<Body> {
        let prepared = self.refusals.iter().find(|(prepared, _)| *prepared == refusal);
        let mut headers = prepared.map(|(_, headers)| headers.clone()).unwrap_or_default();
        headers.insert(CACHE_STATUS, self.statuses.get(status));
        let problem = refusal.problem();
        if head {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(problem.len()));
            return response(refusal.status(), headers, Bytes::new());
        }
        response(refusal.status(), headers, Bytes::from_static(problem.as_bytes()))
    }

    /// The answer to OPTIONS, a CORS preflight mostly: the same for every path.
    pub fn options(&self) -> Response<Body> {
        let mut headers = common("no-store");
        headers.insert(CACHE_STATUS, self.statuses.get(CacheStatus::Local));
        headers.insert(ALLOW, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        let asked = HeaderValue::from_static("Range, If-None-Match, If-Range, Cache-Control");
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
        response(StatusCode::NO_CONTENT, headers, Bytes::new())
    }
}

fn response(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Whole seconds; the usual ones are made already.
fn seconds(age: Duration) -> HeaderValue {
    static SMALL: LazyLock<Vec<HeaderValue>> =
        LazyLock::new(|| (0..=60u64).map(HeaderValue::from).collect());
    let seconds = age.as_secs();
    let small = usize::try_from(seconds).ok().and_then(|seconds| SMALL.get(seconds));
    small.cloned().unwrap_or_else(|| HeaderValue::from(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{IF_NONE_MATCH, RANGE};
    use http_body_util::BodyExt as _;

    fn responder() -> Responder {
        Responder::new(&"edge-1".parse().unwrap())
    }

    fn chunk() -> Prebuilt {
        let resource = Resource::Chunk { epoch: 1, sequence: 2 };
        Prebuilt::new(resource, Encoding::Identity, Bytes::from_static(b"0123456789"))
    }

    fn ask(pairs: &[(HeaderName, &str)], head: bool, private: bool) -> Response<Body> {
        let headers: HeaderMap =
            pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        let asked = Asked { head, private, blocking: None, terms: &Terms::read(&headers) };
        responder().found(&chunk(), CacheStatus::Hit, Duration::from_millis(2_900), asked)
    }

    async fn body(response: Response<Body>) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn every_answer_carries_what_the_contract_names() {
        let answer = ask(&[], false, false);
        let headers = answer.headers();
        assert_eq!(headers["cache-status"], "edge-1; hit");
        assert_eq!(headers["age"], "2");
        assert_eq!(headers["vary"], "Accept-Encoding");
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert_eq!(
            headers["access-control-expose-headers"],
            "Age, Cache-Status, Content-Range, Date, ETag"
        );
        assert_eq!(headers["cache-control"], "public, max-age=31536000, immutable");
        assert_eq!(headers["content-type"], "video/mp4");
        assert_eq!(headers["etag"], chunk().etag());
        assert_eq!(body(answer).await, "0123456789");
        let private = ask(&[], false, true);
        assert_eq!(private.headers()["cache-control"], "private, max-age=31536000, immutable");
    }

    #[tokio::test]
    async fn what_the_client_has_is_not_sent_again() {
        let answer = ask(&[(IF_NONE_MATCH, chunk().etag())], false, false);
        assert_eq!(answer.status(), 304);
        assert_eq!(answer.headers()["etag"], chunk().etag());
        assert!(answer.headers().get("content-type").is_none());
        assert!(body(answer).await.is_empty());
    }

    #[tokio::test]
    async fn ranges_and_head() {
        let answer = ask(&[(RANGE, "bytes=2-4")], false, false);
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-range"]),
            (206, &HeaderValue::from_static("bytes 2-4/10"))
        );
        assert_eq!(body(answer).await, "234");
        let answer = ask(&[(RANGE, "bytes=10-")], false, false);
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-range"]),
            (416, &HeaderValue::from_static("bytes */10"))
        );
        let answer = ask(&[(RANGE, "bytes=2-4")], true, false);
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["content-length"]),
            (200, &HeaderValue::from_static("10"))
        );
        assert!(body(answer).await.is_empty());
    }

    #[tokio::test]
    async fn refusals_are_problems_that_browsers_may_read() {
        for refusal in Refusal::ALL {
            let answer = responder().refused(refusal, CacheStatus::Negative, false);
            assert_eq!(answer.status(), refusal.status());
            let headers = answer.headers();
            assert_eq!(headers["content-type"], "application/problem+json");
            assert_eq!(headers["access-control-allow-origin"], "*");
            assert_eq!(headers["cache-status"], "edge-1; hit; detail=negative");
            assert_eq!(headers.get("retry-after").is_some(), refusal.status() == 503);
            assert_eq!(headers.get("allow").is_some(), refusal.status() == 405);
        }
    }

    #[test]
    fn an_etag_depends_on_the_bytes_alone() {
        let of = |bytes: &'static [u8], encoding| {
            let etag = Prebuilt::new(Resource::Chunklist, encoding, Bytes::from_static(bytes));
            etag.etag().to_owned()
        };
        assert_eq!(of(b"a", Encoding::Identity), of(b"a", Encoding::Gzip));
        assert_ne!(of(b"a", Encoding::Identity), of(b"b", Encoding::Identity));
        assert_eq!(of(b"", Encoding::Identity).len(), 34);
    }
}
