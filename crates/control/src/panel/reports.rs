//! What happens to broadcasts: their origins report it, people and control end
//! them. While the store is away the last of it waits in
//! [`crate::away::Unwritten`].

use std::sync::Arc;

use spyglass_api::control::{self, update::Update};
use spyglass_daemon::now_utc;
use spyglass_media::{BroadcastId, NodeId, UtcTime};
use tracing::{debug, info, warn};

use super::Panel;
use crate::away::{self, Untold};
use crate::record::{EndedBy, Phase, Record, Report};
use crate::store;

impl Panel {
    /// Follows the origin, unless the broadcast is another's or over.
    pub async fn on_report(&self, node: &NodeId, id: BroadcastId, said: Report) {
        let held = self.find(id).await;
        let Some(held) = held.filter(|held| held.origin == *node) else {
            debug!(broadcast = %id, %node, "event of a broadcast that is not there");
            return;
        };
        if self.store.is_away() {
            // Nobody waits for it: the node's heartbeats stand behind this.
            return self.unwritten().broadcast(id, Untold::Report(node.clone(), said));
        }
        let now = now_utc();
        let changed = self.broadcasts.change(id, |record| record.on_report(said, now)).await;
        match changed {
            Ok(Some((record, changed))) => {
                self.unwritten().on_report_written(id);
                if changed {
                    self.on_reported(&held, &record);
                } else if said.phase != Phase::Ended && record.ended_by == Some(EndedBy::Request) {
                    // Ended by request while the origin was away.
                    self.tell_end(&record);
                }
            }
            Ok(None) => {}
            Err(error) => {
                warn!(broadcast = %id, %error, "a broadcast cannot be written; it waits");
                self.unwritten().broadcast(id, Untold::Report(node.clone(), said));
            }
        }
    }

    fn on_reported(&self, before: &Record, now: &Record) {
        if now.phase != before.phase {
            info!(broadcast = %now.id, state = now.phase.as_str(), "broadcast");
        }
        if now.is_ended() {
            self.seats.end(now.id);
        }
    }

    fn tell_end(&self, record: &Record) {
        let end = control::End { broadcast: record.id.to_string() };
        self.links.send(&record.origin, Update::End(end));
    }

    /// Ends a broadcast; what stands now, or `None` when there is none.
    pub async fn end(
        &self,
        id: BroadcastId,
        by: EndedBy,
    ) -> Result<Option<Arc<Record>>, store::Error> {
        self.end_at(id, by, now_utc()).await
    }

    /// As [`Panel::end`], at a moment that may be past. While the store is away
    /// a request is obeyed by the origin at once, and written later.
    pub async fn end_at(
        &self,
        id: BroadcastId,
        by: EndedBy,
        at: UtcTime,
    ) -> Result<Option<Arc<Record>>, store::Error> {
        let end = |record: &mut Record| record.on_end(by, at);
        let ended = match self.store.is_away() {
            false => self.broadcasts.change(id, end).await,
            true => Err(store::Error::Unavailable("the store is away".to_owned())),
        };
        let ended = match ended {
            Err(error) if away::is_away(&error) && by == EndedBy::Request => {
                let Some(record) = self.broadcasts.get(id) else { return Ok(None) };
                let mut record = Record::clone(&record);
                let changed = end(&mut record);
                if changed {
                    self.unwritten().broadcast(id, Untold::End(by, at));
                }
                Some((Arc::new(record), changed))
            }
            ended => ended?,
        };
        let Some((record, changed)) = ended else { return Ok(None) };
        if changed {
            info!(broadcast = %id, ?by, "broadcast ended");
            self.seats.end(id);
            self.tell_end(&record);
        }
        Ok(Some(record))
    }
}
