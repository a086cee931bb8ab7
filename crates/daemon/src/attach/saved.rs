//! The link's part of the state directory: read at the start, written when it
//! changes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use spyglass_api::control::{Node, Revocation};
use spyglass_media::{Location, UtcTime};
use tracing::{error, warn};

use super::gateways::Gateways;
use super::keys::{self, HeldKeys};
use super::revocations::Revocations;
use super::{Error, Shared};
use crate::Shutdown;
use crate::state::StateDir;

const KEYS: &str = "control-keys.json";
const NODES: &str = "control-nodes.json";
const REVOCATIONS: &str = "revocations.json";
const GATEWAYS: &str = "gateways.json";
const CONTROLS: &str = "controls.json";

/// Changes that come close together are written together.
const PACE: Duration = Duration::from_millis(200);

#[derive(Serialize, Deserialize)]
struct SavedNode {
    id: String,
    role: i32,
    grpc: String,
    http: String,
    draining: bool,
    #[serde(default)]
    location: Option<Location>,
    #[serde(default)]
    load_percent: u32,
    #[serde(default)]
    lost: bool,
}

#[derive(Serialize, Deserialize)]
struct SavedRevocation {
    broadcast: String,
    viewer: String,
    expires_at_ms: i64,
}

/// What a previous run of this node knew.
pub(super) struct Restored {
    pub keys: HeldKeys,
    pub nodes: Arc<[Node]>,
    pub gateways: Arc<Gateways>,
    pub revocations: Revocations,
    /// Addresses of controls that were learned.
    pub controls: Vec<String>,
}

/// Reads the state. A file that is damaged counts as absent: control will send
/// its content again.
pub(super) fn read(state: &StateDir, now: UtcTime) -> Result<Restored, Error> {
    let keys = HeldKeys::restore(file::<keys::Saved>(state, KEYS)?, now);
    let nodes = file::<Vec<SavedNode>>(state, NODES)?.into_iter().map(|node| Node {
        id: node.id,
        role: node.role,
        grpc: node.grpc,
        http: node.http,
        draining: node.draining,
        location: node.location.map(Into::into),
        load_percent: node.load_percent,
        lost: node.lost,
    });
    let mut revocations = Revocations::default();
    for SavedRevocation { broadcast, viewer, expires_at_ms } in file::<Vec<_>>(state, REVOCATIONS)?
    {
        revocations.add(&Revocation { broadcast, viewer, expires_at_ms }, now);
    }
    let gateways = file::<Vec<(String, String)>>(state, GATEWAYS)?;
    let gateways = gateways
        .iter()
        .filter_map(|(broadcast, node)| Some((broadcast.parse().ok()?, node.parse().ok()?)));
    let controls = file(state, CONTROLS)?;
    let (nodes, gateways) = (nodes.collect(), Arc::new(gateways.collect()));
    Ok(Restored { keys, nodes, gateways, revocations, controls })
}

fn file<T: DeserializeOwned + Default>(state: &StateDir, name: &str) -> Result<T, Error> {
    let path = || state.path().join(name).display().to_string();
    let read = state.read(name).map_err(|source| Error::State { path: path(), source })?;
    let Some(bytes) = read else { return Ok(T::default()) };
    Ok(serde_json::from_slice(&bytes).unwrap_or_else(|error| {
        warn!(path = path(), %error, "damaged state is ignored");
        T::default()
    }))
}

/// Writes what changed, until `shutdown`.
pub(super) async fn keep(shared: Arc<Shared>, shutdown: Shutdown) {
    let mut written = render(&shared);
    loop {
        let last = tokio::select! {
            () = shared.changed.notified() => false,
            () = shutdown.requested() => true,
        };
        let wanted = render(&shared);
        let state = shared.state.clone();
        let before = written;
        let write = move || -> (Rendered, io::Result<()>) {
            let mut done = before;
            for ((name, bytes), old) in wanted.into_iter().zip(&mut done) {
                if old.1 != bytes {
                    if let Err(error) = state.write(name, &bytes) {
                        return (done, Err(error));
                    }
                    old.1 = bytes;
                }
            }
            (done, Ok(()))
        };
        let Ok((done, result)) = tokio::task::spawn_blocking(write).await else { return };
        written = done;
        if let Err(error) = result {
            let path = shared.state.path().display();
            error!(%path, %error, "cannot write the state: a restart without control would fail");
        }
        if last {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(PACE) => {}
            () = shutdown.requested() => {}
        }
    }
}

type Rendered = [(&'static str, Vec<u8>); 5];

fn render(shared: &Shared) -> Rendered {
    let nodes: Vec<SavedNode> = shared
        .nodes
        .borrow()
        .iter()
        .cloned()
        .map(|node| SavedNode {
            id: node.id,
            role: node.role,
            grpc: node.grpc,
            http: node.http,
            draining: node.draining,
            location: node.location.and_then(|location| location.try_into().ok()),
            load_percent: node.load_percent,
            lost: node.lost,
        })
        .collect();
    let revocations: Vec<SavedRevocation> = shared
        .revocations
        .lock()
        .all()
        .into_iter()
        .map(|revocation| {
            let Revocation { broadcast, viewer, expires_at_ms } = revocation;
            SavedRevocation { broadcast, viewer, expires_at_ms }
        })
        .collect();
    let gateways = Arc::clone(&shared.gateways.borrow());
    let gateways: Vec<(&str, &str)> =
        gateways.iter().map(|(broadcast, node)| (broadcast.as_str(), node.as_str())).collect();
    let keys = shared.keys.lock().save();
    let controls = shared.controls.lock().learned();
    [
        (KEYS, json(&keys)),
        (NODES, json(&nodes)),
        (REVOCATIONS, json(&revocations)),
        (GATEWAYS, json(&gateways)),
        (CONTROLS, json(&controls)),
    ]
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Strings, numbers and lists always serialise.
    serde_json::to_vec(value).unwrap_or_default()
}
