//! What happens because time passes: silent nodes are lost, broadcasts that
//! nobody ends are ended, what has expired is dropped, gauges are set.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use spyglass_api::control::update::Update;
use spyglass_daemon::{Shutdown, now_utc};
use spyglass_media::{NodeId, UtcTime};
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::fleet::{Role, State};
use crate::panel::Panel;
use crate::record::{EndedBy, Record};
use crate::store;

/// How often nodes and broadcasts are looked at.
const TICK: Duration = Duration::from_millis(500);

/// How often the store is cleaned, in ticks.
const CLEANING: u32 = 120;

/// How often the database of places is looked at, in ticks.
const GEO: u32 = 20;

/// Changes of the list of nodes within this time are told together.
const GATHER: Duration = Duration::from_millis(50);

/// How often the list is looked at when nobody said that it changed.
const LOOK: Duration = Duration::from_secs(1);

/// Looks after everything until `shutdown`.
pub async fn run(panel: Arc<Panel>, shutdown: Shutdown) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for count in 0u32.. {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.requested() => return,
        }
        lose_silent_nodes(&panel).await;
        end_overdue(&panel).await;
        measure(&panel);
        if count.is_multiple_of(GEO) {
            read_places(&panel);
        }
        if count.is_multiple_of(CLEANING) {
            // Whether the store is there is for recover.rs to say: with nothing to
            // clean this succeeds without asking it.
            if let Err(error) = clean(&panel, now_utc()).await {
                warn!(%error, "the store cannot be cleaned");
            }
        }
    }
}

/// Reads the database of places when it has changed, beside everything else.
fn read_places(panel: &Arc<Panel>) {
    let panel = Arc::clone(panel);
    drop(tokio::task::spawn_blocking(move || match panel.geo.reload_changed() {
        Ok(true) => info!("the database of places has changed and was read"),
        Ok(false) => {}
        Err(error) => warn!(%error, "the database of places stays as it was"),
    }));
}

async fn lose_silent_nodes(panel: &Panel) {
    let now = Instant::now();
    let silent = {
        let peers = panel.peers();
        panel.fleet().on_peers(|node| peers.hear(node), now)
    };
    for node in silent {
        info!(%node, "no control hears of this node any more");
        for record in panel.broadcasts.running_on(&node) {
            panel.seats.on_origin_silent(record.id).await;
        }
    }
    let lost = panel.fleet().on_deadline(now);
    for lost in lost {
        warn!(node = %lost.id, "node lost: it has said nothing for 5 s");
        panel.nodes_changed.notify_one();
        panel.on_seats(lost.seats).await;
    }
}

async fn end_overdue(panel: &Panel) {
    let (now, instant) = (now_utc(), Instant::now());
    let unused = panel.live.get().unused();
    let mut overdue = panel.broadcasts.all(|record: &Record| !record.is_ended());
    {
        let origins: BTreeSet<&NodeId> = overdue.iter().map(|record| &record.origin).collect();
        let peers = panel.peers();
        panel.fleet().on_origins(origins.into_iter(), |node| peers.hear(node), instant);
    }
    let origins: BTreeSet<&NodeId> = overdue.iter().map(|record| &record.origin).collect();
    let away = {
        let fleet = panel.fleet();
        let away = origins.into_iter().filter(|origin| fleet.is_away(origin, instant));
        away.cloned().collect()
    };
    panel.broadcasts.on_away(away);
    {
        let fleet = panel.fleet();
        overdue.retain(|record| {
            record.is_overdue(fleet.lost_for(&record.origin, instant), unused, now)
        });
    }
    for record in overdue {
        info!(broadcast = %record.id, origin = %record.origin, "broadcast given up");
        if let Err(error) = panel.end(record.id, EndedBy::Control).await {
            warn!(%error, "a broadcast cannot be ended");
        }
    }
}

fn measure(panel: &Panel) {
    let metrics = &panel.metrics;
    for (phase, count) in panel.broadcasts.counts() {
        metrics.broadcasts.get_or_create(&[("state", phase.as_str())]).set(signed(count));
    }
    metrics.streams.set(signed(panel.streams.len() as u64));
    let fleet = panel.fleet();
    let viewers = fleet.audience().all();
    metrics.viewers.get_or_create(&[("tier", "push")]).set(signed(viewers.push));
    metrics.viewers.get_or_create(&[("tier", "hls")]).set(signed(viewers.hls));
    metrics.leases_refused.set(signed(fleet.audience().refused()));
    for role in [Role::Origin, Role::Edge] {
        for state in [State::Up, State::Draining, State::Lost] {
            let is =
                |node: &crate::fleet::Node| node.registration.role == role && node.state == state;
            let labels = [("role", role.as_str()), ("state", state.as_str())];
            let count = fleet.nodes().filter(is).count();
            metrics.nodes.get_or_create(&labels).set(signed(count as u64));
        }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Drops what no longer matters to anybody.
async fn clean(panel: &Panel, now: UtcTime) -> Result<(), store::Error> {
    let kept = Duration::from_secs(u64::from(panel.live.get().ended_hours) * 3600);
    let forgotten = panel.broadcasts.all(|record: &Record| {
        record.ended_at_ms.is_some_and(|ended| now.since(UtcTime::from_millis(ended)) > kept)
    });
    for record in forgotten {
        panel.seats.forget(record.id).await?;
        panel.kept_out.forget(record.id).await?;
        panel.histories.forget(&*panel.engine, record.id).await?;
        panel.broadcasts.remove(record.id).await?;
    }
    panel.revocations.expire(now).await?;
    panel.keys.on_life(panel.live.get().longest_token());
    panel.keys.on_tick(now, panel.live.get().key_rotation()).await?;
    let gone = panel.fleet().forget(Instant::now());
    for id in gone {
        info!(node = %id, "node forgotten: lost for a day");
        panel.drop_node(&id).await?;
    }
    Ok(())
}

/// Puts in effect what is read again while control runs.
pub async fn reload(panel: Arc<Panel>, shutdown: Shutdown) {
    let mut changes = panel.live.changes();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = shutdown.requested() => return,
        }
        let config = panel.live.get();
        panel.set_rates(config.rate_rules());
        panel.seats.set_limits(config.seat_limits());
        panel.keys.on_life(config.longest_token());
    }
}

/// Tells every node the keys whenever they have changed, here or at another
/// control of the store.
pub async fn tell_keys(panel: Arc<Panel>, shutdown: Shutdown) {
    let mut changes = panel.keys.changes();
    loop {
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = shutdown.requested() => return,
        }
        panel.links.send_all(&Update::Keys(panel.keys.update()));
    }
}

/// Tells every edge which gateways are other ones now.
pub async fn tell_gateways(panel: Arc<Panel>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.requested() => return,
        }
        panel.name_gateways();
    }
}

/// Tells every node of every other, whenever that list has become another.
pub async fn tell_nodes(panel: Arc<Panel>, shutdown: Shutdown) {
    let mut told = None;
    loop {
        tokio::select! {
            () = panel.nodes_changed.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.requested() => return,
        }
        tokio::time::sleep(GATHER).await;
        if panel.is_settling() {
            continue;
        }
        let nodes = panel.node_list();
        if told.as_ref() != Some(&nodes) {
            panel.links.send_all(&Update::Nodes(nodes.clone()));
            told = Some(nodes);
        }
    }
}
