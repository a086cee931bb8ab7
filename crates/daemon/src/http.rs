//! Small pieces of HTTP that more than one service speaks.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use tokio::net::TcpListener;

/// An error as RFC 9457 describes it. `title` is the same for every error of a
/// kind, `detail` says what to do; neither quotes a secret. The `type` is
/// `about:blank`: the status says what kind it is.
pub fn problem(status: StatusCode, title: &str, detail: &str) -> Response<Bytes> {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What others are told: the operator's `given` URL without its last slash, or
/// `scheme://` the listener's address and `path`.
pub fn public_url(given: Option<&str>, scheme: &str, listener: &TcpListener, path: &str) -> String {
    match (given, listener.local_addr()) {
        (Some(given), _) => given.trim_end_matches('/').to_owned(),
        (None, Ok(address)) => format!("{scheme}://{address}{path}"),
        (None, Err(_)) => String::new(),
    }
}

/// Whether only this machine can reach the listener.
pub fn is_loopback(listener: &TcpListener) -> bool {
    listener.local_addr().is_ok_and(|address| address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_rfc_9457() {
        let response = problem(StatusCode::NOT_FOUND, "not found", "no \"such\" id");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["type"], "about:blank");
        assert_eq!(body["status"], 404);
        assert_eq!(body["title"], "not found");
        assert_eq!(body["detail"], "no \"such\" id");
    }

    #[tokio::test]
    async fn a_public_url_is_the_given_one_or_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let given = public_url(Some("https://cdn.example/"), "http", &listener, "");
        assert_eq!(given, "https://cdn.example");
        let own = public_url(None, "rtmp", &listener, "/live");
        assert_eq!(own, format!("rtmp://127.0.0.1:{port}/live"));
        assert!(is_loopback(&listener));
    }
}
