//! Activations: what the backward pass takes of each layer, and what lives for a moment only.

use dots_kernels::train::{BLOCK_ROWS, Precision};
use dots_model::{Config, Error};

use super::{
    far::Guests,
    memory::Memory,
    operand::{Both, Operand},
};

/// Most bytes of logits that exist at once, if one row has no more.
const LOGITS_BYTES: usize = 16 << 20;

/// Rows of logits that exist at once.
pub(super) fn head_rows(config: &Config, tokens: usize) -> usize {
    (LOGITS_BYTES / 4 / config.vocab_size).clamp(1, 1024).min(tokens)
}

/// What the backward pass of one layer takes from its forward pass, for up to `tokens` rows.
#[derive(Debug)]
pub(super) struct Kept {
    /// `(tokens)`: scales of the norm before attention.
    pub(super) input_scales: Vec<f32>,
    /// `(tokens, heads + 2 · kv_heads, head_dim)`, before norms of heads.
    pub(super) qkv: Vec<f32>,
    /// `(tokens, heads, head_dim)`.
    pub(super) attention: Vec<f32>,
    /// `(tokens, heads)`.
    pub(super) lse: Vec<f32>,
    /// `(tokens, hidden)`: the residual stream after attention.
    pub(super) middle: Vec<f32>,
    /// `(tokens)`: scales of the norm after attention.
    pub(super) middle_scales: Vec<f32>,
    /// `(tokens, 2 · width)` of the dense MLP or the shared experts.
    pub(super) gate_up: Vec<f32>,
    /// Of a mixture.
    pub(super) routing: Routing,
    /// `(tokens · top_k, 2 · expert width)`, sorted by expert.
    pub(super) expert_gate_up: Vec<f32>,
    /// What came from the ranks that share the experts, where they are shared.
    pub(super) guests: Guests,
}

/// Who went where: see [`dots_kernels::train::router::Routed`] and [`dots_kernels::train::experts::Groups`].
#[derive(Debug)]
pub(super) struct Routing {
    pub(super) scores: Vec<f32>,
    pub(super) chosen: Vec<u32>,
    pub(super) weights: Vec<f32>,
    pub(super) fractions: Vec<f32>,
    pub(super) balance: Vec<f32>,
    pub(super) entropy: Vec<f32>,
    pub(super) starts: Vec<usize>,
    pub(super) slot_rows: Vec<u32>,
    pub(super) slot_weights: Vec<f32>,
    pub(super) slots: Vec<u32>,
}

impl Kept {
    /// For a layer that is dense, a mixture, or either in turn.
    pub(super) fn new(
        config: &Config,
        tokens: usize,
        dense: bool,
        moe: bool,
        expert_ranks: usize,
        memory: &mut Memory,
    ) -> Result<Self, Error> {
        let (near, far) =
            if expert_ranks == 1 { (tokens, 0) } else { (0, Guests::most_rows(config, tokens, expert_ranks)) };
        // As they come: the rows, a number of `u32` and one of `f32` of each, and their gates.
        let each = config.hidden_size.saturating_add(config.moe_intermediate_size.saturating_mul(2)).saturating_add(2);
        memory.elsewhere(if moe { far.saturating_mul(each).saturating_mul(4) } else { 0 });
        let experts = if moe { config.n_routed_experts } else { 0 };
        let top_k = if moe { config.num_experts_per_tok } else { 0 };
        let width = [(dense, config.intermediate_size), (moe, config.shared_intermediate_size())]
            .into_iter()
            .map(|(is, width)| if is { width } else { 0 })
            .max()
            .unwrap_or(0);
        Ok(Self {
            input_scales: memory.numbers(&[tokens])?,
            qkv: memory.numbers(&[tokens, config.attention_size() + 2 * config.kv_size()])?,
            attention: memory.numbers(&[tokens, config.attention_size()])?,
            lse: memory.numbers(&[tokens, config.num_attention_heads])?,
            middle: memory.numbers(&[tokens, config.hidden_size])?,
            middle_scales: memory.numbers(&[tokens])?,
            gate_up: memory.numbers(&[tokens, 2, width])?,
            routing: Routing {
                scores: memory.numbers(&[tokens, experts])?,
                chosen: memory.numbers(&[tokens, top_k])?,
                weights: memory.numbers(&[tokens, top_k])?,
                // Sequences may be of one position.
                fractions: memory.numbers(&[tokens, experts])?,
                balance: memory.numbers(&[if moe { tokens } else { 0 }])?,
                entropy: memory.numbers(&[if moe { tokens } else { 0 }])?,
                starts: memory.numbers(&[experts + 1])?,
                slot_rows: memory.numbers(&[tokens, top_k])?,
                slot_weights: memory.numbers(&[tokens, top_k])?,
                slots: memory.numbers(&[tokens, top_k])?,
            },
            expert_gate_up: memory.numbers(&[near, top_k, 2, config.moe_intermediate_size])?,
            guests: Guests::default(),
        })
    }
}

/// What one operation leaves for the next: the same memory for every layer.
#[derive(Debug)]
pub(super) struct Scratch {
    /// `(tokens, hidden)`: the residual stream after a norm.
    pub(super) normed: Both,
    /// `(tokens, heads, head_dim)`; `k`, `v`: `(tokens, kv_heads, head_dim)`.
    pub(super) q: Operand,
    pub(super) k: Operand,
    pub(super) v: Operand,
    /// `(tokens, hidden)`: what attention or an MLP adds.
    pub(super) delta: Vec<f32>,
    /// `(tokens, width)` between the products of a dense or shared MLP.
    pub(super) active: Operand,
    /// `(tokens · top_k, expert width)`, sorted by expert.
    pub(super) expert_active: Operand,
    /// `(tokens · top_k, hidden)`, sorted by expert.
    pub(super) expert_out: Vec<f32>,
    /// `(tokens, top_k)`.
    pub(super) largest: Vec<u32>,
    /// Gradients of what has the same name, and of the residual stream.
    pub(super) d_x: Both,
    pub(super) d_normed: Vec<f32>,
    pub(super) d_active: Vec<f32>,
    pub(super) d_expert_active: Vec<f32>,
    pub(super) d_gate_up: Operand,
    pub(super) d_expert_gate_up: Operand,
    pub(super) d_attention: Both,
    /// `(tokens, heads)`: see [`dots_kernels::train::attention::means`].
    pub(super) means: Vec<f32>,
    pub(super) d_q: Vec<f32>,
    pub(super) d_k: Vec<f32>,
    pub(super) d_v: Vec<f32>,
    pub(super) d_qkv: Operand,
    /// `(tokens, experts)`.
    pub(super) d_scores: Vec<f32>,
    /// `(tokens · top_k)`, sorted by expert.
    pub(super) d_slot_weights: Vec<f32>,
    /// `(tokens, top_k)`.
    pub(super) d_weights: Vec<f32>,
    /// Sums over blocks of rows.
    pub(super) partials: Vec<f32>,
    /// The head's.
    pub(super) head: Head,
}

/// What the head needs: rows here are the positions that have a target, one after the other.
#[derive(Debug)]
pub(super) struct Head {
    /// `(tokens)`: which positions they are.
    pub(super) rows: Vec<u32>,
    /// `(tokens)`.
    pub(super) targets: Vec<u32>,
    /// `(tokens, hidden)`: the residual stream there, and its gradient.
    pub(super) x: Vec<f32>,
    pub(super) d_x: Vec<f32>,
    /// `(tokens)`.
    pub(super) scales: Vec<f32>,
    /// `(head_rows, vocab)`.
    pub(super) logits: Both,
    /// `(tokens)`.
    pub(super) losses: Vec<f32>,
}

impl Scratch {
    pub(super) fn new(
        config: &Config,
        tokens: usize,
        precision: Precision,
        memory: &mut Memory,
    ) -> Result<Self, Error> {
        let (hidden, q, kv) = (config.hidden_size, config.attention_size(), config.kv_size());
        let is_moe = config.first_k_dense_replace < config.num_hidden_layers;
        let (top_k, experts) = if is_moe { (config.num_experts_per_tok, config.n_routed_experts) } else { (0, 0) };
        let width = config.intermediate_size.max(config.shared_intermediate_size());
        memory.part("scratch of a layer");
        let mut both = |width: usize| Both::new(precision, &[tokens, width], memory);
        let (normed, d_x, d_attention) = (both(hidden)?, both(hidden)?, both(q)?);
        let mut operand = |shape: &[usize]| Operand::new(precision, shape, memory);
        let (active, d_gate_up) = (operand(&[tokens, width])?, operand(&[tokens, 2, width])?);
        let expert_active = operand(&[tokens, top_k, config.moe_intermediate_size])?;
        let d_expert_gate_up = operand(&[tokens, top_k, 2, config.moe_intermediate_size])?;
        let (q_rows, k, v) = (operand(&[tokens, q])?, operand(&[tokens, kv])?, operand(&[tokens, kv])?);
        let d_qkv = operand(&[tokens, q + 2 * kv])?;
        let mut rows = |width: usize| memory.numbers(&[tokens, width]);
        let (delta, d_normed, means) = (rows(hidden)?, rows(hidden)?, rows(config.num_attention_heads)?);
        let (d_q, d_k, d_v, d_active) = (rows(q)?, rows(kv)?, rows(kv)?, rows(width)?);
        let (d_scores, d_slot_weights, d_weights) = (rows(experts)?, rows(top_k)?, rows(top_k)?);
        Ok(Self {
            normed,
            q: q_rows,
            k,
            v,
            delta,
            active,
            expert_active,
            expert_out: memory.numbers(&[tokens, top_k, hidden])?,
            largest: memory.numbers(&[tokens, top_k])?,
            d_x,
            d_normed,
            d_active,
            d_expert_active: memory.numbers(&[tokens, top_k, config.moe_intermediate_size])?,
            d_gate_up,
            d_expert_gate_up,
            d_attention,
            means,
            d_q,
            d_k,
            d_v,
            d_qkv,
            d_scores,
            d_slot_weights,
            d_weights,
            partials: memory.numbers(&[tokens.div_ceil(BLOCK_ROWS), hidden.max(2 * config.head_dim)])?,
            head: {
                memory.part("scratch of the head");
                Head {
                    rows: memory.numbers(&[tokens])?,
                    targets: memory.numbers(&[tokens])?,
                    x: memory.numbers(&[tokens, hidden])?,
                    d_x: memory.numbers(&[tokens, hidden])?,
                    scales: memory.numbers(&[tokens])?,
                    logits: Both::new(precision, &[head_rows(config, tokens), config.vocab_size], memory)?,
                    losses: memory.numbers(&[tokens])?,
                }
            },
        })
    }
}
