//! Across a restart of the origin no edge hands out a list that ends before one
//! that it gave: not when the origin was killed while a chunk was open, whose
//! parts are lost, and not when it stopped cleanly, which loses none of them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::{self, Clip, Ffmpeg};
use spyglass_tests::hls::List;
use spyglass_tests::http::{Answer, Client};
use spyglass_tests::system::System;

/// Where a list ends: the number of the chunk that is open or comes next, and how
/// many of its parts are listed.
type End = (u64, usize);

fn end(text: &str) -> End {
    let list = List::parse(text);
    let behind = text.lines().rev().take_while(|line| line.starts_with('#'));
    let parts = behind.filter(|line| line.starts_with("#EXT-X-PART:")).count();
    (list.last() + 1, parts)
}

/// What a player that polls all the time was given.
#[derive(Debug, Default)]
struct Seen {
    last: End,
    answers: u32,
    refused: u32,
    /// A list that ends before the one before it.
    back: Option<(End, String)>,
}

impl Seen {
    fn take(&mut self, answer: &Answer) {
        self.answers += 1;
        if answer.status != 200 {
            self.refused += 1;
            return;
        }
        let (text, last) = (answer.text(), self.last);
        let now = end(&text);
        if now < last {
            self.back.get_or_insert((last, text));
        }
        self.last = now.max(last);
    }
}

async fn poll(client: Client, url: String, seen: Arc<Mutex<Seen>>) {
    loop {
        let answer = client.get(&url).await;
        seen.lock().unwrap().take(&answer);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn restart(cleanly: bool) {
    let mut system = System::apart(1, &["--chunk-seconds", "1"]).await;
    let broadcast = system.create(json!({"title": "never back"})).await;
    let clip = ffmpeg::clip(Clip::Both);
    let encoder = Ffmpeg::publish(clip, &broadcast.publish_url);
    system.wait_for_state(&broadcast.id, "live", Duration::from_secs(10)).await;
    let base = format!("{}/live/{}", system.edge(0), broadcast.id);
    let url = format!("{base}/chunklist.m3u8");
    let client = system.client.clone();
    let seen = Arc::new(Mutex::new(Seen::default()));
    let player = tokio::spawn(poll(client.clone(), url.clone(), Arc::clone(&seen)));
    let reached = async |what: &str, least: End| {
        eventually(what, Duration::from_secs(20), || async {
            let last = seen.lock().unwrap().last;
            (last >= least && last.1 >= least.1).then_some(last)
        })
        .await
    };

    // In the middle of a chunk.
    let before = reached("an open chunk with parts", (2, 2)).await;
    if cleanly {
        assert_eq!(system.origin.as_mut().unwrap().terminate().await, Some(0));
    } else {
        // Nothing comes any more and the chunk stays open, until it is a GAP after
        // 2.7 s; what was on its way is seen.
        encoder.stop();
        let mut still = (before, Instant::now());
        while still.1.elapsed() < Duration::from_millis(400) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let last = seen.lock().unwrap().last;
            if last != still.0 {
                still = (last, Instant::now());
            }
        }
        system.origin.as_mut().unwrap().kill();
    }
    drop(encoder);
    let shown = match cleanly {
        true => {
            eventually("the end of the open chunk is told", Duration::from_secs(20), || async {
                let last = seen.lock().unwrap().last;
                (last > before && last.1 == 0).then_some(last)
            })
            .await
        }
        false => seen.lock().unwrap().last,
    };
    assert!(shown >= before);
    system.restart_origin().await;

    // Nobody publishes: the list is seen behind what was shown all the same.
    let away = reached("a list of the origin that is back", (shown.0 + 1, 0)).await;
    let list = List::parse(&client.get(&url).await.expect(200).text());
    let open = shown.0 - u64::from(cleanly);
    let chunk = list.chunks().into_iter().find(|chunk| chunk.sequence == open).unwrap();
    assert_eq!(chunk.gap, !cleanly, "{}", list.text);
    if cleanly {
        client.get(&format!("{base}/{}", chunk.uri)).await.expect(200);
    }
    let _encoder = Ffmpeg::publish(clip, &broadcast.publish_url);
    reached("parts of the publisher who is back", (away.0, 1)).await;
    player.abort();

    let seen = seen.lock().unwrap();
    println!("{} answers, {} refused", seen.answers, seen.refused);
    if let Some((last, text)) = &seen.back {
        panic!("{last:?} was listed, and then:\n{text}");
    }
    if cleanly {
        assert_eq!(seen.refused, 0, "a list was announced that could not be had");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_is_older_after_an_origin_was_killed() {
    restart(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_is_older_after_an_origin_stopped_and_no_part_is_lost() {
    restart(true).await;
}
