//! What came over HTTP.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Connections and requests.
#[derive(Debug, Default)]
pub struct HttpMetrics {
    requests: Family<[(&'static str, String); 2], Counter>,
    refused: Family<[(&'static str, &'static str); 1], Counter>,
    /// Open now.
    pub connections: Gauge,
    /// Closed since the client did not take what it had asked for, or did not send what it had announced.
    pub stalled: Counter,
}

impl HttpMetrics {
    /// In `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register("dots:http_requests", "HTTP requests, by route and status", this.requests.clone());
        registry.register("dots:requests_refused", "Requests that got an error, by its code", this.refused.clone());
        registry.register("dots:connections", "Open connections", this.connections.clone());
        registry.register(
            "dots:connections_stalled",
            "Connections that were closed because the client did not read",
            this.stalled.clone(),
        );
        this
    }

    /// A request to `route`, which is one of ours, was answered with `status`.
    pub fn answered(&self, route: &str, status: u16, refusal: Option<&'static str>) {
        self.requests.get_or_create(&[("route", route.to_owned()), ("status", status.to_string())]).inc();
        if let Some(reason) = refusal {
            self.refused.get_or_create(&[("reason", reason)]).inc();
        }
    }
}
