//! The numbers that shape a dots.llm1, whatever file they came from.

use std::path::Path;

use crate::Error;

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

    /// The published dots.llm1, base and inst alike.
    pub const fn dots_llm1() -> Self {
        Self {
            vocab_size: 152_064,
            hidden_size: 4096,
            intermediate_size: 10_944,
            moe_intermediate_size: 1408,
            num_hidden_layers: 62,
            first_k_dense_replace: 1,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: 128,
            n_routed_experts: 128,
            n_shared_experts: 2,
            num_experts_per_tok: 6,
            norm_topk_prob: true,
            routed_scaling_factor: 2.5,
            rms_norm_eps: 1e-5,
            rope_theta: 1e7,
            max_position_embeddings: 32_768,
        }
    }

    /// How many parameters a model of this shape has.
    pub fn parameters(&self) -> Parameters {
        let [vocab, hidden, heads, kv] =
            [self.vocab_size, self.hidden_size, self.attention_size(), self.kv_size()].map(|size| size as u64);
        let layers = self.num_hidden_layers as u64;
        let dense_layers = self.first_k_dense_replace as u64;
        let moe_layers = layers - dense_layers;
        let experts = self.n_routed_experts as u64;

        let attention = hidden * (2 * heads + 2 * kv);
        let dense = 3 * hidden * self.intermediate_size as u64;
        let expert = 3 * hidden * self.moe_intermediate_size as u64;
        let shared = 3 * hidden * self.shared_intermediate_size() as u64;
        let router = experts * hidden;
        let head = vocab * hidden;

        let always = layers * attention + dense_layers * dense + moe_layers * (shared + router) + head;
        let embedding = vocab * hidden;
        let norms = hidden + layers * (2 * hidden + 2 * self.head_dim as u64);
        let router_biases = moe_layers * experts;
        Parameters {
            total: always + moe_layers * experts * expert + embedding + norms + router_biases,
            active: always + moe_layers * self.num_experts_per_tok as u64 * expert,
        }
    }

    /// Refuses numbers that no model has, so that whatever is computed from those that pass neither overflows nor divides
    /// by zero. `path` is the file that they came from.
    pub fn validate(&self, path: &Path) -> Result<(), Error> {
        let within = |field: &str, value: usize, least: usize, most: usize| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(Error::invalid(path, field, format!("{least} to {most}"), value.to_string()))
        };
        within("vocab_size", self.vocab_size, 1, 1 << 24)?;
        within("hidden_size", self.hidden_size, 1, 1 << 20)?;
        within("intermediate_size", self.intermediate_size, 1, 1 << 24)?;
        within("moe_intermediate_size", self.moe_intermediate_size, 1, 1 << 20)?;
        within("num_hidden_layers", self.num_hidden_layers, 1, 4096)?;
        within("first_k_dense_replace", self.first_k_dense_replace, 0, self.num_hidden_layers)?;
        within("num_attention_heads", self.num_attention_heads, 1, 1 << 12)?;
        within("num_key_value_heads", self.num_key_value_heads, 1, self.num_attention_heads)?;
        within("head_dim", self.head_dim, 2, 1 << 12)?;
        // Each expert of each layer becomes three tensors when the checkpoint opens.
        within("n_routed_experts", self.n_routed_experts, 1, (1 << 18) / self.num_hidden_layers)?;
        within("n_shared_experts", self.n_shared_experts, 1, 1 << 10)?;
        within("num_experts_per_tok", self.num_experts_per_tok, 1, self.n_routed_experts)?;
        within("max_position_embeddings", self.max_position_embeddings, 1, 1 << 30)?;
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let expected = format!("a divisor of the {} attention heads", self.num_attention_heads);
            return Err(Error::invalid(path, "num_key_value_heads", expected, self.num_key_value_heads.to_string()));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::invalid(path, "head_dim", "an even number", self.head_dim.to_string()));
        }
        let positive = |field: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                return Ok(());
            }
            Err(Error::invalid(path, field, "a positive finite number", value.to_string()))
        };
        positive("rms_norm_eps", self.rms_norm_eps.into())?;
        positive("routed_scaling_factor", self.routed_scaling_factor.into())?;
        positive("rope_theta", self.rope_theta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_llm1_has_142_8_billion_parameters_and_reads_13_4_for_a_token() {
        let Parameters { total, active } = Config::dots_llm1().parameters();
        assert_eq!(format!("{:.1}", total as f64 / 1e9), "142.8");
        assert_eq!(format!("{:.1}", active as f64 / 1e9), "13.4");
    }

    #[test]
    fn a_token_of_dots_llm1_leaves_a_megabyte_in_a_bf16_cache() {
        assert_eq!(2 * Config::dots_llm1().cache_elements_per_token(), 1_015_808);
    }

    #[test]
    fn numbers_that_no_model_has_are_refused_by_name() {
        let full = Config::dots_llm1();
        let cases: [(&str, Config); 12] = [
            ("vocab_size", Config { vocab_size: 0, ..full.clone() }),
            ("hidden_size", Config { hidden_size: usize::MAX, ..full.clone() }),
            ("num_hidden_layers", Config { num_hidden_layers: 5000, ..full.clone() }),
            ("first_k_dense_replace", Config { first_k_dense_replace: 63, ..full.clone() }),
            ("num_key_value_heads", Config { num_key_value_heads: 5, ..full.clone() }),
            ("head_dim", Config { head_dim: 127, ..full.clone() }),
            ("num_experts_per_tok", Config { num_experts_per_tok: 129, ..full.clone() }),
            ("n_routed_experts", Config { n_routed_experts: 1 << 18, ..full.clone() }),
            ("n_shared_experts", Config { n_shared_experts: 0, ..full.clone() }),
            ("rms_norm_eps", Config { rms_norm_eps: f32::NAN, ..full.clone() }),
            ("routed_scaling_factor", Config { routed_scaling_factor: 0.0, ..full.clone() }),
            ("rope_theta", Config { rope_theta: f64::INFINITY, ..full.clone() }),
        ];
        for (field, config) in cases {
            let error = config.validate(Path::new("config.json")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("config.json: {field}: expected ")), "{error}");
        }
        full.validate(Path::new("config.json")).unwrap();
    }
}
