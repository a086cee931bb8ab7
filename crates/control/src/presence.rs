//! Controls over the same store tell each other, once a second, that they are
//! there and which nodes they hear; nodes are told of the others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spyglass_api::control::update::Update;
use spyglass_daemon::Shutdown;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, info};

use crate::fleet::State;
use crate::panel::Panel;
use crate::peers::Presence;
use crate::store::Received;
use crate::store::bus::MAX_PAYLOAD;

/// Where controls speak to each other.
const SUBJECT: &str = "controls";

/// How often each does.
const BEAT: Duration = Duration::from_secs(1);

/// What a presence takes beside the names of nodes, in bytes, generously.
const REST: usize = 4 * 1024;

/// Speaks and listens until `shutdown`. `grpc` is where nodes reach this
/// control; empty when nobody but this machine's own could.
pub async fn run(panel: Arc<Panel>, name: String, grpc: String, shutdown: Shutdown) {
    let mut heard = panel.engine.subscribe(SUBJECT);
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beat.tick() => {
                speak(&panel, &name, &grpc, false).await;
                if panel.peers().on_deadline(Instant::now()) {
                    info!("a control has fallen silent");
                    tell(&panel);
                }
            }
            received = heard.next() => match received {
                Some(Received::Payload(payload)) => listen(&panel, &payload),
                Some(Received::Missed) => {}
                None => return,
            },
            () = shutdown.requested() => {
                return speak(&panel, &name, &grpc, true).await;
            }
        }
    }
}

async fn speak(panel: &Panel, name: &str, grpc: &str, leaving: bool) {
    let mut bytes = 0;
    let up = panel.fleet().nodes().filter(|node| node.state != State::Lost).collect::<Vec<_>>();
    let nodes = up.into_iter().map(|node| (*node.id).clone()).take_while(|id| {
        bytes += id.as_str().len() + 3;
        bytes < MAX_PAYLOAD - REST
    });
    let presence = Presence {
        id: panel.instance.clone(),
        name: name.to_owned(),
        grpc: grpc.to_owned(),
        http: panel.public_http.clone(),
        nodes: nodes.collect(),
        leaving,
    };
    let Ok(payload) = serde_json::to_vec(&presence) else { return };
    if let Err(error) = panel.engine.publish(SUBJECT, Bytes::from(payload)).await {
        debug!(%error, "other controls cannot be told that this one is here");
    }
}

fn listen(panel: &Panel, payload: &[u8]) {
    let Ok(presence) = serde_json::from_slice::<Presence>(payload) else { return };
    if presence.id == panel.instance {
        return;
    }
    let (name, grpc) = (presence.name.clone(), presence.grpc.clone());
    let leaving = presence.leaving;
    if panel.peers().on_presence(presence, Instant::now()) {
        info!(control = name, grpc, leaving, "another control");
        tell(panel);
    }
}

fn tell(panel: &Panel) {
    panel.links.send_all(&Update::Controls(panel.controls()));
}
