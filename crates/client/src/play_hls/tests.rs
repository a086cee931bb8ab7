use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::testing::{self, Answer, Server, answer, with_header};

const INDEX: &str = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nchunklist.m3u8\n";

/// Chunk `first` and the two after it; ends when told.
fn list(first: u64, ended: bool) -> String {
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:{first}\n\
         #EXT-X-MAP:URI=\"1-init.mp4\"\n"
    );
    for sequence in first..first + 3 {
        if sequence == 4 {
            text.push_str("#EXT-X-GAP\n");
        }
        text.push_str(&format!("#EXTINF:3.000,\n1-{sequence}.m4s\n"));
    }
    if ended {
        text.push_str("#EXT-X-ENDLIST\n");
    }
    text
}

fn captured(sequence: u64) -> UtcTime {
    UtcTime::from_millis(1_700_000_000_000 + sequence as i64 * 3000)
}

/// An edge whose list moves on with each poll and ends at the fourth.
fn edge(line: &str, polls: &AtomicU64) -> Answer {
    match line.rsplit('/').next().unwrap_or_default() {
        "index.m3u8" => answer(200, INDEX),
        "chunklist.m3u8" => {
            let poll = polls.fetch_add(1, Ordering::SeqCst).min(3);
            with_header(answer(200, list(poll + 1, poll == 3)), "age", "1")
        }
        "1-init.mp4" => answer(200, testing::init()),
        name => {
            let sequence = name.trim_start_matches("1-").trim_end_matches(".m4s").parse().unwrap();
            let bytes = testing::chunk(&[Some(captured(sequence)), None]);
            with_header(answer(200, bytes), "cache-status", "edge-1; hit")
        }
    }
}

fn viewer(urls: Vec<String>) -> HlsViewer {
    let tick = Duration::from_millis(20);
    HlsViewer::new(Config {
        poll: Poll::Between(tick, tick),
        prebuffer: Some(Duration::from_secs(6)),
        patience: Duration::from_secs(2),
        ..Config::new(urls)
    })
    .unwrap()
}

async fn all(viewer: &mut HlsViewer) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = viewer.next().await.unwrap();
        let ended = matches!(event, Event::Ended);
        events.push(event);
        if ended {
            return events;
        }
    }
}

#[tokio::test]
async fn a_broadcast_is_followed_to_its_end() {
    let polls = AtomicU64::new(0);
    let server = Server::new(move |asked| edge(&asked.line, &polls)).await;
    let mut viewer = viewer(vec![format!("{}/v/secret/x/index.m3u8", server.url)]);
    let events = all(&mut viewer).await;
    let mut seen = Vec::new();
    for event in &events {
        match event {
            Event::Chunk(chunk) => {
                assert_eq!(chunk.captured, Some(captured(chunk.sequence)));
                assert_eq!(chunk.start.millis(), (chunk.sequence as i64 - 2) * 3000);
                assert_eq!(chunk.fresh, chunk.sequence > 3);
                assert_eq!(chunk.cache_status.as_deref(), Some("edge-1; hit"));
                assert_eq!(chunk.list_age, Some(1));
                assert!(chunk.listed <= chunk.requested && chunk.requested <= chunk.arrived);
                seen.push(chunk.sequence);
            }
            Event::Gap { sequence, .. } => assert_eq!(*sequence, 4),
            Event::Missed { sequence } => panic!("{sequence} was missed"),
            Event::Ended => {}
        }
    }
    assert_eq!(seen, [2, 3, 5, 6]);
    let lines = server.lines();
    let count = |name: &str| lines.iter().filter(|line| line.ends_with(name)).count();
    assert_eq!((count("index.m3u8"), count("init.mp4"), count("1-4.m4s")), (1, 1, 0));
    assert!(!viewer.edge().contains("secret"));
}

#[tokio::test]
async fn a_broadcast_without_chunks_is_waited_for() {
    let (polls, early) = (AtomicU64::new(0), AtomicU64::new(0));
    let server = Server::new(move |asked| {
        if early.fetch_add(1, Ordering::SeqCst) == 0 {
            return with_header(answer(503, ""), "retry-after", "0");
        }
        edge(&asked.line, &polls)
    })
    .await;
    let mut viewer = viewer(vec![format!("{}/live/x/index.m3u8", server.url)]);
    assert!(matches!(viewer.next().await, Ok(Event::Chunk(_))));
}

#[tokio::test]
async fn a_refusal_ends_it_at_once() {
    let server = Server::new(|_| answer(403, r#"{"detail":"this viewer was removed"}"#)).await;
    let mut viewer = viewer(vec![format!("{}/v/secret/x/index.m3u8", server.url)]);
    let error = viewer.next().await.unwrap_err();
    assert_eq!(error.to_string(), "the edge answered 403 for index.m3u8: this viewer was removed");
    assert_eq!(server.lines().len(), 1);
}

#[tokio::test]
async fn another_edge_takes_over_where_the_first_failed() {
    let polls = AtomicU64::new(0);
    let good = Server::new(move |asked| edge(&asked.line, &polls)).await;
    let lists = AtomicU64::new(0);
    // Names chunks that it then cannot give.
    let bad = Server::new(move |asked| {
        if asked.line.ends_with(".m4s") { answer(500, "") } else { edge(&asked.line, &lists) }
    })
    .await;
    let url = |server: &Server| format!("{}/live/x/index.m3u8", server.url);
    let mut viewer = viewer(vec![url(&bad), url(&good)]);
    let sequences: Vec<_> = all(&mut viewer)
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::Chunk(chunk) => Some(chunk.sequence),
            _ => None,
        })
        .collect();
    assert_eq!(sequences, [2, 3, 5, 6]);
}

/// Two edges of one broadcast, the first's steering document as `document` makes
/// it of the second's address; `dies`: the first gives nothing but its index and
/// that once it has told of the second.
async fn steered(
    dies: bool,
    document: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (Server, Server, Vec<u64>) {
    let polls = std::sync::Arc::new(AtomicU64::new(0));
    let shared = std::sync::Arc::clone(&polls);
    let second = Server::new(move |asked| {
        let path = asked.line.split('?').next().unwrap_or_default();
        if path.ends_with("steering.json") {
            return answer(200, r#"{"VERSION":1,"TTL":1,"PATHWAY-PRIORITY":["b"]}"#);
        }
        edge(path, &shared)
    })
    .await;
    let (at, told) = (second.url.clone(), AtomicU64::new(0));
    let first = Server::new(move |asked| {
        let path = asked.line.split('?').next().unwrap_or_default();
        match path.rsplit('/').next().unwrap_or_default() {
            "index.m3u8" => answer(
                200,
                "#EXTM3U\n#EXT-X-CONTENT-STEERING:SERVER-URI=\"steering.json\",PATHWAY-ID=\".\"\n\
                 #EXT-X-STREAM-INF:BANDWIDTH=1,STABLE-VARIANT-ID=\"main\",PATHWAY-ID=\".\"\n\
                 chunklist.m3u8\n",
            ),
            "steering.json" => {
                told.fetch_add(1, Ordering::SeqCst);
                answer(200, document(&at))
            }
            // The second alone moves on: whoever stays here sees no end.
            "chunklist.m3u8" if told.load(Ordering::SeqCst) == 0 || !dies => {
                answer(200, list(1, false))
            }
            _ if dies && told.load(Ordering::SeqCst) > 0 => answer(500, ""),
            _ => edge(path, &polls),
        }
    })
    .await;
    let mut viewer = viewer(vec![format!("{}/v/secret/x/index.m3u8", first.url)]);
    let events = tokio::time::timeout(Duration::from_secs(20), all(&mut viewer)).await.unwrap();
    assert_eq!(viewer.edge(), second.url);
    let sequences = events.iter().filter_map(|event| match event {
        Event::Chunk(chunk) => Some(chunk.sequence),
        Event::Missed { sequence } => panic!("{sequence} was missed"),
        _ => None,
    });
    let sequences = sequences.collect();
    (first, second, sequences)
}

fn to_the_second(order: &'static str) -> impl Fn(&str) -> String {
    move |second| {
        format!(
            r#"{{"VERSION":1,"TTL":1,"RELOAD-URI":"{second}/v/secret/x/steering.json",
            "PATHWAY-PRIORITY":[{order}],"PATHWAY-CLONES":[{{"BASE-ID":".","ID":"b",
            "URI-REPLACEMENT":{{"HOST":"127.0.0.1","PER-VARIANT-URIS":
            {{"main":"{second}/v/secret/x/chunklist.m3u8"}}}}}}]}}"#
        )
    }
}

#[tokio::test]
async fn an_edge_that_steers_its_players_away_is_left_and_nothing_is_lost() {
    let (_, second, sequences) = steered(false, to_the_second(r#""b""#)).await;
    assert_eq!(sequences, [2, 3, 5, 6]);
    let lines = second.lines();
    assert!(lines.iter().all(|line| line.starts_with("GET /v/secret/x/")), "the token goes along");
}

#[tokio::test]
async fn an_edge_that_dies_is_left_for_the_next_pathway() {
    // There is no other address than the first's: only steering tells the second's.
    let (first, second, sequences) = steered(true, to_the_second(r#"".","b""#)).await;
    assert_eq!(sequences, [2, 3, 5, 6]);
    let asked = |server: &Server, name: &str| {
        server.lines().into_iter().filter(|line| line.contains(name)).collect::<Vec<_>>()
    };
    assert_eq!(asked(&first, "steering.json"), ["GET /v/secret/x/steering.json?_HLS_pathway=."]);
    assert!(asked(&second, "index.m3u8").is_empty());
}

#[tokio::test]
async fn patience_ends() {
    let server = Server::new(|_| answer(200, "no playlist")).await;
    let config = Config {
        patience: Duration::from_millis(100),
        ..Config::new(vec![format!("{}/live/x/index.m3u8", server.url)])
    };
    let mut viewer = HlsViewer::new(config).unwrap();
    assert!(matches!(viewer.next().await, Err(Error::BadAnswer { .. })));
    assert!(server.lines().len() >= 2);
    assert!(HlsViewer::new(Config::new(Vec::new())).is_err());
}

/// Everything a viewer is given, made by what makes it at the origin: a
/// broadcast that pauses for 10 s and goes on in a second epoch.
#[tokio::test]
async fn our_own_lists_and_chunks_are_played() {
    use spyglass_hls::chunklist::{self, Chunklist};
    use spyglass_hls::playlist;
    use spyglass_hls::segmenter::{self, Codec, Resume, Segmenter};
    use spyglass_media::{MediaTime, Resource};
    use spyglass_testkit::gop::{self, Encoder};

    let now = std::time::Instant::now();
    let utc = UtcTime::from_millis(1_700_000_000_000);
    let config = segmenter::Config { chunk: Duration::from_secs(3), part: Duration::ZERO };
    let target = config.target_duration();
    let mut made = Chunklist::new(
        chunklist::Config { window: 30, ..chunklist::Config::new(target) },
        &Resume::default(),
    );
    let mut segmenter = Segmenter::new(config, Resume::default());
    // Media goes on where it was, as the origin's timeline has it; the wall does not.
    for (from, to, pause) in [(0, 9_500, 0), (9_500, 16_000, 10_000)] {
        segmenter.on_publisher(now);
        segmenter.on_codec(Codec::Video(Bytes::from_static(gop::AVC_360P)));
        segmenter.on_codec(Codec::Audio(Bytes::from_static(gop::AAC_48K_STEREO)));
        let (from, to) = (MediaTime::from_millis(from), MediaTime::from_millis(to));
        let pause = Duration::from_millis(pause);
        let first = utc + from.since(MediaTime::ZERO) + pause;
        let both = (Some(gop::Video::default()), Some(gop::Audio::default()));
        for frame in Encoder::new(both.0, both.1, from).stamped(first).until(to) {
            let at = frame.dts.since(MediaTime::ZERO) + pause;
            while let Some(due) = segmenter.next_deadline().filter(|due| *due <= now + at) {
                for output in segmenter.on_deadline(due) {
                    made.on_output(due, output);
                }
            }
            for output in segmenter.on_frame(now + at, utc + at, &frame) {
                made.on_output(now + at, output);
            }
        }
    }
    for output in segmenter.on_end(now + Duration::from_secs(27)) {
        made.on_output(now + Duration::from_secs(27), output);
    }
    made.on_end(now + Duration::from_secs(27));
    let snapshot = made.snapshot();
    let server = Server::new(move |asked| {
        let name = asked.line.rsplit('/').next().unwrap_or_default();
        match Resource::parse(name) {
            Some(Resource::Index) => answer(200, playlist::multivariant(&snapshot)),
            Some(Resource::Chunklist) => answer(200, playlist::media(&snapshot)),
            Some(resource) => answer(200, made.get(resource).expect("it is listed")),
            None => panic!("{}", asked.line),
        }
    })
    .await;
    let mut viewer = HlsViewer::new(Config {
        prebuffer: Some(Duration::from_secs(60)),
        ..Config::new(vec![format!("{}/live/x/index.m3u8", server.url)])
    })
    .unwrap();
    let (mut chunks, mut gaps, mut breaks) = (0, Duration::ZERO, 0);
    for event in all(&mut viewer).await {
        match event {
            Event::Chunk(chunk) => {
                chunks += 1;
                let dated = chunk.date.unwrap().distance(chunk.captured.unwrap());
                assert!(dated < Duration::from_millis(10), "{dated:?}");
                breaks += u32::from(chunk.discontinuity);
                assert!(!chunk.init.is_empty());
            }
            Event::Gap { duration, .. } => gaps += duration,
            Event::Missed { sequence } => panic!("{sequence} was missed"),
            Event::Ended => {}
        }
    }
    assert_eq!(breaks, 1, "the second connection is an epoch of its own");
    assert!(chunks >= 4, "{chunks}");
    let gaps = gaps.as_secs_f64();
    assert!((8.0..=10.5).contains(&gaps), "the pause is listed as gaps: {gaps} s");
}
