//! The pages for people: what is live, and one broadcast. They are built into
//! the program and use the same API as everybody.

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use axum::response::Response;
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use spyglass_media::BroadcastId;

use super::operation::{Content, Operation, Who, get};
use super::problem::Problem;

const HOME: &str = include_str!("../../../../web/index.html");
const WATCH: &str = include_str!("../../../../web/watch.html");
const ASSETS: [(&str, &str, &str); 3] = [
    ("style.css", "text/css; charset=utf-8", include_str!("../../../../web/style.css")),
    ("home.js", "text/javascript; charset=utf-8", include_str!("../../../../web/home.js")),
    ("watch.js", "text/javascript; charset=utf-8", include_str!("../../../../web/watch.js")),
];

/// Scripts and styles come from here alone; media and lists from any edge.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self' http: https:; media-src http: https: blob:; img-src 'self' data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Pages and what they are made of.
pub fn operations() -> Vec<Operation> {
    let html = || Content::Other("text/html");
    vec![
        get("/", home).is("homePage", Who::Anyone, "What is live, for people", 200, html()),
        get("/watch/{id}", watch).is("watchPage", Who::Anyone, "Watch a broadcast", 200, html()),
        get("/assets/{name}", asset).is(
            "asset",
            Who::Anyone,
            "Scripts and styles of the pages",
            200,
            Content::Other("text/*"),
        ),
    ]
}

/// `GET /`
pub async fn home() -> Response<String> {
    page(HOME)
}

/// `GET /watch/{id}`. Whether there is such a broadcast, the page asks itself:
/// so it is the same for those that are nobody's business.
pub async fn watch(path: Result<Path<String>, PathRejection>) -> Result<Response<String>, Problem> {
    let id = path.ok().and_then(|Path(id)| id.parse::<BroadcastId>().ok());
    id.map(|_| page(WATCH)).ok_or_else(Problem::no_such_broadcast)
}

/// `GET /assets/{name}`
pub async fn asset(path: Result<Path<String>, PathRejection>) -> Result<Response<String>, Problem> {
    let wanted = path.map(|Path(name)| name).unwrap_or_default();
    let found = ASSETS.iter().find(|(name, ..)| *name == wanted);
    let (_, kind, text) = found.ok_or_else(super::no_such_path)?;
    Ok(answer(kind, text, "max-age=300"))
}

fn page(text: &'static str) -> Response<String> {
    answer("text/html; charset=utf-8", text, "no-cache")
}

fn answer(kind: &'static str, text: &'static str, caching: &'static str) -> Response<String> {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, caching),
    ];
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = StatusCode::OK;
    for (name, value) in headers {
        response.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    response
}
