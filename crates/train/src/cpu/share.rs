//! What of a model is held, and where it lies in one row of numbers.

use std::ops::Range;

use dots_model::Config;

use super::parameters::{Ends, Layer, Slice};

/// What of a model is held: all of it, or a rank's part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    /// Which layers, each run of them in order.
    pub(crate) layers: Vec<Range<usize>>,
    /// Whether the embedding is.
    pub(crate) embedding: bool,
    /// Whether the final norm and the head are.
    pub(crate) head: bool,
    /// Which experts of each mixture.
    pub(crate) experts: Range<usize>,
    /// How many ranks hold the same, for what is no expert and for experts, and which of them this one is: moments are cut among them.
    pub(crate) replicas: [Replica; 2],
}

/// One of several that hold the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replica {
    /// Which, below `of`.
    pub(crate) index: usize,
    /// How many there are.
    pub(crate) of: usize,
}

impl Share {
    /// The whole model, and nobody else.
    pub(crate) fn all(config: &Config) -> Self {
        Self {
            layers: std::iter::once(0..config.num_hidden_layers).collect(),
            embedding: true,
            head: true,
            experts: 0..config.n_routed_experts,
            replicas: [Replica { index: 0, of: 1 }; 2],
        }
    }

    /// Among how many ranks the experts of a layer are shared.
    pub(super) fn expert_ranks(&self, config: &Config) -> usize {
        config.n_routed_experts.checked_div(self.experts.len()).unwrap_or(1)
    }

    fn has_layer(&self, layer: usize) -> bool {
        self.layers.iter().any(|layers| layers.contains(&layer))
    }

    /// Whether the tensor `name` is held.
    pub(super) fn holds(&self, name: &str) -> bool {
        match (layer_of(name), expert_of(name)) {
            (Some(layer), expert) => {
                self.has_layer(layer) && expert.is_none_or(|expert| self.experts.contains(&expert))
            }
            (None, _) if name.starts_with("model.embed_tokens.") => self.embedding,
            (None, _) => self.head,
        }
    }
}

pub(super) fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split_once('.')?.0.parse().ok()
}

/// The routed expert that the tensor `name` is of.
pub(crate) fn expert_of(name: &str) -> Option<usize> {
    name.split_once(".mlp.experts.")?.1.split_once('.')?.0.parse().ok()
}

/// Where a layer lies.
#[derive(Debug, Clone)]
struct Room {
    is_moe: bool,
    /// What is no expert.
    rest: Range<usize>,
    experts: Range<usize>,
}

/// Where the rooms of a share lie in its row of numbers: first what is no expert, then the experts. Each of the two is filled up with zeros
/// until it can be cut in equal parts among its replicas.
#[derive(Debug, Clone)]
pub(super) struct Rooms {
    pub(super) embedding: Range<usize>,
    pub(super) final_norm: Range<usize>,
    pub(super) head: Range<usize>,
    /// By layer, where it is held.
    layers: Vec<Option<Room>>,
    /// Where experts begin.
    pub(super) experts: usize,
    /// Numbers in all.
    pub(super) len: usize,
}

impl Rooms {
    pub(super) fn new(config: &Config, share: &Share) -> Self {
        let mut end = 0usize;
        let mut room = |len: usize, is: bool| {
            let start = end;
            end = end.saturating_add(if is { len } else { 0 });
            start..end
        };
        let table = product(&[config.vocab_size, config.hidden_size]);
        let embedding = room(table, share.embedding);
        let final_norm = room(config.hidden_size, share.head);
        let head = room(table, share.head);
        let with = |index: usize| (share.has_layer(index), config.is_moe(index));
        let layers: Vec<_> = (0..config.num_hidden_layers)
            .map(|index| (with(index), room(layer_len(config, config.is_moe(index)), share.has_layer(index))))
            .collect();
        end = up(end, share.replicas[0]);
        let experts = end;
        let each = product(&[share.experts.len(), 3, config.moe_intermediate_size, config.hidden_size]);
        let mut room = |is: bool| {
            let start = end;
            end = end.saturating_add(if is { each } else { 0 });
            start..end
        };
        let layers = layers
            .into_iter()
            .map(|((is_held, is_moe), rest)| is_held.then(|| Room { is_moe, rest, experts: room(is_moe) }))
            .collect();
        let len = experts.saturating_add(up(end - experts, share.replicas[1]));
        Self { embedding, final_norm, head, layers, experts, len }
    }

    /// The part of the two rows, what is no expert and experts, whose moments this replica keeps.
    pub(super) fn owned(&self, share: &Share) -> [Range<usize>; 2] {
        let part = |start: usize, end: usize, replica: Replica| {
            let len = (end - start) / replica.of;
            start + replica.index * len..start + (replica.index + 1) * len
        };
        [part(0, self.experts, share.replicas[0]), part(self.experts, self.len, share.replicas[1])]
    }

    /// Whether layer `index` is held.
    pub(super) fn has_layer(&self, index: usize) -> bool {
        self.layers[index].is_some()
    }

    /// The rooms outside layers.
    pub(super) fn ends<S: Slice>(&self, all: S) -> Ends<S> {
        let (embedding, rest) = all.cut(self.embedding.end);
        let (final_norm, rest) = rest.cut(self.final_norm.len());
        let (head, _) = rest.cut(self.head.len());
        Ends { embedding, final_norm, head }
    }

    /// The parameters of layer `index`, which is held.
    pub(super) fn layer<S: Slice>(&self, config: &Config, all: S, index: usize) -> Layer<S> {
        let Room { is_moe, rest, experts } = self.layers[index].as_ref().expect("a layer that is held");
        let (rests, all_experts) = all.cut(self.experts);
        let (_, layer) = rests.cut(rest.start);
        let (layer, _) = layer.cut(rest.len());
        let (_, of_layer) = all_experts.cut(experts.start - self.experts);
        let (experts, _) = of_layer.cut(experts.len());
        Layer::of(config, *is_moe, layer, experts)
    }
}

/// `len` filled up until it can be cut in equal parts.
fn up(len: usize, among: Replica) -> usize {
    len.checked_next_multiple_of(among.of).unwrap_or(usize::MAX)
}

/// The product of sizes; `usize::MAX` where that is more.
fn product(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |product: usize, size| product.saturating_mul(*size))
}

/// Numbers of a layer that are no routed expert's.
fn layer_len(config: &Config, is_moe: bool) -> usize {
    let (hidden, head) = (config.hidden_size, config.head_dim);
    let attention = config.attention_size().saturating_add(config.kv_size());
    let rows = match is_moe {
        true => product(&[3, config.shared_intermediate_size()]).saturating_add(config.n_routed_experts),
        false => product(&[3, config.intermediate_size]),
    };
    product(&[2, hidden])
        .saturating_add(product(&[2, head]))
        .saturating_add(product(&[2, hidden, attention]))
        .saturating_add(product(&[rows, hidden]))
}
