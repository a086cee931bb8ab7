//! The store goes away and comes back.
//!
//! While it is away, `/readyz` says so and one small write a second asks for
//! it. When it is back, what waited is written, so that everything is right
//! again within seconds. What waits because a single write failed, with no
//! outage that anybody saw, is written a second later.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use spyglass_daemon::Shutdown;
use tracing::{info, warn};

use crate::away::Untold;
use crate::fleet::State;
use crate::panel::Panel;
use crate::store::{self, Store as _};

/// Between two questions whether the store is back, or whether anything waits.
const ASK: Duration = Duration::from_secs(1);

/// Looks after the store until `shutdown`.
pub async fn run(panel: Arc<Panel>, shutdown: Shutdown) {
    let mut away = panel.store().away();
    let mut available = panel.engine.available();
    loop {
        let reason = tokio::select! {
            away = away.wait_for(Option::is_some) => away.ok().and_then(|away| away.clone()),
            gone = available.wait_for(|available| !available) => {
                if gone.is_err() {
                    return;
                }
                panel.store().on_gone();
                continue;
            }
            () = tokio::time::sleep(ASK) => None,
            () = shutdown.requested() => return,
        };
        let Some(reason) = reason else {
            if let Err(error) = write_waiting(&panel).await {
                warn!(%error, "not all that waits is written; trying again");
            }
            continue;
        };
        warn!(reason, "the store is away: live broadcasts go on, nothing new can be kept");
        panel.admin.ready().set("store", false);
        loop {
            tokio::select! {
                () = tokio::time::sleep(ASK) => {}
                () = shutdown.requested() => return,
            }
            if !*available.borrow_and_update() {
                continue;
            }
            // The answer is noted where it passes.
            let _ = ask(&panel).await;
            if panel.store().is_away() {
                continue;
            }
            match recover(&panel).await {
                Ok(()) => break,
                Err(error) => warn!(%error, "not all that waited is written; trying again"),
            }
        }
        info!("the store is back, and what waited is written");
        panel.admin.ready().set("store", true);
    }
}

/// A write that changes nothing.
async fn ask(panel: &Panel) -> Result<(), store::Error> {
    let key = format!("meta/asked-by-{}", panel.instance);
    panel.store().create(&key, Bytes::new()).await?;
    panel.store().delete(&key, None).await
}

/// Writes what waits. What fails waits again.
async fn write_waiting(panel: &Panel) -> Result<(), store::Error> {
    panel.revocations.write_all().await?;
    panel.kept_out.write_all().await?;
    let (broadcasts, nodes) = panel.unwritten().take();
    for (id, untold) in broadcasts {
        match untold {
            Untold::Report(node, said) => panel.on_report(&node, id, said).await,
            Untold::End(by, at) => {
                if let Err(error) = panel.end_at(id, by, at).await {
                    warn!(broadcast = %id, %error, "an end cannot be written; it waits");
                    panel.unwritten().broadcast(id, Untold::End(by, at));
                }
            }
        }
    }
    for node in nodes {
        // It comes back at once and tells everything anew.
        panel.links.close_node(&node);
    }
    Ok(())
}

/// After an outage: what waits, and the nodes that came and went in it.
async fn recover(panel: &Panel) -> Result<(), store::Error> {
    write_waiting(panel).await?;
    let up: Vec<_> = panel.fleet().nodes().filter(|node| node.state != State::Lost).collect();
    for node in up {
        panel.keep_node(&node.id, None).await?;
    }
    Ok(())
}
