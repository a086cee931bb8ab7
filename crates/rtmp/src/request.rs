//! What a peer asks for, as the caller sees it.

use std::fmt;
use std::ops::Deref;

use crate::{Error, Limits};

/// Names one request of a connection, for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub(crate) u64);

/// A token as the peer sent it, not yet verified. Not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Deref for Token {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// A `publish` or a `play`. No part but `token` holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// For [`Server::accept`](crate::Server::accept) and [`Server::reject`](crate::Server::reject).
    pub id: RequestId,
    /// The application that `connect` named, without a query.
    pub app: String,
    /// The stream's name, without a query.
    pub name: String,
    /// `token=` in the query of the stream's name, else of the URL, else of
    /// the application.
    pub token: Option<Token>,
    /// The URL that `connect` named, without its query.
    pub tc_url: Option<String>,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The token does not allow this publish.
    PublishDenied,
    /// Somebody else is publishing.
    PublishBadName,
    /// The token does not allow this play.
    PlayDenied,
    /// There is no such broadcast, or no longer.
    PlayStreamNotFound,
}

impl Refusal {
    /// The status code that the peer is told.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PublishDenied => "NetStream.Publish.Denied",
            Self::PublishBadName => "NetStream.Publish.BadName",
            Self::PlayDenied => "NetStream.Play.Denied",
            Self::PlayStreamNotFound => "NetStream.Play.StreamNotFound",
        }
    }
}

/// What `connect` said.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    app: String,
    tc_url: Option<String>,
    token: Option<Token>,
}

impl Connected {
    pub fn new(app: &str, tc_url: Option<&str>, limits: &Limits) -> Result<Self, Error> {
        if app.len() > limits.text {
            return Err(Error::TextTooLong("application"));
        }
        if tc_url.is_some_and(|url| url.len() > limits.text) {
            return Err(Error::TextTooLong("tcUrl"));
        }
        let (app, app_token) = split(app);
        let (tc_url, url_token) = tc_url.map(split).unzip();
        Ok(Self {
            app: app.trim_matches('/').to_owned(),
            tc_url: tc_url.map(str::to_owned),
            token: url_token.flatten().or(app_token),
        })
    }

    pub fn request(&self, id: RequestId, name: &str, limits: &Limits) -> Result<Request, Error> {
        if name.len() > limits.text {
            return Err(Error::TextTooLong("stream name"));
        }
        let (name, token) = split(name);
        Ok(Request {
            id,
            app: self.app.clone(),
            name: name.to_owned(),
            token: token.or_else(|| self.token.clone()),
            tc_url: self.tc_url.clone(),
        })
    }
}

/// What stands before the query, and the token in it.
fn split(text: &str) -> (&str, Option<Token>) {
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    let token = query.split('&').find_map(|pair| pair.strip_prefix("token="));
    (text, token.map(|token| Token(token.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(app: &str, tc_url: Option<&str>, name: &str) -> Request {
        let limits = Limits::default();
        let connected = Connected::new(app, tc_url, &limits).unwrap();
        connected.request(RequestId(1), name, &limits).unwrap()
    }

    #[test]
    fn the_nearest_token_is_taken() {
        let url = Some("rtmp://h/live?token=u");
        for (app, tc_url, name, token) in [
            ("live?token=a", url, "id?x=1&token=n", Some("n")),
            ("live?token=a", url, "id", Some("u")),
            ("live?token=a", Some("rtmp://h/live"), "id?x=1", Some("a")),
            ("live", None, "id", None),
            ("live", None, "id?mytoken=1", None),
            ("live", None, "id?token=", Some("")),
        ] {
            let request = request(app, tc_url, name);
            assert_eq!(request.token.as_deref(), token);
            assert_eq!((&*request.app, &*request.name), ("live", "id"));
        }
    }

    #[test]
    fn queries_are_shown_to_nobody() {
        let request = request("/live/?token=a", Some("rtmp://h/live?token=u"), "id?token=n");
        assert_eq!(request.app, "live");
        assert_eq!(request.tc_url.as_deref(), Some("rtmp://h/live"));
        let shown = format!("{request:?}");
        assert!(shown.contains("Token(..)") && !shown.contains("token="), "{shown}");
    }

    #[test]
    fn texts_at_the_limit_and_beyond() {
        let limits = Limits { text: 4, ..Limits::default() };
        let connected = Connected::new("live", Some("rtmp"), &limits).unwrap();
        assert!(connected.request(RequestId(1), "name", &limits).is_ok());
        assert!(connected.request(RequestId(1), "names", &limits).is_err());
        assert!(Connected::new("lives", None, &limits).is_err());
        assert!(Connected::new("live", Some("rtmps"), &limits).is_err());
    }
}
