//! What `/metrics` says: under vLLM's names where it means the same, so that boards made for vLLM show it, and under `dots:`
//! where it does not.

pub mod engine;
pub mod http;
pub mod process;
pub mod requests;

use std::borrow::Cow;

use dots_engine::Stats;
use prometheus_client::{encoding::prometheus_text, registry::Registry};

use crate::options::PlannedMemory;

/// The type of what [`Metrics::encode`] gives.
pub use prometheus_text::CONTENT_TYPE;

/// Every metric of the server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    engine: engine::EngineMetrics,
    /// What requests to the model were like.
    pub requests: requests::RequestMetrics,
    /// What came over HTTP.
    pub http: http::HttpMetrics,
    process: process::ProcessMetrics,
}

impl Metrics {
    /// Of a model under this name with this longest sequence.
    pub fn new(model_name: &str, max_model_len: usize, memory: PlannedMemory) -> Self {
        let mut registry = Registry::default();
        // vLLM numbers its engines; there is one here.
        let labels = [("model_name", model_name.to_owned()), ("engine", "0".to_owned())];
        let labels = labels.map(|(name, value)| (Cow::Borrowed(name), Cow::Owned(value)));
        let of_model = registry.sub_registry_with_labels(labels.into_iter());
        let engine = engine::EngineMetrics::register(of_model);
        let requests = requests::RequestMetrics::register(of_model, max_model_len);
        let http = http::HttpMetrics::register(&mut registry);
        let process = process::ProcessMetrics::register(&mut registry, memory);
        Self { registry, engine, requests, http, process }
    }

    /// All of them in Prometheus' text format.
    pub fn encode(&self, stats: &Stats) -> String {
        self.engine.set(stats);
        self.process.set();
        let mut text = String::new();
        match prometheus_text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Writing into a string does not fail.
            Err(error) => {
                tracing::error!(%error, "metrics could not be written");
                String::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("dots \"1\"", 4096, PlannedMemory { weights_bytes: 7, ..PlannedMemory::default() })
    }

    #[test]
    fn the_text_is_as_prometheus_reads_it() {
        let metrics = metrics();
        metrics.requests.ended("stop");
        metrics.requests.time_to_first_token.observe(0.02);
        let mut stats = Stats { running: 3, free_blocks: 1, total_blocks: 4, ..Stats::default() };
        (stats.steps, stats.computed_tokens, stats.prefix_hit_tokens) = (3, 40, 9);
        (stats.steps_by_tokens[0], stats.steps_by_tokens[2]) = (1, 2);
        let text = metrics.encode(&stats);
        let of_model = "{model_name=\"dots \\\"1\\\"\",engine=\"0\"";
        for line in [
            "# TYPE vllm:num_requests_running gauge".to_owned(),
            format!("vllm:num_requests_running{of_model}}} 3"),
            format!("vllm:kv_cache_usage_perc{of_model}}} 0.75"),
            "# TYPE vllm:request_success_total counter".to_owned(),
            format!("vllm:request_success_total{of_model},finished_reason=\"stop\"}} 1"),
            format!("vllm:request_success_total{of_model},finished_reason=\"abort\"}} 0"),
            "# TYPE vllm:time_to_first_token_seconds histogram".to_owned(),
            format!("vllm:time_to_first_token_seconds_bucket{of_model},le=\"0.02\"}} 1"),
            "# TYPE vllm:iteration_tokens_total histogram".to_owned(),
            format!("vllm:iteration_tokens_total_bucket{of_model},le=\"1\"}} 1"),
            format!("vllm:iteration_tokens_total_bucket{of_model},le=\"16\"}} 3"),
            format!("vllm:iteration_tokens_total_bucket{of_model},le=\"+Inf\"}} 3"),
            format!("vllm:iteration_tokens_total_sum{of_model}}} 40.0"),
            format!("vllm:iteration_tokens_total_count{of_model}}} 3"),
            format!("vllm:prefix_cache_hits_total{of_model}}} 9"),
            "dots:weights_bytes 7".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
        }
    }
}
