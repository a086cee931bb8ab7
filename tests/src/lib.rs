//! What the tests of promises share: the real binary, real encoders and
//! players, and a plain HTTP client.
//!
//! Nothing here sleeps and hopes: waiting is always for something to be true,
//! with a deadline that fails the test and says what was missing.

pub mod browser;
pub mod ffmpeg;
pub mod herd;
pub mod hls;
pub mod http;
pub mod rtmp;
pub mod script;
pub mod several;
pub mod system;
pub mod world;

use std::future::Future;
use std::time::Duration;

/// Asks again and again until `check` gives a value.
///
/// # Panics
/// When `limit` is over; `what` is what was waited for.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + limit;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
