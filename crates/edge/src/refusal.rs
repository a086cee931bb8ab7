//! Every way a request is refused, and the words that go with it.
//!
//! A refusal is one of a fixed table: nothing of the request is quoted, so a
//! private broadcast answers exactly as an id that never existed.

use http::StatusCode;

/// Why a request is not answered with what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The path is not percent-encoded UTF-8.
    Encoding,
    /// A `_HLS_` value that means nothing.
    Directive,
    /// `_HLS_msn` or `_HLS_part` is further ahead than any client can know of.
    TooFar,
    /// A request that reads has a body.
    Body,
    /// No Host header in HTTP/1.1, several, or one that names none.
    Host,
    /// More header fields than any player has to send.
    Headers,
    /// The viewer's token does not open this broadcast (any more).
    Denied,
    /// No such path, broadcast or object; or a private one.
    NotFound,
    /// A method other than GET, HEAD and OPTIONS.
    Method,
    /// The broadcast is over and no longer kept.
    Gone,
    /// The broadcast is known and has no chunk yet.
    NotYet,
    /// What a blocking request waits for has not come in time.
    Late,
    /// The upstream did not answer in time with anything new enough.
    Upstream,
    /// This edge has just started and does not know yet what exists.
    Starting,
    /// This edge has no room for another broadcast or fetch.
    Busy,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Encoding,
        Self::Directive,
        Self::TooFar,
        Self::Body,
        Self::Host,
        Self::Headers,
        Self::Denied,
        Self::NotFound,
        Self::Method,
        Self::Gone,
        Self::NotYet,
        Self::Late,
        Self::Upstream,
        Self::Starting,
        Self::Busy,
    ];

    /// The word in logs and tests.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Encoding => "encoding",
            Self::Directive => "directive",
            Self::TooFar => "too_far",
            Self::Body => "body",
            Self::Host => "host",
            Self::Headers => "headers",
            Self::Denied => "denied",
            Self::NotFound => "not_found",
            Self::Method => "method",
            Self::Gone => "gone",
            Self::NotYet => "not_yet",
            Self::Late => "late",
            Self::Upstream => "upstream",
            Self::Starting => "starting",
            Self::Busy => "busy",
        }
    }

    /// The status code (CONTRACT section 4).
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Encoding | Self::Directive | Self::TooFar | Self::Body | Self::Host => {
                StatusCode::BAD_REQUEST
            }
            Self::Headers => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Gone => StatusCode::GONE,
            Self::NotYet | Self::Late | Self::Upstream | Self::Starting | Self::Busy => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    /// The body: problem details (RFC 9457).
    pub const fn problem(self) -> &'static str {
        match self {
            Self::Encoding => {
                r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"the path is not percent-encoded UTF-8"}"#
            }
            Self::Directive => {
                r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"a _HLS_ parameter has a value that is not valid"}"#
            }
            Self::TooFar => {
                r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"that chunk or part is too far ahead: read the list first"}"#
            }
            Self::Body => {
                r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"this request must not have a body"}"#
            }
            Self::Host => {
                r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"send the Host header once, with the host that is asked (RFC 9112 section 3.2)"}"#
            }
            Self::Headers => {
                r#"{"type":"about:blank","title":"Request Header Fields Too Large","status":431,"detail":"send at most 64 header fields"}"#
            }
            Self::Denied => {
                r#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"the viewer token is not valid for this broadcast: join again"}"#
            }
            Self::NotFound => {
                r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"nothing is here"}"#
            }
            Self::Method => {
                r#"{"type":"about:blank","title":"Method Not Allowed","status":405,"detail":"use GET, HEAD or OPTIONS"}"#
            }
            Self::Gone => {
                r#"{"type":"about:blank","title":"Gone","status":410,"detail":"the broadcast is over"}"#
            }
            Self::NotYet => {
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"the broadcast has not begun: try again"}"#
            }
            Self::Late => {
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"what was waited for has not come: try again"}"#
            }
            Self::Upstream => {
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"the origin does not answer: try again"}"#
            }
            Self::Starting => {
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"the edge is starting: try again"}"#
            }
            Self::Busy => {
                r#"{"type":"about:blank","title":"Service Unavailable","status":503,"detail":"the edge is full: try again or use another"}"#
            }
        }
    }

    /// Whether the same request may be answered in a second.
    pub fn passes(self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_says_the_status() {
        for refusal in Refusal::ALL {
            let status = format!("\"status\":{}", refusal.status().as_u16());
            assert!(refusal.problem().contains(&status), "{}", refusal.as_str());
            let title = refusal.status().canonical_reason().unwrap();
            assert!(refusal.problem().contains(&format!("\"title\":\"{title}\"")));
        }
    }
}
