//! Server-sent events of the control API: a connection that stays, and goes on
//! where it broke off.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::Api;
use crate::http::{Ask, innermost};
use crate::{Error, url};

/// Control says at least something this often; after that it is taken for gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Between two attempts.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest event.
const MAX_EVENT: usize = 256 * 1024;
/// For the answer's head.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest refusal that is read.
const MAX_REFUSAL: usize = 64 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Where to go on behind it; empty when it cannot be gone on from.
    pub id: String,
    /// What kind; `message` when nothing was said.
    pub event: String,
    /// Usually JSON.
    pub data: String,
}

/// Events as they come. See [`Api::events`].
#[derive(Debug)]
pub struct Events {
    api: Api,
    path: String,
    last: Option<String>,
    open: Option<(Incoming, Lines)>,
}

impl Api {
    /// The events at `path`, those after `last` first when it is given.
    pub fn events(&self, path: &str, last: Option<String>) -> Events {
        Events { api: self.clone(), path: path.to_owned(), last, open: None }
    }
}

impl Events {
    /// The next event. A connection that breaks is made again, at another
    /// control when there are several, and goes on behind the last event.
    ///
    /// # Errors
    /// When control refuses, or cannot be reached at the first attempt.
    pub async fn next(&mut self) -> Result<Event, Error> {
        let mut known = self.open.is_some();
        loop {
            let Some((body, lines)) = &mut self.open else {
                match self.connect().await {
                    Ok(open) => self.open = Some(open),
                    Err(error @ Error::Refused { status: 400..500, .. }) => return Err(error),
                    Err(error) if !known => return Err(error),
                    Err(_) => {
                        self.api.turn();
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                continue;
            };
            known = true;
            if let Some(event) = lines.event() {
                if !event.id.is_empty() {
                    self.last = Some(event.id.clone());
                }
                return Ok(event);
            }
            let goes_on = match tokio::time::timeout(SILENCE, body.frame()).await {
                Ok(Some(Ok(frame))) => lines.add(frame.into_data().unwrap_or_default()),
                _ => false,
            };
            if !goes_on {
                self.open = None;
                self.api.turn();
            }
        }
    }

    async fn connect(&self) -> Result<(Incoming, Lines), Error> {
        let uri: Uri = self.api.uri(self.api.base(), &self.path)?;
        let ask = Ask {
            method: Method::GET,
            uri: &uri,
            bearer: self.api.bearer.as_deref(),
            json: None,
            limit: MAX_REFUSAL,
            within: WITHIN,
        };
        let opened = self.api.http.open(&ask, &uri, self.last.as_deref());
        let opened = tokio::time::timeout(WITHIN, opened).await;
        let late = |_| Error::TimedOut { what: "events".to_owned(), seconds: WITHIN.as_secs() };
        let answer = opened.map_err(late)??;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok((answer.into_body(), Lines::default()));
        }
        let body = http_body_util::Limited::new(answer.into_body(), MAX_REFUSAL).collect();
        let body = tokio::time::timeout(WITHIN, body).await.map_err(late)?;
        let body = body.map_err(|error| Error::BadAnswer {
            url: url::shown(&uri),
            reason: innermost(&*error),
        })?;
        Err(self.api.refusal(status, &body.to_bytes()))
    }
}

/// What has come and is not yet an event.
#[derive(Debug, Default)]
struct Lines {
    bytes: BytesMut,
    event: Event,
}

impl Lines {
    /// Whether there is still room.
    fn add(&mut self, bytes: Bytes) -> bool {
        self.bytes.extend_from_slice(&bytes);
        self.bytes.len() + self.event.data.len() <= MAX_EVENT
    }

    /// The next one that is whole.
    fn event(&mut self) -> Option<Event> {
        while let Some(end) = self.bytes.iter().position(|&byte| byte == b'\n') {
            let line = self.bytes.split_to(end);
            self.bytes.advance(1);
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches('\r');
            if line.is_empty() {
                let mut event = std::mem::take(&mut self.event);
                if event.data.is_empty() {
                    continue;
                }
                event.data.pop();
                if event.event.is_empty() {
                    "message".clone_into(&mut event.event);
                }
                return Some(event);
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "id" => value.clone_into(&mut self.event.id),
                "event" => value.clone_into(&mut self.event.event),
                "data" => {
                    self.event.data.push_str(value);
                    self.event.data.push('\n');
                }
                // Comments keep the connection alive.
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let text =
            ": hello\r\n\r\nid: 7\nevent: live\ndata: {\"a\":\ndata: 1}\nretry: 5\n\ndata:x\n\n";
        for cut in 0..text.len() {
            let mut lines = Lines::default();
            let mut events = Vec::new();
            for part in [&text[..cut], &text[cut..]] {
                assert!(lines.add(Bytes::copy_from_slice(part.as_bytes())));
                events.extend(std::iter::from_fn(|| lines.event()));
            }
            let event = |id: &str, event: &str, data: &str| Event {
                id: id.to_owned(),
                event: event.to_owned(),
                data: data.to_owned(),
            };
            let expected = [event("7", "live", "{\"a\":\n1}"), event("", "message", "x")];
            assert_eq!(events, expected, "cut at {cut}");
        }
        let mut lines = Lines::default();
        assert!(!lines.add(Bytes::from(vec![b'x'; MAX_EVENT + 1])));
    }
}
