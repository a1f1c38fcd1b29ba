//! The types that a model's tensors are held in where a file says one name for all of them.

use dots_kernels::WeightType;

use super::names::{self, EMBEDDING, HEAD};
use crate::Config;

/// The type that a row of `cols` is held in where `wanted` is asked for: where the row is no whole number of a type's
/// blocks, the one that llama.cpp falls back to, as its files do for `ffn_down`.
pub fn held_as(wanted: WeightType, cols: usize) -> WeightType {
    if cols.is_multiple_of(wanted.block_len()) {
        return wanted;
    }
    let fallback = match wanted {
        WeightType::Q2_K | WeightType::Q3_K => WeightType::Q4_0,
        WeightType::Q4_K => WeightType::Q5_0,
        WeightType::Q5_K => WeightType::Q5_1,
        WeightType::Q6_K => WeightType::Q8_0,
        WeightType::IQ4_XS => WeightType::IQ4_NL,
        _ => WeightType::F16,
    };
    if cols.is_multiple_of(fallback.block_len()) { fallback } else { WeightType::F16 }
}

/// A choice of types for a whole model. Norms, routers and their biases are in f32 under each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the field writes these names so")]
pub enum Types {
    /// Every matrix in one type. FP8 leaves the embedding and the head in bf16, as the published FP8 checkpoint does.
    One(WeightType),
    /// llama.cpp's mixture of that name, by the rules of its `llama-quant.cpp` that touch this model: the head in Q6_K,
    /// as are `v_proj` and every `down_proj` in the first and the last eighth of the layers and in every third between;
    /// the rest in Q4_K. (llama.cpp counts `v_proj` in the order of the file, which is here that of the layers.)
    Q4_K_M,
}

impl Types {
    /// The choice of that name: `Q4_K_M`, or a weight type's.
    pub fn named(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("Q4_K_M") {
            return Some(Self::Q4_K_M);
        }
        WeightType::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name)).map(Self::One)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::One(kind) => kind.name(),
            Self::Q4_K_M => "Q4_K_M",
        }
    }

    /// The type of the tensor with this published name and shape, in a model of `layers` layers.
    pub fn of(self, layers: usize, name: &str, shape: &[usize]) -> WeightType {
        let &[_, cols] = shape else { return WeightType::F32 };
        if name.ends_with(".mlp.gate.weight") {
            return WeightType::F32;
        }
        match self {
            Self::One(WeightType::F8_E4M3) if matches!(name, EMBEDDING | HEAD) => WeightType::BF16,
            Self::One(kind) => held_as(kind, cols),
            Self::Q4_K_M => {
                let larger = name == HEAD
                    || (name.ends_with("v_proj.weight") || name.ends_with("down_proj.weight"))
                        && layer_of(name).is_some_and(|layer| takes_more_bits(layer, layers));
                held_as(if larger { WeightType::Q6_K } else { WeightType::Q4_K }, cols)
            }
        }
    }

    /// Bytes of all weights of a model of this shape.
    pub fn bytes(self, config: &Config) -> u64 {
        names::expected(config)
            .map(|tensor| tensor_bytes(self.of(config.num_hidden_layers, &tensor.name, &tensor.shape), &tensor.shape))
            .sum()
    }
}

/// Bytes of a tensor of whole blocks, the row scales of FP8 included; `u64::MAX` where that overflows.
pub fn tensor_bytes(kind: WeightType, shape: &[usize]) -> u64 {
    let (rows, cols) = match *shape {
        [rows, cols] => (rows, cols),
        _ => (1, shape.iter().product()),
    };
    let scales = if kind == WeightType::F8_E4M3 { 4 * rows as u64 } else { 0 };
    kind.matrix_bytes(rows, cols).map_or(u64::MAX, |bytes| (bytes as u64).saturating_add(scales))
}

fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split_once('.')?.0.parse().ok()
}

/// llama.cpp's `use_more_bits`.
fn takes_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_blocks_do_not_fill_fall_back() {
        assert_eq!(held_as(WeightType::Q4_K, 4096), WeightType::Q4_K);
        assert_eq!(held_as(WeightType::Q4_K, 1408), WeightType::Q5_0);
        assert_eq!(held_as(WeightType::Q6_K, 10944), WeightType::Q8_0);
        assert_eq!(held_as(WeightType::Q8_0, 1408), WeightType::Q8_0);
        assert_eq!(held_as(WeightType::Q8_0, 33), WeightType::F16);
    }

    #[test]
    fn q4_k_m_gives_some_layers_more_bits() {
        let kind = |name: &str, cols| Types::Q4_K_M.of(5, &format!("model.layers.{name}.weight"), &[8, cols]);
        assert_eq!(kind("1.self_attn.v_proj", 4096), WeightType::Q4_K);
        assert_eq!(kind("2.self_attn.v_proj", 4096), WeightType::Q6_K);
        assert_eq!(kind("4.mlp.experts.7.down_proj", 1408), WeightType::Q8_0);
        assert_eq!(kind("3.mlp.experts.7.down_proj", 1408), WeightType::Q5_0);
        assert_eq!(kind("4.mlp.experts.7.up_proj", 4096), WeightType::Q4_K);
        assert_eq!(kind("4.mlp.gate", 4096), WeightType::F32);
        assert_eq!(Types::Q4_K_M.of(5, HEAD, &[8, 4096]), WeightType::Q6_K);
        assert_eq!(Types::Q4_K_M.of(5, EMBEDDING, &[8, 4096]), WeightType::Q4_K);
    }

    #[test]
    fn bytes_of_the_published_model() {
        // 142 774 381 696 parameters, of which 61 routers of 128 · 4096, their biases and the norms are in f32.
        let config = Config::dots_llm1();
        let parameters = config.parameters().total;
        let small = 61 * (128 * 4096 + 128) + 4096 + 62 * (2 * 4096 + 2 * 128);
        assert_eq!(Types::One(WeightType::BF16).bytes(&config), 2 * parameters + 2 * small);
        assert_eq!(Types::One(WeightType::Q8_0).bytes(&config), (parameters - small) / 32 * 34 + 4 * small);
        // 4.25 bits and a scale a row.
        let bits = 8 * (Types::One(WeightType::Q4_D).bytes(&config) - 4 * small);
        assert!((4.25..4.27).contains(&(bits as f64 / (parameters - small) as f64)));
    }

    #[test]
    fn names_are_understood_in_either_case() {
        for kind in WeightType::ALL {
            assert_eq!(Types::named(kind.name()), Some(Types::One(kind)));
        }
        assert_eq!(Types::named("q4_k_m"), Some(Types::Q4_K_M));
        assert_eq!(Types::named("Q9"), None);
    }
}
