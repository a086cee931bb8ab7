//! Real encoders and players.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

/// What a clip has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clip {
    /// H.264 with B-frames at 25 frames a second, a key frame every second, and AAC.
    Both,
    /// The same without sound.
    VideoOnly,
    /// AAC only.
    AudioOnly,
}

/// A clip of 70 s, made once per test process.
pub fn clip(kind: Clip) -> &'static Path {
    static CLIPS: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = CLIPS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("both.flv");
        run(Command::new("ffmpeg")
            .args([
                "-v",
                "error",
                "-y",
                "-f",
                "lavfi",
                "-i",
                "testsrc2=size=320x180:rate=25",
                "-f",
                "lavfi",
                "-i",
                "sine=frequency=440:sample_rate=48000",
                "-t",
                "70",
                "-c:v",
                "libx264",
                "-preset",
                "ultrafast",
                "-bf",
                "2",
                "-b_strategy",
                "0",
                "-g",
                "25",
                "-keyint_min",
                "25",
                "-sc_threshold",
                "0",
                "-b:v",
                "300k",
                "-pix_fmt",
                "yuv420p",
                "-c:a",
                "aac",
                "-b:a",
                "64k",
                "-f",
                "flv",
            ])
            .arg(&output));
        for (name, drop) in [("video.flv", "-an"), ("audio.flv", "-vn")] {
            run(Command::new("ffmpeg")
                .args(["-v", "error", "-y", "-i"])
                .arg(&output)
                .args([drop, "-c", "copy", "-f", "flv"])
                .arg(dir.path().join(name)));
        }
        dir
    });
    let name = match kind {
        Clip::Both => "both.flv",
        Clip::VideoOnly => "video.flv",
        Clip::AudioOnly => "audio.flv",
    };
    Box::leak(dir.path().join(name).into_boxed_path())
}

/// Clips whose key frames stand 0.4 to 2.8 s apart, with sound, made anew in
/// `dir`: the same picture in two sizes, at 25 and at 30 frames a second.
pub fn uneven_clips(dir: &Path) -> [PathBuf; 2] {
    let keys = "0,0.8,2.2,2.6,5.4,6.4,8.8,9.4,11.2,13.6,14.0,16.4,18.8,19.4,21.2,23.2,25.6,28.0";
    [("320x180", "25", "small.flv"), ("426x240", "30", "large.flv")].map(|(size, rate, name)| {
        let output = dir.join(name);
        let picture = format!("testsrc2=size={size}:rate={rate}");
        run(Command::new("ffmpeg")
            .args(["-v", "error", "-y", "-f", "lavfi", "-i", &picture])
            .args(["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000", "-t", "30"])
            .args(["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-b_strategy", "0"])
            .args(["-g", "250", "-sc_threshold", "0", "-force_key_frames", keys])
            .args(["-b:v", "300k", "-pix_fmt", "yuv420p", "-c:a", "aac", "-b:a", "64k"])
            .args(["-f", "flv"])
            .arg(&output));
        output
    })
}

fn run(command: &mut Command) -> Output {
    let output =
        command.stdin(Stdio::null()).output().expect("ffmpeg is installed by scripts/test");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A running ffmpeg. Killed when dropped.
#[derive(Debug)]
pub struct Ffmpeg(Child);

impl Ffmpeg {
    /// Publishes a file in real time, again and again.
    pub fn publish(file: &Path, url: &str) -> Self {
        Self::publish_with(file, url, &[])
    }

    /// Publishes a file in real time with output options before the URL.
    pub fn publish_with(file: &Path, url: &str, options: &[&str]) -> Self {
        let child = Command::new("ffmpeg")
            .args(["-v", "error", "-re", "-stream_loop", "-1", "-i"])
            .arg(file)
            .args(["-c", "copy"])
            .args(options)
            .args(["-f", "flv", url])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ffmpeg is installed by scripts/test");
        Self(child)
    }

    /// Decodes `seconds` of a stream and drops the pictures.
    pub fn decode(url: &str, seconds: u32) -> Self {
        Self::player(url, seconds, &["-f", "null", "-"])
    }

    /// Decodes a stream from its newest chunk to its end and drops the pictures.
    pub fn decode_to_the_end(url: &str) -> Self {
        // In the stream's own clock: its frame rate may change.
        Self::player(url, 7_200, &["-enc_time_base", "-1", "-f", "null", "-"])
    }

    /// Stores `seconds` of a stream without decoding.
    pub fn record(url: &str, seconds: u32, file: &Path) -> Self {
        Self::player(url, seconds, &["-c", "copy", "-y", &file.display().to_string()])
    }

    fn player(url: &str, seconds: u32, output: &[&str]) -> Self {
        let child = Command::new("ffmpeg")
            .args(["-v", "error", "-xerror", "-i", url, "-t", &seconds.to_string()])
            .args(output)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ffmpeg is installed by scripts/test");
        Self(child)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// SIGSTOP: it reads and writes nothing more.
    pub fn stop(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    }

    /// Waits for the end; success and what it complained of.
    pub async fn finish(mut self) -> (bool, String) {
        let mut errors = self.0.stderr.take().unwrap();
        tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            let _ = std::io::Read::read_to_string(&mut errors, &mut text);
            let status = self.0.wait().unwrap();
            (status.success(), text)
        })
        .await
        .unwrap()
    }
}

impl Drop for Ffmpeg {
    fn drop(&mut self) {
        self.kill();
    }
}

/// ffprobe's packets of a file: stream, dts, size; in file order.
pub fn packets(file: &Path) -> Vec<String> {
    let output = run(Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "packet=codec_type,dts_time,size", "-of", "csv=p=0"])
        .arg(file));
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// What ffprobe says the streams of a URL are, e.g. `["h264", "aac"]`.
pub async fn codecs(url: &str) -> Vec<String> {
    let url = url.to_owned();
    let output = tokio::task::spawn_blocking(move || {
        run(Command::new("ffprobe").args([
            "-v",
            "error",
            "-show_entries",
            "stream=codec_name",
            "-of",
            "csv=p=0",
            &url,
        ]))
    })
    .await
    .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut codecs: Vec<String> = text
        .lines()
        .map(|line| line.trim_end_matches(',').to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    codecs.sort();
    codecs.dedup();
    codecs
}

/// Decodes a file whole; what ffmpeg complained of.
pub fn decode_errors(file: &Path) -> String {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(file)
        .args(["-f", "null", "-"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A file name in `dir`.
pub fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}
