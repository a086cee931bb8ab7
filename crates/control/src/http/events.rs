//! `/v1/users/{id}/notifications` and `/v1/events`: server-sent events.
//!
//! A stream is a place in the feed and nothing else: nothing is queued for it,
//! so who reads slowly costs nothing and, once the feed has let go of what
//! comes next, is cut.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::Shared;
use super::caller::{Person, operator};
use super::operation::{Content, Operation, Who, get};
use super::problem::Problem;
use crate::events::feed::{Entry, Place};
use crate::events::streams::{OpenError, Ticket};
use crate::events::{Kind, Types, types, viewers};
use crate::panel::{Caller, Panel};

/// A comment is sent when nothing else was for so long.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Who took nothing for so long is cut.
const STALLED: Duration = Duration::from_secs(60);

/// Entries of the feed that are looked at in one go.
const AT_ONCE: usize = 64;

/// Longest id that is looked at.
const MAX_ID: usize = 64;

/// What can be asked of events.
pub fn operations() -> Vec<Operation> {
    let resumable =
        |operation: Operation| {
            let id = json!({"type": "string", "maxLength": MAX_ID});
            operation
                .header("Last-Event-ID", id.clone(), "what comes after this event is sent")
                .query("last_event_id", id, "as the header, for clients that cannot set it")
        };
    let names = types().collect::<Vec<_>>().join(", ");
    let names: &'static str = Box::leak(names.into_boxed_str());
    vec![
        resumable(get("/v1/users/{id}/notifications", notifications).is(
            "listenNotifications",
            Who::ThatUser,
            "Tells when somebody followed goes live",
            200,
            Content::Events("Notification"),
        ))
        .details("The events are named broadcast_started. Once per broadcast."),
        resumable(get("/v1/events", events).is(
            "listenEvents",
            Who::Operator,
            "Tells what happens to broadcasts and viewers",
            200,
            Content::Events("Event"),
        ))
        .details("Viewers' events have no id: they are of the moment and not sent again.")
        .query("types", json!({"type": "string"}), names),
    ]
}

/// What a listener says of where to begin and what to hear.
pub struct Listen {
    last: Option<String>,
    types: Types,
}

impl FromRequestParts<Arc<Panel>> for Listen {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Panel>) -> Result<Self, Problem> {
        let header = parts.headers.get("last-event-id");
        let mut last = header.and_then(|id| id.to_str().ok()).map(str::to_owned);
        let mut wanted = Types::default();
        for pair in parts.uri.query().unwrap_or_default().split('&') {
            if let Some(id) = pair.strip_prefix("last_event_id=") {
                last.get_or_insert_with(|| id.to_owned());
            } else if let Some(names) = pair.strip_prefix("types=") {
                let names = names.replace("%2C", ",").replace("%2c", ",");
                wanted = Types::of(names.split(',')).ok_or_else(|| {
                    let known = types().collect::<Vec<_>>().join(", ");
                    Problem::bad(format!("query `types`: give some of {known}, with commas"))
                })?;
            }
        }
        if last.as_ref().is_some_and(|id| id.len() > MAX_ID) {
            return Err(Problem::bad("the last event's id is none of ours: leave it out"));
        }
        Ok(Self { last: last.filter(|id| !id.is_empty()), types: wanted })
    }
}

fn refused(panel: &Panel, error: OpenError) -> Problem {
    match error {
        OpenError::User => {
            let most = panel.config.max_streams_per_user;
            let detail = format!("you have {most} streams, which is the most: close one of them");
            Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(10)
        }
        OpenError::Full => {
            Problem::unavailable("there are as many streams as control takes").retry_after(10)
        }
        OpenError::Store(error) => error.into(),
    }
}

/// `GET /v1/users/{id}/notifications`
pub async fn notifications(
    State(panel): Shared,
    caller: Caller,
    person: Person,
    listen: Listen,
) -> Result<Response, Problem> {
    person.decided_by(&caller)?;
    panel.users.get(person.0).await?.ok_or_else(Person::unknown)?;
    let ticket = panel.streams.open_for(person.0, &panel.follows).await;
    let ticket = ticket.map_err(|error| refused(&panel, error))?;
    Ok(Stream::open(panel, ticket, listen, false))
}

/// `GET /v1/events`
pub async fn events(
    State(panel): Shared,
    caller: Caller,
    listen: Listen,
) -> Result<Response, Problem> {
    operator(&caller)?;
    let ticket = panel.streams.open().map_err(|error| refused(&panel, error))?;
    Ok(Stream::open(panel, ticket, listen, true))
}

/// An open stream.
struct Stream {
    panel: Arc<Panel>,
    ticket: Ticket,
    types: Types,
    place: Place,
    changed: watch::Receiver<u64>,
    viewers: Option<broadcast::Receiver<Arc<Vec<viewers::Event>>>>,
    heartbeat: tokio::time::Interval,
    /// What was given last, and when.
    given: Instant,
    ready: VecDeque<String>,
}

impl Stream {
    fn open(panel: Arc<Panel>, ticket: Ticket, listen: Listen, viewers: bool) -> Response {
        let place = match &listen.last {
            Some(id) => panel.feed.after_id(id),
            None => panel.feed.end(),
        };
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        // An id without data is kept by the client and told to nobody: whoever
        // loses the connection before the first event comes back to here.
        let hello = format!("retry: 2000\nid: {}\n\n", panel.feed.id(place.sequence));
        let stream = Self {
            changed: panel.feed.changed(),
            viewers: viewers.then(|| panel.viewer_events.listen()),
            types: listen.types,
            ticket,
            place,
            heartbeat,
            given: Instant::now(),
            ready: VecDeque::from([hello]),
            panel,
        };
        let body = futures_util::stream::unfold(stream, async |mut stream| {
            let text = stream.next().await?;
            stream.given = Instant::now();
            Some((Ok::<_, Infallible>(Bytes::from(text)), stream))
        });
        let mut response = Response::new(Body::from_stream(body));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let buffering = HeaderName::from_static("x-accel-buffering");
        headers.insert(buffering, HeaderValue::from_static("no"));
        response
    }

    /// The next piece; `None` ends the stream, and the client comes back.
    async fn next(&mut self) -> Option<String> {
        if self.given.elapsed() > STALLED {
            return None;
        }
        loop {
            if self.ticket.over.is_cancelled() {
                return None;
            }
            if let Some(text) = self.ready.pop_front() {
                return Some(text);
            }
            // Seen before it is read: what comes meanwhile wakes again.
            self.changed.borrow_and_update();
            let entries = self.panel.feed.read(&mut self.place, AT_ONCE).ok()?;
            if !entries.is_empty() {
                let mut text = String::new();
                for entry in &entries {
                    self.write(entry, &mut text).await;
                }
                if !text.is_empty() {
                    return Some(text);
                }
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = self.ticket.over.cancelled() => return None,
                changed = self.changed.changed() => changed.ok()?,
                told = told(&mut self.viewers) => {
                    let text = self.write_viewers(told?);
                    if !text.is_empty() {
                        return Some(text);
                    }
                }
                _ = self.heartbeat.tick() => return Some(":\n\n".to_owned()),
            }
        }
    }

    /// Writes an entry if it is this listener's business.
    async fn write(&self, entry: &Entry, text: &mut String) {
        let event = &entry.event;
        let Some(listener) = self.ticket.user() else {
            if self.types.contains(event.kind.as_str()) {
                self.put(event.kind.as_str(), entry.sequence, &event.data(), text);
            }
            return;
        };
        let Some(user) = event.user.filter(|_| event.kind == Kind::Live) else { return };
        if !self.ticket.follows(user) {
            return;
        }
        if event.private {
            let record = self.panel.find(event.broadcast).await;
            if !record.is_some_and(|record| record.is_visible_to(Some(listener))) {
                return;
            }
        }
        let data = json!({
            "broadcast": event.broadcast,
            "user": user,
            "name": event.name,
            "title": event.title,
            "at": event.at().rfc3339(),
        });
        self.put("broadcast_started", entry.sequence, &data, text);
    }

    fn put(&self, name: &str, sequence: u64, data: &Value, text: &mut String) {
        let id = self.panel.feed.id(sequence);
        let _ = write!(text, "event: {name}\nid: {id}\ndata: {data}\n\n");
    }

    fn write_viewers(&self, told: Told) -> String {
        let mut text = String::new();
        match told {
            Told::Events(events) => {
                let wanted = events.iter().filter(|event| self.types.contains(event.kind.as_str()));
                for event in wanted {
                    let (name, data) = (event.kind.as_str(), event.data());
                    let _ = write!(text, "event: {name}\ndata: {data}\n\n");
                }
            }
            Told::Missed(messages) => {
                let _ = write!(text, ": {messages} batches of viewers' events were missed\n\n");
            }
        }
        text
    }
}

enum Told {
    Events(Arc<Vec<viewers::Event>>),
    Missed(u64),
}

/// The next batch; `None` when control stops.
async fn told(viewers: &mut Option<broadcast::Receiver<Arc<Vec<viewers::Event>>>>) -> Option<Told> {
    let Some(viewers) = viewers else { return std::future::pending().await };
    match viewers.recv().await {
        Ok(events) => Some(Told::Events(events)),
        Err(broadcast::error::RecvError::Lagged(count)) => Some(Told::Missed(count)),
        Err(broadcast::error::RecvError::Closed) => None,
    }
}
