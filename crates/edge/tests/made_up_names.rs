//! Names of chunks, parts and inits that never existed cost the origin nothing.

mod support;

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use bytes::Bytes;
use spyglass_media::{Position, Resource};
use support::client::Connection;
use support::{World, id};

/// As an origin writes it: these chunks, all of this epoch.
fn text(epoch: u32, chunks: RangeInclusive<u64>) -> String {
    let first = chunks.start();
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:{first}\n\
         #EXT-X-MAP:URI=\"{epoch}-init.mp4\"\n"
    );
    for sequence in chunks {
        _ = writeln!(text, "#EXTINF:1.00000,\n{epoch}-{sequence}.m4s");
    }
    text
}

/// A list of these chunks, and the last of them; the edge holds it from now on.
async fn show(world: &World, epoch: u32, chunks: RangeInclusive<u64>) {
    let last = *chunks.end();
    let text = text(epoch, chunks.clone());
    let objects = chunks.map(|sequence| {
        let chunk = Resource::Chunk { epoch, sequence };
        (chunk, Bytes::from(chunk.to_string()))
    });
    world.origin.show(id(1), Position::closed(last), 0, text, objects);
    let end = format!("{epoch}-{last}.m4s");
    world.until(&world.list(), |answer| answer.text().contains(&end)).await;
}

fn objects_fetched(world: &World) -> usize {
    world.origin.fetches(|resource| *resource != Resource::Chunklist)
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_never_existed_do_not_reach_the_origin() {
    let world = World::start().await;
    for first in [280, 286, 292, 294] {
        show(&world, 3, first..=first + 5).await;
    }
    let path = |name: &str| format!("/live/{}/{name}", id(1));
    let mut viewer = Connection::open(world.edge).await;
    let mut made_up: Vec<String> = (100..300).map(|sequence| format!("2-{sequence}.m4s")).collect();
    for name in ["0-init.mp4", "4-init.mp4", "0-299.m4s", "1-299.m4s", "3-300.m4s", "3-284.m4s"] {
        made_up.push(name.to_owned());
    }
    made_up.extend((100..300).map(|sequence| format!("2-{sequence}.0.m4s")));
    for name in made_up {
        assert_eq!(viewer.get(&path(&name)).await.unwrap().status, 404, "{name}");
    }
    assert_eq!(objects_fetched(&world), 0);
    // What has just left the list is there for who holds an older one.
    for name in ["3-299.m4s", "3-294.m4s", "3-293.m4s", "3-285.m4s"] {
        let answer = viewer.get(&path(name)).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, name));
    }
    assert_eq!(objects_fetched(&world), 4);
}

/// It has not seen what was listed before, so some names it must ask for: few,
/// however many are made up.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_has_just_begun_asks_for_few_of_them() {
    let world = World::start().await;
    show(&world, 3, 294..=299).await;
    let mut viewer = Connection::open(world.edge).await;
    for sequence in 100..294 {
        for epoch in 0..8 {
            let path = format!("/live/{}/{epoch}-{sequence}.m4s", id(1));
            assert_eq!(viewer.get(&path).await.unwrap().status, 404, "{path}");
        }
    }
    // 9 chunks may still be there, of the first 3 epochs.
    assert_eq!(objects_fetched(&world), 9 * 3);
}
