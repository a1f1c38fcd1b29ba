//! What tensors are called, and which of them a config calls for.

use std::{collections::HashMap, path::Path};

use dots_kernels::WeightType;

use super::Tensor;
use crate::{Config, Error};

/// GGUF's names and the published ones, for tensors that stand once in a model.
const GLOBAL: [(&str, &str); 3] =
    [("token_embd.weight", EMBEDDING), ("output_norm.weight", "model.norm.weight"), ("output.weight", HEAD)];

/// GGUF's names and the published ones, after `blk.N.` and `model.layers.N.`. The three of all experts together are called
/// like one expert's without its number; [`super::experts`] cuts them.
const LAYER: [(&str, &str); 19] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    ("attn_k_norm.weight", "self_attn.k_norm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("ffn_gate_inp.weight", "mlp.gate.weight"),
    ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
    ("ffn_gate_exps.weight", "mlp.experts.gate_proj"),
    ("ffn_up_exps.weight", "mlp.experts.up_proj"),
    ("ffn_down_exps.weight", "mlp.experts.down_proj"),
    ("ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight"),
    ("ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight"),
    ("ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight"),
];

/// The token embedding.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";

/// The output head.
pub(super) const HEAD: &str = "lm_head.weight";

/// The published name of GGUF's `name`.
pub(super) fn from_gguf(name: &str) -> Option<String> {
    if let Some((_, published)) = GLOBAL.iter().find(|(gguf, _)| *gguf == name) {
        return Some((*published).to_owned());
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let (_, published) = LAYER.iter().find(|(gguf, _)| *gguf == rest)?;
    Some(format!("model.layers.{layer}.{published}"))
}

/// GGUF's name of the tensor that is published as `name`; that of all experts together for one expert's.
pub fn gguf_name(name: &str) -> Option<String> {
    if let Some((gguf, _)) = GLOBAL.iter().find(|(_, published)| *published == name) {
        return Some((*gguf).to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let fused = rest.strip_prefix("mlp.experts.").and_then(|rest| {
        let (_, projection) = rest.split_once('.')?;
        Some(format!("mlp.experts.{}", projection.strip_suffix(".weight")?))
    });
    let rest = fused.as_deref().unwrap_or(rest);
    let (gguf, _) = LAYER.iter().find(|(_, published)| *published == rest)?;
    Some(format!("blk.{layer}.{gguf}"))
}

/// Name and shape of every tensor of a model of this shape: what is outside layers, then layer by layer, the experts last. A
/// router's bias is among them although a checkpoint may lack it.
pub fn expected_tensors(config: &Config) -> impl Iterator<Item = (String, Vec<usize>)> {
    expected(config).map(|tensor| (tensor.name, tensor.shape))
}

/// A tensor that a config calls for.
pub(super) struct Expected {
    /// Published name.
    pub(super) name: String,
    /// `[rows, cols]` or `[len]`.
    pub(super) shape: Vec<usize>,
    /// Whether a checkpoint must have it.
    pub(super) required: bool,
}

/// Every tensor of a model of this shape. An iterator and not a list: a hostile config may call for more names than fit
/// in memory, and the first that is missing ends the matter.
pub(super) fn expected(config: &Config) -> impl Iterator<Item = Expected> {
    let Config { vocab_size, hidden_size, .. } = *config;
    let globals = [
        matrix(EMBEDDING.to_owned(), vocab_size, hidden_size),
        vector("model.norm.weight".to_owned(), hidden_size),
        matrix(HEAD.to_owned(), vocab_size, hidden_size),
    ];
    globals.into_iter().chain((0..config.num_hidden_layers).flat_map(|layer| expected_in_layer(config, layer)))
}

fn expected_in_layer(config: &Config, layer: usize) -> impl Iterator<Item = Expected> {
    let Config { hidden_size, head_dim, n_routed_experts, .. } = *config;
    let at = format!("model.layers.{layer}");
    let mut tensors = vec![
        vector(format!("{at}.input_layernorm.weight"), hidden_size),
        vector(format!("{at}.post_attention_layernorm.weight"), hidden_size),
        matrix(format!("{at}.self_attn.q_proj.weight"), config.attention_size(), hidden_size),
        matrix(format!("{at}.self_attn.k_proj.weight"), config.kv_size(), hidden_size),
        matrix(format!("{at}.self_attn.v_proj.weight"), config.kv_size(), hidden_size),
        matrix(format!("{at}.self_attn.o_proj.weight"), hidden_size, config.attention_size()),
        vector(format!("{at}.self_attn.q_norm.weight"), head_dim),
        vector(format!("{at}.self_attn.k_norm.weight"), head_dim),
    ];
    let mut experts = 0;
    if config.is_moe(layer) {
        experts = n_routed_experts;
        tensors.push(matrix(format!("{at}.mlp.gate.weight"), n_routed_experts, hidden_size));
        tensors.push(Expected {
            required: false,
            ..vector(format!("{at}.mlp.gate.e_score_correction_bias"), n_routed_experts)
        });
        tensors.extend(mlp(&format!("{at}.mlp.shared_experts"), hidden_size, config.shared_intermediate_size()));
    } else {
        tensors.extend(mlp(&format!("{at}.mlp"), hidden_size, config.intermediate_size));
    }
    let width = config.moe_intermediate_size;
    let experts = (0..experts).flat_map(move |expert| mlp(&format!("{at}.mlp.experts.{expert}"), hidden_size, width));
    tensors.into_iter().chain(experts)
}

fn mlp(at: &str, hidden_size: usize, width: usize) -> [Expected; 3] {
    [
        matrix(format!("{at}.gate_proj.weight"), width, hidden_size),
        matrix(format!("{at}.up_proj.weight"), width, hidden_size),
        matrix(format!("{at}.down_proj.weight"), hidden_size, width),
    ]
}

fn matrix(name: String, rows: usize, cols: usize) -> Expected {
    Expected { name, shape: vec![rows, cols], required: true }
}

fn vector(name: String, len: usize) -> Expected {
    Expected { name, shape: vec![len], required: true }
}

/// Holds `tensors` to the config: all that it calls for, in their shapes, and nothing besides. A tensor that nothing
/// reads is refused because leaving out, say, a bias that the weights were trained with gives wrong numbers in silence.
pub(super) fn verify(path: &Path, config: &Config, tensors: &HashMap<String, Tensor>) -> Result<(), Error> {
    let mut known = 0;
    for Expected { name, shape, required } in expected(config) {
        let Some(tensor) = tensors.get(&name) else {
            if required {
                return Err(Error::invalid(path, name, format!("a tensor of shape {shape:?}"), "nothing"));
            }
            continue;
        };
        known += 1;
        if tensor.shape != shape {
            let found = format!("{:?}", tensor.shape);
            return Err(Error::invalid(&*tensor.file, name, format!("shape {shape:?}"), found));
        }
        let vector_of_blocks =
            shape.len() == 1 && !matches!(tensor.kind, WeightType::F32 | WeightType::F16 | WeightType::BF16);
        if vector_of_blocks {
            return Err(Error::invalid(&*tensor.file, name, "F32, F16 or BF16", tensor.kind.name()));
        }
        if let (2, Err(Error::Invalid { expected, found, .. })) = (shape.len(), tensor.weights().map(drop)) {
            return Err(Error::invalid(&*tensor.file, name, expected, found));
        }
    }
    if known == tensors.len() {
        return Ok(());
    }
    let names: std::collections::HashSet<String> = expected(config).map(|tensor| tensor.name).collect();
    let (name, tensor) = tensors
        .iter()
        .filter(|(name, _)| !names.contains(*name))
        .min_by_key(|(name, _)| *name)
        .expect("more tensors are there than the config calls for");
    Err(Error::invalid(
        &*tensor.file,
        name,
        "no such tensor in a dots.llm1 of this config",
        format!("{:?}", tensor.shape),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_shape_has_as_many_parameters_as_its_tensors() {
        let config = Config::dots_llm1();
        let total: usize = expected(&config).map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        assert_eq!(config.parameters().total, total as u64);
    }

    #[test]
    fn every_gguf_name_leads_to_a_tensor_that_a_config_calls_for() {
        let names: Vec<String> = expected(&Config::dots_llm1()).map(|tensor| tensor.name).collect();
        for (gguf, _) in GLOBAL {
            assert!(names.contains(&from_gguf(gguf).unwrap()), "{gguf}");
        }
        for (gguf, published) in LAYER {
            let layer = usize::from(!matches!(gguf, "ffn_gate.weight" | "ffn_up.weight" | "ffn_down.weight"));
            let name = from_gguf(&format!("blk.{layer}.{gguf}")).unwrap();
            assert_eq!(name, format!("model.layers.{layer}.{published}"));
            let one = match name.split_once(".mlp.experts.") {
                Some((at, projection)) => format!("{at}.mlp.experts.127.{projection}.weight"),
                None => name,
            };
            assert!(names.contains(&one), "{one}");
            assert_eq!(gguf_name(&one), Some(format!("blk.{layer}.{gguf}")));
        }
        assert_eq!(from_gguf("rope_freqs.weight"), None);
        assert_eq!(from_gguf("blk.x.attn_q.weight"), None);
    }
}
