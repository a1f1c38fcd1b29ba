//! What the engine is busy with, and what it has done.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use dots_engine::{STEP_TOKENS, Stats};
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{MetricType, counter::Counter, gauge::Gauge},
    registry::Registry,
};

type Fraction = Gauge<f64, AtomicU64>;

/// Set from the engine's own numbers whenever someone looks.
#[derive(Debug, Default)]
pub struct EngineMetrics {
    running: Gauge,
    waiting: Gauge,
    cache_usage: Fraction,
    cache_blocks: Gauge,
    cached_blocks: Gauge,
    prefix_queries: Counter,
    prefix_hits: Counter,
    preemptions: Counter,
    drafted: Counter,
    accepted: Counter,
    steps: Counter,
    step_tokens: StepTokens,
}

impl EngineMetrics {
    /// Under the labels of `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        for (name, help, gauge) in [
            ("vllm:num_requests_running", "Requests that hold cache blocks and are computed", &this.running),
            (
                "vllm:num_requests_waiting",
                "Requests that wait for cache blocks or for a place in the step",
                &this.waiting,
            ),
            ("dots:cache_blocks", "Blocks of the cache in all", &this.cache_blocks),
            ("dots:cached_blocks", "Blocks that no request holds and whose content may be shared", &this.cached_blocks),
        ] {
            registry.register(name, help, gauge.clone());
        }
        for (name, help) in [
            ("vllm:kv_cache_usage_perc", "Share of the cache's blocks that requests hold; 1 is all"),
            // What boards made before vLLM 0.9 ask for.
            ("vllm:gpu_cache_usage_perc", "The old name of vllm:kv_cache_usage_perc"),
        ] {
            registry.register(name, help, this.cache_usage.clone());
        }
        for (name, help, counter) in [
            ("vllm:prefix_cache_queries", "Tokens of sequences that began, or began again", &this.prefix_queries),
            ("vllm:prefix_cache_hits", "Those of them that were in the cache", &this.prefix_hits),
            ("vllm:num_preemptions", "Times that a request gave its blocks up to another", &this.preemptions),
            ("vllm:spec_decode_num_draft_tokens", "Tokens that were tried before they were known", &this.drafted),
            ("vllm:spec_decode_num_accepted_tokens", "Those of them that were right", &this.accepted),
            ("dots:steps", "Steps of the engine", &this.steps),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register("vllm:iteration_tokens_total", "Tokens of a step", this.step_tokens.clone());
        this
    }

    /// As the engine is now.
    pub fn set(&self, stats: &Stats) {
        for (gauge, value) in [
            (&self.running, stats.running),
            (&self.waiting, stats.waiting),
            (&self.cache_blocks, stats.total_blocks),
            (&self.cached_blocks, stats.cached_blocks),
        ] {
            gauge.set(value as i64);
        }
        let held = stats.total_blocks.saturating_sub(stats.free_blocks);
        self.cache_usage.set(held as f64 / stats.total_blocks.max(1) as f64);
        for (counter, value) in [
            (&self.prefix_queries, stats.prefix_queried_tokens),
            (&self.prefix_hits, stats.prefix_hit_tokens),
            (&self.preemptions, stats.preemptions),
            (&self.drafted, stats.drafted_tokens),
            (&self.accepted, stats.accepted_tokens),
            (&self.steps, stats.steps),
        ] {
            counter.inner().store(value, Ordering::Relaxed);
        }
        self.step_tokens.set(stats);
    }
}

/// A histogram that the engine keeps.
#[derive(Debug, Clone, Default)]
struct StepTokens(Arc<Mutex<Stats>>);

impl StepTokens {
    fn set(&self, stats: &Stats) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = *stats;
    }
}

impl EncodeMetric for StepTokens {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stats = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bounds = STEP_TOKENS.iter().map(|&bound| bound as f64).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(stats.steps_by_tokens).collect();
        encoder.encode_histogram::<NoLabelSet>(stats.computed_tokens as f64, stats.steps, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}
