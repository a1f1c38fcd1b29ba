//! [`Config`] from `config.json`, as written for the first release and by `transformers` 5.

use std::path::Path;

use serde_json::Value;

use super::super::json::Object;
use crate::{Config, Error};

/// Reads the fields, and refuses what would need other arithmetic than a dots.llm1's.
pub(super) fn from_json(path: &Path, json: &Object<'_>) -> Result<Config, Error> {
    check_architecture(json)?;
    check_attention(json)?;
    check_routing(json)?;
    let rope_theta = read_rope(path, json)?;

    let hidden_size = json.usize("hidden_size")?;
    let num_attention_heads = json.usize("num_attention_heads")?;
    let head_dim = match json.optional_usize("head_dim")? {
        Some(head_dim) => head_dim,
        None => match hidden_size.checked_div(num_attention_heads) {
            Some(head_dim) if head_dim * num_attention_heads == hidden_size => head_dim,
            _ => return Err(json.wrong("head_dim", "a whole number, as hidden_size is no multiple of the heads")),
        },
    };
    let config = Config {
        vocab_size: json.usize("vocab_size")?,
        hidden_size,
        intermediate_size: json.usize("intermediate_size")?,
        moe_intermediate_size: json.usize("moe_intermediate_size")?,
        num_hidden_layers: json.usize("num_hidden_layers")?,
        first_k_dense_replace: json.usize("first_k_dense_replace")?,
        num_attention_heads,
        num_key_value_heads: json.usize("num_key_value_heads")?,
        head_dim,
        n_routed_experts: json.usize("n_routed_experts")?,
        n_shared_experts: json.usize("n_shared_experts")?,
        num_experts_per_tok: json.usize("num_experts_per_tok")?,
        norm_topk_prob: json.bool("norm_topk_prob")?,
        routed_scaling_factor: json.f64("routed_scaling_factor")? as f32,
        rms_norm_eps: json.f64("rms_norm_eps")? as f32,
        rope_theta,
        max_position_embeddings: json.usize("max_position_embeddings")?,
    };
    config.validate(path)?;
    Ok(config)
}

fn check_architecture(json: &Object<'_>) -> Result<(), Error> {
    if json.get("model_type").and_then(Value::as_str) != Some("dots1") {
        return Err(json.wrong("model_type", "\"dots1\""));
    }
    let architectures = json.get("architectures").and_then(Value::as_array);
    match architectures.map(Vec::as_slice) {
        Some([Value::String(one)]) if one == "Dots1ForCausalLM" => Ok(()),
        Some([Value::String(one)]) => {
            let found = super::super::json::quote(one);
            Err(Error::invalid(json.path(), "architectures", "\"Dots1ForCausalLM\"", found))
        }
        _ => Err(json.wrong("architectures", "[\"Dots1ForCausalLM\"]")),
    }
}

/// The keys checked here may be absent where the tensors tell: a bias that the config hides is refused as unknown.
fn check_attention(json: &Object<'_>) -> Result<(), Error> {
    if json.optional_bool("attention_bias")? == Some(true) {
        return Err(json.wrong("attention_bias", "false"));
    }
    match json.optional_str("hidden_act")? {
        Some("silu") => (),
        _ => return Err(json.wrong("hidden_act", "\"silu\"")),
    }
    let layer_types = json.get("layer_types");
    if let Some(types) = layer_types {
        let full = types.as_array().is_some_and(|types| types.iter().all(|kind| kind == "full_attention"));
        if !full {
            return Err(json.wrong("layer_types", "\"full_attention\" for every layer"));
        }
    }
    // `transformers` takes a window of 4096 where the key is missing, so a file must say that there is none.
    if json.get("sliding_window").is_some() || !(json.has("sliding_window") || layer_types.is_some()) {
        return Err(json.wrong("sliding_window", "null"));
    }
    Ok(())
}

fn check_routing(json: &Object<'_>) -> Result<(), Error> {
    for key in ["n_group", "topk_group", "moe_layer_freq"] {
        if json.optional_usize(key)?.is_some_and(|value| value != 1) {
            return Err(json.wrong(key, "1"));
        }
    }
    let topk_method = json.optional_str("topk_method")?;
    if topk_method.is_some_and(|method| method != "noaux_tc") {
        return Err(json.wrong("topk_method", "\"noaux_tc\""));
    }
    // The first release wrote the method of choice into the key of the score; both generations mean sigmoid.
    match json.optional_str("scoring_func")? {
        Some("noaux_tc") => Ok(()),
        Some("sigmoid") if topk_method.is_some() => Ok(()),
        Some("sigmoid") => Err(json.wrong("topk_method", "\"noaux_tc\"")),
        _ => Err(json.wrong("scoring_func", "\"noaux_tc\" or \"sigmoid\"")),
    }
}

/// `rope_theta`, at the top level or under `rope_parameters`, where nothing but the plain form may stand beside it.
fn read_rope(path: &Path, json: &Object<'_>) -> Result<f64, Error> {
    let mut rope_theta = json.optional_f64("rope_theta")?;
    for (key, prefix) in [("rope_parameters", "rope_parameters."), ("rope_scaling", "rope_scaling.")] {
        let Some(value) = json.get(key) else { continue };
        let rope = Object::within(path, prefix, value)?;
        for kind in ["rope_type", "type"] {
            if rope.optional_str(kind)?.is_some_and(|kind| kind != "default") {
                return Err(rope.wrong(kind, "\"default\""));
            }
        }
        if rope.get("rope_type").or(rope.get("type")).is_none() {
            return Err(rope.wrong("rope_type", "\"default\""));
        }
        if rope.optional_f64("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
            return Err(rope.wrong("partial_rotary_factor", "1"));
        }
        if let Some(inner) = rope.optional_f64("rope_theta")? {
            if rope_theta.is_some_and(|outer| outer != inner) {
                return Err(rope.wrong("rope_theta", "the value of rope_theta at the top level"));
            }
            rope_theta = Some(inner);
        }
    }
    rope_theta.ok_or_else(|| json.wrong("rope_theta", "a number here or in rope_parameters"))
}
