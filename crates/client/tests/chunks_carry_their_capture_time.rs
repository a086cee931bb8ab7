//! What the origin's segmenter makes of stamped key frames, a viewer reads back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use spyglass_client::stamp::Init;
use spyglass_hls::segmenter::{Codec, Config, Output, Resume, Segmenter};
use spyglass_media::{MediaTime, UtcTime};
use spyglass_testkit::gop::{self, Encoder};

#[test]
fn chunks_carry_their_capture_time() {
    let (now, utc) = (Instant::now(), UtcTime::from_millis(1_700_000_000_000));
    let config = Config { chunk: Duration::from_secs(3), part: Duration::ZERO };
    let mut segmenter = Segmenter::new(config, Resume::default());
    segmenter.on_publisher(now);
    segmenter.on_codec(Codec::Video(Bytes::from_static(gop::AVC_360P)));
    segmenter.on_codec(Codec::Audio(Bytes::from_static(gop::AAC_48K_STEREO)));
    let mut encoder = Encoder::both().stamped(utc);
    let (mut init, mut chunks) = (None, 0);
    for frame in encoder.until(MediaTime::from_millis(20_000)) {
        let at = frame.dts.since(MediaTime::ZERO);
        for output in segmenter.on_frame(now + at, utc + at, &frame) {
            match output {
                Output::Init(made) => init = Some(Init::parse(&made.bytes).unwrap()),
                Output::Chunk(chunk) => {
                    let init = init.unwrap();
                    assert!(init.has_video());
                    let captured = init.captured(&chunk.bytes).unwrap().expect("a stamp");
                    let expected = utc + chunk.start.since(MediaTime::ZERO);
                    assert!(captured.distance(expected) <= Duration::from_millis(1));
                    let stamps = init.stamps(&chunk.bytes).unwrap();
                    assert!(!stamps.is_empty() && stamps.iter().all(|s| s.into < chunk_length()));
                    chunks += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(chunks >= 5);
}

fn chunk_length() -> Duration {
    Duration::from_secs(4)
}
