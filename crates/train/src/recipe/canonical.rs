//! A recipe written out with nothing left to defaults.

use std::fmt::{Debug, Display, Write};

use super::{
    Length, Phase, Recipe, Sampling, Source,
    freeze::PARTS,
    phases::{ATTENTIONS, KINDS, SHAPES},
};

pub fn write(recipe: &Recipe) -> String {
    let mut text = write_without_ranks(recipe);
    let ranks = recipe.ranks;
    head(&mut text, "[ranks]");
    line(&mut text, "data", ranks.data);
    line(&mut text, "expert", ranks.expert);
    line(&mut text, "pipeline", ranks.pipeline);
    line(&mut text, "interleave", ranks.interleave);
    text
}

/// All but the ranks.
pub fn write_without_ranks(recipe: &Recipe) -> String {
    let mut text = String::new();
    top(&mut text, recipe);
    model(&mut text, recipe);
    head(&mut text, "[tokenizer]");
    line(&mut text, "path", quoted(recipe.tokenizer.display()));
    for (name, source) in &recipe.sources {
        head(&mut text, &format!("[sources.{}]", bare(name)));
        let paths = |paths: &[std::path::PathBuf]| list(paths.iter().map(|path| quoted(path.display())));
        match source {
            Source::Shards(prefixes) => line(&mut text, "shards", paths(prefixes)),
            Source::Chats(files) => line(&mut text, "chats", paths(files)),
            Source::Problems(sampling) => problems(&mut text, sampling),
        }
    }
    settings(&mut text, recipe);
    for each in &recipe.phases {
        phase(&mut text, each);
    }
    text
}

fn top(text: &mut String, recipe: &Recipe) {
    line(text, "name", quoted(&recipe.name));
    line(text, "seed", recipe.seed);
}

fn model(text: &mut String, recipe: &Recipe) {
    let config = &recipe.model.config;
    head(text, "[model]");
    if let Some(start) = &recipe.model.start {
        line(text, "start", quoted(start.display()));
    }
    for (dial, size) in [
        ("layers", config.num_hidden_layers),
        ("dense_layers", config.first_k_dense_replace),
        ("width", config.hidden_size),
        ("heads", config.num_attention_heads),
        ("kv_heads", config.num_key_value_heads),
        ("head_width", config.head_dim),
        ("dense_width", config.intermediate_size),
        ("experts", config.n_routed_experts),
        ("shared_experts", config.n_shared_experts),
        ("top_k", config.num_experts_per_tok),
        ("expert_width", config.moe_intermediate_size),
        ("vocab_size", config.vocab_size),
        ("context", config.max_position_embeddings),
    ] {
        line(text, dial, size);
    }
    line(text, "normalise_top_k", config.norm_topk_prob);
    line(text, "routed_scale", number(config.routed_scaling_factor));
    line(text, "norm_epsilon", number(config.rms_norm_eps));
    line(text, "rope_theta", number(config.rope_theta));
    line(text, "initial_deviation", number(recipe.model.initial_deviation));
    // What only some recipes say leaves the others, and their hashes, as they were.
    if recipe.model.new_experts > 0 {
        line(text, "new_experts", recipe.model.new_experts);
    }
    if !recipe.model.freeze.is_empty() {
        line(text, "freeze", list(recipe.model.freeze.iter().map(|part| word(&PARTS, *part))));
    }
}

fn problems(text: &mut String, sampling: &Sampling) {
    line(text, "problems", quoted(sampling.problems.display()));
    line(text, "samples", sampling.samples);
    line(text, "keep", sampling.keep);
    line(text, "temperature", number(sampling.temperature));
    line(text, "top_p", number(sampling.top_p));
    line(text, "max_tokens", sampling.max_tokens);
    line(text, "test_seconds", sampling.test_seconds);
}

fn settings(text: &mut String, recipe: &Recipe) {
    let optimizer = recipe.optimizer;
    head(text, "[optimizer]");
    line(text, "beta1", number(optimizer.beta1));
    line(text, "beta2", number(optimizer.beta2));
    line(text, "epsilon", number(optimizer.epsilon));
    line(text, "weight_decay", number(optimizer.weight_decay));
    line(text, "clip", number(optimizer.clip));

    head(text, "[balance]");
    line(text, "bias_rate", number(recipe.balance.bias_rate));
    line(text, "sequence_loss", number(recipe.balance.sequence_loss));
    if recipe.model.new_experts > 0 {
        line(text, "settle_tokens", recipe.balance.settle_tokens);
    }

    head(text, "[arithmetic]");
    line(text, "precision", word(&super::PRECISIONS, recipe.arithmetic.precision));
    line(text, "recompute", recipe.arithmetic.recompute);
    line(text, "micro_batch_tokens", recipe.arithmetic.micro_batch_tokens);

    head(text, "[checkpoints]");
    line(text, "every_tokens", recipe.checkpoints.every_tokens);
    line(text, "keep_states", recipe.checkpoints.keep_states);
    if let Some(validation) = &recipe.validation {
        head(text, "[validation]");
        line(text, "every_tokens", validation.every_tokens);
        line(text, "tokens", validation.tokens);
        line(text, "sources", list(validation.sources.iter().map(quoted)));
    }

    head(text, "[spike]");
    line(text, "on", recipe.spike.on);
    line(text, "deviations", number(recipe.spike.deviations));
    line(text, "nats", number(recipe.spike.nats));
    line(text, "window", recipe.spike.window);
}

fn phase(text: &mut String, phase: &Phase) {
    head(text, "[[phases]]");
    line(text, "name", quoted(&phase.name));
    line(text, "kind", word(&KINDS, phase.kind));
    match phase.length {
        Length::Tokens(tokens) => line(text, "tokens", tokens),
        Length::Epochs(epochs) => line(text, "epochs", number(epochs)),
    }
    line(text, "sequence_tokens", phase.sequence_tokens);
    line(text, "attention", word(&ATTENTIONS, phase.attention));
    let stages = phase.batch.iter().map(|stage| format!("{{ from = {}, tokens = {} }}", stage.from, stage.tokens));
    line(text, "batch_tokens", list(stages));
    line(text, "warmup_steps", phase.warmup_steps);
    let rate = phase.learning_rate;
    let (from, to, shape) = (number(rate.from), number(rate.to), word(&SHAPES, rate.shape));
    line(text, "learning_rate", format!("{{ from = {from}, to = {to}, shape = {shape} }}"));
    let mixture = phase.mixture.iter().map(|(name, share)| format!("{} = {}", bare(name), number(*share)));
    let mixture: Vec<String> = mixture.collect();
    line(text, "mixture", format!("{{ {} }}", mixture.join(", ")));
    line(text, "bias_rate", number(phase.bias_rate));
    line(text, "sequence_loss", number(phase.sequence_loss));
    if let Some(utk) = phase.utk {
        line(text, "utk", format!("{{ chunks = {} }}", utk.chunks));
    }
}

fn head(text: &mut String, head: &str) {
    let _ = writeln!(text, "\n{head}");
}

fn line(text: &mut String, key: &str, value: impl Display) {
    let _ = writeln!(text, "{key} = {value}");
}

/// The shortest text that reads to the same number, in a form that TOML takes for a real one.
fn number(number: impl Debug) -> String {
    format!("{number:?}")
}

/// A basic string: of what JSON escapes, TOML reads all but `\/`, which nothing writes.
fn quoted(text: impl Display) -> String {
    serde_json::Value::from(text.to_string()).to_string().replace('\u{7f}', "\\u007f")
}

/// A key, in quotes where TOML asks for them.
fn bare(name: &str) -> String {
    if name.is_ascii() { name.to_owned() } else { quoted(name) }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn word<T: PartialEq + Copy>(words: &[(&'static str, T)], meant: T) -> String {
    let known = words.iter().find(|(_, known)| *known == meant);
    format!("{:?}", known.map_or("", |(word, _)| word))
}
