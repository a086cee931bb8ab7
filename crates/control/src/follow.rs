//! Follows what the other controls over the same store do.
//!
//! Whatever is written to the store, by whomever, comes by here and brings the
//! views in memory up to date: broadcasts, revocations, keys, nodes and the
//! seats that desks hold. A control that runs alone hears only its own echo,
//! which changes nothing.

use std::sync::Arc;
use std::time::Duration;

use spyglass_api::control::{self, update::Update};
use spyglass_daemon::Shutdown;
use tracing::{info, warn};

use crate::broadcasts::Followed;
use crate::panel::Panel;
use crate::record::EndedBy;
use crate::store::{self, Change, Watch, Watched};

/// Between attempts to read everything anew.
const RETRY: Duration = Duration::from_secs(1);

/// Follows `changes`, which began before the panel was loaded, until
/// `shutdown`.
pub async fn run(panel: Arc<Panel>, mut changes: Watch, shutdown: Shutdown) {
    loop {
        let watched = tokio::select! {
            watched = changes.next() => watched,
            () = shutdown.requested() => return,
        };
        match watched {
            Some(Watched::Change(change)) => apply(&panel, &change).await,
            Some(Watched::Missed) => {
                info!("changes of the store were missed; reading everything anew");
                while let Err(error) = reread(&panel).await {
                    warn!(%error, "the store cannot be read; trying again");
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        () = shutdown.requested() => return,
                    }
                }
            }
            None => return,
        }
    }
}

async fn apply(panel: &Panel, change: &Change) {
    match change.key.split_once('/').map_or("", |(kind, _)| kind) {
        "broadcasts" => {
            if let Some(followed) = panel.broadcasts.on_change(change) {
                on_broadcast(panel, &followed);
            }
        }
        "revocations" => {
            if let Some(revocation) = panel.revocations.on_change(change) {
                panel.links.send_all(&Update::Revocation(revocation));
            }
        }
        "seats" => panel.seats.on_written(&change.key, change.revision),
        "keys" => panel.keys.on_change(change),
        "nodes" => panel.on_stored_node(change).await,
        "users" | "follows" => panel.streams.on_change(change),
        _ => {}
    }
}

/// Another control made a broadcast, or changed one.
fn on_broadcast(panel: &Panel, followed: &Followed) {
    let Followed { record, before } = followed;
    if record.is_ended() {
        panel.seats.end(record.id);
    }
    if panel.peers().is_empty() {
        return;
    }
    // Its origin may have a stream to this control and not to that one; what it
    // is told twice it does once.
    if before.is_none() && !record.is_ended() {
        panel.expect(record);
    }
    if record.ended_by == Some(EndedBy::Request) {
        let end = control::End { broadcast: record.id.to_string() };
        panel.links.send(&record.origin, Update::End(end));
    }
}

async fn reread(panel: &Panel) -> Result<(), store::Error> {
    for followed in panel.broadcasts.reread().await? {
        on_broadcast(panel, &followed);
    }
    for revocation in panel.revocations.reread().await? {
        panel.links.send_all(&Update::Revocation(revocation));
    }
    panel.keys.reload().await?;
    panel.reread_nodes().await?;
    panel.seats.on_missed();
    panel.streams.on_missed();
    Ok(())
}
