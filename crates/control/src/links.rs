//! What waits to be sent to each node.
//!
//! A bounded queue for each open stream. Whoever does not take what it is sent
//! loses its stream, and gets everything anew when it comes back.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use spyglass_api::control::{Update, update};
use spyglass_media::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Updates that may wait for one node.
const WAITING: usize = 1_024;

/// The streams that are open; the locks are held for a few lines.
#[derive(Default)]
pub struct Links {
    open: Mutex<HashMap<NodeId, Link>>,
    turns: Mutex<HashMap<NodeId, Weak<tokio::sync::Mutex<()>>>>,
}

/// Held by the one stream of a node whose reports are applied: those of its next
/// wait until what this one has brought is done.
pub type Turn = Arc<tokio::sync::Mutex<()>>;

/// One stream, at control's end.
pub struct Link {
    session: u64,
    updates: mpsc::Sender<Update>,
    /// Tells the task that reads the reports.
    over: CancellationToken,
    /// Tells the node why, when there is something to say.
    reason: Option<oneshot::Sender<String>>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// The node's side of a link.
pub struct Opened {
    /// What it is to be sent; ends when the link is over.
    pub updates: mpsc::Receiver<Update>,
    /// The link is over.
    pub over: CancellationToken,
    /// Why it is over, if the node is to know.
    pub reason: oneshot::Receiver<String>,
    /// The stream that the node had before: over when this is dropped.
    pub replaced: Option<Link>,
    /// Whose reports are applied.
    pub turn: Turn,
}

impl Links {
    /// A node opened a stream; one that it had before is over.
    pub fn open(&self, node: &NodeId, session: u64) -> Opened {
        let (updates, waiting) = mpsc::channel(WAITING);
        let over = CancellationToken::new();
        let (tell, reason) = oneshot::channel();
        let link = Link { session, updates, over: over.clone(), reason: Some(tell) };
        let replaced = self.open.lock().insert(node.clone(), link);
        Opened { updates: waiting, over, reason, replaced, turn: self.turn(node) }
    }

    fn turn(&self, node: &NodeId) -> Turn {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(node).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Turn::default();
        turns.insert(node.clone(), Arc::downgrade(&turn));
        turn
    }

    /// A node's stream is over, unless it has opened another.
    pub fn close(&self, node: &NodeId, session: u64) {
        let mut links = self.open.lock();
        if links.get(node).is_some_and(|link| link.session == session) {
            links.remove(node);
        }
    }

    /// Cancelled when the stream that a node has now is over; `None` when it has
    /// none.
    pub fn over(&self, node: &NodeId) -> Option<CancellationToken> {
        self.open.lock().get(node).map(|link| link.over.clone())
    }

    /// A node's stream is over, whichever it is.
    pub fn close_node(&self, node: &NodeId) {
        self.open.lock().remove(node);
    }

    /// Every stream is over.
    pub fn close_all(&self) {
        self.open.lock().clear();
    }

    /// For one node; nothing happens when it has no stream.
    pub fn send(&self, node: &NodeId, update: update::Update) {
        let mut links = self.open.lock();
        let full = links.get(node).is_some_and(|link| !link.offer(update));
        if full {
            warn!(%node, "a node does not take what it is sent; its stream is closed");
            links.remove(node);
        }
    }

    /// For every node that has a stream.
    pub fn send_all(&self, update: &update::Update) {
        self.open.lock().retain(|node, link| {
            let taken = link.offer(update.clone());
            if !taken {
                warn!(%node, "a node does not take what it is sent; its stream is closed");
            }
            taken
        });
    }
}

impl Link {
    /// Ends it with a word for whoever is at the other end.
    pub fn end(mut self, reason: String) {
        if let Some(tell) = self.reason.take() {
            // It may have gone already.
            let _ = tell.send(reason);
        }
    }

    fn offer(&self, update: update::Update) -> bool {
        self.updates.try_send(Update { update: Some(update) }).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spyglass_api::control::Drain;

    fn drain() -> update::Update {
        update::Update::Drain(Drain { draining: true })
    }

    #[tokio::test]
    async fn a_node_that_does_not_read_loses_its_stream() {
        let links = Links::default();
        let (slow, quick): (NodeId, NodeId) = ("slow".parse().unwrap(), "quick".parse().unwrap());
        let mut opened = links.open(&slow, 1);
        for _ in 0..WAITING {
            links.send(&slow, drain());
        }
        let mut other = links.open(&quick, 2);
        assert!(!opened.over.is_cancelled());
        links.send_all(&drain());
        assert!(opened.over.is_cancelled());
        let mut got = 0;
        while opened.updates.recv().await.is_some() {
            got += 1;
        }
        assert_eq!(got, WAITING, "what waited is still sent");
        assert!(other.updates.recv().await.is_some());
    }

    #[tokio::test]
    async fn a_second_stream_ends_the_first() {
        let links = Links::default();
        let node: NodeId = "edge-1".parse().unwrap();
        let first = links.open(&node, 1);
        let busy = first.turn.try_lock().unwrap();
        let second = links.open(&node, 2);
        assert!(second.turn.try_lock().is_err(), "the first is at a report");
        drop(busy);
        assert!(second.turn.try_lock().is_ok());
        second.replaced.unwrap().end("another".into());
        assert_eq!(first.reason.await.unwrap(), "another");
        links.close(&node, 1);
        assert!(first.over.is_cancelled() && !second.over.is_cancelled());
        links.close(&node, 2);
        assert!(second.over.is_cancelled());
    }
}
