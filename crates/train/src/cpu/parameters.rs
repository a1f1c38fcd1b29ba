//! Where each parameter lies: all in one row of numbers, and gradients and moments in rows of the same order.

use dots_model::{Config, Error, checkpoint::expected_tensors};

use super::memory::Memory;

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
    /// Whether updates leave it as it is, and its gradient counts nowhere.
    pub frozen: bool,
}

impl Parameter {
    /// Its numbers in the row of all.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + self.len()
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

/// Every parameter in the order in which it lies.
pub(super) fn table(config: &Config) -> Vec<Parameter> {
    let mut start = 0;
    expected_tensors(config)
        .filter(|(name, _)| !name.ends_with(BIAS))
        .map(|(name, shape)| {
            let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')?.0.parse().ok());
            let parameter = Parameter { name, shape, start, layer, frozen: false };
            start += parameter.len();
            parameter
        })
        .collect()
}

/// How many numbers all parameters have; `usize::MAX` where that is more.
pub(super) fn count(config: &Config) -> usize {
    let biases = (config.num_hidden_layers - config.first_k_dense_replace) * config.n_routed_experts;
    usize::try_from(config.parameters().total).unwrap_or(usize::MAX).saturating_sub(biases)
}

/// Weights and what is kept of each.
#[derive(Debug)]
pub(super) struct Parameters {
    pub(super) table: Vec<Parameter>,
    /// Master weights, `(count)`.
    pub(super) weights: Vec<f32>,
    /// `(count)`.
    pub(super) gradients: Vec<f32>,
    /// `(count)`.
    pub(super) first: Vec<f32>,
    /// `(count)`.
    pub(super) second: Vec<f32>,
    /// `(MoE layers, experts)`.
    pub(super) biases: Vec<f32>,
    /// Updates made.
    pub(super) updates: u64,
}

impl Parameters {
    pub(super) fn new(config: &Config, memory: &mut Memory, table: Vec<Parameter>) -> Result<Self, Error> {
        let count = count(config);
        memory.part("weights");
        let weights = memory.numbers(&[count])?;
        let moe_layers = config.num_hidden_layers - config.first_k_dense_replace;
        let biases = memory.numbers(&[moe_layers, config.n_routed_experts])?;
        memory.part("gradients");
        let gradients = memory.numbers(&[count])?;
        memory.part("moments");
        let (first, second) = (memory.numbers(&[count])?, memory.numbers(&[count])?);
        Ok(Self { table, weights, gradients, first, second, biases, updates: 0 })
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

/// The row of all parameters (or of their gradients), cut where its rooms are.
pub(super) struct Whole<S> {
    /// `(vocab, hidden)`
    pub(super) embedding: S,
    /// `(hidden)`
    pub(super) final_norm: S,
    /// `(vocab, hidden)`
    pub(super) head: S,
    /// All layers.
    pub(super) layers: S,
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

impl<S: Slice> Whole<S> {
    pub(super) fn of(config: &Config, all: S) -> Self {
        let table = config.vocab_size * config.hidden_size;
        let (embedding, rest) = all.cut(table);
        let (final_norm, rest) = rest.cut(config.hidden_size);
        let (head, layers) = rest.cut(table);
        Self { embedding, final_norm, head, layers }
    }

    /// The parameters of layer `index`.
    pub(super) fn layer(self, config: &Config, index: usize) -> Layer<S> {
        let dense = config.first_k_dense_replace;
        let start = index.min(dense) * layer_len(config, false) + index.saturating_sub(dense) * layer_len(config, true);
        let (_, rest) = self.layers.cut(start);
        let (layer, _) = rest.cut(layer_len(config, config.is_moe(index)));
        Layer::of(config, config.is_moe(index), layer)
    }
}

impl<S: Slice> Layer<S> {
    fn of(config: &Config, is_moe: bool, layer: S) -> Self {
        let hidden = config.hidden_size;
        let (input_norm, rest) = layer.cut(hidden);
        let (post_attention_norm, rest) = rest.cut(hidden);
        let (qkv, rest) = rest.cut((config.attention_size() + 2 * config.kv_size()) * hidden);
        let (o, rest) = rest.cut(hidden * config.attention_size());
        let (head_norms, rest) = rest.cut(2 * config.head_dim);
        let feed_forward = if is_moe {
            let (router, rest) = rest.cut(config.n_routed_experts * hidden);
            let (shared, experts) = rest.cut(3 * config.shared_intermediate_size() * hidden);
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

/// Numbers of a layer.
fn layer_len(config: &Config, is_moe: bool) -> usize {
    let hidden = config.hidden_size;
    let attention = hidden * (2 * config.attention_size() + 2 * config.kv_size());
    let feed_forward = if is_moe {
        let experts = config.n_routed_experts * (3 * config.moe_intermediate_size + 1);
        (experts + 3 * config.shared_intermediate_size()) * hidden
    } else {
        3 * config.intermediate_size * hidden
    };
    2 * hidden + 2 * config.head_dim + attention + feed_forward
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rooms are cut where the table says that tensors start.
    #[test]
    fn every_room_starts_where_its_tensor_does() {
        let config = Config {
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
        };
        let table = table(&config);
        let numbers: Vec<f32> = (0..count(&config)).map(|i| i as f32).collect();
        assert_eq!(table.last().unwrap().range().end, numbers.len());
        let starts = |name: &str, slice: &[f32]| {
            let parameter = table.iter().find(|parameter| parameter.name == name).unwrap();
            assert_eq!(slice[0], parameter.start as f32, "{name}");
        };
        let whole = || Whole::of(&config, &numbers[..]);
        starts("model.embed_tokens.weight", whole().embedding);
        starts("model.norm.weight", whole().final_norm);
        starts("lm_head.weight", whole().head);
        for index in 0..4 {
            let layer = whole().layer(&config, index);
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
