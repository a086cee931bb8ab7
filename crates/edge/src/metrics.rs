//! An edge's counters (CONTRACT section 6, and what an operator asks next).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use spyglass_daemon::delay::Histograms;

use crate::outcome::CacheStatus;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfRequest {
    resource: &'static str,
    cache: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfFetch {
    resource: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfResource {
    resource: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfSource {
    from: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfTier {
    tier: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

/// What a request asked for: `spyglass_media::Resource::kind`, and the rest.
const KINDS: [&str; 6] = ["chunklist", "chunk", "part", "init", "steering", "other"];

/// Handles to all counters; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Looked up once: the counters of every request are at hand.
    requests: [[Counter; CacheStatus::ALL.len()]; KINDS.len()],
    fetches: Family<OfFetch, Counter>,
    closed: Family<OfReason, Counter>,
    /// From the origin, through a gateway.
    upstream: [Counter; 2],
    fallbacks: Family<OfReason, Counter>,
    downstream: Family<OfResource, Counter>,
    /// Gateways whose watch lives.
    pub gateways: Gauge,
    /// Edges that watch this one.
    pub watchers: Gauge,
    /// How long media took.
    pub delays: Histograms,
    /// Joined viewers who have asked lately.
    pub viewers: Gauge,
    /// Connections open.
    pub connections: Gauge,
    /// Requests that wait.
    pub waiting: Gauge,
    /// Bytes of bodies handed to the network.
    pub bytes: Counter,
    /// Broadcasts in the directory.
    pub broadcasts: Gauge,
    /// Directory entries for which there was no room.
    pub refused_broadcasts: Counter,
    /// Origins whose watch lives.
    pub watches: Gauge,
    /// Notices dropped because of `--ignore-notices`.
    pub ignored_notices: Counter,
}

impl Metrics {
    /// Makes the counters and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let requests: Family<OfRequest, Counter> = Family::default();
        let viewers: Family<OfTier, Gauge> = Family::default();
        let upstream: Family<OfSource, Counter> = Family::default();
        let metrics = Self {
            requests: KINDS.map(|resource| {
                CacheStatus::ALL.map(|status| {
                    let labels = OfRequest { resource, cache: status.as_str() };
                    requests.get_or_create(&labels).clone()
                })
            }),
            delays: Histograms::register(registry),
            fetches: Family::default(),
            closed: Family::default(),
            upstream: ["origin", "gateway"]
                .map(|from| upstream.get_or_create(&OfSource { from }).clone()),
            fallbacks: Family::default(),
            downstream: Family::default(),
            gateways: Gauge::default(),
            watchers: Gauge::default(),
            viewers: viewers.get_or_create(&OfTier { tier: "hls" }).clone(),
            connections: Gauge::default(),
            waiting: Gauge::default(),
            bytes: Counter::default(),
            broadcasts: Gauge::default(),
            refused_broadcasts: Counter::default(),
            watches: Gauge::default(),
            ignored_notices: Counter::default(),
        };
        registry.register("spyglass_edge_requests", "Requests answered", requests);
        registry.register(
            "spyglass_edge_fetches",
            "Fetches from upstream, by how they ended",
            metrics.fetches.clone(),
        );
        registry.register("spyglass_viewers", "Viewers who ask", viewers);
        registry.register("spyglass_edge_connections", "Open", metrics.connections.clone());
        registry.register(
            "spyglass_edge_requests_waiting",
            "Requests that wait for media to come",
            metrics.waiting.clone(),
        );
        registry.register(
            "spyglass_edge_connections_closed",
            "Connections that this edge closed, by reason",
            metrics.closed.clone(),
        );
        registry.register("spyglass_edge_sent_bytes", "Bodies sent", metrics.bytes.clone());
        registry.register("spyglass_edge_broadcasts", "Known", metrics.broadcasts.clone());
        registry.register(
            "spyglass_edge_broadcasts_refused",
            "Directory entries for which there was no room",
            metrics.refused_broadcasts.clone(),
        );
        registry.register(
            "spyglass_edge_upstream_fetches",
            "Fetches by whom they were made from",
            upstream,
        );
        registry.register(
            "spyglass_edge_gateway_fallbacks",
            "Fetches made from the origin because the gateway failed, by how; lost: a broadcast comes \
             from its origin because the gateway's watch broke",
            metrics.fallbacks.clone(),
        );
        // An alert needs a series before the first failure.
        for reason in ["lost", "unreachable", "silent"] {
            drop(metrics.fallbacks.get_or_create(&OfReason { reason }));
        }
        registry.register(
            "spyglass_edge_downstream_requests",
            "Requests from edges that fetch through this one",
            metrics.downstream.clone(),
        );
        registry.register("spyglass_edge_gateways", "Gateways watched", metrics.gateways.clone());
        registry.register(
            "spyglass_edge_watchers",
            "Edges that watch this one",
            metrics.watchers.clone(),
        );
        registry.register("spyglass_edge_watches", "Origins watched", metrics.watches.clone());
        registry.register(
            "spyglass_edge_notices_ignored",
            "Expire notices dropped because of --ignore-notices",
            metrics.ignored_notices.clone(),
        );
        metrics
    }

    /// A request waits until the result is dropped.
    pub fn wait(&self) -> Waiting {
        self.waiting.inc();
        Waiting(self.waiting.clone())
    }

    /// A request was answered; `resource` is its kind, `other` for none.
    pub fn request(&self, resource: &'static str, status: CacheStatus) {
        let kind = KINDS.iter().position(|kind| *kind == resource).unwrap_or(KINDS.len() - 1);
        self.requests[kind][status as usize].inc();
    }

    /// A fetch ended.
    pub fn fetch(&self, resource: &'static str, result: &'static str) {
        self.fetches.get_or_create(&OfFetch { resource, result }).inc();
    }

    /// A fetch begins, through a gateway or not.
    pub fn fetched_from(&self, gateway: bool) {
        self.upstream[usize::from(gateway)].inc();
    }

    /// A gateway failed like this, and the origin is asked.
    pub fn fell_back(&self, reason: &'static str) {
        self.fallbacks.get_or_create(&OfReason { reason }).inc();
    }

    /// Another edge asked for this kind of object.
    pub fn downstream(&self, resource: &'static str) {
        self.downstream.get_or_create(&OfResource { resource }).inc();
    }

    /// A connection was closed for this reason.
    pub fn closed(&self, reason: &'static str) {
        self.closed.get_or_create(&OfReason { reason }).inc();
    }
}

/// See [`Metrics::wait`].
#[derive(Debug)]
pub struct Waiting(Gauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_the_contract() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.request("chunklist", CacheStatus::Hit);
        metrics.request("no such kind", CacheStatus::Negative);
        metrics.fetch("chunk", "ok");
        metrics.viewers.set(3);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"spyglass_edge_requests_total{resource="chunklist",cache="hit"} 1"#,
            r#"spyglass_edge_requests_total{resource="other",cache="negative"} 1"#,
            r#"spyglass_edge_fetches_total{resource="chunk",result="ok"} 1"#,
            r#"spyglass_viewers{tier="hls"} 3"#,
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
