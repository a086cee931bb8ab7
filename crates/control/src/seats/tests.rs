use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::admission::SeatLease;
use crate::store::embedded::Embedded;
use crate::store::{Answer, Entry, Item, Watch};

const LIMITS: Limits = Limits {
    seats: 100,
    push: 100,
    reservation: Duration::from_secs(30),
    grace: Duration::from_secs(5),
};

/// A store that counts writes and fails when told to.
struct Counting {
    inner: Embedded,
    writes: AtomicUsize,
    broken: AtomicBool,
}

impl Counting {
    fn open(dir: &tempfile::TempDir) -> Arc<Self> {
        let inner = Embedded::open(&dir.path().join("control.redb")).unwrap();
        Arc::new(Self { inner, writes: AtomicUsize::new(0), broken: AtomicBool::new(false) })
    }

    fn count(&self) -> Result<(), store::Error> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) {
            return Err(store::Error::Unavailable("broken".to_owned()));
        }
        Ok(())
    }
}

impl Store for Counting {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        self.inner.get(key)
    }

    fn create<'a>(&'a self, key: &'a str, value: Bytes) -> Answer<'a, Revision> {
        match self.count() {
            Ok(()) => self.inner.create(key, value),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn update<'a>(
        &'a self,
        key: &'a str,
        value: Bytes,
        revision: Revision,
    ) -> Answer<'a, Revision> {
        match self.count() {
            Ok(()) => self.inner.update(key, value, revision),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    fn delete<'a>(&'a self, key: &'a str, revision: Option<Revision>) -> Answer<'a, ()> {
        self.inner.delete(key, revision)
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<Item>> {
        self.inner.list(prefix, after, limit)
    }

    fn watch(&self, prefix: &str) -> Watch {
        self.inner.watch(prefix)
    }
}

fn viewer(number: u16) -> ViewerId {
    let mut random = [0; 16];
    random[..2].copy_from_slice(&number.to_le_bytes());
    ViewerId::from_random(random)
}

fn id() -> BroadcastId {
    BroadcastId::from_random([7; 16])
}

/// Who got which seat, of the viewers `numbers`, all joining at once.
async fn join_many(seats: &Arc<Seats>, numbers: std::ops::Range<u16>) -> Vec<(u16, u32)> {
    let mut joins = tokio::task::JoinSet::new();
    for number in numbers {
        let seats = Arc::clone(seats);
        joins.spawn(async move { (number, seats.join(id(), viewer(number)).await.unwrap()) });
    }
    let all = joins.join_all().await;
    all.into_iter().filter_map(|(viewer, seat)| Some((viewer, seat?.number))).collect()
}

fn numbers(given: &[(u16, u32)]) -> HashSet<u32> {
    let numbers: HashSet<u32> = given.iter().map(|&(_, number)| number).collect();
    assert_eq!(numbers.len(), given.len(), "a seat was given twice");
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_joins_give_a_hundred_seats_in_few_writes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Counting::open(&dir);
    let seats = Arc::new(Seats::new(store.clone(), LIMITS, now_utc()));
    let given = join_many(&seats, 0..1_000).await;
    assert_eq!(numbers(&given), (1..=100).collect());
    let writes = store.writes.swap(0, Ordering::Relaxed);
    assert!(writes <= 100, "{writes} writes");
    // Full: from memory.
    assert_eq!(join_many(&seats, 1_000..1_200).await, []);
    assert_eq!(store.writes.load(Ordering::Relaxed), 0);
    // Fifty leave; of many who join, fifty get exactly their seats.
    let (left, _) = given.split_at(50);
    for (number, _) in left {
        seats.leave(id(), viewer(*number)).await;
    }
    let again = join_many(&seats, 2_000..3_000).await;
    assert_eq!(numbers(&again), numbers(left));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_controls_on_one_store_give_each_seat_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Counting::open(&dir);
    let one = Arc::new(Seats::new(store.clone(), LIMITS, now_utc()));
    let two = Arc::new(Seats::new(store, LIMITS, now_utc()));
    let (first, second) = tokio::join!(join_many(&one, 0..200), join_many(&two, 200..400));
    let all = [first, second].concat();
    assert_eq!(numbers(&all), (1..=100).collect());
}

#[tokio::test]
async fn seats_survive_a_restart_and_an_end_frees_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = Counting::open(&dir);
    let before = Seats::new(store.clone(), LIMITS, now_utc());
    let first = before.join(id(), viewer(1)).await.unwrap().unwrap();
    let lease = SeatLease { viewer: viewer(1), seat: first };
    before.on_change(SeatChange::Begun(id(), lease)).await;
    let second = before.join(id(), viewer(2)).await.unwrap().unwrap();
    assert_eq!(second.number, 2);
    let other = SeatLease { viewer: viewer(2), seat: second };
    before.on_change(SeatChange::Begun(id(), other)).await;
    assert_eq!(before.join(id(), viewer(3)).await.unwrap().unwrap().number, 3);
    drop(before);
    // A restart just now: seats wait for their viewers.
    let after = Seats::new(store.clone(), LIMITS, now_utc());
    after.on_change(SeatChange::Begun(id(), lease)).await;
    assert_eq!(after.join(id(), viewer(4)).await.unwrap().unwrap().number, 4);
    let mut watch = store.watch("seats/");
    after.end(id());
    while let Some(store::Watched::Change(change)) = watch.next().await {
        if change.value.is_none() {
            return;
        }
    }
    panic!("the record stays");
}

/// What stands in the store: the viewers, and which of them are in doubt.
async fn stored(store: &Counting) -> serde_json::Value {
    let entry = store.get(&key(id())).await.unwrap().expect("a record");
    serde_json::from_slice(&entry.value).unwrap()
}

#[tokio::test]
async fn a_control_that_hears_no_origin_frees_nobodys_seat() {
    let dir = tempfile::tempdir().unwrap();
    let store = Counting::open(&dir);
    // One hears the origin.
    let hears = Seats::new(store.clone(), LIMITS, now_utc());
    let seat = hears.join(id(), viewer(1)).await.unwrap().unwrap();
    let begun = SeatChange::Begun(id(), SeatLease { viewer: viewer(1), seat });
    hears.on_change(begun).await;
    assert_eq!(hears.join(id(), viewer(2)).await.unwrap().unwrap().number, 2);
    // The other has long been up, and is asked for the first time.
    let deaf = Seats::new(store.clone(), LIMITS, UtcTime::default());
    assert_eq!(deaf.join(id(), viewer(3)).await.unwrap().unwrap().number, 3);
    let doubted = stored(&store).await;
    let until = doubted["taken"]["1"]["until_ms"].as_i64().expect("written, for the first to see");
    assert!(UtcTime::from_millis(until).since(now_utc()) > NAMED / 2);
    // The origin's next list removes the doubt, also in the other's memory.
    let revision = store.get(&key(id())).await.unwrap().unwrap().revision;
    hears.on_written(&key(id()), revision);
    hears.on_change(begun).await;
    assert!(hears.join(id(), viewer(3)).await.unwrap().is_some());
    assert_eq!(stored(&store).await["taken"]["1"]["until_ms"], serde_json::Value::Null);
    // So it does when that one has not heard of the origin for a while.
    deaf.on_missed();
    deaf.on_origin_silent(id()).await;
    assert_eq!(deaf.join(id(), viewer(4)).await.unwrap().unwrap().number, 4);
    assert!(stored(&store).await["taken"]["1"]["until_ms"].is_i64());
    hears.on_missed();
    hears.on_change(begun).await;
    assert!(hears.join(id(), viewer(4)).await.unwrap().is_some());
    assert_eq!(stored(&store).await["taken"]["1"]["until_ms"], serde_json::Value::Null);
}

#[test]
fn of_a_connection_the_last_that_was_heard_waits() {
    let lease = |n: u16| SeatLease {
        viewer: viewer(n),
        seat: Seat { number: u32::from(n), generation: 1 },
    };
    let mut batch: Vec<Command> = Vec::new();
    for _ in 0..KEPT {
        batch.push(Command::Connection(SeatChange::Begun(id(), lease(1))));
    }
    batch.insert(9, Command::Connection(SeatChange::Ended(id(), lease(2))));
    batch.push(Command::Connection(SeatChange::Ended(id(), lease(1))));
    refuse_joins(&mut batch, &store::Error::Conflict);
    let kept: Vec<_> = batch
        .iter()
        .map(|command| match command {
            Command::Connection(change) => *change,
            _ => panic!("another command"),
        })
        .collect();
    assert_eq!(kept, [SeatChange::Ended(id(), lease(2)), SeatChange::Ended(id(), lease(1))]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_refuses_joins_and_forgets_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = Counting::open(&dir);
    let seats = Seats::new(store.clone(), Limits { seats: 1, push: 1, ..LIMITS }, now_utc());
    let first = seats.join(id(), viewer(1)).await.unwrap().unwrap();
    store.broken.store(true, Ordering::Relaxed);
    seats.leave(id(), viewer(1)).await;
    assert!(matches!(seats.join(id(), viewer(2)).await, Err(store::Error::Unavailable(_))));
    store.broken.store(false, Ordering::Relaxed);
    // For a moment nobody waits in vain; then the next attempt, or a join,
    // carries the leave along.
    assert!(seats.join(id(), viewer(2)).await.is_err());
    tokio::time::sleep(RETRY).await;
    let second = seats.join(id(), viewer(2)).await.unwrap().unwrap();
    assert!(second.generation > first.generation);
}
