//! What the engine is busy with, and what it has done.

use std::sync::atomic::AtomicU64;

use dots_engine::Stats;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};

type Fraction = Gauge<f64, AtomicU64>;

/// Set from the engine's own numbers whenever someone looks.
#[derive(Debug, Default)]
pub struct EngineMetrics {
    running: Gauge,
    waiting: Gauge,
    cache_usage: Fraction,
    cache_blocks: Gauge,
}

impl EngineMetrics {
    /// Under the labels of `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register(
            "vllm:num_requests_running",
            "Requests that hold cache blocks and are computed",
            this.running.clone(),
        );
        registry.register(
            "vllm:num_requests_waiting",
            "Requests that wait for cache blocks or for a place in the step",
            this.waiting.clone(),
        );
        registry.register(
            "vllm:kv_cache_usage_perc",
            "Share of the cache's blocks that requests hold; 1 is all",
            this.cache_usage.clone(),
        );
        // The name that boards made before vLLM 0.9 ask for.
        registry.register(
            "vllm:gpu_cache_usage_perc",
            "The old name of vllm:kv_cache_usage_perc",
            this.cache_usage.clone(),
        );
        registry.register("dots:cache_blocks", "Blocks of the cache in all", this.cache_blocks.clone());
        this
    }

    /// As the engine is now.
    pub fn set(&self, stats: &Stats) {
        self.running.set(stats.running as i64);
        self.waiting.set(stats.waiting as i64);
        let held = stats.total_blocks.saturating_sub(stats.free_blocks);
        self.cache_usage.set(held as f64 / stats.total_blocks.max(1) as f64);
        self.cache_blocks.set(stats.total_blocks as i64);
    }
}
