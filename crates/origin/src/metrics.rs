//! An origin's counters (CONTRACT section 6, and what an operator asks next).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use spyglass_daemon::delay::Histograms;
use spyglass_media::BroadcastId;

/// A label set of one broadcast id.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OfBroadcast {
    broadcast: String,
}

/// A label set of one resource kind.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OfResource {
    resource: &'static str,
}

/// A label set of one tier.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OfTier {
    tier: &'static str,
}

/// Handles to all counters; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    chunks: Family<OfBroadcast, Counter>,
    requests: Family<OfResource, Counter>,
    viewers: Family<OfTier, Gauge>,
    /// How long media took.
    pub delays: Histograms,
    /// Publishers connected.
    pub publishers: Gauge,
    /// Edges watching.
    pub watchers: Gauge,
    /// Bytes sent to push viewers, broadcasters and edges.
    pub sent: Counter,
    /// Frames that slow push viewers lost.
    pub frames_dropped: Counter,
    /// Journal pages left out because the disk was slow.
    pub journal_skipped: Counter,
}

impl Metrics {
    /// Makes the counters and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self { delays: Histograms::register(registry), ..Self::default() };
        registry.register(
            "spyglass_origin_chunks",
            "Chunks made, per public broadcast while it lives",
            metrics.chunks.clone(),
        );
        registry.register(
            "spyglass_origin_requests",
            "Fetches answered for edges",
            metrics.requests.clone(),
        );
        registry.register("spyglass_viewers", "Viewers connected", metrics.viewers.clone());
        registry.register(
            "spyglass_origin_publishers",
            "Publishers connected",
            metrics.publishers.clone(),
        );
        registry.register("spyglass_origin_watchers", "Edges watching", metrics.watchers.clone());
        registry.register(
            "spyglass_origin_sent_bytes",
            "Bytes sent to push viewers, broadcasters and edges",
            metrics.sent.clone(),
        );
        registry.register(
            "spyglass_origin_frames_dropped",
            "Frames that slow push viewers lost",
            metrics.frames_dropped.clone(),
        );
        registry.register(
            "spyglass_origin_journal_skipped",
            "Journal pages left out because the disk was slow",
            metrics.journal_skipped.clone(),
        );
        for resource in ["chunklist", "chunk", "part", "init"] {
            let _ = metrics.requests.get_or_create(&OfResource { resource });
        }
        let _ = metrics.viewers.get_or_create(&OfTier { tier: "push" });
        metrics
    }

    /// A chunk was made.
    pub fn chunk(&self, broadcast: BroadcastId, private: bool) {
        if !private {
            self.chunks.get_or_create(&OfBroadcast { broadcast: broadcast.to_string() }).inc();
        }
    }

    /// A broadcast ended: its series goes with it.
    pub fn forget(&self, broadcast: BroadcastId) {
        self.chunks.remove(&OfBroadcast { broadcast: broadcast.to_string() });
    }

    /// A fetch was asked for.
    pub fn request(&self, resource: &'static str) {
        self.requests.get_or_create(&OfResource { resource }).inc();
    }

    /// Push viewers connected.
    pub fn push_viewers(&self) -> Gauge {
        self.viewers.get_or_create(&OfTier { tier: "push" }).clone()
    }
}
