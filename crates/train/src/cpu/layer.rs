//! One layer, forward and backward.

use dots_kernels::{
    Compute, RopeTable,
    train::{
        Data, Precision, Product, View, attention,
        experts::{Groups, combine, group, ungroup},
        heads::{Heads, heads_backward, heads_forward},
        norm::{add_rms_norm_forward, rms_norm_again, rms_norm_backward, rms_norm_forward},
        products,
        router::{Routed, Router, router_backward, router_forward},
        swiglu::{swiglu_backward, swiglu_forward},
    },
};
use dots_model::Config;

use super::{
    buffers::{Kept, Routing, Scratch},
    operand::Operand,
    parameters::{FeedForward, Layer, Mlp, Moe},
};
use crate::{comm::Comm, step::StepError};

/// What all layers of one micro-batch share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) config: &'a Config,
    pub(super) compute: &'a Compute,
    pub(super) precision: Precision,
    pub(super) rope: &'a RopeTable,
    pub(super) sequence_tokens: usize,
    /// `(rows)`
    pub(super) attend_from: &'a [u32],
    /// `(sequences)`: positions before a sequence's padding.
    pub(super) filled: &'a [u32],
    /// What a row's share of the balance loss is multiplied with in the whole loss.
    pub(super) balance_scale: f32,
    /// Whether gradients of weights are added to what is there, or written over it.
    pub(super) accumulate: bool,
    /// The way to the ranks that share a layer's experts; none where all experts are here.
    pub(super) way: Option<&'a dyn Comm>,
}

impl Pass<'_> {
    pub(super) fn rows(&self) -> usize {
        self.attend_from.len()
    }

    fn heads<'a>(&'a self, head_norms: &'a [f32]) -> Heads<'a> {
        let config = self.config;
        let (q_norm, k_norm) = head_norms.split_at(config.head_dim);
        Heads {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            sequence_tokens: self.sequence_tokens,
            rope: self.rope,
            eps: config.rms_norm_eps,
            q_norm,
            k_norm,
        }
    }

    /// What attention takes, made of `qkv: (rows, heads + 2 · kv_heads, head_dim)`.
    fn rotated<'a>(&self, head_norms: &[f32], qkv: &[f32], to: [&'a mut Operand; 3]) -> [Data<'a>; 3] {
        let [q, k, v] = to;
        let (q_len, kv_len) = (self.rows() * self.config.attention_size(), self.rows() * self.config.kv_size());
        let out = [q.data_mut(q_len), k.data_mut(kv_len), v.data_mut(kv_len)];
        heads_forward(self.compute, &self.heads(head_norms), qkv, out);
        [q.data(q_len), k.data(kv_len), v.data(kv_len)]
    }

    fn attention_shape(&self) -> attention::Shape<'_> {
        attention::Shape {
            sequence_tokens: self.sequence_tokens,
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim: self.config.head_dim,
            attend_from: self.attend_from,
        }
    }

    fn router<'a>(&'a self, bias: &'a [f32]) -> Router<'a> {
        Router {
            experts: self.config.n_routed_experts,
            top_k: self.config.num_experts_per_tok,
            normalise: self.config.norm_topk_prob,
            scale: self.config.routed_scaling_factor,
            bias,
            sequence_tokens: self.sequence_tokens,
            filled: self.filled,
        }
    }

    /// `out = layer(x)`, both `(rows, hidden)`. `bias: (experts)` of its router.
    pub(super) fn forward(
        &self,
        weights: &Layer<&[f32]>,
        bias: &[f32],
        x: &[f32],
        kept: &mut Kept,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) -> Result<(), StepError> {
        let (config, compute, n) = (self.config, self.compute, self.rows());
        let (hidden, q_width, kv_width) = (config.hidden_size, config.attention_size(), config.kv_size());
        let width = q_width + 2 * kv_width;
        let (normed, rounded) = scratch.normed.parts(n * hidden);
        let scales = &mut kept.input_scales[..n];
        rms_norm_forward(compute, x, weights.input_norm, config.rms_norm_eps, scales, normed, rounded);
        let qkv = &mut kept.qkv[..n * width];
        let product = linear(scratch.normed.view(n, hidden), View::new(weights.qkv, width, hidden), qkv);
        products(compute, self.precision, &mut [product]);
        let (attended, lse) = (&mut kept.attention[..n * q_width], &mut kept.lse[..n * config.num_attention_heads]);
        let operands = self.rotated(weights.head_norms, qkv, [&mut scratch.q, &mut scratch.k, &mut scratch.v]);
        attention::forward(compute, self.precision, &self.attention_shape(), operands, attended, lse);
        let delta = &mut scratch.delta[..n * hidden];
        let product = linear(View::new(attended, n, q_width), View::new(weights.o, hidden, q_width), delta);
        products(compute, self.precision, &mut [product]);
        let (middle, scales) = (&mut kept.middle[..n * hidden], &mut kept.middle_scales[..n]);
        let (norm, eps) = (weights.post_attention_norm, config.rms_norm_eps);
        let (normed, rounded) = scratch.normed.parts(n * hidden);
        add_rms_norm_forward(compute, x, delta, norm, eps, middle, scales, normed, rounded);
        match &weights.feed_forward {
            FeedForward::Dense(mlp) => self.dense_forward(mlp, kept, scratch, out),
            FeedForward::Moe(moe) => self.moe_forward(moe, bias, kept, scratch, out)?,
        }
        Ok(())
    }

    /// `out = middle + mlp(normed)`.
    fn dense_forward(&self, mlp: &Mlp<&[f32]>, kept: &mut Kept, scratch: &mut Scratch, out: &mut [f32]) {
        let (n, hidden, width) = (self.rows(), self.config.hidden_size, self.config.intermediate_size);
        let x = scratch.normed.view(n, hidden);
        let gate_up = &mut kept.gate_up[..n * 2 * width];
        let product = linear(x, View::new(mlp.gate_up, 2 * width, hidden), gate_up);
        products(self.compute, self.precision, &mut [product]);
        swiglu_forward(self.compute, gate_up, None, width, scratch.active.data_mut(n * width));
        out.copy_from_slice(&kept.middle[..n * hidden]);
        let product = linear(scratch.active.view(n, width), View::new(mlp.down, hidden, width), out);
        products(self.compute, self.precision, &mut [Product { accumulate: true, ..product }]);
    }

    /// `out = middle + shared(normed) + Σ weight · expert(normed)`. The weight is applied before an expert's `down`, so that its own
    /// gradient needs no expert's output.
    fn moe_forward(
        &self,
        moe: &Moe<&[f32]>,
        bias: &[f32],
        kept: &mut Kept,
        scratch: &mut Scratch,
        out: &mut [f32],
    ) -> Result<(), StepError> {
        let (config, compute, n) = (self.config, self.compute, self.rows());
        let (hidden, top_k, experts) = (config.hidden_size, config.num_experts_per_tok, config.n_routed_experts);
        let scores = &mut kept.routing.scores[..n * experts];
        let exact = View::new(&scratch.normed.exact, n, hidden);
        products(compute, Precision::F32, &mut [linear(exact, View::new(moe.router, experts, hidden), scores)]);
        let largest = &mut scratch.largest[..n * top_k];
        let mut routed = routed(&mut kept.routing, n, self.sequence_tokens, config);
        router_forward(compute, &self.router(bias), &mut routed, largest);
        let routing = &mut kept.routing;
        let mut groups = Groups {
            starts: &mut routing.starts,
            rows: &mut routing.slot_rows[..n * top_k],
            weights: &mut routing.slot_weights[..n * top_k],
            slots: &mut routing.slots[..n * top_k],
        };
        group(&routing.chosen[..n * top_k], &routing.weights[..n * top_k], top_k, &mut groups);
        match self.way {
            None => self.experts_forward(moe, kept, scratch),
            Some(way) => self.far_forward(way, moe, kept, scratch)?,
        }
        let (expert_out, delta) = (&scratch.expert_out[..n * top_k * hidden], &scratch.delta[..n * hidden]);
        combine(compute, expert_out, &kept.routing.slots, top_k, hidden, &[&kept.middle, delta], out);
        Ok(())
    }

    /// `scratch.delta = shared(normed)`, and `scratch.expert_out` of each slot.
    fn experts_forward(&self, moe: &Moe<&[f32]>, kept: &mut Kept, scratch: &mut Scratch) {
        let (config, compute, n) = (self.config, self.compute, self.rows());
        let (hidden, top_k, experts) = (config.hidden_size, config.num_experts_per_tok, config.n_routed_experts);
        let (width, shared_width) = (config.moe_intermediate_size, config.shared_intermediate_size());
        let x = scratch.normed.view(n, hidden);
        let routing = &kept.routing;
        let mut jobs = Vec::with_capacity(experts + 1);
        let shared_gate_up = &mut kept.gate_up[..n * 2 * shared_width];
        jobs.push(linear(x, View::new(moe.shared.gate_up, 2 * shared_width, hidden), &mut *shared_gate_up));
        let gate_up = &mut kept.expert_gate_up[..n * top_k * 2 * width];
        for (expert, slots, out) in by_expert(&routing.starts, gate_up, 2 * width) {
            let weights = expert_of(config, moe.experts, expert);
            let x = x.gather(&routing.slot_rows[slots]);
            jobs.push(linear(x, View::new(weights.gate_up, 2 * width, hidden), out));
        }
        products(compute, self.precision, &mut jobs);

        let active = scratch.active.data_mut(n * shared_width);
        swiglu_forward(compute, shared_gate_up, None, shared_width, active);
        let expert_active = scratch.expert_active.data_mut(n * top_k * width);
        swiglu_forward(compute, gate_up, Some(&routing.slot_weights), width, expert_active);

        let mut jobs = Vec::with_capacity(experts + 1);
        let delta = &mut scratch.delta[..n * hidden];
        let shared_down = View::new(moe.shared.down, hidden, shared_width);
        jobs.push(linear(scratch.active.view(n, shared_width), shared_down, &mut *delta));
        let expert_active = scratch.expert_active.data(n * top_k * width);
        let expert_out = &mut scratch.expert_out[..n * top_k * hidden];
        for (expert, slots, out) in by_expert(&routing.starts, expert_out, hidden) {
            let active = expert_active.slice(slots.start * width..slots.end * width);
            let down = View::new(expert_of(config, moe.experts, expert).down, hidden, width);
            jobs.push(linear(View::of(active, slots.len(), width), down, out));
        }
        products(compute, self.precision, &mut jobs);
    }

    /// `scratch.d_x`, the gradient of what [`Pass::forward`] gave, becomes that of `x`; the weights' gradients go to `gradients`.
    pub(super) fn backward(
        &self,
        weights: &Layer<&[f32]>,
        bias: &[f32],
        x: &[f32],
        kept: &mut Kept,
        scratch: &mut Scratch,
        gradients: &mut Layer<&mut [f32]>,
    ) -> Result<(), StepError> {
        let (config, compute, n) = (self.config, self.compute, self.rows());
        let (hidden, q_width, kv_width) = (config.hidden_size, config.attention_size(), config.kv_size());
        let width = q_width + 2 * kv_width;
        let (middle, middle_scales) = (&kept.middle[..n * hidden], &kept.middle_scales[..n]);
        let (normed, rounded) = scratch.normed.parts(n * hidden);
        rms_norm_again(compute, middle, weights.post_attention_norm, middle_scales, normed, rounded);
        match (&weights.feed_forward, &mut gradients.feed_forward) {
            (FeedForward::Dense(mlp), FeedForward::Dense(gradients)) => {
                self.dense_backward(mlp, kept, scratch, gradients);
            }
            (FeedForward::Moe(moe), FeedForward::Moe(gradients)) => {
                self.moe_backward(moe, bias, kept, scratch, gradients)?;
            }
            _ => unreachable!("weights and gradients are cut alike"),
        }
        let d_normed = &mut scratch.d_normed[..n * hidden];
        let (norm, d_norm) = (weights.post_attention_norm, &mut *gradients.post_attention_norm);
        let (middle, scales) = (&kept.middle[..n * hidden], &kept.middle_scales[..n]);
        let (accumulate, partials) = (self.accumulate, &mut scratch.partials[..]);
        let (d_x, rounded) = scratch.d_x.parts(n * hidden);
        rms_norm_backward(compute, middle, norm, scales, d_normed, d_x, rounded, d_norm, accumulate, partials);

        let (normed, rounded) = scratch.normed.parts(n * hidden);
        rms_norm_again(compute, x, weights.input_norm, &kept.input_scales[..n], normed, rounded);
        let heads = self.heads(weights.head_norms);
        let qkv = &kept.qkv[..n * width];
        let [q, k, v] = self.rotated(weights.head_norms, qkv, [&mut scratch.q, &mut scratch.k, &mut scratch.v]);
        let attended = &kept.attention[..n * q_width];
        let (d_attention, rounded) = scratch.d_attention.parts(n * q_width);
        let d_out = scratch.d_x.view(n, hidden);
        let jobs = &mut [
            through(d_out, View::new(weights.o, hidden, q_width), &mut *d_attention),
            self.gradient(d_out, View::new(attended, n, q_width), gradients.o),
        ];
        products(compute, self.precision, jobs);
        let (d_q, d_k, d_v) =
            (&mut scratch.d_q[..n * q_width], &mut scratch.d_k[..n * kv_width], &mut scratch.d_v[..n * kv_width]);
        let lse = &kept.lse[..n * config.num_attention_heads];
        let means = &mut scratch.means[..n * config.num_attention_heads];
        attention::means(compute, config.head_dim, attended, d_attention, means, rounded);
        let operands = [q, k, v, scratch.d_attention.data(n * q_width)];
        let to = [&mut *d_q, &mut *d_k, &mut *d_v];
        attention::backward(compute, self.precision, &self.attention_shape(), operands, lse, means, to);
        let d_qkv = scratch.d_qkv.data_mut(n * width);
        let d_norms = &mut *gradients.head_norms;
        heads_backward(compute, &heads, qkv, d_q, d_k, d_v, d_qkv, d_norms, accumulate, partials);
        let d_out = scratch.d_qkv.view(n, width);
        let jobs = &mut [
            through(d_out, View::new(weights.qkv, width, hidden), &mut *d_normed),
            self.gradient(d_out, scratch.normed.view(n, hidden), gradients.qkv),
        ];
        products(compute, self.precision, jobs);
        let (norm, d_norm) = (weights.input_norm, &mut *gradients.input_norm);
        let scales = &kept.input_scales[..n];
        let (d_x, rounded) = scratch.d_x.parts(n * hidden);
        rms_norm_backward(compute, x, norm, scales, d_normed, d_x, rounded, d_norm, accumulate, partials);
        Ok(())
    }

    /// From `d_x` to `d_normed`.
    fn dense_backward(
        &self,
        mlp: &Mlp<&[f32]>,
        kept: &mut Kept,
        scratch: &mut Scratch,
        gradients: &mut Mlp<&mut [f32]>,
    ) {
        let (n, hidden, width) = (self.rows(), self.config.hidden_size, self.config.intermediate_size);
        let d_out = scratch.d_x.view(n, hidden);
        let d_active = &mut scratch.d_active[..n * width];
        let product = through(d_out, View::new(mlp.down, hidden, width), &mut *d_active);
        products(self.compute, self.precision, &mut [product]);
        let gate_up = &kept.gate_up[..n * 2 * width];
        let (d_gate_up, active) = (scratch.d_gate_up.data_mut(n * 2 * width), scratch.active.data_mut(n * width));
        swiglu_backward(self.compute, gate_up, None, width, d_active, d_gate_up, active);
        let d_gate_up = scratch.d_gate_up.view(n, 2 * width);
        let jobs = &mut [
            self.gradient(d_out, scratch.active.view(n, width), gradients.down),
            self.gradient(d_gate_up, scratch.normed.view(n, hidden), gradients.gate_up),
            through(d_gate_up, View::new(mlp.gate_up, 2 * width, hidden), &mut scratch.d_normed[..n * hidden]),
        ];
        products(self.compute, self.precision, jobs);
    }

    /// From `d_x` to `d_normed`.
    fn moe_backward(
        &self,
        moe: &Moe<&[f32]>,
        bias: &[f32],
        kept: &mut Kept,
        scratch: &mut Scratch,
        gradients: &mut Moe<&mut [f32]>,
    ) -> Result<(), StepError> {
        match self.way {
            None => self.experts_backward(moe, kept, scratch, gradients),
            Some(way) => self.far_backward(way, moe, kept, scratch, gradients)?,
        }
        let (config, compute, n) = (self.config, self.compute, self.rows());
        let (hidden, top_k, experts) = (config.hidden_size, config.num_experts_per_tok, config.n_routed_experts);
        let x = View::new(&scratch.normed.exact, n, hidden);
        let d_normed = &mut scratch.d_normed[..n * hidden];
        let d_weights = &mut scratch.d_weights[..n * top_k];
        ungroup(&scratch.d_slot_weights[..n * top_k], &kept.routing.slots, d_weights);
        let d_scores = &mut scratch.d_scores[..n * experts];
        let routed = routed(&mut kept.routing, n, self.sequence_tokens, config);
        router_backward(compute, &self.router(bias), &routed, d_weights, self.balance_scale, d_scores);
        let d_scores = View::new(d_scores, n, experts);
        let jobs = &mut [
            Product { accumulate: true, ..through(d_scores, View::new(moe.router, experts, hidden), &mut *d_normed) },
            self.gradient(d_scores, x, gradients.router),
        ];
        products(compute, Precision::F32, jobs);
        combine(compute, &scratch.expert_out[..n * top_k * hidden], &kept.routing.slots, top_k, hidden, &[], d_normed);
        Ok(())
    }

    /// Of the shared and the routed experts: `scratch.d_normed` is what comes back through the shared ones, `scratch.expert_out` through
    /// each slot, and `scratch.d_slot_weights` is the gradient of the slots' weights.
    fn experts_backward(
        &self,
        moe: &Moe<&[f32]>,
        kept: &mut Kept,
        scratch: &mut Scratch,
        gradients: &mut Moe<&mut [f32]>,
    ) {
        let (config, compute, n) = (self.config, self.compute, self.rows());
        let (hidden, top_k, experts) = (config.hidden_size, config.num_experts_per_tok, config.n_routed_experts);
        let (width, shared_width) = (config.moe_intermediate_size, config.shared_intermediate_size());
        let starts = &kept.routing.starts;
        let slot_rows = &kept.routing.slot_rows[..n * top_k];
        let d_out = scratch.d_x.view(n, hidden);

        let mut jobs = Vec::with_capacity(experts + 1);
        let d_active = &mut scratch.d_active[..n * shared_width];
        jobs.push(through(d_out, View::new(moe.shared.down, hidden, shared_width), &mut *d_active));
        let d_expert_active = &mut scratch.d_expert_active[..n * top_k * width];
        for (expert, slots, out) in by_expert(starts, d_expert_active, width) {
            let down = View::new(expert_of(config, moe.experts, expert).down, hidden, width);
            jobs.push(through(d_out.gather(&slot_rows[slots]), down, out));
        }
        products(compute, self.precision, &mut jobs);

        let gate_up = &kept.gate_up[..n * 2 * shared_width];
        let (to, active) = (scratch.d_gate_up.data_mut(gate_up.len()), scratch.active.data_mut(n * shared_width));
        swiglu_backward(compute, gate_up, None, shared_width, d_active, to, active);
        let gate_up = &kept.expert_gate_up[..n * top_k * 2 * width];
        let d_slot_weights = &mut scratch.d_slot_weights[..n * top_k];
        let weights = Some((&kept.routing.slot_weights[..n * top_k], &mut *d_slot_weights));
        let to = scratch.d_expert_gate_up.data_mut(gate_up.len());
        let active = scratch.expert_active.data_mut(n * top_k * width);
        swiglu_backward(compute, gate_up, weights, width, d_expert_active, to, active);

        let mut jobs = Vec::with_capacity(3 * (experts + 1));
        let x = scratch.normed.view(n, hidden);
        let d_shared = scratch.d_gate_up.view(n, 2 * shared_width);
        let expert_active = scratch.expert_active.data(n * top_k * width);
        let d_expert_gate_up = scratch.d_expert_gate_up.data(n * top_k * 2 * width);
        let d_normed = &mut scratch.d_normed[..n * hidden];
        jobs.push(self.gradient(d_out, scratch.active.view(n, shared_width), gradients.shared.down));
        jobs.push(self.gradient(d_shared, x, gradients.shared.gate_up));
        jobs.push(through(d_shared, View::new(moe.shared.gate_up, 2 * shared_width, hidden), &mut *d_normed));
        let expert_out = &mut scratch.expert_out[..n * top_k * hidden];
        let mut outs = by_expert(starts, expert_out, hidden);
        for (expert, gradient) in gradients.experts.chunks_exact_mut(3 * width * hidden).enumerate() {
            if starts[expert] == starts[expert + 1] {
                // Nobody came: the gradient is exactly zero.
                if !self.accumulate {
                    gradient.fill(0.0);
                }
                continue;
            }
            let (_, slots, out) = outs.next().expect("the experts that have rows, in order");
            let (gradient, weights) = (Mlp::of(width, hidden, gradient), expert_of(config, moe.experts, expert));
            let rows = &slot_rows[slots.clone()];
            let active = expert_active.slice(slots.start * width..slots.end * width);
            let active = View::of(active, slots.len(), width);
            let d_gate_up = d_expert_gate_up.slice(slots.start * 2 * width..slots.end * 2 * width);
            let d_gate_up = View::of(d_gate_up, slots.len(), 2 * width);
            jobs.push(self.gradient(d_out.gather(rows), active, gradient.down));
            jobs.push(self.gradient(d_gate_up, x.gather(rows), gradient.gate_up));
            jobs.push(through(d_gate_up, View::new(weights.gate_up, 2 * width, hidden), out));
        }
        drop(outs);
        products(compute, self.precision, &mut jobs);
    }

    /// `gradient (+)= d_outᵀ · x`, the gradient of a weight of [`linear`].
    pub(super) fn gradient<'a>(&self, d_out: View<'a>, x: View<'a>, gradient: &'a mut [f32]) -> Product<'a> {
        Product { a: d_out.t(), b: x, out_stride: x.shape().1, out: gradient, accumulate: self.accumulate }
    }
}

/// `out = x · weightᵀ`: `x: (rows, cols)`, `weight: (width, cols)`.
pub(super) fn linear<'a>(x: View<'a>, weight: View<'a>, out: &'a mut [f32]) -> Product<'a> {
    Product { a: x, b: weight.t(), out_stride: weight.shape().0, out, accumulate: false }
}

/// `dx = d_out · weight`, the way back through [`linear`].
pub(super) fn through<'a>(d_out: View<'a>, weight: View<'a>, dx: &'a mut [f32]) -> Product<'a> {
    Product { a: d_out, b: weight, out_stride: weight.shape().1, out: dx, accumulate: false }
}

/// Expert `expert` of those that are here.
pub(super) fn expert_of<'a>(config: &Config, experts: &'a [f32], expert: usize) -> Mlp<&'a [f32]> {
    let (width, hidden) = (config.moe_intermediate_size, config.hidden_size);
    let len = 3 * width * hidden;
    Mlp::of(width, hidden, &experts[expert * len..][..len])
}

fn routed<'a>(routing: &'a mut Routing, rows: usize, sequence_tokens: usize, config: &Config) -> Routed<'a> {
    let (experts, top_k) = (config.n_routed_experts, config.num_experts_per_tok);
    Routed {
        scores: &mut routing.scores[..rows * experts],
        chosen: &mut routing.chosen[..rows * top_k],
        weights: &mut routing.weights[..rows * top_k],
        fractions: &mut routing.fractions[..rows / sequence_tokens * experts],
        balance: &mut routing.balance[..rows],
        entropy: &mut routing.entropy[..rows],
    }
}

/// Each expert that has rows, its slots, and its part of `out: (slots, width)`.
pub(super) fn by_expert<'a>(
    starts: &'a [usize],
    out: &'a mut [f32],
    width: usize,
) -> impl Iterator<Item = (usize, std::ops::Range<usize>, &'a mut [f32])> {
    let mut rest = out;
    starts.windows(2).enumerate().filter(|(_, ends)| ends[0] < ends[1]).map(move |(expert, ends)| {
        let (part, tail) = std::mem::take(&mut rest).split_at_mut((ends[1] - ends[0]) * width);
        rest = tail;
        (expert, ends[0]..ends[1], part)
    })
}
