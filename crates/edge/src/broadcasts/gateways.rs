//! Which broadcasts come through a gateway: those for which control names one
//! that is well, and that no other edge fetches through this one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use spyglass_daemon::attach::Gateways;
use spyglass_media::{BroadcastId, NodeId};
use tracing::debug;

use super::{Broadcast, Broadcasts, now};
use crate::watch::Upstream;

/// How long a broadcast comes from its origin after its gateway could not vouch
/// for it.
const ADRIFT: Duration = Duration::from_secs(10);

/// What control says of gateways, and those that are watched.
#[derive(Debug, Default)]
pub(super) struct Through {
    named: Arc<Gateways>,
    upstreams: HashMap<NodeId, Arc<Upstream>>,
}

impl Broadcasts {
    /// Through these edges these broadcasts shall come. Never through this one:
    /// it is not watched by itself.
    pub fn on_gateways(&self, upstreams: HashMap<NodeId, Arc<Upstream>>, named: Arc<Gateways>) {
        *self.through.write() = Through { named, upstreams };
        let slots: Vec<_> = self.slots.read().values().cloned().collect();
        slots.iter().for_each(|broadcast| self.reroute(broadcast));
    }

    /// A gateway does not hear of a broadcast from its origin itself.
    pub fn on_adrift(&self, gateway: &Upstream, id: BroadcastId) {
        let Some(broadcast) = self.get(id) else { return };
        if broadcast.source().is_some_and(|source| std::ptr::eq(&*source, gateway)) {
            debug!(broadcast = %id, gateway = %gateway.node(), "the gateway cannot vouch for it");
            *broadcast.adrift.lock() = Some(now() + ADRIFT);
            self.reroute(&broadcast);
        }
    }

    /// Broadcasts with viewers here that come through a gateway.
    pub fn through_gateways(&self) -> usize {
        let slots: Vec<_> = self.slots.read().values().cloned().collect();
        let through = |broadcast: &&Arc<Broadcast>| {
            broadcast.route().is_some_and(|route| route.gateway().is_some())
                && broadcast.slot.lock().interested()
        };
        slots.iter().filter(through).count()
    }

    /// The gateway through which a broadcast should come now.
    ///
    /// An edge through which others fetch it goes to the origin itself, whatever
    /// it is told: so no request passes two edges, and none goes in circles.
    pub(super) fn gateway(&self, broadcast: &Broadcast) -> Option<Arc<Upstream>> {
        let now = now();
        let adrift = broadcast.adrift.lock().is_some_and(|until| now < until);
        if adrift || broadcast.relayed.lock().is_wanted(now) {
            return None;
        }
        let through = self.through.read();
        let gateway = through.upstreams.get(through.named.get(&broadcast.id)?)?;
        gateway.is_well().then(|| Arc::clone(gateway))
    }

    /// Goes another way when there is a better one now.
    pub(super) fn reroute(&self, broadcast: &Broadcast) {
        let wanted = self.gateway(broadcast);
        let Some(route) = broadcast.route() else { return };
        let same = match (route.gateway(), &wanted) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        if !same {
            if wanted.is_none() && route.gateway().is_some_and(|gateway| !gateway.is_well()) {
                self.metrics.fell_back("lost");
            }
            let name = wanted.as_ref().map_or("none", |gateway| gateway.node().as_str());
            debug!(broadcast = %broadcast.id, gateway = name, "another way");
            self.refresh(broadcast);
        }
    }
}
