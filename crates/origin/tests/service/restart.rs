//! An origin that starts with the state of one that stopped, was killed, or lost
//! some of it.

use super::*;

#[tokio::test]
async fn a_lost_page_among_others_does_not_let_numbers_return() {
    let world = World::start().await;
    for id in [id(11), id(12)] {
        world.publish(&world.publish_key(id, 1000)).await.send_clip(0, 3).await;
    }
    let before = (world.list(id(11)).await, world.list(id(12)).await);
    let state = world.stop().await;

    // As a power loss may leave it: the name is there, the text is not.
    let page = state.path().join("broadcasts").join(id(11).to_string()).join("page.json");
    assert!(std::fs::metadata(&page).unwrap().len() > 0);
    std::fs::write(&page, "").unwrap();
    let world = World::start_in(state).await;
    // The publisher returns with a token of an hour ago.
    let issued = now_utc() - Duration::from_secs(3_600);
    let key = world.publish_key_of(id(11), 1000, issued);
    world.publish(&key).await.send_clip(0, 3).await;
    let (lost, kept) = (world.list(id(11)).await, world.list(id(12)).await);
    let (was, is) = (before.0.position.unwrap(), lost.position.unwrap());
    assert!(is.sequence > was.sequence + 3_000, "{was:?}, {is:?}");
    let (was, is) = (before.0.version.unwrap(), lost.version.unwrap());
    assert!(is.epoch > was.epoch + 3_000, "{was:?}, {is:?}");
    // The other goes on behind where it was.
    let (was, is) = (before.1.position.unwrap(), kept.position.unwrap());
    assert!((was.sequence + 1..was.sequence + 60).contains(&is.sequence), "{was:?}, {is:?}");
    world.stop().await;
}

#[tokio::test]
async fn no_list_ends_before_what_was_shown_when_the_origin_is_back() {
    let world = World::start().await;
    let id = id(14);
    let mut publisher = world.publish(&world.publish_key(id, 1000)).await;
    publisher.send_clip(0, 3).await;
    let page = world.state.path().join("broadcasts").join(id.to_string()).join("page.json");
    let open = async || {
        let before = world.list(id).await.position.unwrap();
        // The third chunk is open, and the second has reached the disk.
        let page = std::fs::read_to_string(&page).unwrap_or_default();
        let saved = page.contains("\"next_sequence\":2,");
        ((before.sequence, before.part) == (2, Some(3)) && saved).then_some(before)
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    let before = loop {
        match open().await {
            Some(before) => break before,
            None => assert!(Instant::now() < deadline, "no open chunk within 5 s"),
        }
    };
    // As a kill leaves it.
    let killed = tempfile::tempdir().unwrap();
    copy(world.state.path(), killed.path());
    let stopped = world.stop().await;

    let third = || fetch_request::Object::Chunk(Chunk { epoch: 1, sequence: before.sequence });
    for (state, kept) in [(killed, false), (stopped, true)] {
        let world = World::start_in(state).await;
        let after = world.list(id).await.position.unwrap();
        assert!((after.sequence, after.part) >= (2, None), "{before:?}, {after:?}");
        assert_eq!(fetch(&world, id, third()).await.is_ok(), kept, "the chunk that was open");
        world.stop().await;
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn the_first_token_cuts_although_the_list_is_lost() {
    let world = World::start().await;
    world.publish(&world.publish_key(id(13), 1000)).await.send_clip(0, 3).await;
    let before = world.list(id(13)).await;
    let state = world.stop().await;

    let directory = state.path().join("broadcasts").join(id(13).to_string());
    let mut files = std::fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path());
    let init = files.find(|path| path.to_string_lossy().ends_with("init.mp4")).unwrap();
    std::fs::remove_file(init).unwrap();
    let world = World::start_in(state).await;
    world.publish(&world.publish_key(id(13), 5000)).await.send_clip(0, 12).await;
    let after = world.list(id(13)).await;
    assert!(after.version.unwrap().epoch > before.version.unwrap().epoch);
    assert_eq!(after.target_duration_ms, before.target_duration_ms);
    world.stop().await;
}
