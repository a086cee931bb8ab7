//! A control that has just started knows nodes from the store, and all of them
//! as lost: until they have attached it would send nobody anywhere. So it is not
//! ready before; a node that is really gone holds it up for [`PATIENCE`] at most.

use std::sync::Arc;
use std::time::Duration;

use spyglass_daemon::Shutdown;
use tokio::time::interval;
use tracing::info;

use crate::panel::Panel;

/// Stands in the way of readiness meanwhile.
const NODES: &str = "nodes that are known have not attached yet";

/// The longest that readiness waits for nodes.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);

/// Says that control is not ready, if so; before it says that it has started.
pub fn begin(panel: &Panel) {
    panel.admin.ready().set(NODES, is_whole(panel));
}

/// Says that it is, when it is; ends then, or with `shutdown`.
pub async fn run(panel: Arc<Panel>, shutdown: Shutdown) {
    let mut look = interval(LOOK);
    let late = tokio::time::sleep(PATIENCE);
    tokio::pin!(late);
    while !is_whole(&panel) {
        tokio::select! {
            _ = look.tick() => {}
            () = &mut late => {
                info!("not every node that is known has attached; ready without them");
                break;
            }
            () = shutdown.requested() => return,
        }
    }
    panel.admin.ready().set(NODES, true);
}

fn is_whole(panel: &Panel) -> bool {
    let peers = panel.peers();
    let known = peers.all().any(|peer| !peer.nodes.is_empty());
    panel.fleet().is_whole(|node| !known || peers.hear(node))
}
