//! The store goes away and comes back: what is live goes on, what can be known
//! is said, and everything is right again soon.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use spyglass_api::control::{Phase, Role};
use spyglass_control::store::embedded::Embedded;
use spyglass_control::store::{
    Answer, Bus, Engine, Entry, Error, Item, Log, Logged, Revision, Store, Subscription, Watch,
};
use spyglass_daemon::attach::Command;
use support::{OPERATOR, World, embedded, eventually, text};
use tokio::sync::watch;

/// How often control tries to change a broadcast against others.
const ATTEMPTS: usize = 32;

/// An engine whose writes can be made to fail, as those of a replicated one do
/// while it is away; reads are answered from memory.
struct Flaky {
    engine: Embedded,
    away: AtomicBool,
    /// Another control is always faster with broadcasts; how often it was.
    contested: AtomicBool,
    conflicts: AtomicUsize,
}

impl Flaky {
    fn new(dir: &tempfile::TempDir) -> Arc<Self> {
        Arc::new(Self {
            engine: embedded(dir),
            away: AtomicBool::default(),
            contested: AtomicBool::default(),
            conflicts: AtomicUsize::default(),
        })
    }

    fn check(&self) -> Result<(), Error> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(Error::Unavailable("the test has taken it away".to_owned())),
            false => Ok(()),
        }
    }
}

impl Store for Flaky {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        self.engine.get(key)
    }

    fn create<'a>(&'a self, key: &'a str, value: Bytes) -> Answer<'a, Revision> {
        Box::pin(async move {
            self.check()?;
            self.engine.create(key, value).await
        })
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        revision: Revision,
    ) -> Answer<'a, Revision> {
        Box::pin(async move {
            self.check()?;
            if key.starts_with("broadcasts/") && self.contested.load(Ordering::SeqCst) {
                self.conflicts.fetch_add(1, Ordering::SeqCst);
                return Err(Error::Conflict);
            }
            self.engine.update(key, value, revision).await
        })
    }

    fn delete<'a>(&'a self, key: &'a str, revision: Option<Revision>) -> Answer<'a, ()> {
        Box::pin(async move {
            self.check()?;
            self.engine.delete(key, revision).await
        })
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<Item>> {
        self.engine.list(prefix, after, limit)
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.engine.watch(prefix)
    }
}

impl Bus for Flaky {
    fn publish<'a>(&'a self, subject: &'a str, payload: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            self.check()?;
            self.engine.publish(subject, payload).await
        })
    }

    fn subscribe(&self, subject: &str) -> Subscription {
        self.engine.subscribe(subject)
    }

    fn append<'a>(&'a self, log: Log, id: &'a str, payload: Bytes) -> Answer<'a, u64> {
        Box::pin(async move {
            self.check()?;
            self.engine.append(log, id, payload).await
        })
    }

    fn read<'a>(&'a self, log: Log, after: u64, limit: usize) -> Answer<'a, Vec<Logged>> {
        self.engine.read(log, after, limit)
    }

    fn last<'a>(&'a self, log: Log) -> Answer<'a, u64> {
        self.engine.last(log)
    }

    fn appended(&self, log: Log) -> watch::Receiver<u64> {
        self.engine.appended(log)
    }
}

impl Engine for Flaky {
    fn available(&self) -> watch::Receiver<bool> {
        self.engine.available()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_live_goes_on_and_soon_all_is_right_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Flaky::new(&dir);
    let world = World::over(Arc::clone(&store) as Arc<dyn Engine>, dir, |_| {}).await;
    let mut origin = world.node("origin-1", Role::Origin, None).await;
    let edge = world.node("edge-1", Role::Edge, None).await;
    let mut made = Vec::new();
    for title in ["goes on", "ends by itself", "is ended"] {
        let id = text(&world.create(OPERATOR, json!({ "title": title })).await["id"]);
        assert!(matches!(origin.command().await, Command::Expect(_)));
        origin.event(&id, Phase::Live, 1, Default::default());
        world.wait_for(&id, "/state", &json!("live")).await;
        made.push(id);
    }
    let (ann_id, ann) = world.user("Ann").await;
    let join = format!("/v1/broadcasts/{}/viewers", made[0]);
    let seated = world.call("POST", &join, &ann, &json!({})).await.expect(200).json();
    assert_eq!(seated["seat"], 1);

    store.away.store(true, Ordering::SeqCst);
    // A place without a seat, and a player of it.
    let unseated = world.join(&made[0], json!({})).await;
    assert_eq!((&unseated["tier"], &unseated["seat"]), (&json!("hls"), &Value::Null));
    assert!(unseated["urls"]["hls"].is_string());
    eventually("control says why it is not ready", || async {
        let ready = world.anyone("GET", "/readyz", Value::Null).await;
        (ready.status == 503).then(|| assert_eq!(ready.body, "store\n"))
    })
    .await;
    // What cannot be kept is refused, and when to try again.
    for (path, body) in
        [("/v1/broadcasts", json!({"title": "new"})), ("/v1/users", json!({"name": "Ann"}))]
    {
        let refused = world.operator("POST", path, body).await;
        assert_eq!(refused.header("retry-after"), "2");
        assert!(refused.problem(503).contains("store is away"));
    }
    // What is known is said.
    assert_eq!(world.show(&made[0]).await["state"], "live");
    world.wait_for_node("edge-1", "up").await;
    // Kicks and ends are done at once.
    let viewer = text(&seated["viewer"]);
    let kick = format!("/v1/broadcasts/{}/viewers/{viewer}/kick", made[0]);
    world.operator("POST", &kick, Value::Null).await.expect(200);
    let detail = world.call("POST", &join, &ann, &json!({})).await.problem(403);
    assert!(detail.contains("removed"), "{detail}");
    // That it is not in the audit log stops it not, and is told.
    let metrics = world.anyone("GET", "/metrics", Value::Null).await.expect(200).body;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    let lost = metrics.lines().find(|line| line.starts_with("spyglass_control_audit_lost_total"));
    let lost = lost.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
    assert!(lost.is_some_and(|lost| lost > 0), "{lost:?}");
    let revoked = (made[0].parse().unwrap(), viewer.parse().unwrap());
    for node in [&origin, &edge] {
        let knows = || async { node.link.revoked(revoked.0, revoked.1).then_some(()) };
        eventually("the node refuses the viewer", knows).await;
    }
    let end = format!("/v1/broadcasts/{}/end", made[2]);
    let ended = world.operator("POST", &end, Value::Null).await;
    assert_eq!(ended.expect(200).json()["state"], "ended");
    assert_eq!(origin.command().await, Command::End(made[2].parse().unwrap()));
    origin.event(&made[2], Phase::Ended, 1, Default::default());
    origin.event(&made[1], Phase::Ended, 1, Default::default());
    // Enough for both reports to be there: a later one of the same node is.
    let late = world.node("edge-2", Role::Edge, None).await;

    let back = Instant::now();
    store.away.store(false, Ordering::SeqCst);
    world.wait_for(&made[1], "/state", &json!("ended")).await;
    world.wait_for(&made[2], "/state", &json!("ended")).await;
    eventually("control is ready", || async {
        (world.anyone("GET", "/readyz", Value::Null).await.status == 200).then_some(())
    })
    .await;
    eventually("who joins has a seat", || async {
        world.join(&made[0], json!({})).await["seat"].is_number().then_some(())
    })
    .await;
    world.operator("POST", "/v1/broadcasts", json!({"title": "new"})).await.expect(201);
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    let key = format!("revocations/{}/{viewer}", made[0]);
    assert!(store.get(&key).await.unwrap().is_some(), "the kick is kept");
    let key = format!("kicks/{}/{ann_id}", made[0]);
    assert!(store.get(&key).await.unwrap().is_some(), "and who it was");
    assert!(store.get("nodes/edge-2").await.unwrap().is_some(), "and the node that came");
    drop(late);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_cannot_be_written_is_written_later_without_any_outage() {
    let dir = tempfile::tempdir().unwrap();
    let store = Flaky::new(&dir);
    let world = World::over(Arc::clone(&store) as Arc<dyn Engine>, dir, |_| {}).await;
    let origin = world.node("origin-1", Role::Origin, None).await;
    let id = text(&world.create(OPERATOR, json!({"title": "over"})).await["id"]);
    origin.event(&id, Phase::Live, 1, Default::default());
    world.wait_for(&id, "/state", &json!("live")).await;
    store.contested.store(true, Ordering::SeqCst);
    origin.event(&id, Phase::Ended, 1, Default::default());
    eventually("the report was tried and given up", || async {
        (store.conflicts.load(Ordering::SeqCst) >= ATTEMPTS).then_some(())
    })
    .await;
    assert_eq!(world.show(&id).await["state"], "live");
    store.contested.store(false, Ordering::SeqCst);
    world.wait_for(&id, "/state", &json!("ended")).await;
}
