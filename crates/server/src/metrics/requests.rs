//! What requests to the model were like: how long, how fast, how they ended. One answer is one request here, as in vLLM.

use std::time::Duration;

use dots_engine::Finish;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// Every way in which an answer ends. `abort`: the client hung up, or its deadline passed; `error`: the server failed, or stopped.
const REASONS: [&str; 4] = ["stop", "length", "abort", "error"];

const FIRST_TOKEN_SECONDS: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const BETWEEN_TOKENS_SECONDS: [f64; 19] =
    [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const REQUEST_SECONDS: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];

/// Counted at the server, as the client sees it.
#[derive(Debug)]
pub struct RequestMetrics {
    ended: Family<[(&'static str, &'static str); 1], Counter>,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    /// From the request's head to its first token.
    pub time_to_first_token: Histogram,
    /// From a token to the next.
    pub inter_token_latency: Histogram,
    time_per_output_token: Histogram,
    latency: Histogram,
    queued: Histogram,
    prefill: Histogram,
    decode: Histogram,
    inference: Histogram,
    prompt_lengths: Histogram,
    computed_prompt_lengths: Histogram,
    completion_lengths: Histogram,
    max_tokens: Histogram,
    n: Histogram,
}

/// An answer that came to its end.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// What the engine says of it.
    pub finish: &'a Finish,
    /// What the request allowed, where it said so.
    pub max_tokens: Option<usize>,
    /// From the request's head to the answer's end.
    pub latency: Duration,
    /// From the first token to the last.
    pub decoding: Option<Duration>,
}

impl RequestMetrics {
    /// Under the labels of `registry`. `max_model_len` is where the buckets of lengths end.
    pub fn register(registry: &mut Registry, max_model_len: usize) -> Self {
        let lengths = || Histogram::new(one_two_five(max_model_len));
        let this = Self {
            ended: Family::default(),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            time_to_first_token: Histogram::new(FIRST_TOKEN_SECONDS),
            inter_token_latency: Histogram::new(BETWEEN_TOKENS_SECONDS),
            time_per_output_token: Histogram::new(BETWEEN_TOKENS_SECONDS),
            latency: Histogram::new(REQUEST_SECONDS),
            queued: Histogram::new(REQUEST_SECONDS),
            prefill: Histogram::new(REQUEST_SECONDS),
            decode: Histogram::new(REQUEST_SECONDS),
            inference: Histogram::new(REQUEST_SECONDS),
            prompt_lengths: lengths(),
            computed_prompt_lengths: lengths(),
            completion_lengths: lengths(),
            max_tokens: lengths(),
            n: Histogram::new([1.0, 2.0, 5.0, 10.0, 20.0]),
        };
        // A rate needs its zero: what never happened is there from the start.
        for reason in REASONS {
            drop(this.ended.get_or_create(&[("finished_reason", reason)]));
        }
        registry.register("vllm:request_success", "Answers that ended, by how they did", this.ended.clone());
        registry.register(
            "vllm:prompt_tokens",
            "Tokens of prompts that were read, or found in the cache",
            this.prompt_tokens.clone(),
        );
        registry.register("vllm:generation_tokens", "Tokens that were generated", this.generation_tokens.clone());
        for (name, help, histogram) in [
            ("vllm:time_to_first_token_seconds", "From a request to its first token", &this.time_to_first_token),
            ("vllm:inter_token_latency_seconds", "From a token to the next", &this.inter_token_latency),
            (
                "vllm:time_per_output_token_seconds",
                "The old name of vllm:inter_token_latency_seconds",
                &this.inter_token_latency,
            ),
            (
                "vllm:request_time_per_output_token_seconds",
                "An answer's mean time between tokens",
                &this.time_per_output_token,
            ),
            ("vllm:e2e_request_latency_seconds", "From a request to its answer's end", &this.latency),
            ("vllm:request_queue_time_seconds", "From a request to its first step", &this.queued),
            ("vllm:request_prefill_time_seconds", "From a request's first step to its first token", &this.prefill),
            ("vllm:request_decode_time_seconds", "From an answer's first token to its last", &this.decode),
            ("vllm:request_inference_time_seconds", "From a request's first step to its last token", &this.inference),
            ("vllm:request_prompt_tokens", "Tokens of a prompt", &this.prompt_lengths),
            (
                "vllm:request_prefill_kv_computed_tokens",
                "Tokens of a prompt that were not in the cache",
                &this.computed_prompt_lengths,
            ),
            ("vllm:request_generation_tokens", "Tokens of an answer", &this.completion_lengths),
            // vLLM counts the longest of n answers; here each counts.
            ("vllm:request_max_num_generation_tokens", "Tokens of an answer", &this.completion_lengths),
            ("vllm:request_params_max_tokens", "max_tokens, where a request has it", &this.max_tokens),
            ("vllm:request_params_n", "Answers that a request asks for to one prompt", &this.n),
        ] {
            registry.register(name, help, histogram.clone());
        }
        this
    }

    /// A request asked for `n` answers to a prompt.
    pub fn asked(&self, n: usize) {
        self.n.observe(n as f64);
    }

    /// An answer ended, for one of [`REASONS`].
    pub fn ended(&self, reason: &'static str) {
        self.ended.get_or_create(&[("finished_reason", reason)]).inc();
    }

    /// One token went out.
    pub fn token(&self) {
        self.generation_tokens.inc();
    }

    /// A prompt was read.
    pub fn read(&self, prompt_tokens: usize) {
        self.prompt_tokens.inc_by(prompt_tokens as u64);
    }

    /// An answer came to its end.
    pub fn answered(&self, answer: &Answered<'_>) {
        let finish = answer.finish;
        let timing = finish.timing;
        for (histogram, time) in [
            (&self.latency, answer.latency),
            (&self.queued, timing.queued),
            (&self.prefill, timing.prefill),
            (&self.decode, timing.decode),
            (&self.inference, timing.prefill + timing.decode),
        ] {
            histogram.observe(time.as_secs_f64());
        }
        self.prompt_lengths.observe(finish.prompt_tokens as f64);
        self.computed_prompt_lengths.observe(finish.prompt_tokens.saturating_sub(finish.cached_tokens) as f64);
        self.completion_lengths.observe(finish.completion_tokens as f64);
        if let Some(max_tokens) = answer.max_tokens {
            self.max_tokens.observe(max_tokens as f64);
        }
        if let (Some(decoding), gaps @ 1..) = (answer.decoding, finish.completion_tokens.saturating_sub(1)) {
            self.time_per_output_token.observe(decoding.as_secs_f64() / gaps as f64);
        }
    }
}

/// 1, 2, 5, 10, 20, 50, … up to `most`.
fn one_two_five(most: usize) -> Vec<f64> {
    let steps =
        (0..).flat_map(|exponent| [1_u64, 2, 5].map(|step| step.saturating_mul(10_u64.saturating_pow(exponent))));
    steps.take_while(|&bound| bound <= most.clamp(1, 1 << 40) as u64).map(|bound| bound as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_lengths_end_where_sequences_do() {
        assert_eq!(one_two_five(100), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(one_two_five(0), [1.0]);
        assert_eq!(one_two_five(usize::MAX).last(), Some(&1e12));
    }
}
