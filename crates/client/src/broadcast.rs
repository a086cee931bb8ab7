//! A whole broadcast: created at control, published, ended.

use std::future::Future;

use tokio::sync::watch;

use crate::api::{Api, Created, NewBroadcast};
use crate::clip::Clip;
use crate::publish::{Config, Finish, Progress, publish};
use crate::{Error, RtmpUrl};

/// Creates a broadcast, tells `announce` of it, sends `clip` and ends the
/// broadcast, however the sending ended.
///
/// # Errors
/// When control refuses, or as [`publish`].
pub async fn broadcast(
    api: &Api,
    new: &NewBroadcast,
    clip: &Clip,
    config: Config,
    announce: impl FnOnce(&Created) + Send,
    progress: &watch::Sender<Progress>,
    stop: impl Future<Output = ()> + Send,
) -> Result<Finish, Error> {
    let created = api.create_broadcast(new).await?;
    announce(&created);
    let to = RtmpUrl::parse(&created.publish.stream_url())?;
    let sent = publish(clip, &to, config, progress, stop).await;
    if !matches!(sent, Ok(Finish::Ended)) {
        // Otherwise viewers would wait for it to be resumed.
        if let Err(error) = api.end(created.id).await {
            tracing::warn!(%error, broadcast = %created.id, "control could not be told of the end");
        }
    }
    sent
}
