//! Whatever a publisher and its network do, every version of the list keeps
//! rules P1 to P13, L1 to L3, L6 and L7. The judge in `support` sees them all.

mod support;

use std::time::Duration;

use proptest::prelude::*;
use spyglass_hls::segmenter::Config;
use spyglass_media::{MediaTime, Track};
use spyglass_testkit::gop::{self, Audio, Encoder, Video};
use support::Broadcast;

/// What happens next; times in milliseconds.
#[derive(Clone, Debug)]
enum Event {
    /// Frames come in time.
    Play(u64),
    /// Nothing comes; then all that was missed comes at once.
    Stall(u64),
    /// Nothing comes and what was missed is lost.
    Lost(u64),
    /// The publisher and its clock stand still.
    Freeze(u64),
    /// Only sound comes.
    Blind(u64),
    /// The connection is lost; a new one has these codecs.
    Reconnect(u64, Codecs),
    /// The encoder is set otherwise.
    Codec(Codecs),
    Jump,
    /// The origin is killed and started again.
    Restart(u64),
}

#[derive(Clone, Copy, Debug)]
enum Codecs {
    Small,
    Large,
    VideoOnly,
    AudioOnly,
}

impl Codecs {
    fn records(self) -> (Option<&'static [u8]>, Option<&'static [u8]>) {
        match self {
            Self::Small => (Some(gop::AVC_360P), Some(gop::AAC_48K_STEREO)),
            Self::Large => (Some(gop::AVC_720P), Some(gop::AAC_44K_STEREO)),
            Self::VideoOnly => (Some(gop::AVC_360P), None),
            Self::AudioOnly => (None, Some(gop::AAC_48K_STEREO)),
        }
    }
}

fn codecs() -> impl Strategy<Value = Codecs> {
    use Codecs::*;
    prop_oneof![3 => Just(Small), 2 => Just(Large), 1 => Just(VideoOnly), 1 => Just(AudioOnly)]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (200u64..20_000).prop_map(Event::Play),
        2 => (200u64..25_000).prop_map(Event::Stall),
        1 => (200u64..9_900).prop_map(Event::Lost),
        1 => (200u64..25_000).prop_map(Event::Freeze),
        1 => (200u64..20_000).prop_map(Event::Blind),
        2 => (0u64..35_000, codecs()).prop_map(|(away, codecs)| Event::Reconnect(away, codecs)),
        1 => codecs().prop_map(Event::Codec),
        1 => Just(Event::Jump),
        1 => (0u64..500).prop_map(Event::Restart),
    ]
}

fn video() -> impl Strategy<Value = Video> {
    let rate = prop_oneof![Just(2u32), Just(15), Just(25), Just(30), Just(60)];
    (rate, 0.2f64..12.0, 0u32..4, 0u32..8).prop_map(|(rate, gop, b_frames, key_jitter)| Video {
        rate,
        gop: (f64::from(rate) * gop).ceil() as u32,
        b_frames,
        key_jitter,
        key_bytes: 40,
        bytes: 10,
    })
}

/// A publisher in the world: its encoder, and how far its clock is from ours.
struct Publisher {
    video: Video,
    codecs: Codecs,
    encoder: Encoder,
    /// Media time sent so far.
    sent: Duration,
    /// Our clock less its media time.
    offset: Duration,
    seed: u64,
}

impl Publisher {
    fn play(&mut self, broadcast: &mut Broadcast, millis: u64, network: u64, blind: bool) {
        let until = self.sent + Duration::from_millis(millis);
        for frame in self.encoder.until(MediaTime::ZERO + until) {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let delay = Duration::from_millis((self.seed >> 33) % (network + 1));
            broadcast.pass_until(self.offset + frame.dts.since(MediaTime::ZERO) + delay);
            if !(blind && frame.track == Track::Video) {
                broadcast.frame(&frame);
            }
        }
        self.sent = until;
    }

    fn reconnect(&mut self, broadcast: &mut Broadcast) {
        let (video, audio) = self.codecs.records();
        broadcast.connect(video, audio);
        self.sent += Duration::from_millis(40);
        self.offset = broadcast.now().saturating_sub(self.sent);
        let video = video.map(|_| self.video.clone());
        let rate = if matches!(self.codecs, Codecs::Large) { 44_100 } else { 48_000 };
        let audio = audio.map(|_| Audio { rate, bytes: 8 });
        let start = MediaTime::ZERO + self.sent;
        self.encoder = Encoder::new(video, audio, start).seeded(self.seed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_version_keeps_the_rules(
        chunk in 1_000u64..10_000,
        part in prop_oneof![1 => Just(0u64), 3 => Just(200), 2 => 50u64..1_000],
        window in prop_oneof![2 => Just(6usize), 1 => Just(30)],
        video in video(),
        first in codecs(),
        network in prop_oneof![Just(0u64), 0u64..1_500],
        events in prop::collection::vec(event(), 1..14),
        seed: u64,
    ) {
        let (chunk_length, part) = (Duration::from_millis(chunk), Duration::from_millis(part));
        let mut broadcast = Broadcast::of(Config { chunk: chunk_length, part }, window);
        let mut publisher = Publisher {
            video,
            codecs: first,
            encoder: Encoder::both(),
            sent: Duration::from_secs(1),
            offset: Duration::ZERO,
            seed,
        };
        publisher.reconnect(&mut broadcast);
        publisher.play(&mut broadcast, 2 * chunk, network, false);
        for event in events {
            let wait = |millis| Duration::from_millis(millis);
            match event {
                Event::Play(millis) => publisher.play(&mut broadcast, millis, network, false),
                Event::Stall(millis) => broadcast.pass(wait(millis)),
                Event::Lost(millis) => {
                    publisher.sent += wait(millis);
                    publisher.encoder.until(MediaTime::ZERO + publisher.sent);
                    broadcast.pass(wait(millis));
                }
                Event::Freeze(millis) => {
                    broadcast.pass(wait(millis));
                    publisher.offset += wait(millis);
                }
                Event::Blind(millis) => publisher.play(&mut broadcast, millis, network, true),
                Event::Reconnect(away, codecs) => {
                    broadcast.pass(wait(away));
                    publisher.codecs = codecs;
                    publisher.reconnect(&mut broadcast);
                }
                Event::Codec(codecs) => {
                    let (video, audio) = codecs.records();
                    broadcast.codecs(video, audio);
                }
                Event::Jump => broadcast.segmenter.on_jump(),
                Event::Restart(away) => {
                    broadcast.restart(wait(away));
                    publisher.reconnect(&mut broadcast);
                }
            }
        }
        publisher.play(&mut broadcast, 5_000, network, false);
        broadcast.pass(Duration::from_secs(30));
        broadcast.end();
        prop_assert!(broadcast.judge.versions > 1);
    }
}
