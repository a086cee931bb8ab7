//! A publisher and a viewer, as libraries.
//!
//! What `spyglass publish`, `spyglass watch` and the laboratory are made of:
//! they speak to Spyglass from outside, over RTMP and HTTP, as any encoder,
//! player and app does, and depend on no service.
//!
//! - [`api`]: the control API
//! - [`clip`]: MP4 and FLV files as frames with times
//! - [`publish`]: sends a clip in real time
//! - [`play_rtmp`], [`play_hls`]: two viewers that tell when what arrived
//! - [`stamp`]: the capture times in a received chunk
//! - [`player`]: the paper's player model: what would have stalled
//! - [`broadcast()`], [`view`]: whole sessions: create and publish; join, play, leave
//!
//! RTMP itself is `spyglass-rtmp`; this crate gives it a socket and the time.

pub mod api;
mod broadcast;
pub mod clip;
mod connection;
mod error;
mod http;
pub mod play_hls;
pub mod play_rtmp;
pub mod player;
pub mod publish;
pub mod stamp;
#[cfg(test)]
mod testing;
mod url;
pub mod view;
mod way;

pub use broadcast::broadcast;
pub use error::Error;
pub use url::RtmpUrl;

use spyglass_media::UtcTime;

/// The operating system's clock.
fn utc_now() -> UtcTime {
    UtcTime::from_system(std::time::SystemTime::now())
}

/// Random bytes; zeros should the system have none, since nothing secret is
/// made of them here.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if let Err(error) = getrandom::fill(&mut bytes) {
        tracing::warn!(%error, "the system gives no random numbers");
    }
    bytes
}
