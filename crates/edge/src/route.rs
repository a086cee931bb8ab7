//! Where a broadcast comes from: its origin, or a gateway with the origin
//! behind it.
//!
//! A fetch that the gateway does not answer as it should is made at the origin
//! at once, in the time that is left, and the gateway is left alone for a while
//! if the origin could do better. So no viewer sees a gateway go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spyglass_media::{BroadcastId, Resource, Version};
use tracing::debug;

use crate::fetch::{Failure, Passing};
use crate::metrics::Metrics;
use crate::respond::Lists;
use crate::slot::Meta;
use crate::watch::Upstream;

/// The origin must have time left when the gateway stops half way: this much, if
/// there is as much at all.
const LEFT: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Clone, Debug)]
pub struct Route {
    origin: Arc<Upstream>,
    gateway: Option<Arc<Upstream>>,
}

impl Route {
    /// From this origin, through that gateway.
    pub fn new(origin: Arc<Upstream>, gateway: Option<Arc<Upstream>>) -> Self {
        Self { origin, gateway }
    }

    /// Who is asked first, and tells of what is new.
    pub fn source(&self) -> &Arc<Upstream> {
        self.gateway.as_ref().unwrap_or(&self.origin)
    }

    /// The edge in between.
    pub fn gateway(&self) -> Option<&Arc<Upstream>> {
        self.gateway.as_ref()
    }

    /// Whether both lead the same way.
    pub fn is(&self, other: &Self) -> bool {
        let gateways = match (&self.gateway, &other.gateway) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        gateways && Arc::ptr_eq(&self.origin, &other.origin)
    }

    /// A broadcast's lists, at least as new as `least`. Of a gateway those are
    /// taken whose origin process is `believed`.
    pub async fn lists(
        &self,
        id: BroadcastId,
        least: Version,
        deadline: Instant,
        metrics: &Metrics,
        believed: impl Fn(u64) -> bool,
    ) -> Result<(Meta, Lists), Failure> {
        let Some(gateway) = &self.gateway else {
            metrics.fetched_from(false);
            return self.origin.fetcher().lists(id, least, deadline).await;
        };
        metrics.fetched_from(true);
        let fetched = gateway.fetcher().lists(id, least, spare(deadline)).await;
        let failure = match fetched {
            Ok((meta, lists)) if meta.version >= least && believed(meta.incarnation) => {
                return Ok((meta, lists));
            }
            Ok(_) => Failure::Behind,
            Err(failure) => failure,
        };
        metrics.fell_back(failure.as_str());
        let fetched = self.origin.fetcher().lists(id, least, deadline).await;
        self.judge(id, failure, fetched.is_ok());
        fetched
    }

    /// An init, chunk or part; `passing` sees it come.
    pub async fn object(
        &self,
        id: BroadcastId,
        resource: Resource,
        deadline: Instant,
        metrics: &Metrics,
        passing: &mut impl Passing,
    ) -> Result<Bytes, Failure> {
        let Some(gateway) = &self.gateway else {
            metrics.fetched_from(false);
            return self.origin.fetcher().object(id, resource, deadline, passing).await;
        };
        metrics.fetched_from(true);
        let fetched = gateway.fetcher().object(id, resource, spare(deadline), passing).await;
        let failure = match fetched {
            Ok(bytes) => return Ok(bytes),
            // It has asked the origin.
            Err(Failure::Missing) => return Err(Failure::Missing),
            Err(failure) => failure,
        };
        metrics.fell_back(failure.as_str());
        let fetched = self.origin.fetcher().object(id, resource, deadline, passing).await;
        // It may not have heard of the newest yet, for a moment, without fault.
        if failure != Failure::NotYet {
            self.judge(id, failure, fetched.is_ok());
        }
        fetched
    }

    /// What the origin could not do either is not the gateway's fault.
    fn judge(&self, id: BroadcastId, failure: Failure, origin_did: bool) {
        if let Some(gateway) = self.gateway.as_ref().filter(|_| origin_did) {
            debug!(broadcast = %id, gateway = %gateway.node(), failure = failure.as_str(), "gateway left");
            gateway.failed();
        }
    }
}

fn spare(deadline: Instant) -> Instant {
    let now = tokio::time::Instant::now().into_std();
    let time = deadline.saturating_duration_since(now);
    now + (time - LEFT.min(time / 2))
}
