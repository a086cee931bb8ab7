//! Refusals as RFC 9457 describes them.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};

use crate::store;

/// Why a request was not done, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    /// Seconds after which another attempt makes sense.
    retry_after: Option<u32>,
}

impl Problem {
    /// The title follows from the status.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), retry_after: None }
    }

    /// It may work after so many seconds.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The request itself is wrong.
    pub fn bad(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// One answer for ids that never existed, that are none, and for broadcasts
    /// that are not the asker's business.
    pub fn no_such_broadcast() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such broadcast")
    }

    /// Nobody in particular asked for what only some may have.
    pub fn who_are_you() -> Self {
        let detail = "send Authorization: Bearer with the operator key or a user's token";
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// The credentials are nobody's.
    pub fn unknown_credentials() -> Self {
        let detail = "the bearer token is nobody's: check it, or leave it out";
        Self::new(StatusCode::UNAUTHORIZED, detail)
    }

    /// Somebody asked for what is not theirs.
    pub fn not_yours(detail: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, detail)
    }

    /// Control cannot do it at the moment.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry_after(2)
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        tracing::warn!(%error, "a request failed at the store");
        Self::unavailable(match error {
            store::Error::Unavailable(_) => {
                "control's store is away, so nothing new can be kept; what is live goes on: try again"
            }
            _ => "others changed the same at the same time: try again",
        })
    }
}

fn title(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or("error").to_lowercase()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let response =
            spyglass_daemon::http::problem(self.status, &title(self.status), &self.detail);
        let mut response = response.map(Body::from);
        let headers = response.headers_mut();
        // A player on another site must be able to see why.
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
