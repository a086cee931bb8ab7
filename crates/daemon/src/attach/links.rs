//! Keeps one [`Link`] for each control that is wanted, and what all of them
//! share of it: who is attached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{debug, info};

use super::link::{Link, Node};
use super::{LinkId, Shared};
use crate::{Shutdown, grpc};

/// How often forgotten controls are looked for.
const LOOK: Duration = Duration::from_secs(5);

/// How long an address that leads to a control which is attached already waits
/// before it is tried again: behind a load balancer it may lead elsewhere.
const SAME: Duration = Duration::from_secs(30);

/// Starts and ends links until `shutdown`, and until each has said goodbye.
pub(super) async fn run(node: Arc<Node>, shutdown: Shutdown) {
    let shared = &node.shared;
    let mut running: BTreeMap<String, JoinHandle<()>> = BTreeMap::new();
    let mut next: LinkId = 0;
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let wanted = shared.controls.lock().wanted();
        running.retain(|url, link| {
            let wanted = wanted.contains(url);
            if !wanted {
                info!(control = url, "control forgotten: nobody names it, and it does not answer");
                link.abort();
            }
            wanted
        });
        for url in wanted {
            if running.contains_key(&url) {
                continue;
            }
            let channel = match grpc::channel(&url, &node.key, grpc::Windows::Messages) {
                Ok(channel) => channel,
                Err(error) => {
                    debug!(%error, "not an address of a control");
                    continue;
                }
            };
            next += 1;
            let link = Link::new(Arc::clone(&node), next, url.clone(), channel);
            running.insert(url, tokio::spawn(link.run(shutdown.clone())));
        }
        tokio::select! {
            () = shared.controls_changed.notified() => {}
            _ = look.tick() => {
                let now = Instant::now().into_std();
                if shared.controls.lock().on_deadline(now) {
                    shared.changed.notify_one();
                }
            }
            () = shutdown.requested() => break,
        }
    }
    for link in running.into_values() {
        // One that failed says nothing more.
        let _ = link.await;
    }
    shared.left.send_replace(true);
}

/// One stream to a control that is open; takes back what it said when dropped.
pub(super) struct Session<'a> {
    shared: &'a Shared,
    link: LinkId,
}

impl<'a> Session<'a> {
    /// This link is attached, to whom it does not know yet.
    pub fn open(shared: &'a Shared, link: LinkId) -> Self {
        shared.sessions.send_modify(|sessions| {
            sessions.insert(link, String::new());
        });
        shared.show_attached();
        Self { shared, link }
    }

    /// The control says who it is.
    pub fn named(&self, id: String) {
        self.shared.sessions.send_if_modified(|sessions| {
            sessions.insert(self.link, id.clone()).is_none_or(|before| before != id)
        });
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let (shared, link) = (self.shared, self.link);
        shared.sessions.send_modify(|sessions| {
            sessions.remove(&link);
        });
        shared.show_attached();
        shared.leases.lock().stop_telling(link);
        shared.controls.lock().on_gone(link);
        let mut heard = shared.heard.lock();
        let left = heard.on_gone(link);
        left.keys.into_iter().for_each(|keys| shared.hold_keys(keys));
        left.nodes.into_iter().for_each(|nodes| shared.hold_nodes(nodes));
        left.gateways.into_iter().for_each(|gateways| shared.hold_gateways(gateways));
    }
}

impl Shared {
    /// The controls that this node is attached to by other links than `link`.
    pub(super) fn others(&self, link: LinkId) -> BTreeSet<String> {
        let sessions = self.sessions.borrow();
        let others = sessions.iter().filter(|(other, id)| **other != link && !id.is_empty());
        others.map(|(_, id)| id.clone()).collect()
    }

    /// Until one of these controls is attached no longer, or it is time to look
    /// again.
    pub(super) async fn until_one_is_gone(&self, attached: &BTreeSet<String>) {
        let mut sessions = self.sessions.subscribe();
        let gone = sessions.wait_for(|sessions| {
            attached.iter().any(|id| sessions.values().all(|other| other != id))
        });
        // Either way it is tried again.
        let _ = timeout(SAME, gone).await;
    }

    fn show_attached(&self) {
        self.attached.send_if_modified(|shown| {
            let attached = !self.sessions.borrow().is_empty();
            std::mem::replace(shown, attached) != attached
        });
    }
}
