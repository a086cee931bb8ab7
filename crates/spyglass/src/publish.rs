//! `spyglass publish`: a broadcaster. Creates a broadcast, sends a file in real
//! time with each key frame's capture time in it, ends the broadcast.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use spyglass_client::api::{Created, NewBroadcast};
use spyglass_client::clip::Clip;
use spyglass_client::publish::{self, Phase, Progress};
use spyglass_client::{Error, RtmpUrl, api::Api, broadcast};
use spyglass_daemon::{Shutdown, config};
use spyglass_media::Location;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::args::overlay;
use crate::ctl::Access;
use crate::watch::{StatusLine, print_line, seconds, stop_after};

/// A picture with a running clock and two soft notes; twelve seconds, made for
/// Spyglass by `scripts/make-demo-clip`.
static DEMO: &[u8] = include_bytes!("../assets/demo.mp4");

/// `spyglass publish`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// TOML file with settings; environment and flags win over it
    #[arg(long, value_name = "FILE", env = "SPYGLASS_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(clap::Args, Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    #[command(flatten)]
    #[serde(flatten)]
    access: Access,
    /// What to send: MP4 or FLV with H.264 and/or AAC
    #[arg(long, value_name = "FILE", env = "SPYGLASS_FILE", conflicts_with = "demo")]
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    /// Send the built-in clip
    #[arg(long)]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    demo: bool,
    /// Begin again at the end of the file
    #[arg(long = "loop")]
    #[serde(rename = "loop", skip_serializing_if = "std::ops::Not::not")]
    repeat: bool,
    /// The broadcast's title [default: the file's name]
    #[arg(long, value_name = "TEXT", env = "SPYGLASS_TITLE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// Stop after this many seconds
    #[arg(long = "for", value_name = "SECONDS", env = "SPYGLASS_FOR")]
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    /// Where the broadcaster stands, in degrees, e.g. 52.37,4.90; picks the origin
    #[arg(long, value_name = "LAT,LON", env = "SPYGLASS_LOCATION", allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<Location>,
    /// Publish to this stream URL instead of creating a broadcast, and do not end it
    #[arg(long, value_name = "URL", env = "SPYGLASS_TO", hide_env_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
}

/// Publishes until the end of the file, the given time or a signal.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    let settings: Settings = config::load(args.config.as_deref(), overlay(&args.settings)?)?;
    let clip = settings.clip()?;
    let limit = seconds("--for", settings.seconds)?;
    let config = publish::Config { repeat: settings.repeat, ..publish::Config::default() };
    let (progress, seen) = watch::channel(Progress::default());
    let stop = stop_after(limit, shutdown.clone());
    if let Some(to) = &settings.to {
        let to = RtmpUrl::parse(to)?;
        show_while(publish::publish(&clip, &to, config, &progress, stop), seen).await?;
        return Ok(());
    }
    if !settings.access.is_somebody() {
        bail!(
            "nobody may broadcast without a name: give --operator-key (or SPYGLASS_OPERATOR_KEY; \
             `spyglass up` keeps it in spyglass-data/control/operator-key) or a user's --token"
        );
    }
    let api = settings.access.api()?;
    let new = NewBroadcast {
        title: settings.title(),
        location: settings.location,
        ..NewBroadcast::default()
    };
    let sent = broadcast(&api, &new, &clip, config, announce, &progress, stop);
    show_while(sent, seen).await?;
    Ok(())
}

/// Broadcasts the built-in clip until `stop` resolves.
pub async fn demo(
    control: &str,
    operator_key: &str,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let announce = |created: &Created| {
        print_line(&format!("demo       {}", created.watch_url));
        print_line(&format!("           spyglass watch {} --control {control}", created.id));
    };
    publish_clip(control, operator_key, DEMO, "Demo broadcast", announce, stop).await
}

/// Broadcasts a clip that is in memory, again and again, until `stop` resolves.
pub async fn publish_clip(
    control: &str,
    operator_key: &str,
    clip: &'static [u8],
    title: &str,
    announce: impl FnOnce(&Created) + Send,
    stop: impl Future<Output = ()> + Send,
) -> anyhow::Result<()> {
    let api = Api::new(control, Some(operator_key.to_owned()))?;
    let clip = Clip::from_bytes(clip)?;
    let new = NewBroadcast { title: title.to_owned(), ..NewBroadcast::default() };
    let config = publish::Config { repeat: true, ..publish::Config::default() };
    let (progress, _) = watch::channel(Progress::default());
    broadcast(&api, &new, &clip, config, announce, &progress, stop).await?;
    Ok(())
}

impl Settings {
    fn clip(&self) -> anyhow::Result<Clip> {
        match &self.file {
            // That error names the file already.
            Some(file) => match Clip::open(file) {
                Err(error @ Error::Unreadable { .. }) => Err(error.into()),
                clip => clip.with_context(|| file.display().to_string()),
            },
            None if self.demo => Ok(Clip::from_bytes(DEMO)?),
            None => bail!("what to send? Give --file FILE (MP4 or FLV), or --demo"),
        }
    }

    fn title(&self) -> String {
        match (&self.title, self.file.as_ref().and_then(|file| file.file_stem())) {
            (Some(title), _) => title.clone(),
            (None, Some(stem)) => stem.to_string_lossy().into_owned(),
            (None, None) => "Demo broadcast".to_owned(),
        }
    }
}

fn announce(created: &Created) {
    print_line(&format!("broadcast {}", created.id));
    print_line(&format!("watch {}", created.watch_url));
    print_line(&format!("stream {}", created.publish.stream_url()));
}

/// Shows the progress while `sending` goes on.
async fn show_while<T>(sending: impl Future<Output = T>, progress: watch::Receiver<Progress>) -> T {
    let mut sending = pin!(sending);
    let mut line = StatusLine::new();
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    loop {
        tokio::select! {
            sent = &mut sending => return sent,
            _ = ticks.tick() => line.show(&status(&progress.borrow())),
        }
    }
}

fn status(progress: &Progress) -> String {
    let mut parts = vec![
        progress.phase.as_str().to_owned(),
        format!("{:.1} s", progress.media.as_secs_f64()),
        format!("{} frames", progress.frames),
        format!("{:.1} MB", progress.bytes as f64 / 1e6),
    ];
    if progress.behind >= Duration::from_millis(500) {
        parts.push(format!("{:.1} s behind", progress.behind.as_secs_f64()));
    }
    if progress.dropped > 0 {
        parts.push(format!("{} frames left out", progress.dropped));
    }
    if progress.reconnects > 0 {
        parts.push(format!("{} reconnects", progress.reconnects));
    }
    if let (Phase::Reconnecting, Some(error)) = (progress.phase, &progress.last_error) {
        parts.push(error.clone());
    }
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use spyglass_media::Track;

    use super::*;

    #[test]
    fn the_built_in_clip_is_fit_to_be_sent() {
        let clip = Clip::from_bytes(DEMO).unwrap();
        assert!(clip.video_config().is_some() && clip.audio_config().is_some());
        let keys = clip.samples().iter().filter(|s| s.track == Track::Video && s.key);
        let seconds = u64::try_from(clip.duration_ms()).unwrap() / 1000;
        assert!(keys.count() as u64 >= seconds / 3, "chunks are cut at key frames");
    }

    #[test]
    fn a_file_of_settings_has_the_names_of_the_flags() {
        let file =
            "control = 'http://h:1'\noperator_key = 'k'\nfile = 'a.mp4'\nloop = true\nfor = 3";
        let settings: Settings = toml::from_str(file).unwrap();
        assert!(settings.repeat && settings.access.is_somebody());
        assert_eq!(settings.title(), "a");
        let error = toml::from_str::<Settings>("fil = 'a.mp4'").unwrap_err().to_string();
        assert!(error.contains("fil"), "{error}");
    }

    #[test]
    fn the_status_says_what_is_wrong() {
        let progress = Progress {
            phase: Phase::Reconnecting,
            media: Duration::from_millis(1500),
            last_error: Some("gone".to_owned()),
            ..Progress::default()
        };
        assert_eq!(status(&progress), "reconnecting · 1.5 s · 0 frames · 0.0 MB · gone");
    }
}
