//! Where each parameter lies: all in one row of numbers, and gradients in a row of the same order; moments of what is owned.

use std::ops::Range;

use dots_model::{Config, Error, checkpoint::expected_tensors};

use super::{
    memory::Memory,
    share::{Rooms, Share, expert_of, layer_of},
};

/// How many numbers an update, a norm or a search takes at a time, within one tensor. Sums are taken over each stretch and
/// then over the stretches, in order.
pub(super) const STRETCH: usize = 1 << 14;

/// End of the name of a router's balancing bias, which is no parameter: no gradient moves it.
pub(super) const BIAS: &str = "e_score_correction_bias";

/// One trained tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Published name.
    pub name: String,
    /// Published shape.
    pub shape: Vec<usize>,
    /// Where its numbers start in the row of all.
    pub start: usize,
    /// Its layer, or none where it is outside layers.
    pub layer: Option<usize>,
    /// How many of its numbers, from the first, updates leave as they are; their gradients count nowhere.
    pub frozen: usize,
}

impl Parameter {
    /// Its numbers in the row of all.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len()
    }

    /// Those of them that learn.
    pub fn learning(&self) -> std::ops::Range<usize> {
        self.start + self.frozen..self.start + self.len()
    }

    /// How many numbers it has.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether weight decay applies to it: to matrices, embeddings and routers among them, and not to norms.
    pub fn decays(&self) -> bool {
        self.shape.len() >= 2
    }
}

/// Every parameter of a share, in published order.
pub(super) fn table(config: &Config, share: &Share) -> Vec<Parameter> {
    let rooms = Rooms::new(config, share);
    let (mut start, mut expert_start) = (0, rooms.experts);
    expected_tensors(config)
        .filter(|(name, _)| !name.ends_with(BIAS) && share.holds(name))
        .map(|(name, shape)| {
            let start = if expert_of(&name).is_some() { &mut expert_start } else { &mut start };
            let parameter = Parameter { layer: layer_of(&name), name, shape, start: *start, frozen: 0 };
            *start += parameter.len();
            parameter
        })
        .collect()
}

/// Weights and what is kept of each.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) table: Vec<Parameter>,
    pub(super) rooms: Rooms,
    /// Master weights, `(count)`.
    pub(super) weights: Vec<f32>,
    /// `(count)`.
    pub(super) gradients: Vec<f32>,
    /// What of the count has its moments here: of what is no expert, and of experts.
    pub(super) owned: [Range<usize>; 2],
    /// `(owned)`, one part after the other.
    pub(super) first: Vec<f32>,
    /// `(owned)`
    pub(super) second: Vec<f32>,
    /// `(MoE layers, experts)` of the whole model.
    pub(super) biases: Vec<f32>,
    /// Updates made.
    pub(super) updates: u64,
}

impl Parameters {
    pub(super) fn new(
        config: &Config,
        share: &Share,
        memory: &mut Memory,
        table: Vec<Parameter>,
    ) -> Result<Self, Error> {
        let rooms = Rooms::new(config, share);
        let owned = rooms.owned(share);
        memory.part("weights");
        let weights = memory.numbers(&[rooms.len])?;
        let moe_layers = config.num_hidden_layers - config.first_k_dense_replace;
        let biases = memory.numbers(&[moe_layers, config.n_routed_experts])?;
        memory.part("gradients");
        let gradients = memory.numbers(&[rooms.len])?;
        memory.part("moments");
        let moments = owned[0].len().saturating_add(owned[1].len());
        let (first, second) = (memory.numbers(&[moments])?, memory.numbers(&[moments])?);
        Ok(Self { table, rooms, weights, gradients, owned, first, second, biases, updates: 0 })
    }

    /// What of `range` has its moments here, and where those begin.
    pub(super) fn owned_of(
        owned: &[Range<usize>; 2],
        range: &Range<usize>,
    ) -> impl Iterator<Item = (Range<usize>, usize)> {
        let before = [0, owned[0].len()];
        let parts: [_; 2] = std::array::from_fn(|which| {
            let owned = &owned[which];
            let part = range.start.max(owned.start)..range.end.min(owned.end);
            let at = before[which] + part.start.saturating_sub(owned.start);
            (part, at)
        });
        parts.into_iter().filter(|(part, _)| !part.is_empty())
    }
}

/// A slice that can be cut in two.
pub(super) trait Slice: Sized {
    fn cut(self, at: usize) -> (Self, Self);
}

impl Slice for &[f32] {
    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at(at)
    }
}

impl Slice for &mut [f32] {
    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at_mut(at)
    }
}

/// What of the row of all parameters (or of their gradients) lies outside layers; empty where it is not held.
pub(super) struct Ends<S> {
    /// `(vocab, hidden)`
    pub(super) embedding: S,
    /// `(hidden)`
    pub(super) final_norm: S,
    /// `(vocab, hidden)`
    pub(super) head: S,
}

/// One layer's.
pub(super) struct Layer<S> {
    /// `(hidden)`
    pub(super) input_norm: S,
    /// `(hidden)`
    pub(super) post_attention_norm: S,
    /// `((heads + 2 · kv_heads) · head_dim, hidden)`
    pub(super) qkv: S,
    /// `(hidden, heads · head_dim)`
    pub(super) o: S,
    /// `(2, head_dim)`: of queries and of keys.
    pub(super) head_norms: S,
    pub(super) feed_forward: FeedForward<S>,
}

pub(super) enum FeedForward<S> {
    Dense(Mlp<S>),
    Moe(Moe<S>),
}

pub(super) struct Moe<S> {
    /// `(experts, hidden)`
    pub(super) router: S,
    pub(super) shared: Mlp<S>,
    /// `(experts, 3 · width · hidden)`: each an [`Mlp`].
    pub(super) experts: S,
}

pub(super) struct Mlp<S> {
    /// `(2 · width, hidden)`, gate first.
    pub(super) gate_up: S,
    /// `(hidden, width)`
    pub(super) down: S,
}

impl<S: Slice> Layer<S> {
    pub(super) fn of(config: &Config, is_moe: bool, layer: S, experts: S) -> Self {
        let hidden = config.hidden_size;
        let (input_norm, rest) = layer.cut(hidden);
        let (post_attention_norm, rest) = rest.cut(hidden);
        let (qkv, rest) = rest.cut((config.attention_size() + 2 * config.kv_size()) * hidden);
        let (o, rest) = rest.cut(hidden * config.attention_size());
        let (head_norms, rest) = rest.cut(2 * config.head_dim);
        let feed_forward = if is_moe {
            let (router, shared) = rest.cut(config.n_routed_experts * hidden);
            FeedForward::Moe(Moe {
                router,
                shared: Mlp::of(config.shared_intermediate_size(), hidden, shared),
                experts,
            })
        } else {
            FeedForward::Dense(Mlp::of(config.intermediate_size, hidden, rest))
        };
        Self { input_norm, post_attention_norm, qkv, o, head_norms, feed_forward }
    }
}

impl<S: Slice> Mlp<S> {
    pub(super) fn of(width: usize, hidden: usize, mlp: S) -> Self {
        let (gate_up, down) = mlp.cut(2 * width * hidden);
        Self { gate_up, down }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Config {
        Config {
            vocab_size: 11,
            hidden_size: 4,
            intermediate_size: 5,
            moe_intermediate_size: 3,
            num_hidden_layers: 4,
            first_k_dense_replace: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 2,
            n_routed_experts: 3,
            num_experts_per_tok: 2,
            ..Config::dots_llm1()
        }
    }

    /// The rooms are cut where the table says that tensors start.
    #[test]
    fn every_room_starts_where_its_tensor_does() {
        let config = small();
        let all = Share::all(&config);
        let (table, rooms) = (table(&config, &all), Rooms::new(&config, &all));
        let biases = 2 * config.n_routed_experts;
        assert_eq!(rooms.len + biases, config.parameters().total as usize);
        let numbers: Vec<f32> = (0..rooms.len).map(|i| i as f32).collect();
        assert_eq!(table.iter().map(|parameter| parameter.range().end).max(), Some(numbers.len()));
        let starts = |name: &str, slice: &[f32]| {
            let parameter = table.iter().find(|parameter| parameter.name == name).unwrap();
            assert_eq!(slice[0], parameter.start as f32, "{name}");
        };
        let ends = rooms.ends(&numbers[..]);
        starts("model.embed_tokens.weight", ends.embedding);
        starts("model.norm.weight", ends.final_norm);
        starts("lm_head.weight", ends.head);
        for index in 0..4 {
            let layer = rooms.layer(&config, &numbers[..], index);
            let starts = |name: &str, slice: &[f32]| starts(&format!("model.layers.{index}.{name}.weight"), slice);
            starts("input_layernorm", layer.input_norm);
            starts("post_attention_layernorm", layer.post_attention_norm);
            starts("self_attn.q_proj", layer.qkv);
            starts("self_attn.k_proj", &layer.qkv[8 * 4..]);
            starts("self_attn.v_proj", &layer.qkv[(8 + 4) * 4..]);
            starts("self_attn.o_proj", layer.o);
            starts("self_attn.q_norm", layer.head_norms);
            starts("self_attn.k_norm", &layer.head_norms[2..]);
            match layer.feed_forward {
                FeedForward::Dense(mlp) => {
                    starts("mlp.gate_proj", mlp.gate_up);
                    starts("mlp.up_proj", &mlp.gate_up[5 * 4..]);
                    starts("mlp.down_proj", mlp.down);
                }
                FeedForward::Moe(moe) => {
                    starts("mlp.gate", moe.router);
                    starts("mlp.shared_experts.gate_proj", moe.shared.gate_up);
                    starts("mlp.shared_experts.down_proj", moe.shared.down);
                    for (expert, mlp) in moe.experts.chunks(3 * 3 * 4).enumerate() {
                        let mlp = Mlp::of(3, 4, mlp);
                        starts(&format!("mlp.experts.{expert}.gate_proj"), mlp.gate_up);
                        starts(&format!("mlp.experts.{expert}.up_proj"), &mlp.gate_up[3 * 4..]);
                        starts(&format!("mlp.experts.{expert}.down_proj"), mlp.down);
                    }
                }
            }
        }
    }
}
