//! The memory that a dots.llm1 of a given shape takes in every weight type, counted from the shape alone.
//!
//! The rule: every matrix is held in the one type; norms, the router and its bias in f32. Where a row is no whole number
//! of a type's blocks, the type that llama.cpp falls back to is taken, as its files do for `ffn_down`. FP8 leaves the
//! embedding and the head in bf16, as the published FP8 checkpoint does. Mixtures (Q4_K_M) hold some matrices in a larger
//! type than their name says, and are larger than the row of that name.

use std::io::{self, Write};

use dots_kernels::WeightType;
use dots_model::{
    Config,
    checkpoint::{held_as, tensor_bytes},
    cpu::CpuOptions,
    executor::{Arithmetic, CacheType},
};
use serde_json::{Value, json};

use crate::{table::Table, units};

/// The types shown, largest first.
const TYPES: [WeightType; 11] = [
    WeightType::BF16,
    WeightType::Q8_0,
    WeightType::F8_E4M3,
    WeightType::Q6_K,
    WeightType::Q5_K,
    WeightType::Q4_K,
    WeightType::Q4_0,
    WeightType::IQ4_NL,
    WeightType::IQ4_XS,
    WeightType::Q3_K,
    WeightType::Q2_K,
];

/// What a matrix is for, where that decides its type or how much of it a token reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Embedding,
    Head,
    Expert,
    Matrix,
    /// Norms and routers.
    Small,
}

/// So many tensors of one shape.
#[derive(Debug, Clone, Copy)]
struct Group {
    role: Role,
    count: u64,
    rows: u64,
    cols: u64,
}

/// Every tensor of a model.
fn tensors(config: &Config) -> Vec<Group> {
    let size = |n: usize| n as u64;
    let group = |role, count, rows, cols| Group { role, count, rows: size(rows), cols: size(cols) };
    let (hidden, layers) = (config.hidden_size, size(config.num_hidden_layers));
    let dense = size(config.first_k_dense_replace.min(config.num_hidden_layers));
    let moe = layers - dense;
    let experts = size(config.n_routed_experts);
    let (attention, kv) = (config.attention_size(), config.kv_size());
    let (expert, shared) = (config.moe_intermediate_size, config.shared_intermediate_size());
    vec![
        group(Role::Embedding, 1, config.vocab_size, hidden),
        group(Role::Head, 1, config.vocab_size, hidden),
        group(Role::Matrix, layers, attention, hidden),
        group(Role::Matrix, 2 * layers, kv, hidden),
        group(Role::Matrix, layers, hidden, attention),
        group(Role::Matrix, 2 * dense, config.intermediate_size, hidden),
        group(Role::Matrix, dense, hidden, config.intermediate_size),
        group(Role::Expert, 2 * moe * experts, expert, hidden),
        group(Role::Expert, moe * experts, hidden, expert),
        group(Role::Matrix, 2 * moe, shared, hidden),
        group(Role::Matrix, moe, hidden, shared),
        group(Role::Small, moe, config.n_routed_experts, hidden),
        group(Role::Small, moe, 1, config.n_routed_experts),
        group(Role::Small, 2 * layers + 1, 1, hidden),
        group(Role::Small, 2 * layers, 1, config.head_dim),
    ]
}

/// Bytes of weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Weights {
    /// All of them.
    total_bytes: u64,
    /// Those that one decoded token reads.
    active_bytes: u64,
}

fn weights(config: &Config, wanted: WeightType) -> Weights {
    let mut sum = Weights::default();
    for Group { role, count, rows, cols } in tensors(config) {
        let kind = match (role, wanted) {
            (Role::Small, _) => WeightType::F32,
            (Role::Embedding | Role::Head, WeightType::F8_E4M3) => WeightType::BF16,
            _ => held_as(wanted, cols as usize),
        };
        let bytes = count * tensor_bytes(kind, &[rows as usize, cols as usize]);
        sum.total_bytes += bytes;
        sum.active_bytes += match role {
            Role::Embedding => 0,
            Role::Expert => bytes / config.n_routed_experts as u64 * config.num_experts_per_tok as u64,
            _ => bytes,
        };
    }
    sum
}

/// The cache types: the one taken unless told, smaller ones, and that of exact arithmetic.
pub const CACHE_TYPES: [CacheType; 4] = [CacheType::Bf16, CacheType::Q8, CacheType::Q4, CacheType::F32];

fn cache_bytes(config: &Config, cache_type: CacheType, tokens: usize) -> u64 {
    let options =
        CpuOptions { arithmetic: Arithmetic::Fast, cache_type, threads: 1, cache_tokens: tokens, max_batch_tokens: 1 };
    options.plan_for(config, 0).cache_bytes
}

/// Prints what `config` takes in every type at these context lengths.
pub fn print(out: &mut dyn Write, config: &Config, contexts: &[usize]) -> io::Result<()> {
    let parameters = config.parameters();
    writeln!(
        out,
        "dots.llm1 as published: {} parameters, {} of them read for a token\n",
        units::parameters(parameters.total),
        units::parameters(parameters.active)
    )?;
    writeln!(out, "GiB of weights, and of weights and a bf16 cache together, by context length in tokens:")?;
    let head = ["type", "weights", "read a token"].map(str::to_owned).into_iter();
    let mut table = Table::new(head.chain(contexts.iter().map(usize::to_string)));
    for kind in TYPES {
        let weights = weights(config, kind);
        let cells = [kind.name().to_owned(), units::gib(weights.total_bytes), units::gib(weights.active_bytes)];
        let sums = contexts.iter().map(|&context| {
            units::gib(weights.total_bytes.saturating_add(cache_bytes(config, CacheType::Bf16, context)))
        });
        table.row(cells.into_iter().chain(sums));
    }
    table.write(out, "  ")?;
    writeln!(out, "\nGiB of the cache alone:")?;
    let mut table = Table::new(["cache".to_owned()].into_iter().chain(contexts.iter().map(usize::to_string)));
    for cache_type in CACHE_TYPES {
        let cells = contexts.iter().map(|&context| units::gib(cache_bytes(config, cache_type, context)));
        table.row([cache_type.name().to_owned()].into_iter().chain(cells));
    }
    table.write(out, "  ")?;
    writeln!(
        out,
        "\nCounted with every matrix in the one type, norms and routers in f32. Rows that a type's blocks do not fill fall\n\
         back as in llama.cpp (ffn_down: Q4_K to Q5_0, Q6_K to Q8_0). Mixtures such as Q4_K_M are larger than the row of\n\
         their name. Buffers come on top: `dots inspect MODEL` says how much."
    )
}

/// The same for programs.
pub fn to_json(config: &Config, contexts: &[usize]) -> Value {
    let parameters = config.parameters();
    let types: Vec<Value> = TYPES
        .into_iter()
        .map(|kind| {
            let weights = weights(config, kind);
            json!({ "type": kind.name(), "weights_bytes": weights.total_bytes, "active_bytes": weights.active_bytes })
        })
        .collect();
    let caches: Vec<Value> = CACHE_TYPES
        .into_iter()
        .flat_map(|cache_type| contexts.iter().map(move |&context| (cache_type, context)))
        .map(|(cache_type, context)| {
            let bytes = cache_bytes(config, cache_type, context);
            json!({ "context_tokens": context, "cache_type": cache_type.name(), "cache_bytes": bytes })
        })
        .collect();
    json!({
        "parameters": { "total": parameters.total, "active": parameters.active },
        "weights": types,
        "caches": caches,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tensors_hold_the_models_parameters() {
        let config = Config::dots_llm1();
        let parameters: u64 = tensors(&config).iter().map(|group| group.count * group.rows * group.cols).sum();
        assert_eq!(parameters, config.parameters().total);
        let bf16 = weights(&config, WeightType::BF16);
        let small: u64 = tensors(&config)
            .iter()
            .filter(|group| group.role == Role::Small)
            .map(|group| group.count * group.rows * group.cols)
            .sum();
        assert_eq!(bf16.total_bytes, 2 * parameters + 2 * small, "bf16 is two bytes each, and two more for the small");
    }

    #[test]
    fn the_experts_of_one_token_are_six_of_128() {
        // The figures of the model's own description: 142 B in all, 14 B active.
        let config = Config::dots_llm1();
        let bf16 = weights(&config, WeightType::BF16);
        assert!((285e9..286.5e9).contains(&(bf16.total_bytes as f64)), "{bf16:?}");
        assert!((26e9..28e9).contains(&(bf16.active_bytes as f64)), "{bf16:?}");
    }

    #[test]
    fn the_cache_of_the_whole_context_takes_31_gib_in_bf16_and_half_in_q8() {
        let config = Config::dots_llm1();
        // A block of 32 tokens is the least.
        assert_eq!(cache_bytes(&config, CacheType::Bf16, 1), 32 * 1_015_808);
        let whole = |cache_type| units::gib(cache_bytes(&config, cache_type, 32768));
        assert_eq!(
            [CacheType::F32, CacheType::Bf16, CacheType::Q8, CacheType::Q4].map(whole),
            ["62.0", "31.0", "16.0", "9.7"]
        );
    }
}
