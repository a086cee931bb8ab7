use proptest::prelude::*;

use super::*;
use crate::record::{EndedBy, Memo, Report};
use crate::store::embedded::Embedded;
use spyglass_media::UtcTime;

fn record(number: u8) -> Record {
    let id = BroadcastId::from_random([number; 16]);
    Record::new(id, "o".parse().unwrap(), String::new(), Memo::default())
}

fn live(record: &mut Record) -> bool {
    let report = Report { phase: Phase::Live, at: UtcTime::default(), epoch: 1 };
    record.on_report(report, UtcTime::default())
}

async fn open(dir: &tempfile::TempDir) -> Broadcasts {
    let store = Embedded::open(&dir.path().join("control.redb")).unwrap();
    Broadcasts::load(Arc::new(store), 5, 2).await.unwrap()
}

#[tokio::test]
async fn only_public_and_live_ones_are_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let broadcasts = open(&dir).await;
    for number in 0..5 {
        let mut record = record(number);
        record.memo.private_to = (number == 1).then(Vec::new);
        broadcasts.create(record).await.unwrap();
    }
    assert!(matches!(broadcasts.create(record(9)).await, Err(CreateError::Full)));
    for number in [0, 1, 2, 3] {
        let (_, changed) = broadcasts.change(record(number).id, live).await.unwrap().unwrap();
        assert!(changed);
    }
    let names = |broadcasts: &Broadcasts| {
        let (sample, all) = broadcasts.sample(50, 7);
        let names: HashSet<_> = sample.iter().map(|listed| listed.record.id).collect();
        assert_eq!(names.len(), all);
        names
    };
    assert_eq!(names(&broadcasts), [0, 2, 3].map(|number| record(number).id).into());
    let (sample, _) = broadcasts.sample(1, 7);
    let now = Instant::now();
    let line = |at, text: &'static str| sample[0].line(at, |_| Bytes::from_static(text.as_bytes()));
    assert_eq!(line(now, "one"), "one");
    assert_eq!(line(now + LINE_AGE / 2, "two"), "one");
    assert_eq!(line(now + LINE_AGE, "three"), "three");
    broadcasts.remove(record(0).id).await.unwrap();
    assert_eq!(names(&broadcasts), [2, 3].map(|number| record(number).id).into());
    drop(broadcasts);
    let broadcasts = open(&dir).await;
    assert_eq!(names(&broadcasts), [2, 3].map(|number| record(number).id).into());
    assert_eq!(broadcasts.counts()[Phase::Live as usize], (Phase::Live, 3));
    assert_eq!(broadcasts.running_on(&"o".parse().unwrap()).len(), 4);
}

#[tokio::test]
async fn one_whose_origin_is_away_is_shown_as_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let broadcasts = open(&dir).await;
    let origin: NodeId = "o".parse().unwrap();
    for number in 0..3 {
        broadcasts.create(record(number)).await.unwrap();
    }
    for number in 0..2 {
        broadcasts.change(record(number).id, live).await.unwrap();
    }
    let shown = |number| broadcasts.shown(&broadcasts.get(record(number).id).unwrap());
    let seen = || {
        let found = broadcasts.all_shown(|_, phase| phase == Phase::Interrupted).len();
        let counted = broadcasts.counts()[Phase::Interrupted as usize].1;
        (broadcasts.sample(50, 1).1, found, counted)
    };
    assert_eq!((seen(), shown(0)), ((2, 0, 0), Phase::Live));
    broadcasts.on_away(["another".parse().unwrap()].into());
    assert_eq!(seen(), (2, 0, 0));
    broadcasts.on_away([origin.clone()].into());
    assert_eq!((seen(), shown(0), shown(2)), ((0, 2, 2), Phase::Interrupted, Phase::Created));
    assert_eq!(broadcasts.get(record(0).id).unwrap().phase, Phase::Live, "nothing was written");
    // What changes meanwhile is shown as the rest.
    broadcasts.change(record(2).id, live).await.unwrap();
    let end = |record: &mut Record| record.on_end(EndedBy::Request, UtcTime::default());
    broadcasts.change(record(1).id, end).await.unwrap();
    assert_eq!(seen(), (0, 2, 2));
    broadcasts.on_back(&origin);
    assert_eq!((seen(), shown(0)), ((2, 0, 0), Phase::Live));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_has_no_more_than_the_quota_however_many_are_made_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let broadcasts = open(&dir).await;
    let of_ann = |number| {
        let mut record = record(number);
        record.memo.user = Some(UserId::from_random([1; 16]));
        record
    };
    let made =
        futures_util::future::join_all((0..4).map(|number| broadcasts.create(of_ann(number))));
    let made: Vec<_> = made.await.into_iter().collect();
    let quota = |made: &Result<_, _>| matches!(made, Err(CreateError::Quota));
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 2);
    assert_eq!(made.iter().filter(|made| quota(made)).count(), 2);
    assert!(broadcasts.create(record(7)).await.is_ok(), "the operator's");
    // An end makes room, also after a restart.
    let first = made.iter().find_map(|made| made.as_ref().ok()).unwrap().id;
    let end = |record: &mut Record| record.on_end(EndedBy::Request, UtcTime::default());
    broadcasts.change(first, end).await.unwrap();
    drop((made, broadcasts));
    let broadcasts = open(&dir).await;
    assert!(broadcasts.create(of_ann(8)).await.is_ok());
    assert!(quota(&broadcasts.create(of_ann(9)).await));
    // What was there before is taken back, whatever there is now.
    for number in 9..15 {
        assert!(broadcasts.restore(of_ann(number)).await.is_ok());
    }
    assert!(
        matches!(broadcasts.restore(record(20)).await, Err(CreateError::Full)),
        "twice as many"
    );
}

#[tokio::test]
async fn what_another_control_writes_is_followed_and_found() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&dir.path().join("control.redb")).unwrap());
    let mut changes = store.watch(PREFIX);
    let here = Broadcasts::load(Arc::clone(&store), 5, 2).await.unwrap();
    let there = Broadcasts::load(Arc::clone(&store), 5, 2).await.unwrap();
    let mut next = async || match changes.next().await {
        Some(store::Watched::Change(change)) => change,
        other => panic!("{other:?}"),
    };
    there.create(record(1)).await.unwrap();
    // Asked for before the change has come by.
    assert!(here.get(record(1).id).is_none());
    assert!(here.find(record(1).id).await.is_some());
    assert!(here.find(record(2).id).await.is_none());
    assert!(here.on_change(&next().await).is_none(), "known by now");
    there.change(record(1).id, live).await.unwrap();
    let followed = here.on_change(&next().await).unwrap();
    assert_eq!(followed.before.map(|record| record.phase), Some(Phase::Created));
    assert_eq!(followed.record.phase, Phase::Live);
    assert_eq!(here.sample(50, 1).1, 1);
    there.remove(record(1).id).await.unwrap();
    assert!(here.on_change(&next().await).is_none());
    assert_eq!(here.sample(50, 1).1, 0);
    // Changes that were missed.
    there.create(record(3)).await.unwrap();
    assert_eq!(here.reread().await.unwrap().len(), 1);
    there.remove(record(3).id).await.unwrap();
    assert!(here.reread().await.unwrap().is_empty());
    assert!(here.get(record(3).id).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_meet_all_count() {
    let dir = tempfile::tempdir().unwrap();
    let broadcasts = Arc::new(open(&dir).await);
    broadcasts.create(record(1)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let broadcasts = Arc::clone(&broadcasts);
        tasks.spawn(async move {
            let raise = |record: &mut Record| {
                record.epoch += 1;
                true
            };
            broadcasts.change(record(1).id, raise).await.unwrap().unwrap();
        });
    }
    tasks.join_all().await;
    assert_eq!(broadcasts.get(record(1).id).unwrap().epoch, 16);
    assert!(broadcasts.change(record(2).id, live).await.unwrap().is_none());
}

proptest! {
    #[test]
    fn a_draw_has_different_numbers(of in 0usize..200, count in 0usize..60, seed: u64) {
        let drawn = draw(of, count, seed);
        prop_assert_eq!(drawn.len(), count.min(of));
        prop_assert!(drawn.iter().all(|&at| at < of));
        prop_assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), drawn.len());
    }
}

#[test]
fn a_draw_is_fair() {
    let mut hits = [0u32; 100];
    for seed in 0..2_000 {
        for at in draw(100, 50, seed) {
            hits[at] += 1;
        }
    }
    assert!(hits.iter().all(|hits| (850..1150).contains(hits)), "{hits:?}");
}
