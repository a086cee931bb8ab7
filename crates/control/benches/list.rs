//! How often control can be asked for the public list:
//! `cargo bench -p spyglass-control --bench list`.
//!
//! A real control with 1,000 live broadcasts, asked over loopback by 32
//! connections in the same process. Prints requests per second; asserts nothing.

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use support::{OPERATOR, World, eventually, text};

const LIVE: usize = 1_000;
const CONNECTIONS: usize = 32;
const TIME: Duration = Duration::from_secs(3);
const LIST: &str = "/v1/broadcasts?sample=50";

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let world = Arc::new(World::start().await);
        let origin = world.node("origin-1", Role::Origin, None).await;
        for number in 0..LIVE {
            let title = format!("Broadcast number {number} of the bench");
            let made = world.create(OPERATOR, json!({ "title": title })).await;
            origin.event(&text(&made["id"]), Phase::Live, 1, bytes::Bytes::new());
            if number % 500 == 499 {
                // The link's queue of events is bounded.
                eventually("all are live", || async {
                    let list = world.anyone("GET", LIST, Value::Null).await.json();
                    (list["live"] == number + 1).then_some(())
                })
                .await;
            }
        }
        let asked = Arc::new(AtomicU64::new(0));
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (world, asked) = (Arc::clone(&world), Arc::clone(&asked));
            tasks.spawn(async move {
                while began.elapsed() < TIME {
                    world.anyone("GET", LIST, Value::Null).await.expect(200);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        tasks.join_all().await;
        let each = asked.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        println!("public list: {LIVE} live, {each:.0} requests per second, client included");
    });
}
