//! The control API as a client sees it (docs: OpenAPI at `/openapi.json`).
//!
//! [`Api::call`] sends anything and hands back JSON; the methods beside it know
//! the paths and the shapes. Shapes are read leniently: a field this client does
//! not know is ignored, one that an older control lacks is empty.

mod delay;
mod events;
mod shapes;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, Uri};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use spyglass_media::{BroadcastId, Location, NodeId, UserId, ViewerId};

pub use self::delay::{DelaySample, MAX_SAMPLES};
pub use self::events::{Event, Events};
pub use self::shapes::*;
use crate::http::{Answer, Ask, Http, problem_text};
use crate::{Error, url};

/// For a whole exchange.
const WITHIN: Duration = Duration::from_secs(10);
/// Longest answer taken; a list of 10,000 viewers has some 2 MB.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// A control, and in whose name to speak to it; or several controls that are
/// equal. What one of them does not answer is asked of the next, once; but what
/// it may have done nevertheless, and must not be done twice, is not.
#[derive(Clone)]
pub struct Api {
    /// At least one.
    bases: Arc<[Uri]>,
    /// The one that answered last; clones share it.
    answering: Arc<AtomicUsize>,
    bearer: Option<String>,
    http: Http,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Api({})", url::shown(self.base()))
    }
}

impl Api {
    /// The control at `url`; `bearer` is the operator key or a user's token.
    ///
    /// # Errors
    /// When `url` is no `http://` address.
    pub fn new(url: &str, bearer: Option<String>) -> Result<Self, Error> {
        Self::of_several(&[url], bearer)
    }

    /// The controls at `urls`, the first first.
    ///
    /// # Errors
    /// When there is none, or one is no `http://` address.
    pub fn of_several(urls: &[&str], bearer: Option<String>) -> Result<Self, Error> {
        let bases = urls.iter().map(|url| url::http(url)).collect::<Result<Arc<[Uri]>, _>>()?;
        if bases.is_empty() {
            url::http("")?;
        }
        Ok(Self { bases, answering: Arc::default(), bearer, http: Http::new() })
    }

    /// The control to ask first.
    fn base(&self) -> &Uri {
        &self.bases[self.answering.load(Ordering::Relaxed) % self.bases.len()]
    }

    /// The same control in another's name.
    pub fn with_bearer(&self, bearer: Option<String>) -> Self {
        Self { bearer, ..self.clone() }
    }

    /// Whether requests are made in somebody's name.
    pub const fn is_somebody(&self) -> bool {
        self.bearer.is_some()
    }

    /// Sends one request; an empty answer is `null`.
    ///
    /// # Errors
    /// When nobody answers, or the answer is a refusal or no JSON.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        let first = self.answering.load(Ordering::Relaxed);
        let mut answer = self.ask(self.base(), &method, path, body).await;
        let away = match &answer {
            Ok(answer) => (502..=504).contains(&answer.status.as_u16()),
            Err(_) => true,
        };
        if away && self.bases.len() > 1 {
            let next = (first + 1) % self.bases.len();
            // A POST that was sent may have been done, whatever the answer.
            let undone = matches!(answer, Err(Error::Unreachable { .. }));
            if !(undone || method.is_idempotent()) {
                self.answering.store(next, Ordering::Relaxed);
                return self.understand(path, answer?);
            }
            let second = self.ask(&self.bases[next], &method, path, body).await;
            if second.is_ok() {
                self.answering.store(next, Ordering::Relaxed);
                answer = second;
            }
        }
        self.understand(path, answer?)
    }

    fn understand(&self, path: &str, answer: Answer) -> Result<Value, Error> {
        if !answer.status.is_success() {
            return Err(self.refusal(answer.status, &answer.body));
        }
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer.body).map_err(|error| self.not_understood(path, &error))
    }

    async fn ask(
        &self,
        base: &Uri,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Error> {
        let uri = self.uri(base, path)?;
        let ask = Ask {
            method: method.clone(),
            uri: &uri,
            bearer: self.bearer.as_deref(),
            json: body.map(|body| Bytes::from(body.to_string())),
            limit: MAX_ANSWER,
            within: WITHIN,
        };
        self.http.ask(ask).await
    }

    /// Where a path is on a control.
    fn uri(&self, base: &Uri, path: &str) -> Result<Uri, Error> {
        let root = base.path().trim_end_matches('/');
        url::http(&format!("{}{root}{path}", url::shown(base)))
    }

    /// Asks the next control from now on.
    fn turn(&self) {
        self.answering.fetch_add(1, Ordering::Relaxed);
    }

    /// [`Api::call`] for what is only asked.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.call(Method::GET, path, None).await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T, Error> {
        let value = self.call(method, path, body).await?;
        serde_json::from_value(value).map_err(|error| self.not_understood(path, &error))
    }

    fn not_understood(&self, path: &str, error: &serde_json::Error) -> Error {
        Error::BadAnswer {
            url: format!("{}{path}", url::shown(self.base())),
            reason: error.to_string(),
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> Error {
        let advice = match (status.as_u16(), &self.bearer) {
            (401 | 403, None) => {
                ": give --operator-key (or SPYGLASS_OPERATOR_KEY), or a user's --token"
            }
            (401, Some(_)) => ": control does not know this key or token, check it",
            (429, _) => ": too many requests, try again in a minute",
            (502..=504, _) => ": control is there but cannot serve this now, try again",
            _ => "",
        };
        let detail = problem_text(status, body);
        // Control says often itself what to do; saying it again helps nobody.
        let said = ["check it", "try again"].iter().any(|word| detail.contains(word));
        let advice = if said && status != StatusCode::FORBIDDEN { "" } else { advice };
        Error::Refused { status: status.as_u16(), detail, advice }
    }

    /// Registers a user (operator). The token in the answer is shown only here.
    ///
    /// # Errors
    /// As [`Api::call`]; so do all below.
    pub async fn create_user(&self, name: &str) -> Result<User, Error> {
        self.read(Method::POST, "/v1/users", Some(&json!({ "name": name }))).await
    }

    /// Makes a broadcast to publish to (user or operator).
    pub async fn create_broadcast(&self, new: &NewBroadcast) -> Result<Created, Error> {
        self.read(Method::POST, "/v1/broadcasts", Some(&new.to_json())).await
    }

    /// A random sample of the public broadcasts that are live.
    pub async fn broadcasts(&self, sample: u32) -> Result<Live, Error> {
        self.read(Method::GET, &format!("/v1/broadcasts?sample={sample}"), None).await
    }

    /// One broadcast.
    pub async fn show(&self, id: BroadcastId) -> Result<Broadcast, Error> {
        self.read(Method::GET, &format!("/v1/broadcasts/{id}"), None).await
    }

    /// Ends a broadcast (owner or operator).
    pub async fn end(&self, id: BroadcastId) -> Result<(), Error> {
        self.call(Method::POST, &format!("/v1/broadcasts/{id}/end"), None).await.map(drop)
    }

    /// Joins as a viewer.
    pub async fn join(&self, id: BroadcastId, at: Option<Location>) -> Result<Joined, Error> {
        let body = match at {
            Some(at) => json!({ "location": shapes::location(at) }),
            None => json!({}),
        };
        self.read(Method::POST, &format!("/v1/broadcasts/{id}/viewers"), Some(&body)).await
    }

    /// Gives a viewer's place back (that viewer, owner or operator).
    pub async fn leave(&self, id: BroadcastId, viewer: ViewerId) -> Result<(), Error> {
        let path = format!("/v1/broadcasts/{id}/viewers/{viewer}");
        self.call(Method::DELETE, &path, None).await.map(drop)
    }

    /// Cuts a viewer off (owner or operator).
    pub async fn kick(&self, id: BroadcastId, viewer: ViewerId) -> Result<(), Error> {
        let path = format!("/v1/broadcasts/{id}/viewers/{viewer}/kick");
        self.call(Method::POST, &path, None).await.map(drop)
    }

    /// Who watches (owner or operator), as control tells it.
    pub async fn viewers(&self, id: BroadcastId) -> Result<Value, Error> {
        self.get(&format!("/v1/broadcasts/{id}/viewers")).await
    }

    /// The delay by stage, as control tells it.
    pub async fn delay(&self, id: BroadcastId) -> Result<Value, Error> {
        self.get(&format!("/v1/broadcasts/{id}/delay")).await
    }

    /// Tells how long media took on their last way (that viewer). Control's
    /// clock, in milliseconds since the Unix epoch.
    pub async fn tell_delay(
        &self,
        id: BroadcastId,
        viewer: ViewerId,
        tier: Tier,
        samples: &[DelaySample],
    ) -> Result<i64, Error> {
        let path = format!("/v1/broadcasts/{id}/viewers/{viewer}/delay");
        let samples: Vec<Value> = samples.iter().map(|sample| sample.to_json()).collect();
        let body = json!({ "tier": tier, "samples": samples });
        let taken = self.call(Method::POST, &path, Some(&body)).await?;
        taken["at_ms"].as_i64().ok_or_else(|| Error::BadAnswer {
            url: format!("{}{path}", url::shown(self.base())),
            reason: "at_ms is missing".to_owned(),
        })
    }

    /// Origins and edges (operator), as control tells it.
    pub async fn nodes(&self) -> Result<Value, Error> {
        self.get("/v1/nodes").await
    }

    /// Sends no more broadcasts or viewers to a node (operator).
    pub async fn drain(&self, node: &NodeId) -> Result<(), Error> {
        self.call(Method::POST, &format!("/v1/nodes/{node}/drain"), None).await.map(drop)
    }

    /// Makes `user` follow `other` (that user).
    pub async fn follow(&self, user: UserId, other: UserId) -> Result<(), Error> {
        let path = format!("/v1/users/{user}/following/{other}");
        self.call(Method::PUT, &path, None).await.map(drop)
    }

    /// The reverse of [`Api::follow`].
    pub async fn unfollow(&self, user: UserId, other: UserId) -> Result<(), Error> {
        let path = format!("/v1/users/{user}/following/{other}");
        self.call(Method::DELETE, &path, None).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
