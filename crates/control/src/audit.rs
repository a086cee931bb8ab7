//! The audit log: who changed what, from where, and what came of it.
//!
//! An entry is written for every operation that changes something and that the
//! operator or a user asked for; viewers who come and go are not in it, nor is
//! whoever has no credentials. It never holds bodies, tokens or keys. Which
//! operations there are, and reading the log, lives in `http/audit.rs`; how long
//! entries are kept is the engine's matter ([`Log::Audit`]).

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use spyglass_daemon::now_utc;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::panel::{Caller, Panel};
use crate::store::{self, Log};

/// An action waits so long for its entry, and is answered then all the same.
const WRITE: Duration = Duration::from_secs(2);

/// Entries of one process: what tells their ids apart.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// What was done, or tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was over, RFC 3339.
    pub at: String,
    /// `operator`, or the id of a user.
    pub actor: String,
    /// The operation's id in the OpenAPI document.
    pub action: String,
    /// The ids in the path, joined by `/`, or the id of what was made.
    pub object: Option<String>,
    /// Where the request came from.
    pub address: IpAddr,
    /// The status of the answer; none when whoever asked did not wait for it.
    pub outcome: Option<u16>,
    /// Which control did it.
    pub control: String,
}

/// Who does it: told by whoever reads the credentials.
#[derive(Clone, Debug, Default)]
pub struct Actor(Arc<OnceLock<String>>);

impl Actor {
    /// It is this one. Only the operator and users are written down.
    pub fn is(&self, caller: &Caller) {
        let actor = match caller {
            Caller::Operator => "operator".to_owned(),
            Caller::User(user) => user.to_string(),
            Caller::Anyone | Caller::Viewer(_) => return,
        };
        // The same again, when credentials are read twice.
        let _ = self.0.set(actor);
    }
}

/// One action under way. It is written when it is over, and also when it is cut
/// short: it may have been done by then.
pub struct Deed {
    panel: Arc<Panel>,
    /// The operation's id.
    action: &'static str,
    address: IpAddr,
    /// Ids as they stand in the path.
    object: Option<String>,
    actor: Actor,
    written: bool,
}

impl Deed {
    /// `ids`: what the path names.
    pub fn new<'a>(
        panel: Arc<Panel>,
        action: &'static str,
        address: IpAddr,
        ids: impl Iterator<Item = &'a str>,
    ) -> Self {
        let ids: Vec<&str> =
            ids.map(|id| if panel.is_operator(Some(id)) { HIDDEN } else { shown(id) }).collect();
        let object = (!ids.is_empty()).then(|| ids.join("/"));
        Self { panel, action, address, object, actor: Actor::default(), written: false }
    }

    /// To be told who does it; nothing is written when nobody is named.
    pub fn actor(&self) -> Actor {
        self.actor.clone()
    }

    /// Nothing was tried.
    pub fn forget(mut self) {
        self.written = true;
    }

    /// It is over: writes it. Never fails; what cannot be written is counted.
    pub async fn done(mut self, outcome: u16, made: Option<&str>) {
        if self.object.is_none() {
            self.object = made.map(|id| shown(id).to_owned());
        }
        if let Some(writing) = self.write(Some(outcome)) {
            // The task goes on when nobody waits any more.
            let _ = tokio::time::timeout(WRITE, writing).await;
        }
    }

    fn write(&mut self, outcome: Option<u16>) -> Option<JoinHandle<()>> {
        if std::mem::replace(&mut self.written, true) {
            return None;
        }
        let entry = Entry {
            at: now_utc().rfc3339(),
            actor: self.actor.0.get()?.clone(),
            action: self.action.to_owned(),
            object: self.object.take(),
            address: self.address,
            outcome,
            control: self.panel.instance.clone(),
        };
        let panel = Arc::clone(&self.panel);
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        Some(runtime.spawn(async move {
            if let Err(error) = append(&panel, &entry).await {
                panel.metrics.audit_lost.inc();
                warn!(%error, actor = entry.actor, action = entry.action, "not in the audit log");
            }
        }))
    }
}

impl Drop for Deed {
    fn drop(&mut self) {
        self.write(None);
    }
}

async fn append(panel: &Panel, entry: &Entry) -> Result<u64, store::Error> {
    let id = format!("audit/{}-{}", panel.instance, COUNT.fetch_add(1, Ordering::Relaxed));
    let payload = serde_json::to_vec(entry);
    let payload = payload.map_err(|_| store::Error::Unfit("an entry that is no JSON"))?;
    panel.engine.append(Log::Audit, &id, Bytes::from(payload)).await
}

/// Up to `limit` entries after `after` with their sequences, and after what the
/// next page begins, if this one was full.
///
/// # Errors
/// When the engine cannot be asked.
pub async fn read(
    panel: &Panel,
    after: u64,
    limit: usize,
) -> Result<(Vec<(u64, Entry)>, Option<u64>), store::Error> {
    let logged = panel.engine.read(Log::Audit, after, limit).await?;
    let last = logged.last().map(|logged| logged.sequence);
    let next = last.filter(|_| logged.len() >= limit);
    let entry = |logged: &store::Logged| match serde_json::from_slice(&logged.payload) {
        Ok(entry) => Some((logged.sequence, entry)),
        Err(error) => {
            warn!(sequence = logged.sequence, %error, "an audit entry cannot be read");
            None
        }
    };
    Ok((logged.iter().filter_map(entry).collect(), next))
}

/// Stands for what is not shown.
const HIDDEN: &str = "?";

/// Ids as they are. Anything else that somebody put in a path may be a secret.
fn shown(id: &str) -> &str {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !id.is_empty() && id.len() <= 63 && id.bytes().all(fits) { id } else { HIDDEN }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_an_id_is_shown() {
        assert_eq!(shown("0123456789abc"), "0123456789abc");
        assert_eq!(shown("edge-1"), "edge-1");
        for other in ["", "v4.public.abc", "a b", "a\nb", &"a".repeat(64)] {
            assert_eq!(shown(other), HIDDEN, "{other}");
        }
    }

    #[test]
    fn an_entry_reads_back_and_one_of_a_later_release_too() {
        let entry = Entry {
            at: "2026-01-01T00:00:00.000Z".into(),
            actor: "operator".into(),
            action: "drainNode".into(),
            object: Some("edge-1".into()),
            address: "::1".parse().unwrap(),
            outcome: Some(202),
            control: "a".into(),
        };
        let mut written = serde_json::to_value(&entry).unwrap();
        written["later"] = 1.into();
        assert_eq!(serde_json::from_value::<Entry>(written).unwrap(), entry);
    }
}
