//! Small pieces of HTTP that more than one service speaks.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
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

/// Whether a request names its host as RFC 9112 section 3.2 demands: once, in
/// HTTP/1.0 and from HTTP/2 on (which has `:authority`) once at most, and with
/// nothing in it that no host and port have. Anything else is answered 400: two
/// servers in a row must not take one request for two different sites.
pub fn names_one_host(version: Version, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host
            .as_bytes()
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte)),
        (None, _) => version != Version::HTTP_11,
        (Some(_), Some(_)) => false,
    }
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

    #[test]
    fn a_request_names_one_host() {
        let names = |version, hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, HeaderValue::from_static(host));
            }
            names_one_host(version, &headers)
        };
        for host in ["", "edge", "edge.example:8281", "192.0.2.1", "[2001:db8::1]:80", "a%20b"] {
            assert!(names(Version::HTTP_11, &[host]), "{host}");
        }
        for host in ["a b", "a, b", "http://a", "user@a", "a/b", "a?", "a\t"] {
            assert!(!names(Version::HTTP_11, &[host]), "{host}");
        }
        assert!(!names(Version::HTTP_11, &[]));
        for version in [Version::HTTP_10, Version::HTTP_2, Version::HTTP_3] {
            assert!(names(version, &[]) && names(version, &["a"]), "{version:?}");
            assert!(!names(version, &["a", "a"]), "{version:?}");
        }
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
