//! Cuts a viewer off and keeps it, and its user, out.

use std::time::Duration;

use spyglass_api::control::update::Update;
use spyglass_daemon::now_utc;
use spyglass_media::{BroadcastId, UtcTime, ViewerId};
use tracing::{info, warn};

use crate::events::viewers;
use crate::joined::{self, Who};
use crate::panel::Panel;
use crate::{away, revocations};

/// A kick outlives the tokens that it refuses by this much: clocks differ.
const SLACK: Duration = Duration::from_secs(60);

/// Further viewers of the same user that are cut with it: those who watch, and
/// the newest of those who joined. More tokens than that somebody has hoarded;
/// they are good until they expire, and control remembers so many kicks only.
const OTHERS: usize = 64;

/// Why a viewer was not kicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nobody of that name ever joined.
    Unknown,
    /// As many are kicked as control remembers.
    Full,
}

/// Refuses a viewer's tokens from now on until the last of them expires, cuts it
/// wherever it is, and keeps its user out, with the other viewers that it is in
/// this broadcast. While the store is away that is kept
/// here until it is back.
pub async fn kick(panel: &Panel, id: BroadcastId, viewer: ViewerId) -> Result<(), Refused> {
    let again = panel.revocations.contains(id, viewer);
    let who = match joined::find(panel, (id, viewer)).await {
        Ok(Some(who)) => who,
        Ok(None) if again => Who::default(),
        Ok(None) => return Err(Refused::Unknown),
        Err(error) => {
            if !away::is_away(&error) {
                warn!(%error, "who a kicked viewer was cannot be read");
            }
            // Nobody can tell that it never was.
            joined::who(panel, (id, viewer)).unwrap_or_default()
        }
    };
    let now = now_utc();
    revoke(panel, id, (viewer, who), now).await?;
    if let Some(user) = who.user {
        if !panel.kept_out.add(id, user, now) {
            return Err(Refused::Full);
        }
        // The same person, with another token.
        let others = joined::of_user(panel, id, user, OTHERS);
        for other in others.into_iter().filter(|(other, _)| *other != viewer) {
            revoke(panel, id, other, now).await?;
        }
    }
    if panel.store().is_away() {
        return Ok(());
    }
    // What fails here the store's return finds waiting.
    let kept = match panel.kept_out.write_all().await {
        Ok(()) => panel.revocations.write_all().await,
        failed => failed,
    };
    if let Err(error) = kept {
        warn!(%error, "a kick is not kept yet");
    }
    Ok(())
}

/// Refuses a viewer's tokens from now on, and cuts it.
async fn revoke(
    panel: &Panel,
    id: BroadcastId,
    (viewer, who): (ViewerId, Who),
    now: UtcTime,
) -> Result<(), Refused> {
    let expires = who.expires.unwrap_or_else(|| {
        let present = panel.live.get().watch_token_seconds;
        let life = present.max(panel.config.watch_token_seconds);
        now + Duration::from_secs(life.into())
    });
    let revocation = panel.revocations.refuse(id, viewer, expires.max(now) + SLACK);
    let revocation = revocation.map_err(|revocations::Full| Refused::Full)?;
    // Nobody waits for the store here: it may be slow.
    panel.links.send_all(&Update::Revocation(revocation));
    panel.seats.leave(id, viewer).await;
    panel.viewer_events.tell(viewers::Kind::Kicked, id, viewer);
    info!(broadcast = %id, %viewer, "viewer kicked");
    Ok(())
}
