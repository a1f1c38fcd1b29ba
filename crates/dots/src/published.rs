//! The memory that a dots.llm1 of a given shape takes in every weight type, counted from the shape alone.
//!
//! Under a type's name every matrix is held in it ([`Types`] has the exceptions); a mixture such as Q4_K_M is larger than the type of
//! that name. What `dots pack` writes is counted by its recipes.

use std::io::{self, Write};

use dots_model::{
    Config,
    checkpoint::{Types, expected_tensors, tensor_bytes},
    cpu::CpuOptions,
    executor::{Arithmetic, CacheType},
};
use dots_pack::{
    Recipe,
    recipe::{Role, role},
};
use serde_json::{Value, json};

use crate::{table::Table, units};

/// A way to hold all weights.
enum Form {
    /// As a type's or a mixture's name says.
    Types(Types),
    /// As a recipe of `dots pack` says.
    Packed(Recipe),
}

impl Form {
    /// Those shown: types of published files, largest first, then ours.
    fn all() -> impl Iterator<Item = Self> {
        let types =
            ["BF16", "Q8_0", "F8_E4M3", "Q6_K", "Q5_K", "Q4_K_M", "Q4_K", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K", "Q2_K"];
        let packed = ["q8", "q6", "q5", "q4", "q4s", "q3"];
        let types = types.into_iter().filter_map(Types::named).map(Self::Types);
        types.chain(packed.into_iter().filter_map(Recipe::named).map(Self::Packed))
    }

    fn name(&self) -> String {
        match self {
            Self::Types(types) => types.name().to_owned(),
            Self::Packed(recipe) => format!("pack {}", recipe.name()),
        }
    }

    fn weights(&self, config: &Config) -> Weights {
        let layers = config.num_hidden_layers;
        let mut of_experts = 0;
        let mut of_others = 0;
        let mut embedding = 0;
        for (name, shape) in expected_tensors(config) {
            let kind = match self {
                Self::Types(types) => types.of(layers, &name, &shape),
                Self::Packed(recipe) => recipe.of(layers, &name, &shape),
            };
            let sum = match role(&name) {
                Some((Role::Embedding, _)) => &mut embedding,
                Some((Role::ExpertGateUp | Role::ExpertDown, _)) => &mut of_experts,
                _ => &mut of_others,
            };
            *sum += tensor_bytes(kind, &shape);
        }
        let chosen = of_experts / config.n_routed_experts as u64 * config.num_experts_per_tok as u64;
        Weights { total_bytes: embedding + of_experts + of_others, active_bytes: of_others + chosen }
    }
}

/// Bytes of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Weights {
    /// All of them.
    total_bytes: u64,
    /// Those that one decoded token reads.
    active_bytes: u64,
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
    for form in Form::all() {
        let weights = form.weights(config);
        let cells = [form.name(), units::gib(weights.total_bytes), units::gib(weights.active_bytes)];
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
        "\nCounted with every matrix in the one type, norms and routers in f32; Q4_K_M is llama.cpp's mixture, and pack q4\n\
         what `dots pack --type q4` writes. Rows that a type's blocks do not fill fall back as in llama.cpp (ffn_down: Q4_K\n\
         to Q5_0, Q6_K to Q8_0). Buffers come on top: `dots inspect MODEL` says how much."
    )
}

/// The same for programs.
pub fn to_json(config: &Config, contexts: &[usize]) -> Value {
    let parameters = config.parameters();
    let types: Vec<Value> = Form::all()
        .map(|form| {
            let weights = form.weights(config);
            json!({ "type": form.name(), "weights_bytes": weights.total_bytes, "active_bytes": weights.active_bytes })
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

    fn weights(name: &str) -> Weights {
        Form::all().find(|form| form.name() == name).unwrap().weights(&Config::dots_llm1())
    }

    #[test]
    fn all_names_are_known() {
        assert_eq!(Form::all().count(), 12 + 6);
    }

    #[test]
    fn bf16_is_two_bytes_each_and_two_more_for_what_stays_in_f32() {
        let small: u64 = expected_tensors(&Config::dots_llm1())
            .filter(|(name, shape)| shape.len() == 1 || name.ends_with(".mlp.gate.weight"))
            .map(|(_, shape)| shape.iter().product::<usize>() as u64)
            .sum();
        assert_eq!(weights("BF16").total_bytes, 2 * (Config::dots_llm1().parameters().total + small));
    }

    #[test]
    fn the_experts_of_one_token_are_six_of_128() {
        // The figures of the model's own description: 142 B in all, 14 B active.
        let bf16 = weights("BF16");
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
