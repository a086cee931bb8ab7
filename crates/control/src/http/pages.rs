//! The pages for people: what is live, one broadcast, and the operator's
//! console. They are built into the program and use the same API as everybody.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::json;
use spyglass_media::BroadcastId;

use super::operation::{Content, Operation, Who, get};
use super::problem::Problem;

const HOME: &str = include_str!("../../../../web/index.html");
const WATCH: &str = include_str!("../../../../web/watch.html");
const CONSOLE: &str = include_str!("../../../../web/console.html");

/// Names and texts of files in `web/`.
macro_rules! assets {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("../../../../web/", $name)))),+]
    };
}

const ASSETS: [(&str, &str); 15] = assets![
    "style.css",
    "home.js",
    "watch.js",
    "watch-player.js",
    "console.css",
    "console.js",
    "console-api.js",
    "console-broadcast.js",
    "console-broadcasts.js",
    "console-delay.js",
    "console-dom.js",
    "console-events.js",
    "console-ledgers.js",
    "console-picture.js",
    "console-system.js",
];

/// Not ours: Apache-2.0, see `web/vendor/hls.LICENSE`.
const HLS: (&str, &str) = ("hls.min.js", include_str!("../../../../web/vendor/hls.min.js"));

/// Scripts and styles come from here alone; media and lists from any edge.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self' http: https:; media-src http: https: blob:; img-src 'self' data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The console speaks to this control alone, and no text becomes markup there.
const CONSOLE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; require-trusted-types-for 'script'; trusted-types 'none'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Pages and what they are made of.
pub fn operations() -> Vec<Operation> {
    let html = || Content::Other("text/html");
    vec![
        get("/", home).is("homePage", Who::Anyone, "What is live, for people", 200, html()),
        get("/watch/{id}", watch).is("watchPage", Who::Anyone, "Watch a broadcast", 200, html()),
        get("/console", console)
            .is("consolePage", Who::Anyone, "The operator's console, for people", 200, html())
            .details("It asks for the operator key and shows nothing without."),
        get("/assets/{name}", asset)
            .is(
                "asset",
                Who::Anyone,
                "Scripts and styles of the pages",
                200,
                Content::Other("text/*"),
            )
            .header("If-None-Match", json!({"type": "string"}), "the ETag of what is had already")
            .or(304, Content::Nothing),
    ]
}

/// `GET /`
pub async fn home() -> Response {
    page(HOME)
}

/// `GET /watch/{id}`. Whether there is such a broadcast, the page asks itself:
/// so it is the same for those that are nobody's business.
pub async fn watch(path: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let id = path.ok().and_then(|Path(id)| id.parse::<BroadcastId>().ok());
    id.map(|_| page(WATCH)).ok_or_else(Problem::no_such_broadcast)
}

/// `GET /console`
pub async fn console() -> Response {
    let mut response = page(CONSOLE);
    let policy = HeaderValue::from_static(CONSOLE_POLICY);
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    response
}

/// `GET /assets/{name}`. Asked for anew each time and answered with 304 mostly:
/// modules of two versions must not meet on one page.
pub async fn asset(
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = path.map(|Path(name)| name).unwrap_or_default();
    let mut known = ASSETS.iter().chain([&HLS]).zip(TAGS.iter());
    let found = known.find(|((name, _), _)| *name == wanted);
    let ((name, text), tag) = found.ok_or_else(super::no_such_path)?;
    let kind = match name.rsplit_once('.') {
        Some((_, "css")) => "text/css; charset=utf-8",
        _ => "text/javascript; charset=utf-8",
    };
    if headers.get_all(IF_NONE_MATCH).iter().any(|known| names(known, tag)) {
        let mut response = answer(kind, "");
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(tagged(response, tag));
    }
    Ok(tagged(answer(kind, text), tag))
}

/// [`tag`] of each asset, in their order: made once, since hls.js is long.
static TAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| ASSETS.iter().chain([&HLS]).map(|(_, text)| tag(text)).collect());

/// A name for exactly this text. A collision would have to be of two versions
/// of one file of ours.
fn tag(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

/// Whether If-None-Match says `tag`.
fn names(known: &HeaderValue, tag: &str) -> bool {
    let known = known.to_str().unwrap_or_default();
    known
        .split(',')
        .any(|one| matches!(one.trim(), "*") || one.trim().trim_start_matches("W/") == tag)
}

fn tagged(mut response: Response, tag: &str) -> Response {
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn page(text: &'static str) -> Response {
    answer("text/html; charset=utf-8", text)
}

fn answer(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ];
    let mut response = Response::new(Body::from(text));
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_had_already_is_not_sent_again() {
        let tag = tag("text");
        assert_ne!(tag, super::tag("other text"));
        for known in [tag.clone(), format!("W/{tag}"), format!("\"old\", {tag}"), "*".to_owned()] {
            assert!(names(&HeaderValue::from_str(&known).unwrap(), &tag), "{known}");
        }
        for other in ["", "\"old\"", "text"] {
            assert!(!names(&HeaderValue::from_static(other), &tag), "{other}");
        }
    }
}
