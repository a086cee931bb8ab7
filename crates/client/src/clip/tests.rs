//! Against files that ffmpeg makes here and now, and what ffprobe says of them.
//! Where ffmpeg is not installed these tests say so and pass.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::*;
use spyglass_media::find_capture;

/// Frames out of order, sound with priming, a track that begins late.
const VIDEO: &[&str] = &["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25"];
const SOUND: &[&str] = &["-c:a", "aac", "-b:a", "48k"];

struct Made {
    _directory: tempfile::TempDir,
    files: BTreeMap<&'static str, PathBuf>,
}

/// The clips, made once; `None` without ffmpeg.
fn made() -> Option<&'static Made> {
    static MADE: OnceLock<Option<Made>> = OnceLock::new();
    MADE.get_or_init(|| {
        if Command::new("ffmpeg").arg("-version").output().is_err() {
            eprintln!("skipped: ffmpeg is not installed");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let both = [VIDEO, SOUND].concat();
        let with = |more: &[&'static str]| [&both, more].concat();
        let files = [
            ("plain.mp4", with(&[])),
            ("faststart.mp4", with(&["-movflags", "+faststart"])),
            ("fragmented.mp4", with(&["-movflags", "frag_keyframe+empty_moov+default_base_moof"])),
            ("old-fragments.mp4", with(&["-movflags", "frag_keyframe"])),
            ("quicktime.mov", with(&[])),
            ("clip.flv", with(&[])),
            ("video.mp4", [VIDEO, &["-an"]].concat()),
            ("sound.m4a", [SOUND, &["-vn"]].concat()),
            ("sound.flv", [SOUND, &["-vn"]].concat()),
            ("hevc.mp4", vec!["-c:v", "libx265", "-preset", "ultrafast", "-an"]),
            ("opus.mp4", vec!["-c:v", "libx264", "-preset", "ultrafast", "-c:a", "libopus"]),
        ];
        let files = files
            .into_iter()
            .map(|(name, arguments)| (name, make(directory.path().join(name), &arguments)))
            .collect();
        Some(Made { _directory: directory, files })
    })
    .as_ref()
}

fn make(path: PathBuf, arguments: &[&str]) -> PathBuf {
    let output = Command::new("ffmpeg")
        .args(["-loglevel", "error", "-y", "-f", "lavfi", "-i", "testsrc2=s=160x120:r=25:d=3"])
        .args(["-itsoffset", "0.3", "-f", "lavfi", "-i", "sine=r=44100:d=2.5"])
        .args(["-pix_fmt", "yuv420p"])
        .args(arguments)
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path
}

/// A packet as ffprobe sees it: track, presentation time in ms, size, key.
type Packet = (Track, i64, u32, bool);

fn probe(path: &Path) -> Vec<Packet> {
    let output = Command::new("ffprobe")
        .args(["-loglevel", "error", "-of", "csv=p=0"])
        .args(["-show_entries", "packet=codec_type,pts_time,size,flags"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| {
            let mut fields = line.split(',');
            let mut field = || fields.next().unwrap();
            let track = if field() == "video" { Track::Video } else { Track::Audio };
            let pts = (field().parse::<f64>().unwrap() * 1000.0).round() as i64;
            (track, pts, field().parse().unwrap(), field().starts_with('K'))
        })
        .collect()
}

fn of(clip: &Clip, track: Track) -> Vec<Packet> {
    let samples = clip.samples().iter().filter(|sample| sample.track == track);
    samples
        .map(|sample| {
            let pts = sample.dts_ms + i64::from(sample.composition_ms);
            (track, pts, sample.length, sample.key)
        })
        .collect()
}

#[test]
fn every_container_reads_as_ffprobe_reads_it() {
    let Some(made) = made() else { return };
    for name in [
        "plain.mp4",
        "faststart.mp4",
        "fragmented.mp4",
        "old-fragments.mp4",
        "quicktime.mov",
        "clip.flv",
        "video.mp4",
        "sound.m4a",
        "sound.flv",
    ] {
        let path = &made.files[name];
        let clip = Clip::open(path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = probe(path);
        // One shift for both tracks, or they would no longer be in step.
        let mut shift = None;
        for track in [Track::Video, Track::Audio] {
            let expected: Vec<_> = expected.iter().filter(|packet| packet.0 == track).collect();
            let found = of(&clip, track);
            assert_eq!(found.len(), expected.len(), "{name} {track:?}");
            for (found, expected) in found.iter().zip(expected) {
                let shift = *shift.get_or_insert(found.1 - expected.1);
                assert!(
                    (found.1 - expected.1 - shift).abs() <= 1,
                    "{name}: {found:?} {expected:?}"
                );
                assert_eq!((found.2, found.3), (expected.2, expected.3), "{name}");
            }
        }
        assert_eq!(clip.video_config().is_some(), !name.starts_with("sound"), "{name}");
        assert_eq!(clip.audio_config().is_some(), name != "video.mp4", "{name}");
        assert!(clip.samples().is_sorted_by_key(|sample| sample.dts_ms), "{name}");
        assert_eq!(clip.samples()[0].dts_ms, 0, "{name}");
        let length = clip.duration_ms();
        assert!((2500..3300).contains(&length), "{name}: {length} ms");
    }
}

#[test]
fn there_are_b_frames_and_key_frames_take_a_stamp() {
    let Some(made) = made() else { return };
    for name in ["plain.mp4", "clip.flv"] {
        let clip = Clip::open(&made.files[name]).unwrap();
        let mut offsets: Vec<_> = clip.samples().iter().map(|s| s.composition_ms).collect();
        offsets.dedup();
        assert!(offsets.len() > 10, "{name} has no B-frames");
        let at = UtcTime::from_millis(1_700_000_000_000);
        let keys = clip.samples().iter().filter(|s| s.key && s.track == Track::Video);
        for key in keys.clone() {
            let stamped = Clip::stamp(&clip.read(key).unwrap(), at);
            assert_eq!(find_capture(&stamped), Some(at));
        }
        assert_eq!(keys.count(), 3);
    }
}

#[test]
fn what_cannot_be_sent_is_named() {
    let Some(made) = made() else { return };
    for (name, codec) in [("hevc.mp4", "hev1"), ("opus.mp4", "Opus")] {
        match Clip::open(&made.files[name]) {
            Err(Error::UnsupportedCodec(found)) => assert_eq!(found, codec),
            other => panic!("{name}: {:?}", other.err()),
        }
    }
}

#[test]
fn what_is_no_media_is_said_so() {
    let open = |bytes: &'static [u8]| Clip::from_bytes(bytes).err().unwrap();
    for bytes in
        [&b""[..], b"FL", b"hello, this is text", b"\0\0\0\x08ftyp", b"FLV\x01\x05\0\0\0\x09"]
    {
        let error = open(bytes);
        assert!(matches!(error, Error::NotMedia(_) | Error::Damaged { .. }), "{error}");
    }
    let error = Clip::open(Path::new("/nowhere/clip.mp4")).err().unwrap();
    assert!(error.to_string().starts_with("cannot read /nowhere/clip.mp4"), "{error}");
    assert!(matches!(Clip::open(Path::new("/")), Err(Error::NotMedia(_))));
}

/// Reads what an index names, as a publisher would.
fn drain(clip: &Clip) {
    for sample in clip.samples() {
        let _ = clip.read(sample);
    }
}

#[test]
fn a_file_cut_anywhere_is_read_or_refused() {
    let Some(made) = made() else { return };
    for name in ["plain.mp4", "faststart.mp4", "fragmented.mp4", "clip.flv", "quicktime.mov"] {
        let whole = Bytes::from(std::fs::read(&made.files[name]).unwrap());
        let step = (whole.len() / 400).max(1);
        let near_the_ends = (0..600).chain(whole.len().saturating_sub(600)..whole.len());
        for cut in near_the_ends.chain((0..whole.len()).step_by(step)) {
            match Clip::from_bytes(whole.slice(..cut.min(whole.len()))) {
                Ok(clip) => drain(&clip),
                Err(Error::NotMedia(_) | Error::Damaged { .. }) => {}
                Err(other) => panic!("{name} cut at {cut}: {other}"),
            }
        }
    }
}

/// Every byte of the index, and some elsewhere, set to what breaks parsers: no
/// panic, and no index that is larger than the file could fill.
#[test]
fn a_file_with_any_byte_changed_is_read_or_refused() {
    let Some(made) = made() else { return };
    for name in ["faststart.mp4", "fragmented.mp4", "clip.flv"] {
        let whole = std::fs::read(&made.files[name]).unwrap();
        for at in (0..whole.len().min(6000)).chain((6000..whole.len()).step_by(997)) {
            for value in [0u8, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                if let Ok(clip) = Clip::from_bytes(bytes) {
                    assert!(clip.samples().len() <= whole.len(), "{name} at {at}");
                    drain(&clip);
                }
            }
        }
    }
}

#[test]
fn short_nal_lengths_are_widened() {
    let config = Bytes::from_static(&[1, 66, 0, 30, 0xfd, 0xe1]);
    let sample = Sample {
        track: Track::Video,
        dts_ms: 7,
        composition_ms: 0,
        key: true,
        offset: 0,
        length: 4,
    };
    let source = Source::memory(Bytes::from_static(&[0, 2, 0x65, 0x88]));
    let found = Found { video: Some(config), audio: None, samples: vec![sample] };
    let clip = Clip::assemble(source, found).unwrap();
    assert_eq!(clip.video_config().unwrap()[4], 0xff);
    assert_eq!(clip.read(&clip.samples()[0]).unwrap()[..], [0, 0, 0, 2, 0x65, 0x88]);
    assert_eq!((clip.samples()[0].dts_ms, clip.duration_ms()), (0, 40));
}
