use std::time::Instant;

use spyglass_testkit::nats::Nats as Server;

use super::*;
use crate::bus::{Bus as _, Received};
use crate::{Engine, Store as _, Watched, contract};

const PATIENCE: Duration = Duration::from_secs(15);

async fn open(server: &Server) -> Nats {
    Nats::open(&server.url(), PATIENCE).await.unwrap()
}

fn value(text: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(text.as_bytes())
}

async fn until(engine: &Nats, there: bool) {
    let mut available = engine.available();
    let wait = available.wait_for(|is| *is == there);
    tokio::time::timeout(PATIENCE, wait).await.expect("in time").expect("open");
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let server = Server::start();
    let open = || async { Arc::new(open(&server).await) as Arc<dyn Engine> };
    contract::store(open).await;
    contract::bus(open).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_engines_lose_nothing_and_see_each_other() {
    let server = Server::start();
    let (one, two) = (Arc::new(open(&server).await), Arc::new(open(&server).await));
    let mut watch = two.watch("race");
    one.create("race", value("0")).await.unwrap();
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..64 {
        let engine = if racer % 2 == 0 { Arc::clone(&one) } else { Arc::clone(&two) };
        racers.spawn(async move {
            loop {
                let held = engine.get("race").await.unwrap().unwrap();
                let count: u32 = std::str::from_utf8(&held.value).unwrap().parse().unwrap();
                match engine.update("race", value(&(count + 1).to_string()), held.revision).await {
                    Ok(_) => return,
                    Err(Error::Conflict) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    racers.join_all().await;
    let mut seen = -1;
    while seen < 64 {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
        let Some(Watched::Change(change)) = next else { panic!("{next:?}") };
        let count = std::str::from_utf8(&change.value.unwrap()).unwrap().parse().unwrap();
        assert!(count > seen, "in order");
        seen = count;
    }
    let mut appended = two.appended(Log::Events);
    let first = one.append(Log::Events, "live/a/1", value("1")).await.unwrap();
    assert_eq!(two.append(Log::Events, "live/a/1", value("other")).await, Ok(first));
    appended.wait_for(|last| *last == first).await.unwrap();
    assert_eq!(two.read(Log::Events, 0, 10).await.unwrap().len(), 1);
    let mut heard = two.subscribe("greet");
    let got = tokio::time::timeout(PATIENCE, async {
        loop {
            one.publish("greet", value("hello")).await.unwrap();
            let next = tokio::time::timeout(Duration::from_millis(100), heard.next()).await;
            if let Ok(got) = next {
                return got;
            }
        }
    });
    assert_eq!(got.await, Ok(Some(Received::Payload(value("hello")))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_and_comes_back() {
    let mut server = Server::start();
    let engine = open(&server).await;
    let kept = engine.create("kept/a", value("1")).await.unwrap();
    engine.create("kept/b", value("2")).await.unwrap();
    engine.delete("kept/b", None).await.unwrap();

    server.pause();
    let asked = Instant::now();
    let refused = engine.create("new", value("x")).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert!(asked.elapsed() < DEADLINE + Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(engine.get("kept/a").await.unwrap().unwrap().value, value("1"));
    server.resume();
    until(&engine, true).await;

    server.kill();
    until(&engine, false).await;
    let refused = engine.create("other", value("x")).await.unwrap_err().to_string();
    assert!(refused.contains("is away"), "{refused}");
    assert_eq!(engine.list("kept/", None, 10).await.unwrap().len(), 1);
    server.restart();
    until(&engine, true).await;
    let again = engine.update("kept/a", value("2"), kept).await.unwrap();

    let mut watch = engine.watch("kept/");
    server.restart_empty();
    until(&engine, false).await;
    until(&engine, true).await;
    let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
    let Some(Watched::Change(mut change)) = next else { panic!("{next:?}") };
    if change.revision <= again {
        // The update's own echo.
        let Some(Watched::Change(next)) = watch.next().await else { panic!("no change") };
        change = next;
    }
    assert_eq!((change.key.as_str(), change.value), ("kept/a", Some(value("2"))));
    assert!(change.revision > again, "revisions grow over lives of the bucket");
    assert_eq!(engine.update("kept/a", value("x"), again).await, Err(Error::Conflict));
    let other = open(&server).await;
    assert_eq!(other.get("kept/a").await.unwrap().unwrap().value, value("2"));
    assert_eq!(other.get("kept/b").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_a_crash_took_are_written_again() {
    let mut server = Server::start();
    let engine = open(&server).await;
    let first = engine.create("updated", value("old")).await.unwrap();
    engine.create("deleted", value("old")).await.unwrap();
    server.kill_and_copy();
    until(&engine, false).await;
    server.restart();
    until(&engine, true).await;
    let newest = engine.update("updated", value("new"), first).await.unwrap();
    engine.delete("deleted", None).await.unwrap();
    engine.create("created", value("new")).await.unwrap();

    server.kill();
    until(&engine, false).await;
    server.restart_with_copy();
    until(&engine, true).await;
    let other = open(&server).await;
    for engine in [&engine, &other] {
        for (key, expected) in
            [("updated", Some("new")), ("deleted", None), ("created", Some("new"))]
        {
            let held = engine.get(key).await.unwrap().map(|entry| entry.value);
            assert_eq!(held, expected.map(value), "{key}");
        }
    }
    let held = other.get("updated").await.unwrap().unwrap();
    assert!(held.revision > newest, "revisions grow");
    // Neither control is stuck at a revision that is no more.
    other.update("updated", value("newer"), held.revision).await.unwrap();
    let again = tokio::time::timeout(PATIENCE, async {
        loop {
            let held = engine.get("updated").await.unwrap().unwrap();
            match engine.update("updated", value("newest"), held.revision).await {
                Err(Error::Conflict) => {}
                result => return result,
            }
        }
    });
    again.await.expect("in time").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_key_is_written_again_although_its_number_was_given_away() {
    let mut server = Server::start();
    let engine = open(&server).await;
    engine.create("before", value("1")).await.unwrap();
    server.kill_and_copy();
    until(&engine, false).await;
    server.restart();
    until(&engine, true).await;
    let lone = engine.create("lone", value("1")).await.unwrap();

    // A control that never knew of it is first at what the crash left.
    server.kill();
    until(&engine, false).await;
    let mut rest = server.start_with_copy();
    let other = open(&rest).await;
    assert_eq!(other.create("other", value("1")).await, Ok(lone));
    drop(other);
    let mut watch = engine.watch("other");
    server.restart_with_data_of(&mut rest);
    until(&engine, true).await;
    let held = engine.get("lone").await.unwrap().unwrap();
    assert!(held.revision >= lone, "revisions do not shrink");
    let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
    assert!(matches!(next, Some(Watched::Change(change)) if change.revision == lone));
    let other = open(&server).await;
    for key in ["before", "lone", "other"] {
        assert_eq!(other.get(key).await.unwrap().unwrap().value, value("1"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_keys_leave_the_bucket_after_a_while() {
    let server = Server::start();
    let keep = Duration::from_secs(1);
    let one = Nats::open_keeping(&server.url(), PATIENCE, keep).await.unwrap();
    let two = open(&server).await;
    for number in 0..70 {
        let key = format!("gone/{number}");
        one.create(&key, value("1")).await.unwrap();
        one.delete(&key, None).await.unwrap();
    }
    one.create("again", value("1")).await.unwrap();
    one.delete("again", None).await.unwrap();
    one.create("again", value("2")).await.unwrap();
    let context = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let cleaned = tokio::time::timeout(PATIENCE, async {
        loop {
            let stream = context.get_stream("KV_spyglass").await.unwrap();
            if stream.get_info().await.unwrap().state.messages == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    cleaned.await.expect("in time");
    assert_eq!(two.get("again").await.unwrap().unwrap().value, value("2"));
    // The other still has the mark in memory.
    two.create("gone/1", value("3")).await.unwrap();
    assert_eq!(two.get("gone/2").await, Ok(None));
    one.create("gone/2", value("3")).await.unwrap();
}
