//! What every [`Store`] and every [`Bus`] promises, as tests. An engine calls
//! [`store`] and [`bus`] with a way to open the same one again and again.

use std::sync::Arc;

use super::*;
use crate::bus::MAX_PAYLOAD;

/// All about the store that `open` opens.
pub async fn store<F: Future<Output = Arc<dyn Engine>>>(open: impl Fn() -> F) {
    let store = open().await;
    single_keys(&*store).await;
    conditions(&*store).await;
    listing(&*store).await;
    watching(&*store).await;
    limits(&*store).await;
    one_of_many_wins(&store).await;
    let revision = store.create("kept/a", value("1")).await.unwrap();
    drop(store);
    let store = open().await;
    let kept = store.get("kept/a").await.unwrap().unwrap();
    assert_eq!((kept.value, kept.revision), (value("1"), revision));
    assert!(store.create("kept/b", value("2")).await.unwrap() > revision);
    assert_eq!(list_all(&*store, "kept/").await.unwrap().len(), 2);
}

fn value(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn single_keys(store: &dyn Store) {
    assert_eq!(store.get("one/a").await, Ok(None));
    let first = store.create("one/a", value("1")).await.unwrap();
    assert_eq!(store.get("one/a").await, Ok(Some(Entry { value: value("1"), revision: first })));
    let second = store.update("one/a", value(""), first).await.unwrap();
    assert!(second > first);
    assert_eq!(store.get("one/a").await, Ok(Some(Entry { value: value(""), revision: second })));
    store.delete("one/a", Some(second)).await.unwrap();
    assert_eq!(store.get("one/a").await, Ok(None));
    store.delete("one/a", None).await.unwrap();
    let third = store.create("one/a", value("3")).await.unwrap();
    assert!(third > second, "a deleted key's revisions are not given again");
    store.delete("one/a", None).await.unwrap();
}

async fn conditions(store: &dyn Store) {
    let first = store.create("if/a", value("1")).await.unwrap();
    assert_eq!(store.create("if/a", value("x")).await, Err(Error::Exists));
    let second = store.update("if/a", value("2"), first).await.unwrap();
    assert_eq!(store.update("if/a", value("x"), first).await, Err(Error::Conflict));
    assert_eq!(store.delete("if/a", Some(first)).await, Err(Error::Conflict));
    assert_eq!(store.get("if/a").await.unwrap().unwrap().value, value("2"));
    store.delete("if/a", Some(second)).await.unwrap();
    assert_eq!(store.update("if/a", value("x"), second).await, Err(Error::Conflict));
    assert_eq!(store.delete("if/a", Some(second)).await, Err(Error::Conflict));
}

async fn listing(store: &dyn Store) {
    for key in ["list/b", "list/c", "list/a", "lisu", "list"] {
        store.create(key, value(key)).await.unwrap();
    }
    let keys = |items: Vec<Item>| items.into_iter().map(|item| item.key).collect::<Vec<_>>();
    let all = store.list("list/", None, 10).await.unwrap();
    assert_eq!(all[0].entry.value, value("list/a"));
    assert_eq!(keys(all), ["list/a", "list/b", "list/c"]);
    assert_eq!(keys(store.list("list/", None, 2).await.unwrap()), ["list/a", "list/b"]);
    assert_eq!(keys(store.list("list/", Some("list/b"), 2).await.unwrap()), ["list/c"]);
    assert_eq!(keys(store.list("list/", Some("a"), 1).await.unwrap()), ["list/a"]);
    assert_eq!(keys(store.list("none/", None, 10).await.unwrap()), Vec::<String>::new());
    assert_eq!(list_all(store, "lis").await.unwrap().len(), 5);
}

async fn watching(store: &dyn Store) {
    let mut watch = store.watch("watch/");
    let first = store.create("watch/a", value("1")).await.unwrap();
    store.create("other/a", value("1")).await.unwrap();
    assert_eq!(store.create("watch/a", value("x")).await, Err(Error::Exists));
    let second = store.update("watch/a", value("2"), first).await.unwrap();
    store.delete("watch/a", Some(second)).await.unwrap();
    let mut expected = [Some("1"), Some("2"), None].map(|text| text.map(value)).into_iter();
    loop {
        let Some(Watched::Change(change)) = watch.next().await else { panic!("no change") };
        assert_eq!(change.key, "watch/a");
        assert!(expected.any(|value| value == change.value), "in order");
        if change.value.is_none() {
            break;
        }
    }
}

async fn limits(store: &dyn Store) {
    let long = "k".repeat(MAX_KEY);
    store.create(&long, Bytes::from(vec![0; MAX_VALUE])).await.unwrap();
    store.delete(&long, None).await.unwrap();
    for key in ["", "a b", "ä", &format!("{long}k")] {
        assert!(matches!(store.create(key, value("")).await, Err(Error::Unfit(_))), "{key}");
    }
    let large = Bytes::from(vec![0; MAX_VALUE + 1]);
    assert!(matches!(store.create("large", large).await, Err(Error::Unfit(_))));
}

/// A counter raised by many at once, each by compare-and-set, loses nothing.
async fn one_of_many_wins(store: &Arc<dyn Engine>) {
    store.create("race", value("0")).await.unwrap();
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = Arc::clone(store);
        racers.spawn(async move {
            let mut won = 0;
            while won < 10 {
                let held = store.get("race").await.unwrap().unwrap();
                let count: u32 = std::str::from_utf8(&held.value).unwrap().parse().unwrap();
                let next = value(&(count + 1).to_string());
                match store.update("race", next, held.revision).await {
                    Ok(_) => won += 1,
                    Err(Error::Conflict) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    racers.join_all().await;
    assert_eq!(store.get("race").await.unwrap().unwrap().value, value("160"));
}

/// All about the bus that `open` opens.
pub async fn bus<F: Future<Output = Arc<dyn Engine>>>(open: impl Fn() -> F) {
    let bus = open().await;
    messages(&*bus).await;
    logs(&*bus).await;
    unfit(&*bus).await;
    let first = bus.append(Log::Audit, "kept/1", value("1")).await.unwrap();
    drop(bus);
    let bus = open().await;
    let again = bus.append(Log::Audit, "kept/1", value("other")).await.unwrap();
    assert_eq!(again, first, "an id is remembered over a restart");
    assert_eq!(bus.last(Log::Audit).await, Ok(first));
    assert_eq!(*bus.appended(Log::Audit).borrow(), first);
    let kept = bus.read(Log::Audit, first - 1, 10).await.unwrap();
    assert_eq!(kept, [Logged { sequence: first, payload: value("1") }]);
    assert!(bus.append(Log::Audit, "kept/2", value("2")).await.unwrap() > first);
}

async fn messages(bus: &dyn Bus) {
    bus.publish("greet/all", value("nobody")).await.unwrap();
    let mut one = bus.subscribe("greet/all");
    let mut two = bus.subscribe("greet/all");
    let mut other = bus.subscribe("greet");
    bus.publish("greet/all", value("a")).await.unwrap();
    bus.publish("greet", value("b")).await.unwrap();
    bus.publish("greet/all", value("c")).await.unwrap();
    for subscription in [&mut one, &mut two] {
        assert_eq!(subscription.next().await, Some(Received::Payload(value("a"))));
        assert_eq!(subscription.next().await, Some(Received::Payload(value("c"))));
    }
    assert_eq!(other.next().await, Some(Received::Payload(value("b"))));
    for _ in 0..3_000 {
        bus.publish("greet", value("many")).await.unwrap();
    }
    assert_eq!(other.next().await, Some(Received::Missed), "a slow one is told, not waited for");
    assert_eq!(other.next().await, Some(Received::Payload(value("many"))));
}

async fn logs(bus: &dyn Bus) {
    assert_eq!(bus.last(Log::Events).await, Ok(0));
    assert_eq!(bus.read(Log::Events, 0, 10).await, Ok(Vec::new()));
    let mut appended = bus.appended(Log::Events);
    let first = bus.append(Log::Events, "live/a/1", value("1")).await.unwrap();
    appended.wait_for(|last| *last == first).await.unwrap();
    let second = bus.append(Log::Events, "live/a/2", value("2")).await.unwrap();
    assert!(second > first);
    assert_eq!(bus.append(Log::Events, "live/a/1", value("x")).await, Ok(first));
    let other = bus.append(Log::Audit, "live/a/1", value("other log")).await.unwrap();
    assert_eq!(bus.last(Log::Audit).await, Ok(other));
    assert_eq!(bus.last(Log::Events).await, Ok(second));
    let entries = |items: &[(u64, &str)]| {
        let one =
            |(sequence, text): &(u64, &str)| Logged { sequence: *sequence, payload: value(text) };
        items.iter().map(one).collect::<Vec<_>>()
    };
    let all = bus.read(Log::Events, 0, 10).await.unwrap();
    assert_eq!(all, entries(&[(first, "1"), (second, "2")]));
    assert_eq!(bus.read(Log::Events, 0, 1).await.unwrap(), entries(&[(first, "1")]));
    assert_eq!(bus.read(Log::Events, first, 10).await.unwrap(), entries(&[(second, "2")]));
    assert_eq!(bus.read(Log::Events, second, 10).await.unwrap(), []);
}

async fn unfit(bus: &dyn Bus) {
    let large = Bytes::from(vec![0; MAX_PAYLOAD + 1]);
    assert!(matches!(bus.publish("a", large.clone()).await, Err(Error::Unfit(_))));
    assert!(matches!(bus.append(Log::Events, "a", large).await, Err(Error::Unfit(_))));
    for name in ["", "a b", "a*", ">"] {
        assert!(matches!(bus.publish(name, value("")).await, Err(Error::Unfit(_))), "{name}");
        let appended = bus.append(Log::Events, name, value("")).await;
        assert!(matches!(appended, Err(Error::Unfit(_))), "{name}");
    }
}
