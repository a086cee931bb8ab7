//! Who asks, and about what: read from the request's head, before anything is
//! looked up.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;
use spyglass_media::{BroadcastId, NodeId, UserId, ViewerId};

use super::client::Client;
use super::problem::Problem;
use crate::audit::Actor;
use crate::limits::Limit;
use crate::panel::{Caller, Panel};
use crate::record::Record;

/// Longest bearer secret that is looked at.
const MAX_SECRET: usize = 512;

impl FromRequestParts<Arc<Panel>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, panel: &Arc<Panel>) -> Result<Self, Problem> {
        let Some(header) = parts.headers.get(AUTHORIZATION) else { return Ok(Self::Anyone) };
        let secret = bearer(header).map(str::to_owned);
        let client = Client::from_request_parts(parts, panel).await?;
        // Whoever guesses too much is not told whether the next guess is right.
        client.check(panel, Limit::Login)?;
        let caller = match secret {
            Some(secret) => panel.authenticate(&secret).await?,
            None => None,
        };
        let Some(caller) = caller else {
            client.failed(panel, Limit::Login);
            return Err(Problem::unknown_credentials());
        };
        if let Some(actor) = parts.extensions.get::<Actor>() {
            actor.is(&caller);
        }
        if let Some(user) = caller.user() {
            client.admit_user(panel, user)?;
        }
        Ok(caller)
    }
}

/// The secret in an Authorization header, if it has that form.
pub fn bearer(header: &HeaderValue) -> Option<&str> {
    let (scheme, secret) = header.to_str().ok()?.split_once(' ')?;
    let secret = secret.trim();
    let fits = scheme.eq_ignore_ascii_case("bearer") && secret.len() <= MAX_SECRET;
    fits.then_some(secret)
}

async fn named<T: FromStr>(parts: &mut Parts, panel: &Arc<Panel>, name: &str) -> Option<T> {
    let params = RawPathParams::from_request_parts(parts, panel).await.ok()?;
    let (_, text) = params.iter().find(|(key, _)| *key == name)?;
    text.parse().ok()
}

/// The broadcast in the path.
pub struct Broadcast(pub BroadcastId);

impl FromRequestParts<Arc<Panel>> for Broadcast {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, panel: &Arc<Panel>) -> Result<Self, Problem> {
        let id = named(parts, panel, "id").await.ok_or_else(Problem::no_such_broadcast)?;
        // Another control may have made it a moment ago; then it is in memory now.
        panel.find(id).await;
        Ok(Self(id))
    }
}

impl Broadcast {
    /// Its record, when the caller may know of it.
    pub fn seen_by(&self, caller: &Caller, panel: &Panel) -> Result<Arc<Record>, Problem> {
        let record = panel.broadcasts.get(self.0);
        record.filter(|record| caller.may_see(record)).ok_or_else(Problem::no_such_broadcast)
    }

    /// Its record, when the caller decides about it.
    pub fn owned_by(&self, caller: &Caller, panel: &Panel) -> Result<Arc<Record>, Problem> {
        let record = self.seen_by(caller, panel)?;
        if caller.owns(&record) {
            return Ok(record);
        }
        Err(match caller {
            Caller::Anyone => Problem::who_are_you(),
            _ => Problem::not_yours("only the broadcast's owner and the operator may do this"),
        })
    }
}

/// The viewer in the path.
pub struct Viewer(pub ViewerId);

impl FromRequestParts<Arc<Panel>> for Viewer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, panel: &Arc<Panel>) -> Result<Self, Problem> {
        let viewer = named(parts, panel, "viewer").await.map(Self);
        viewer.ok_or_else(|| Problem::new(http::StatusCode::NOT_FOUND, "there is no such viewer"))
    }
}

/// The user in the path.
pub struct Person(pub UserId);

impl Person {
    /// What is said of ids that no user has.
    pub fn unknown() -> Problem {
        Problem::new(http::StatusCode::NOT_FOUND, "there is no such user")
    }

    /// Passes that user and the operator only, before anything is looked up:
    /// nobody else learns whether the id is somebody's.
    pub fn decided_by(&self, caller: &Caller) -> Result<(), Problem> {
        match caller {
            Caller::Operator => Ok(()),
            Caller::User(user) if *user == self.0 => Ok(()),
            Caller::Anyone => Err(Problem::who_are_you()),
            _ => Err(Problem::not_yours("only that user and the operator may do this")),
        }
    }
}

impl FromRequestParts<Arc<Panel>> for Person {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, panel: &Arc<Panel>) -> Result<Self, Problem> {
        named(parts, panel, "id").await.map(Self).ok_or_else(Self::unknown)
    }
}

/// The second user in the path.
pub struct Other(pub UserId);

impl FromRequestParts<Arc<Panel>> for Other {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, panel: &Arc<Panel>) -> Result<Self, Problem> {
        named(parts, panel, "other").await.map(Self).ok_or_else(Person::unknown)
    }
}

/// The node in the path.
pub struct Node(pub NodeId);

impl Node {
    /// What is said of names that no node has.
    pub fn unknown() -> Problem {
        let detail = "there is no such node; GET /v1/nodes lists them";
        Problem::new(http::StatusCode::NOT_FOUND, detail)
    }
}

impl FromRequestParts<Arc<Panel>> for Node {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, panel: &Arc<Panel>) -> Result<Self, Problem> {
        named(parts, panel, "id").await.map(Self).ok_or_else(Self::unknown)
    }
}

/// Passes the operator only.
pub fn operator(caller: &Caller) -> Result<(), Problem> {
    match caller {
        Caller::Operator => Ok(()),
        Caller::Anyone => Err(Problem::who_are_you()),
        _ => Err(Problem::not_yours("only the operator may do this")),
    }
}
