//! What control counts (CONTRACT: metrics).

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Label = (&'static str, &'static str);

/// Clones share the numbers.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Viewers now, by tier.
    pub viewers: Family<[Label; 1], Gauge>,
    /// Broadcasts now, by state.
    pub broadcasts: Family<[Label; 1], Gauge>,
    /// Nodes now, by role and state.
    pub nodes: Family<[Label; 2], Gauge>,
    /// Viewers admitted, by tier.
    pub joins: Family<[Label; 1], Counter>,
    /// Requests answered, by route and status.
    pub requests: Family<[(&'static str, String); 2], Counter>,
    /// Requests refused because there had been too many, by limit.
    pub limited: Family<[Label; 1], Counter>,
    /// HTTP connections closed by control, by reason.
    pub closed: Family<[Label; 1], Counter>,
    /// Nodes chosen, by role and by what told where from.
    pub placements: Family<[Label; 2], Counter>,
    /// Messages of webhooks, by what became of them.
    pub webhooks: Family<[Label; 1], Counter>,
    /// Streams of notifications and events that are open.
    pub streams: Gauge,
    /// Actions that are not in the audit log.
    pub audit_lost: Counter,
    /// Viewers not counted because there were too many.
    pub leases_refused: Gauge,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "spyglass_viewers",
            "Viewers who joined, by the tier they watch on",
            metrics.viewers.clone(),
        );
        registry.register(
            "spyglass_control_broadcasts",
            "Broadcasts that control remembers, by state",
            metrics.broadcasts.clone(),
        );
        registry.register(
            "spyglass_control_nodes",
            "Origins and edges, by role and state",
            metrics.nodes.clone(),
        );
        registry.register(
            "spyglass_control_joins",
            "Viewers admitted, by tier",
            metrics.joins.clone(),
        );
        registry.register(
            "spyglass_control_requests",
            "HTTP requests answered, by route and status",
            metrics.requests.clone(),
        );
        registry.register(
            "spyglass_control_limited",
            "Requests refused because there had been too many, by limit",
            metrics.limited.clone(),
        );
        registry.register(
            "spyglass_control_closed_connections",
            "HTTP connections closed: full, address_full (max_connections and its kin), idle",
            metrics.closed.clone(),
        );
        registry.register(
            "spyglass_control_webhooks",
            "Messages of webhooks: delivered, failed attempts, and dropped for good",
            metrics.webhooks.clone(),
        );
        registry.register(
            "spyglass_control_streams",
            "Streams of notifications and events that are open",
            metrics.streams.clone(),
        );
        registry.register(
            "spyglass_control_placements",
            "Nodes chosen, by role and by how the place was known",
            metrics.placements.clone(),
        );
        registry.register(
            "spyglass_control_audit_lost",
            "Actions of operators and users that could not be written to the audit log",
            metrics.audit_lost.clone(),
        );
        registry.register(
            "spyglass_control_leases_refused",
            "Viewers not counted because max_viewers was reached",
            metrics.leases_refused.clone(),
        );
        metrics
    }
}
