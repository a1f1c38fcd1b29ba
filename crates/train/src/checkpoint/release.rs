//! The small files that make weights a published checkpoint.

use std::{fs, path::Path};

use dots_model::Config;
use serde_json::{Map, Value, json};

use super::{CheckpointError, file};

/// Files of the tokenizer's folder that go with every checkpoint, where it has them.
const TEXTS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
];
/// Largest of them: the published tokenizer has 7 MB.
const MAX_TEXT_BYTES: u64 = 1 << 28;

/// `config.json` as dots.llm1 was published with.
fn config_json(config: &Config, eos_token_id: &Value) -> String {
    // 1e-5 and not 0.00000999999974.
    let shortest = |x: f32| x.to_string().parse::<f64>().unwrap_or(x.into());
    let json = json!({
        "architectures": ["Dots1ForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": null,
        "eos_token_id": eos_token_id,
        "first_k_dense_replace": config.first_k_dense_replace,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.006,
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
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "vocab_size": config.vocab_size,
    });
    format!("{json:#}\n")
}

/// Writes `config.json`, `generation_config.json` and copies of the tokenizer's files into `folder`, and notes each in `files`.
pub(super) fn write(
    folder: &Path,
    config: &Config,
    tokenizer: &Path,
    files: &mut Map<String, Value>,
) -> Result<(), CheckpointError> {
    let mut eos = Value::Null;
    for name in TEXTS {
        let path = tokenizer.join(name);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.len() > MAX_TEXT_BYTES {
            let expected = format!("at most {MAX_TEXT_BYTES} bytes");
            return Err(CheckpointError::wrong(path, "length", expected, metadata.len().to_string()));
        }
        let bytes = fs::read(&path).map_err(CheckpointError::io(&path))?;
        if name == "generation_config.json" {
            let json: Value = serde_json::from_slice(&bytes)
                .map_err(|error| CheckpointError::wrong(&path, "text", "JSON", error.to_string()))?;
            eos = json["eos_token_id"].clone();
        }
        files.insert(name.to_owned(), file::write(&folder.join(name), &bytes)?);
    }
    if !files.contains_key("generation_config.json") {
        let text = format!("{:#}\n", json!({ "eos_token_id": eos }));
        let name = "generation_config.json";
        files.insert(name.to_owned(), file::write(&folder.join(name), text.as_bytes())?);
    }
    let name = "config.json";
    files.insert(name.to_owned(), file::write(&folder.join(name), config_json(config, &eos).as_bytes())?);
    Ok(())
}
