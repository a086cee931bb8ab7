//! Where a request comes from, and whether there have been too many from there.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::{FromRequestParts, MatchedPath, Request};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Method, StatusCode};

use super::problem::Problem;
use crate::forwarded;
use crate::limits::{Asker, Limit};
use crate::panel::Panel;

/// Who opened the connection: a client, or a proxy in front of it.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    /// The address, as far as it can be believed.
    pub address: IpAddr,
    /// What the request counts as; `None` when nothing limits it.
    limit: Option<Limit>,
}

impl Client {
    /// Reads it from a request's head.
    pub fn of(panel: &Panel, request: &Request) -> Self {
        let peer = request.extensions().get::<Peer>();
        let peer = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0);
        let config = &panel.config;
        let (header, trusted) = (config.forwarded_header, &config.trusted_proxies);
        let address = forwarded::client(peer, request.headers(), header, trusted);
        let now = panel.live.get();
        let exempt = now.rate_exempt.iter().any(|network| network.contains(address));
        let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        let is_operator = || {
            let header = request.headers().get(AUTHORIZATION);
            header.is_some_and(|header| panel.is_operator(super::caller::bearer(header)))
        };
        let limit = counts_as(request.method(), route).filter(|_| !exempt && !is_operator());
        Self { address, limit }
    }

    /// Counts the request; refuses it when there have been too many.
    pub fn admit(self, panel: &Panel, route: Option<&str>) -> Result<(), Problem> {
        let Some(limit) = self.limit else { return Ok(()) };
        panel.take(Asker::at(self.address), limit).map_err(refusal(panel, limit))?;
        // Guesses are counted when they turn out to be some; whoever has made
        // too many is not told whether the next one is right.
        if route.is_some_and(names_broadcast) {
            self.check(panel, Limit::UnknownId)?;
        }
        Ok(())
    }

    /// Refuses what this address has already failed at too often.
    pub fn check(self, panel: &Panel, limit: Limit) -> Result<(), Problem> {
        if self.limit.is_none() {
            return Ok(());
        }
        panel.peek(Asker::at(self.address), limit).map_err(refusal(panel, limit))
    }

    /// Counts a failure of this address.
    pub fn failed(self, panel: &Panel, limit: Limit) {
        if self.limit.is_some() {
            let _ = panel.take(Asker::at(self.address), limit);
        }
    }

    /// Counts the request for its user too, wherever that user is.
    pub fn admit_user(self, panel: &Panel, user: spyglass_media::UserId) -> Result<(), Problem> {
        let Some(limit) = self.limit else { return Ok(()) };
        panel.take(Asker::User(user), limit).map_err(refusal(panel, limit))
    }
}

/// Whether an answer of 404 on this route means that an id was guessed.
pub fn names_broadcast(route: &str) -> bool {
    route.starts_with("/v1/broadcasts/{id}") || route.starts_with("/live/{id}")
}

fn counts_as(method: &Method, route: Option<&str>) -> Option<Limit> {
    let post = *method == Method::POST;
    Some(match route {
        // Whether it is well must be seen however much is asked.
        Some("/healthz" | "/readyz" | "/metrics") => return None,
        Some("/v1/broadcasts") if !post => Limit::List,
        Some("/v1/broadcasts" | "/v1/users") if post => Limit::Create,
        Some("/v1/broadcasts/{id}/viewers") if post => Limit::Join,
        Some(route) if !route.starts_with("/v1/") => Limit::Page,
        _ => Limit::Other,
    })
}

fn refusal(panel: &Panel, limit: Limit) -> impl FnOnce(std::time::Duration) -> Problem + '_ {
    move |wait| {
        panel.metrics.limited.get_or_create(&[("limit", limit.as_str())]).inc();
        let what = match limit {
            Limit::List => "requests of the list",
            Limit::Join => "joins",
            Limit::Create => "new users and broadcasts",
            Limit::Login => "credentials that are nobody's",
            Limit::UnknownId => "ids that no broadcast has",
            Limit::Page => "pages",
            Limit::Other => "requests",
        };
        // A wait below a second is told as one, and none as long as for ever.
        let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(3600).clamp(1, 3600);
        let detail = format!("too many {what} from here; try again in {seconds} s");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(seconds)
    }
}

impl<S: Sync> FromRequestParts<S> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let client = parts.extensions.get::<Self>().copied();
        client.ok_or_else(|| Problem::unavailable("a request that came from nowhere"))
    }
}
