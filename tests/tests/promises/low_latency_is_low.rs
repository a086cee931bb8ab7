//! Low latency through the shared cache: a client that asks for each part by
//! its number has it moments after it was captured, a hinted part may be asked
//! for before it is there, and a player that knows nothing of parts plays the
//! same list.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Method;
use serde_json::Value;
use spyglass_tests::eventually;
use spyglass_tests::ffmpeg::Ffmpeg;
use spyglass_tests::system::System;

/// What a low-latency client reads of a list.
#[derive(Debug, Default)]
struct Parts {
    /// Parts with the second of the day in which they end.
    listed: Vec<(String, f64)>,
    hint: Option<String>,
    /// The chunk and the part to ask for next.
    next: (u64, usize),
}

fn read(text: &str) -> Parts {
    let mut parts = Parts::default();
    let mut at = 0.0;
    for line in text.lines() {
        let (tag, value) = line.split_once(':').unwrap_or((line, ""));
        let attribute = |name: &str| {
            let rest = &value[value.find(name).expect(name) + name.len() + 1..];
            rest.split(',').next().unwrap().trim_matches('"').to_owned()
        };
        match tag {
            "#EXT-X-MEDIA-SEQUENCE" => parts.next = (value.parse().unwrap(), 0),
            "#EXT-X-PROGRAM-DATE-TIME" => {
                let time = value.split_once('T').unwrap().1.trim_end_matches('Z');
                at = time
                    .split(':')
                    .fold(0.0, |sum, each| sum * 60.0 + each.parse::<f64>().unwrap());
            }
            "#EXT-X-PART" => {
                at += attribute("DURATION").parse::<f64>().unwrap();
                parts.listed.push((attribute("URI"), at));
                parts.next.1 += 1;
            }
            "#EXT-X-PRELOAD-HINT" => parts.hint = Some(attribute("URI")),
            _ if !line.starts_with('#') => parts.next = (parts.next.0 + 1, 0),
            _ => {}
        }
    }
    parts
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn low_latency_is_low() {
    // Its frames tell when they were captured, so dates are those of capture.
    let system = System::up(&["--edges", "2", "--demo"]).await;
    let id = eventually("a live broadcast", Duration::from_secs(20), || async {
        let answer = system.anyone(Method::GET, "/v1/broadcasts?sample=50", Value::Null).await;
        let broadcasts = answer.expect(200).json()["broadcasts"].clone();
        broadcasts[0]["id"].as_str().map(str::to_owned)
    })
    .await;
    let base = format!("{}/live/{id}", system.edge(0));
    let list = format!("{base}/chunklist.m3u8");
    let player = Ffmpeg::decode(&list, 15);
    let mut parts = read(&system.client.get(&list).await.expect(200).text());
    let mut delays = Vec::new();
    let mut kept_hints = 0;
    let until = seconds() + 12.0;
    while seconds() < until {
        // The next list and the part that it will name, both before they exist.
        let (sequence, part) = parts.next;
        let url = format!("{list}?_HLS_msn={sequence}&_HLS_part={part}");
        let hinted = parts.hint.clone();
        let early = async {
            let uri = hinted.clone()?;
            let answer = system.client.get(&format!("{base}/{uri}")).await;
            (answer.status == 200).then(|| (uri, answer.body, seconds()))
        };
        let (answer, early) = tokio::join!(system.client.get(&url), early);
        let next = read(&answer.expect(200).text());
        assert!(next.next > (sequence, part), "what was asked for is listed");
        if let Some((uri, body, arrived)) = early {
            let (_, captured) = next.listed.iter().find(|(listed, _)| *listed == uri).expect(&uri);
            // Past midnight the day's seconds begin anew.
            delays.push((arrived - captured + 43_200.0).rem_euclid(86_400.0) - 43_200.0);
            kept_hints += 1;
            let again = system.client.get(&format!("{base}/{uri}")).await.expect(200);
            assert_eq!(again.body, body);
            assert!(body[4..8] == *b"moof");
        }
        parts = next;
    }
    assert!(kept_hints > 20, "{kept_hints} of the hinted parts came");
    delays.sort_by(f64::total_cmp);
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize] * 1e3;
    println!(
        "from the end of a part's capture to the part at the viewer: p50 {:.0} ms, p95 {:.0} ms",
        at(0.5),
        at(0.95)
    );
    assert!((-50.0..700.0).contains(&at(0.5)), "{delays:?}");

    // Both edges serve the same parts, and a chunk is the parts in order.
    let text = system.client.get(&list).await.expect(200).text();
    let chunk = text.lines().rfind(|line| !line.starts_with('#')).unwrap().to_owned();
    let stem = chunk.trim_end_matches("m4s");
    let mut joined = Vec::new();
    for (uri, _) in read(&text).listed.iter().filter(|(uri, _)| uri.starts_with(stem)) {
        let other = format!("{}/live/{id}/{uri}", system.edge(1));
        joined.extend_from_slice(&system.client.get(&other).await.expect(200).body);
    }
    assert_eq!(system.client.get(&format!("{base}/{chunk}")).await.expect(200).body, joined);
    let (success, errors) = player.finish().await;
    assert!(success && errors.is_empty(), "{errors}");
}
