//! The memory of a forward pass, taken once.

use dots_kernels::{Compute, QuantisedRows, RopeTable, Rounding};

use crate::Config;

/// Rows of the head's product that exist at once.
pub const HEAD_ROWS: usize = 16;

/// Activations of one batch.
#[derive(Debug)]
pub struct Buffers {
    /// `(tokens, hidden)`: the residual stream.
    pub hidden: Vec<f32>,
    /// `(tokens, hidden)`: the residual stream after a norm.
    pub normed: Vec<f32>,
    /// `(tokens, heads · head_dim)`.
    pub q: Vec<f32>,
    /// `(tokens, kv_heads · head_dim)`.
    pub k: Vec<f32>,
    /// `(tokens, kv_heads · head_dim)`.
    pub v: Vec<f32>,
    /// `(tokens, heads · head_dim)`.
    pub attention: Vec<f32>,
    /// `(tokens, hidden)`: what attention or a dense or shared MLP adds.
    pub projected: Vec<f32>,
    /// `(tokens, dense or shared intermediate)`.
    pub mlp: Vec<f32>,
    /// `(tokens, experts)`.
    pub router: Vec<f32>,
    /// `(tokens · top_k, expert intermediate)`, grouped by expert.
    pub expert_mlp: Vec<f32>,
    /// `(tokens · top_k, hidden)`, grouped by expert.
    pub expert_out: Vec<f32>,
    /// `(HEAD_ROWS, hidden)`.
    pub head_in: Vec<f32>,
    /// `(HEAD_ROWS, vocab)`.
    pub logits: Vec<f32>,
    /// `normed`, `attention` or `head_in`, rounded.
    pub normed_q8: QuantisedRows,
    /// `mlp`, rounded.
    pub mlp_q8: QuantisedRows,
    /// `expert_mlp`, rounded.
    pub expert_q8: QuantisedRows,
}

/// Widths that the buffers follow from.
struct Widths {
    hidden: usize,
    attention: usize,
    kv: usize,
    mlp: usize,
    experts: usize,
    top_k: usize,
    expert: usize,
    vocab: usize,
}

impl Widths {
    fn new(config: &Config) -> Self {
        Self {
            hidden: config.hidden_size,
            attention: config.attention_size(),
            kv: config.kv_size(),
            mlp: config.intermediate_size.max(config.shared_intermediate_size()),
            experts: config.n_routed_experts,
            top_k: config.num_experts_per_tok,
            expert: config.moe_intermediate_size,
            vocab: config.vocab_size,
        }
    }
}

impl Buffers {
    /// Buffers for batches of up to `tokens` tokens, rounded as the weights want it.
    pub fn new(config: &Config, tokens: usize, rounding: Rounding) -> Self {
        let w = Widths::new(config);
        let rounded = |rows: usize, cols: usize| QuantisedRows::with_capacity(rows, cols, rounding);
        let rows = |width: usize| vec![0.0; tokens * width];
        Self {
            hidden: rows(w.hidden),
            normed: rows(w.hidden),
            q: rows(w.attention),
            k: rows(w.kv),
            v: rows(w.kv),
            attention: rows(w.attention),
            projected: rows(w.hidden),
            mlp: rows(w.mlp),
            router: rows(w.experts),
            expert_mlp: rows(w.top_k * w.expert),
            expert_out: rows(w.top_k * w.hidden),
            head_in: vec![0.0; HEAD_ROWS * w.hidden],
            logits: vec![0.0; HEAD_ROWS * w.vocab],
            normed_q8: rounded(tokens.max(HEAD_ROWS), w.hidden.max(w.attention)),
            mlp_q8: rounded(tokens, w.mlp),
            expert_q8: rounded(tokens * w.top_k, w.expert),
        }
    }

    /// Bytes that [`Buffers::new`] takes at most; `usize::MAX` where that is more.
    fn bytes(config: &Config, tokens: usize) -> usize {
        let w = Widths::new(config);
        let a_token = 3 * w.hidden + 2 * w.attention + 2 * w.kv + w.mlp + w.experts + w.top_k * (w.expert + w.hidden);
        let numbers = tokens.saturating_mul(a_token).saturating_add(HEAD_ROWS * (w.hidden + w.vocab));
        [
            numbers.saturating_mul(4),
            QuantisedRows::capacity_bytes(tokens.max(HEAD_ROWS), w.hidden.max(w.attention)),
            QuantisedRows::capacity_bytes(tokens, w.mlp),
            QuantisedRows::capacity_bytes(tokens.saturating_mul(w.top_k), w.expert),
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }
}

/// The longest `k` of any product.
pub fn max_cols(config: &Config) -> usize {
    [
        config.hidden_size,
        config.attention_size(),
        config.intermediate_size,
        config.shared_intermediate_size(),
        config.moe_intermediate_size,
    ]
    .into_iter()
    .max()
    .unwrap_or(0)
}

/// Bytes that a forward pass takes beside weights and cache; `usize::MAX` where that is more.
pub fn bytes(config: &Config, tokens: usize, positions: usize, threads: usize) -> usize {
    Buffers::bytes(config, tokens)
        .saturating_add(RopeTable::bytes(positions, config.head_dim))
        .saturating_add(Compute::scratch_bytes(threads, max_cols(config), config.head_dim))
}
