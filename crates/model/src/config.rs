//! The numbers that shape a dots.llm1, whatever file they came from.

/// The shape and constants of one dots.llm1. Field names are those of the published `config.json`. No field has a
/// default: the defaults of `transformers`' `Dots1Config` describe another model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of a dense layer's MLP.
    pub intermediate_size: usize,
    /// Width of one routed expert; the shared experts are one MLP of `n_shared_experts` times this.
    pub moe_intermediate_size: usize,
    /// Layers in all.
    pub num_hidden_layers: usize,
    /// How many of the first layers are dense.
    pub first_k_dense_replace: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Experts that the router chooses from.
    pub n_routed_experts: usize,
    /// Experts that see every token.
    pub n_shared_experts: usize,
    /// Experts chosen for a token.
    pub num_experts_per_tok: usize,
    /// Whether the chosen experts' weights are normalised to sum to one before scaling.
    pub norm_topk_prob: bool,
    /// Factor on the routed part, after normalisation. The shared part is not scaled.
    pub routed_scaling_factor: f32,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Longest context that the model was trained for, in tokens.
    pub max_position_embeddings: usize,
}

/// How many parameters a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// All of them.
    pub total: u64,
    /// Those that one token's forward pass reads: every matrix but the embedding table and the experts not chosen.
    pub active: u64,
}

impl Config {
    /// Width of all query heads together.
    pub fn attention_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Width of the shared experts' one MLP.
    pub fn shared_intermediate_size(&self) -> usize {
        self.n_shared_experts * self.moe_intermediate_size
    }

    /// Whether layer `layer` is a mixture of experts.
    pub fn is_moe(&self, layer: usize) -> bool {
        layer >= self.first_k_dense_replace
    }

    /// Numbers that one token leaves in the cache: keys and values of every layer.
    pub fn cache_elements_per_token(&self) -> usize {
        2 * self.num_hidden_layers * self.kv_size()
    }
}
