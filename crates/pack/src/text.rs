//! The small files of a folder: `config.json`, and what makes a model speak.

use std::{fs, path::Path};

use dots_model::{
    Checkpoint,
    checkpoint::{GenerationDefaults, TokenizerSource, container::QUANT_METHOD},
    tokenizer::Vocabulary,
};
use serde_json::{Map, Value, json};

use crate::{Error, files};

/// Files that are copied as they are where the source has them.
const COPIED: [&str; 9] = [
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

/// `config.json` in the published form. `packed` says whether other readers must be told that they cannot read the weights.
pub fn config(checkpoint: &Checkpoint, packed: bool) -> String {
    let config = &checkpoint.config;
    let mut json = json!({
        "architectures": ["Dots1ForCausalLM"],
        "attention_bias": false,
        "attention_dropout": 0.0,
        "bos_token_id": null,
        "eos_token_id": eos(&checkpoint.generation),
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
        "torch_dtype": "bfloat16",
        "use_cache": true,
        "vocab_size": config.vocab_size,
    });
    if packed {
        json["quantization_config"] = json!({ "quant_method": QUANT_METHOD });
    }
    format!("{json:#}\n")
}

/// The number that was written where `x` was read from: 1e-5 and not 0.00000999999974.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(x.into())
}

/// No id, one, or a list of them, as the files have it.
fn eos(generation: &GenerationDefaults) -> Value {
    match generation.eos_token_ids[..] {
        [] => Value::Null,
        [one] => json!(one),
        ref several => json!(several),
    }
}

/// Writes tokenizer, chat template and generation settings: copies of the source's files, or from a GGUF's metadata, files
/// that mean the same.
pub fn write(checkpoint: &Checkpoint, folder: &Path) -> Result<(), Error> {
    match &checkpoint.tokenizer {
        Some(TokenizerSource::Gguf { .. }) => from_gguf(checkpoint, folder),
        _ => copy(&checkpoint.path, folder),
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    for name in COPIED {
        let path = from.join(name);
        if !path.is_file() {
            continue;
        }
        let bytes = fs::read(&path).map_err(|source| dots_model::Error::io(&path, source))?;
        files::write(&to.join(name), &bytes)?;
    }
    Ok(())
}

fn from_gguf(checkpoint: &Checkpoint, folder: &Path) -> Result<(), Error> {
    let Some(source) = &checkpoint.tokenizer else { return Ok(()) };
    let vocabulary = Vocabulary::new(source)?;
    let write = |name: &str, json: &Value| files::write(&folder.join(name), format!("{json:#}\n").as_bytes());
    files::write(&folder.join("tokenizer.json"), vocabulary.to_json().to_string().as_bytes())?;

    let mut config = Map::new();
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    config.insert("add_bos_token".into(), json!(!vocabulary.prefix.is_empty()));
    // A token with a role is special to every reader, so one that is not must not be named.
    let special = |id: u32| vocabulary.is_special(id).then(|| vocabulary.tokens[id as usize].clone());
    let bos = vocabulary.prefix.first().and_then(|id| vocabulary.tokens.get(*id as usize).cloned());
    let eos = checkpoint.generation.eos_token_ids.first().and_then(|id| special(*id));
    config.insert("bos_token".into(), json!(bos));
    config.insert("eos_token".into(), json!(eos));
    config.insert("model_max_length".into(), json!(checkpoint.config.max_position_embeddings));
    write("tokenizer_config.json", &Value::Object(config))?;
    if let Some(template) = &checkpoint.chat_template {
        files::write(&folder.join("chat_template.jinja"), template.as_bytes())?;
    }
    let generation = &checkpoint.generation;
    let mut json = Map::new();
    json.insert("eos_token_id".into(), json!(generation.eos_token_ids));
    let numbers = [
        ("temperature", generation.temperature),
        ("top_p", generation.top_p),
        ("min_p", generation.min_p),
        ("repetition_penalty", generation.repetition_penalty),
    ];
    for (key, value) in numbers {
        if let Some(value) = value {
            json.insert(key.into(), json!(shortest(value)));
        }
    }
    if let Some(top_k) = generation.top_k {
        json.insert("top_k".into(), json!(top_k));
    }
    if let Some(do_sample) = generation.do_sample {
        json.insert("do_sample".into(), json!(do_sample));
    }
    write("generation_config.json", &Value::Object(json))
}
