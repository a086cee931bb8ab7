//! How many joins a second one control sustains, and what broadcasts and viewers
//! cost in memory: `cargo bench -p spyglass-control --bench joins`.
//!
//! With `-- --nats nats://HOST:PORT/PREFIX` the store is NATS, else embedded; give
//! a prefix that nobody uses.
//!
//! A real control, asked over loopback by 64 connections of the same process on
//! two worker threads. Joins go to many broadcasts, where every join takes a seat
//! and waits until that is in the store, and to one whose seats are soon taken.
//! Memory is what the process grew by, with the scripted nodes' own copies of
//! records and leases in it. Prints; asserts nothing but the answers.

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use spyglass_daemon::Secret;
use support::{Node, OPERATOR, World, eventually, lease, text};

const LIVE: usize = 1_000;
const WATCHING: usize = 10_000;
const CONNECTIONS: usize = 64;
/// Fewer than a node's link holds unsent.
const AT_ONCE: usize = 500;
const TIME: Duration = Duration::from_secs(5);

fn main() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = std::env::args().skip_while(|word| word != "--nats").nth(1);
        println!("store: {}", if store.is_some() { "NATS" } else { "embedded" });
        let store = store.map(Secret::new);
        let world = Arc::new(World::with(|config| config.store = store).await);
        let origin = world.node("origin-1", Role::Origin, None).await;
        let edge = world.node("edge-1", Role::Edge, None).await;
        // What the first of its kind costs is nobody's.
        broadcasts(&world, &origin, 0, AT_ONCE).await;
        let before = resident();
        let made = broadcasts(&world, &origin, AT_ONCE, LIVE).await;
        each("live broadcast", before, resident(), LIVE);

        // Before the bursts: what they free would hide what viewers take.
        let taken = AtomicUsize::new(0);
        watch(&world, &edge, &made[0], &taken, AT_ONCE).await;
        let before = resident();
        watch(&world, &edge, &made[0], &taken, WATCHING).await;
        each("joined viewer", before, resident(), WATCHING);

        let spread = Arc::new(made[1..].to_vec());
        joins("to many broadcasts", &world, &spread).await;
        joins("to one broadcast", &world, &Arc::new(vec![made[0].clone()])).await;
    });
}

/// This many more, live; `first` is how many there are.
async fn broadcasts(world: &World, origin: &Node, first: usize, more: usize) -> Vec<String> {
    let mut made = Vec::new();
    for number in first..first + more {
        let title = format!("Broadcast number {number} of the bench");
        let id = text(&world.create(OPERATOR, json!({ "title": title })).await["id"]);
        origin.event(&id, Phase::Live, 1, bytes::Bytes::new());
        made.push(id);
        if made.len() % AT_ONCE == 0 || made.len() == more {
            eventually("all are live", async || {
                let list = world.anyone("GET", "/v1/broadcasts?sample=50", Value::Null).await;
                (list.json()["live"] == number + 1).then_some(())
            })
            .await;
        }
    }
    made
}

/// Joins these in turn, as fast as control answers.
async fn joins(what: &str, world: &Arc<World>, broadcasts: &Arc<Vec<String>>) {
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (world, broadcasts, next) =
            (Arc::clone(world), Arc::clone(broadcasts), Arc::clone(&next));
        tasks.spawn(async move {
            let mut took = Vec::new();
            while began.elapsed() < TIME {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let asked = Instant::now();
                world.join(&broadcasts[number % broadcasts.len()], json!({})).await;
                took.push(asked.elapsed());
            }
            took
        });
    }
    let mut took = tasks.join_all().await.concat();
    let elapsed = began.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!(
        "joins {what}: {:.0} per second, p50 {:.1} ms, p99 {:.1} ms, client included",
        took.len() as f64 / elapsed,
        at(50),
        at(99)
    );
}

/// This many more join and are reported by the edge.
async fn watch(world: &World, edge: &Node, id: &str, taken: &AtomicUsize, more: usize) {
    for number in 1..=more {
        let joined = world.join(id, json!({})).await;
        edge.link.lease_begun(lease(edge, &joined, false));
        let total = taken.fetch_add(1, Ordering::Relaxed) + 1;
        if number % AT_ONCE == 0 {
            eventually("all are counted", async || {
                (world.show(id).await["viewers"]["total"] == total).then_some(())
            })
            .await;
        }
    }
}

/// Memory of this process in bytes; 0 where there is no `/proc`.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn each(what: &str, before: u64, after: u64, count: usize) {
    let bytes = after.saturating_sub(before) / count as u64;
    println!("memory: {bytes} bytes per {what}, nodes included");
}
