//! What the store remembers of nodes: how to reach them and whether they are
//! draining. All controls write it; the drain is the operator's word and only
//! changes by [`Panel::drain`].

use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spyglass_api::control::{self, update::Update};
use spyglass_media::NodeId;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Panel;
use crate::fleet::{Fleet, Full, Registered, Registration, Role};
use crate::links::Opened;
use crate::store::{self, Change, Item, Store, list_all};

/// What the names of nodes in the store begin with.
pub const PREFIX: &str = "nodes/";

/// Why a node is not let in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There are as many as control takes.
    #[error("too many nodes: raise max_nodes of control")]
    Full,
    /// Another process has its name, and works.
    #[error(
        "--id {node} is used by the node at {address}: give this one another --id, or stop that one"
    )]
    Taken {
        /// The name.
        node: NodeId,
        /// Where the other one is reached.
        address: String,
    },
}

/// Where operators know a node to be.
fn address(registration: &Registration) -> String {
    let Registration { role, http, rtmp, grpc, .. } = registration;
    let known = match role {
        Role::Origin => [rtmp, grpc, http],
        Role::Edge => [http, grpc, rtmp],
    };
    let told = known.into_iter().find(|url| !url.is_empty());
    told.map_or("an address that it does not tell", String::as_str).to_owned()
}

#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    registration: Registration,
    draining: bool,
}

fn parse(key: &str, value: &[u8]) -> Option<(NodeId, Stored)> {
    let id = key.strip_prefix(PREFIX)?.parse().ok()?;
    Some((id, serde_json::from_slice(value).ok()?))
}

/// All that are remembered.
pub(super) async fn restore(store: &dyn Store, fleet: &mut Fleet) -> Result<(), store::Error> {
    for Item { key, entry } in list_all(store, PREFIX).await? {
        if let Some((id, stored)) = parse(&key, &entry.value) {
            fleet.restore(id, stored.registration, stored.draining, Instant::now());
        }
    }
    Ok(())
}

impl Panel {
    /// Keeps what a node said, so that a restarted control knows it, and whether
    /// it is draining, if that was decided now.
    pub async fn keep_node(&self, id: &NodeId, decided: Option<bool>) -> Result<(), store::Error> {
        let Some(node) = self.fleet().node(id) else { return Ok(()) };
        let key = format!("{PREFIX}{id}");
        loop {
            let held = self.store.get(&key).await?;
            let kept = held.as_ref().and_then(|entry| parse(&key, &entry.value));
            let kept = kept.map(|(_, stored)| stored.draining);
            let draining = decided.or(kept).unwrap_or_else(|| self.fleet().is_draining(id));
            let registration = node.registration.clone();
            let value = serde_json::to_vec(&Stored { registration, draining })
                .map(Bytes::from)
                .map_err(|_| store::Error::Unfit("a node that is no JSON"))?;
            let written = match held {
                Some(entry) if entry.value == value => return Ok(()),
                Some(entry) => self.store.update(&key, value, entry.revision).await,
                None => self.store.create(&key, value).await,
            };
            match written {
                Ok(_) => return Ok(()),
                Err(store::Error::Conflict | store::Error::Exists) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The stream of a process other than this one that has the name of a node
    /// and is heard.
    pub fn stream_of_another(&self, id: &NodeId, incarnation: u64) -> Option<CancellationToken> {
        self.fleet().heard_from_another(id, incarnation)?;
        self.links.over(id)
    }

    /// Lets a node in through this stream, unless another process has its name:
    /// one whose stream is open and that was heard of within the last 5 s. What
    /// other controls hear is theirs to say: a node has a stream to each.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn admit(
        &self,
        id: &NodeId,
        session: u64,
        registration: Registration,
    ) -> Result<(Opened, Registered), Refused> {
        // Held throughout: of two that come at the same time one is first.
        let mut fleet = self.fleet();
        if let Some(heard) = fleet.heard_from_another(id, registration.incarnation)
            && self.links.over(id).is_some()
        {
            return Err(Refused::Taken { node: id.clone(), address: address(heard) });
        }
        // The queue first: what happens from here on is told, even if twice.
        let opened = self.links.open(id, session);
        match fleet.on_register(id, session, registration, Instant::now()) {
            Ok(registered) => Ok((opened, registered)),
            Err(Full) => {
                self.links.close(id, session);
                Err(Refused::Full)
            }
        }
    }

    /// Forgets a node that is lost for long.
    pub async fn drop_node(&self, id: &NodeId) -> Result<(), store::Error> {
        self.store.delete(&format!("{PREFIX}{id}"), None).await
    }

    /// Some control wrote what it knows of a node, or forgot it.
    pub async fn on_stored_node(&self, change: &Change) {
        match &change.value {
            Some(value) => {
                if let Some((id, stored)) = parse(&change.key, value) {
                    self.follow_node(id, stored);
                }
            }
            None => {
                let id = change.key.strip_prefix(PREFIX).and_then(|id| id.parse().ok());
                let Some(id) = id else { return };
                let gone = self.fleet().on_dropped(&id);
                if !gone && let Err(error) = self.keep_node(&id, None).await {
                    warn!(%error, "a node cannot be kept");
                }
            }
        }
    }

    fn follow_node(&self, id: NodeId, stored: Stored) {
        let Stored { registration, draining } = stored;
        let now = Instant::now();
        if self.fleet().on_stored(id.clone(), registration, draining, now) {
            // Perhaps this control's own word, which comes back before it is applied.
            info!(node = %id, draining, "drain, as the store says");
            self.links.send(&id, Update::Drain(control::Drain { draining }));
            self.nodes_changed.notify_one();
        }
    }

    /// Reads all of them anew, because changes were missed.
    pub async fn reread_nodes(&self) -> Result<(), store::Error> {
        for Item { key, entry } in list_all(&*self.store, PREFIX).await? {
            if let Some((id, stored)) = parse(&key, &entry.value) {
                self.follow_node(id, stored);
            }
        }
        Ok(())
    }
}
