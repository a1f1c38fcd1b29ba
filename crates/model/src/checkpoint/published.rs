//! The small files of a folder in the published layout, as they are written.

use serde_json::{Value, json};

use crate::Config;

/// What a folder may hold beside its weights and `config.json`: files that are handed on as they are.
pub const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "LICENSE",
];

/// `config.json` of a model of this shape: every field that `transformers`' `Dots1Config` has no right default for.
/// `eos_token_ids` are those that end a turn, and `dtype` is what the weights are in, such as `bfloat16`.
pub fn config_json(config: &Config, eos_token_ids: &[u32], dtype: &str) -> Value {
    json!({
        "architectures": ["Dots1ForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": null,
        "eos_token_id": token_ids(eos_token_ids),
        "first_k_dense_replace": config.first_k_dense_replace,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": "dots1",
        "moe_intermediate_size": config.moe_intermediate_size,
        "moe_layer_freq": 1,
        "n_routed_experts": config.n_routed_experts,
        "n_shared_experts": config.n_shared_experts,
        "norm_topk_prob": config.norm_topk_prob,
        "num_attention_heads": config.num_attention_heads,
        "num_experts_per_tok": config.num_experts_per_tok,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "pretraining_tp": 1,
        "rms_norm_eps": shortest(config.rms_norm_eps),
        "rope_scaling": null,
        "rope_theta": config.rope_theta,
        "routed_scaling_factor": shortest(config.routed_scaling_factor),
        "scoring_func": "noaux_tc",
        "sliding_window": null,
        "tie_word_embeddings": false,
        "torch_dtype": dtype,
        "use_cache": true,
        "vocab_size": config.vocab_size,
    })
}

/// The number that was written where `x` was read from: 1e-5 and not 0.00000999999974.
pub fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(x.into())
}

/// No id, one, or a list of them, as the files have it.
fn token_ids(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    }
}
