//! What comes out is what went in: a real encoder's frames, through segmenter
//! and muxer, decode to the same pictures and the same sound. Needs ffmpeg.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use spyglass_hls::playlist::{self, Encoding, Playlist};
use spyglass_hls::segmenter::Codec;
use spyglass_media::{Frame, MediaTime, Resource, Track};
use spyglass_testkit::flv::{self, Item};
use support::{Broadcast, seconds};

const PICTURES: &[&str] = &["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=11"];
const SOUND: &[&str] = &["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=11"];
const AVC: &[&str] =
    &["-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-g", "50", "-pix_fmt", "yuv420p"];
const AAC: &[&str] = &["-c:a", "aac", "-ac", "2"];

/// Runs a tool; it must succeed and have nothing to complain about.
fn run(tool: &str, args: &[&[&str]]) -> String {
    let output = Command::new(tool)
        .args(["-v", "error"])
        .args(args.concat())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("these tests need {tool}: {error}"));
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{tool}: {complaints}");
    String::from_utf8(output.stdout).unwrap()
}

/// Encodes with these inputs and codecs, segments, and writes `out.mp4`.
fn through(directory: &Path, inputs: &[&[&str]], codecs: &[&[&str]]) -> (Broadcast, Vec<Frame>) {
    let source = directory.join("source.flv");
    let target = source.to_str().unwrap();
    run("ffmpeg", &[inputs, codecs, &[&[target]]].concat());
    let mut broadcast = Broadcast::new(seconds(3.0));
    let mut frames = Vec::new();
    for item in flv::items(&fs::read(&source).unwrap()) {
        match item {
            Item::VideoConfig(record) => broadcast.segmenter.on_codec(Codec::Video(record)),
            Item::AudioConfig(record) => broadcast.segmenter.on_codec(Codec::Audio(record)),
            Item::Frame(frame) => {
                broadcast.pass_until(frame.dts.since(MediaTime::ZERO));
                broadcast.frame(&frame);
                frames.push(frame);
            }
        }
    }
    broadcast.end();
    assert_eq!(broadcast.inits().len(), 1);
    let mut file = broadcast.inits()[0].bytes.to_vec();
    for chunk in broadcast.chunks() {
        file.extend_from_slice(&chunk.bytes);
    }
    fs::write(directory.join("out.mp4"), file).unwrap();
    (broadcast, frames)
}

/// The hashes of the decoded frames of a stream (`v` or `a`).
fn decoded(directory: &Path, file: &str, stream: &str) -> Vec<String> {
    let path = directory.join(file);
    let map = format!("0:{stream}");
    let text = run(
        "ffmpeg",
        &[
            &["-i", path.to_str().unwrap(), "-map", &map, "-fps_mode", "passthrough"],
            &["-f", "framemd5", "-"],
        ],
    );
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| Some(line.rsplit(',').next()?.trim().to_owned())).collect()
}

/// When the packets of a stream are presented, in seconds.
fn times(directory: &Path, file: &str, stream: &str) -> Vec<f64> {
    let path = directory.join(file);
    let text = run(
        "ffprobe",
        &[
            &["-select_streams", stream, "-show_entries", "packet=pts_time", "-of", "csv=p=0"],
            &[path.to_str().unwrap()],
        ],
    );
    text.lines().filter_map(|line| line.trim_end_matches(',').parse().ok()).collect()
}

#[test]
fn video_with_b_frames_and_audio_decode_to_the_same_and_stay_in_step() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (broadcast, frames) = through(directory, &[PICTURES, SOUND], &[AVC, AAC]);
    assert!(frames.iter().any(|frame| frame.composition > 0), "no B-frames to test with");
    assert_eq!(broadcast.inits()[0].resolution, Some((320, 180)));
    assert!(broadcast.chunks().iter().all(|chunk| chunk.independent));
    assert_eq!(decoded(directory, "out.mp4", "v"), decoded(directory, "source.flv", "v"));

    // Sound before the first key frame is left out, and the first frame behind
    // a cut decodes differently from then on by one frame.
    let first = frames.iter().find(|frame| frame.track == Track::Video).unwrap().dts;
    let early =
        frames.iter().filter(|frame| frame.track == Track::Audio && frame.dts < first).count();
    let (out, source) = (decoded(directory, "out.mp4", "a"), decoded(directory, "source.flv", "a"));
    assert_eq!(out.len(), source.len() - early);
    assert_eq!(out[1..], source[early + 1..]);

    for (stream, early) in [("v", 0), ("a", early)] {
        let (out, source) =
            (times(directory, "out.mp4", stream), times(directory, "source.flv", stream));
        assert_eq!(out.len(), source.len() - early);
        for (out, source) in out.iter().zip(&source[early..]) {
            assert!((out - source).abs() < 0.002, "{stream}: {out} is not {source}");
        }
    }
}

#[test]
fn a_viewer_can_begin_at_any_chunk() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (broadcast, _) = through(directory, &[PICTURES, SOUND], &[AVC, AAC]);
    let whole = decoded(directory, "out.mp4", "v");
    let mut file = broadcast.inits()[0].bytes.to_vec();
    for chunk in &broadcast.chunks()[1..] {
        file.extend_from_slice(&chunk.bytes);
    }
    fs::write(directory.join("late.mp4"), file).unwrap();
    let late = decoded(directory, "late.mp4", "v");
    assert!(late.len() > 100);
    assert!(whole.ends_with(&late));
}

#[test]
fn a_player_follows_the_list_over_a_reconnect() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (_, frames) = through(directory, &[PICTURES, SOUND], &[AVC, AAC]);
    let mut broadcast = Broadcast::new(seconds(3.0));
    let mut start = MediaTime::ZERO;
    for _ in 0..2 {
        broadcast.connect(None, None);
        for item in flv::items(&fs::read(directory.join("source.flv")).unwrap()) {
            match item {
                Item::VideoConfig(record) => broadcast.segmenter.on_codec(Codec::Video(record)),
                Item::AudioConfig(record) => broadcast.segmenter.on_codec(Codec::Audio(record)),
                Item::Frame(mut frame) => {
                    frame.dts = start + frame.dts.since(MediaTime::ZERO);
                    broadcast.pass_until(frame.dts.since(MediaTime::ZERO));
                    broadcast.frame(&frame);
                }
            }
        }
        start = MediaTime::ZERO + broadcast.now() + seconds(0.04);
    }
    broadcast.end();
    assert_eq!(broadcast.inits().len(), 2);
    for rendition in playlist::render(&broadcast.list.snapshot()).variants {
        let name = match (rendition.playlist, rendition.encoding) {
            (Playlist::Media, Encoding::Identity) => Resource::Chunklist,
            (Playlist::Multivariant, Encoding::Identity) => Resource::Index,
            _ => continue,
        };
        fs::write(directory.join(name.to_string()), rendition.bytes).unwrap();
    }
    for init in broadcast.inits() {
        let name = Resource::Init { epoch: init.epoch }.to_string();
        fs::write(directory.join(name), &init.bytes).unwrap();
    }
    for chunk in broadcast.chunks() {
        let name = Resource::Chunk { epoch: chunk.epoch, sequence: chunk.sequence }.to_string();
        fs::write(directory.join(name), &chunk.bytes).unwrap();
    }
    let pictures = frames.iter().filter(|frame| frame.track == Track::Video).count();
    assert_eq!(decoded(directory, "index.m3u8", "v").len(), 2 * pictures);
}

#[test]
fn audio_alone_decodes_to_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (broadcast, _) = through(directory, &[SOUND], &[AAC]);
    assert!(broadcast.chunks().len() >= 3);
    assert_eq!(decoded(directory, "out.mp4", "a"), decoded(directory, "source.flv", "a"));
}

#[test]
fn video_alone_decodes_to_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (broadcast, _) = through(directory, &[PICTURES], &[AVC]);
    assert!(broadcast.chunks().len() >= 3);
    assert_eq!(decoded(directory, "out.mp4", "v"), decoded(directory, "source.flv", "v"));
}
