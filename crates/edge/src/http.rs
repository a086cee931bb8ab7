//! HTTP for viewers: from a parsed request to an answer, by any version.
//!
//! What a path means is `request.rs`, what is served `broadcasts.rs`, how it
//! looks `respond.rs`; the connections are `serving.rs`'s and `http3.rs`'s.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version};
use http_body::Body as _;
use parking_lot::{Mutex, RwLock};
use spyglass_daemon::admin::Admin;
use spyglass_daemon::attach::{Attachment, Revocation};
use spyglass_daemon::http::names_one_host;
use spyglass_daemon::now_utc;
use spyglass_media::{BroadcastId, Resource, ViewerId};
use spyglass_token::WatchGrant;
use tracing::debug;

use crate::broadcasts::{Broadcasts, Found, Refused};
use crate::connections::{Connection, Connections, Shown};
use crate::delays::Measured;
use crate::metrics::Metrics;
use crate::negotiate::Terms;
use crate::outcome::CacheStatus;
use crate::refusal::Refusal;
use crate::request::{self, Named, Object, Route};
use crate::respond::{Asked, Body, Prebuilt, Responder};
use crate::steering::{Player, Steering};
use crate::viewers::{Lease, Viewers};

/// Header fields of a request.
pub const HEADERS: usize = 64;

/// Bytes of them.
pub const HEADER_BYTES: usize = 16 * 1024;

/// Bytes of a User-Agent that tell players apart.
const LONGEST_AGENT: usize = 256;

/// Answers requests; shared by all connections.
#[derive(Debug)]
pub struct Handler {
    /// What there is to serve.
    pub broadcasts: Arc<Broadcasts>,
    /// Keys and revocations.
    pub attachment: Attachment,
    /// How answers look.
    pub responder: Responder,
    /// Counters.
    pub metrics: Metrics,
    /// Health.
    pub admin: Admin,
    /// Whether `/metrics` is served on the viewers' address.
    pub metrics_allowed: bool,
    /// Where else its players may go.
    pub steering: RwLock<Arc<Steering>>,
    /// Who watches.
    pub viewers: Mutex<Viewers>,
    /// Hashes who has not joined; of this process alone.
    pub crowd_key: RandomState,
    /// Where they are connected.
    pub connections: Connections,
}

/// The runtime's clock, which tests may stop.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Handler {
    /// The answer to a request of any version; the body of a request is not
    /// looked at.
    pub async fn answer(
        &self,
        connection: &Arc<Connection>,
        parts: http::request::Parts,
    ) -> Response<Body> {
        let _active = connection.begin(now());
        let head = parts.method == Method::HEAD;
        let refuse = |refusal| {
            self.metrics.request("other", CacheStatus::Negative);
            self.responder.refused(refusal, CacheStatus::Negative, head)
        };
        // hyper has this limit for HTTP/1 only.
        if parts.headers.len() > HEADERS {
            return refuse(Refusal::Headers);
        }
        if !names_one_host(parts.version, &parts.headers) {
            return refuse(Refusal::Host);
        }
        match parts.method {
            Method::GET | Method::HEAD if has_body(&parts.headers) => {
                return refuse(Refusal::Body);
            }
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => {
                self.metrics.request("other", CacheStatus::Local);
                return self.responder.options();
            }
            _ => return refuse(Refusal::Method),
        }
        let path = parts.uri.path();
        let mut since = None;
        let (named, viewer) = match request::parse(path, parts.uri.query()) {
            Ok(Route::Public(named)) => (named, None),
            Ok(Route::Joined { token, named }) => {
                let shared = parts.version >= Version::HTTP_2;
                let Some(grant) = self.grant(connection, &token, shared) else {
                    return refuse(Refusal::Denied);
                };
                let named = match named {
                    Ok(named) if named.broadcast() == grant.broadcast => named,
                    Ok(_) => return refuse(Refusal::Denied),
                    Err(refusal) => return refuse(refusal),
                };
                since = self.on_viewer(&grant);
                (named, Some(grant.viewer))
            }
            Ok(Route::Other) => {
                return match self.admin.respond(path, self.metrics_allowed) {
                    Some(response) => plain(response, head),
                    None => refuse(Refusal::NotFound),
                };
            }
            Err(refusal) => return refuse(refusal),
        };
        let private = viewer.is_some();
        let terms = Terms::read(&parts.headers);
        let asked = Asked { head, private, blocking: None, terms: &terms };
        let object = match named {
            Named::Object(object) => object,
            Named::Steering(id) => {
                let pathway = request::pathway(parts.uri.query()).ok().flatten();
                let (pathway, secure) = (pathway.as_deref(), connection.secure);
                let player = match viewer {
                    Some(viewer) => Player::new(pathway, secure, viewer),
                    None => Player::new(pathway, secure, connection.peer),
                };
                return self.steer(id, path, player, asked).await;
            }
        };
        let http1 = parts.version < Version::HTTP_2;
        let list = matches!(object.resource, Resource::Index | Resource::Chunklist);
        let anonymous = (list && !private).then(|| self.anonymous(connection, &parts.headers));
        // Nobody who waits keeps the buffer that the request came in.
        drop(parts);
        let answer = self.find(object, asked, since);
        let (response, status) = if private {
            tokio::select! {
                biased;
                answer = answer => answer,
                () = connection.kicked.cancelled() => {
                    let mut response = refuse(Refusal::Denied);
                    if http1 {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    return response;
                }
            }
        } else {
            answer.await
        };
        // Players ask for a list again and again: it is enough to count them there.
        let said = response.status();
        if let Some(who) = anonymous
            && (said.is_success() || said == StatusCode::NOT_MODIFIED)
        {
            self.broadcasts.on_anonymous(object.broadcast, who);
        }
        self.metrics.request(object.resource.kind(), status);
        self.metrics.bytes.inc_by(response.body().size_hint().lower());
        response
    }

    /// `since`: when the joined viewer came who asks.
    async fn find(
        &self,
        object: Object,
        asked: Asked<'_>,
        since: Option<Instant>,
    ) -> (Response<Body>, CacheStatus) {
        let answered = |measured: Option<&Measured>, held| {
            if let (Some(measured), Some(since), true) = (measured, since, asked.wants_all()) {
                measured.on_answered(now(), held, since);
            }
        };
        let found = match object.resource {
            Resource::Index | Resource::Chunklist => self.list(object, asked).await,
            resource => {
                let id = object.broadcast;
                let early = asked.wants_all();
                let found = self.broadcasts.object(id, resource, asked.private, early).await;
                found.map(|(found, status)| match found {
                    Found::Here(found) => {
                        answered(found.measured.as_ref(), Some(found.arrived));
                        let age = now().saturating_duration_since(found.arrived);
                        (self.responder.found(&found.answer, status, age, asked), status)
                    }
                    Found::Coming(filling) => {
                        answered(filling.measured(), None);
                        (self.responder.filling(&filling, status, asked), status)
                    }
                })
            }
        };
        found.unwrap_or_else(|(refusal, status)| {
            (self.responder.refused(refusal, status, asked.head), status)
        })
    }

    /// Which edges this player may go to.
    async fn steer(
        &self,
        id: BroadcastId,
        path: &str,
        player: Player<'_>,
        asked: Asked<'_>,
    ) -> Response<Body> {
        let (response, status) = match self.broadcasts.exists(id, asked.private).await {
            Ok(()) => {
                let below = path.rsplit_once('/').map_or("", |(below, _)| below);
                let steering = Arc::clone(&self.steering.read());
                let answer = Prebuilt::steering(steering.document(below, player).into());
                let status = CacheStatus::Local;
                (self.responder.found(&answer, status, Duration::ZERO, asked), status)
            }
            Err((refusal, status)) => (self.responder.refused(refusal, status, asked.head), status),
        };
        self.metrics.request("steering", status);
        response
    }

    async fn list(
        &self,
        object: Object,
        asked: Asked<'_>,
    ) -> Result<(Response<Body>, CacheStatus), Refused> {
        if let Err(refusal) = object.directives {
            self.broadcasts.exists(object.broadcast, asked.private).await?;
            if !self.broadcasts.has_ended(object.broadcast) {
                return Err((refusal, CacheStatus::Negative));
            }
        }
        let directives = object.directives.unwrap_or_default();
        let awaits = directives.awaits();
        let listed = self.broadcasts.lists(object.broadcast, asked.private, awaits).await?;
        let lists = &*listed.lists;
        let forms = match (object.resource, &lists.delta) {
            (Resource::Index, _) => &lists.index,
            (_, Some(delta)) if directives.skip => delta,
            _ => &lists.media,
        };
        let blocking = listed.blocking.then_some(&lists.blocking);
        let asked = Asked { blocking, ..asked };
        let found = forms.choose(asked.terms);
        Ok((self.responder.found(found, listed.status, listed.age, asked), listed.status))
    }

    // ---- joined viewers

    /// What a token allows now; `None` when nothing.
    fn grant(&self, connection: &Arc<Connection>, token: &str, shared: bool) -> Option<WatchGrant> {
        let keys = self.attachment.keys();
        let utc = now_utc();
        let grant = match connection.shown(token, &keys) {
            Some(grant) => grant,
            None => {
                let verified = keys.verify_watch(token, utc);
                if let Err(denied) = &verified {
                    debug!(reason = denied.as_str(), "viewer token refused");
                }
                let grant = verified.ok()?;
                let shown = Shown { token: token.into(), keys, grant: grant.clone() };
                connection.show(shown);
                grant
            }
        };
        // Known before it is judged: a revocation that comes now finds it.
        self.connections.enter((grant.broadcast, grant.viewer), connection, shared);
        let good = utc < grant.expires && !self.attachment.revoked(grant.broadcast, grant.viewer);
        good.then_some(grant)
    }

    /// Counts a viewer; since when it has been here.
    fn on_viewer(&self, grant: &WatchGrant) -> Option<Instant> {
        let lease = self.broadcasts.lease(grant.broadcast);
        let mut viewers = self.viewers.lock();
        let begun = viewers.on_request(now(), now_utc(), grant, lease);
        let since = viewers.since(grant.broadcast, grant.viewer);
        if let Some(lease) = begun {
            self.count(&viewers);
            drop(viewers);
            self.attachment.lease_begun(as_control(&lease));
        }
        since
    }

    /// Who has no token is known by its address and what it says it is.
    fn anonymous(&self, connection: &Connection, headers: &HeaderMap) -> u64 {
        let agent = headers.get(USER_AGENT).map_or(&[][..], HeaderValue::as_bytes);
        let agent = &agent[..agent.len().min(LONGEST_AGENT)];
        self.crowd_key.hash_one((connection.peer, agent))
    }

    /// A viewer's tokens are refused from now on.
    pub fn on_revocation(&self, revocation: &Revocation) {
        let id = revocation.broadcast.parse::<BroadcastId>();
        let (Ok(id), Ok(viewer)) = (id, revocation.viewer.parse::<ViewerId>()) else { return };
        let cut = self.connections.cut((id, viewer));
        debug!(broadcast = %id, %viewer, connections = cut, "viewer cut");
        let mut viewers = self.viewers.lock();
        let ended = viewers.on_revoked(id, viewer);
        self.count(&viewers);
        drop(viewers);
        if let Some(lease) = ended {
            self.attachment.lease_ended(as_control(&lease));
        }
    }

    /// Ends the leases of viewers who have stopped asking.
    pub fn on_deadline(&self) {
        let mut viewers = self.viewers.lock();
        let ended = viewers.on_deadline(now());
        self.count(&viewers);
        drop(viewers);
        for lease in ended {
            self.attachment.lease_ended(as_control(&lease));
        }
    }

    fn count(&self, viewers: &Viewers) {
        self.metrics.viewers.set(i64::try_from(viewers.count()).unwrap_or(i64::MAX));
    }
}

/// What is said to the operator. hyper leaves the body out of an answer to HEAD
/// in HTTP/1 only.
fn plain(response: Response<Bytes>, head: bool) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if !head {
        return Response::from_parts(parts, body.into());
    }
    parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    Response::from_parts(parts, Bytes::new().into())
}

fn as_control(lease: &Lease) -> spyglass_api::control::Lease {
    spyglass_api::control::Lease {
        broadcast: lease.broadcast.to_string(),
        viewer: lease.viewer.to_string(),
        seat: lease.seat.unwrap_or_default(),
        generation: lease.generation,
        since_ms: lease.since.millis(),
        user: lease.user.map(|user| user.to_string()).unwrap_or_default(),
        expires_ms: lease.expires.millis(),
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes);
    length.is_some_and(|length| length != b"0") || headers.contains_key(TRANSFER_ENCODING)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a request costs while it waits, within its connection's task.
    #[test]
    fn an_answer_under_way_is_small() {
        fn size<'a, F: Future>(
            _: impl FnOnce(&'a Handler, &'a Arc<Connection>, http::request::Parts) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let bytes = size(Handler::answer);
        println!(
            "bytes of an answer under way: {bytes}, of them {} the request's head",
            size_of::<http::request::Parts>()
        );
        assert!(bytes <= 2_048, "{bytes}");
    }
}
