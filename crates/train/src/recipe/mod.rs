//! A run as data: the model, its sources, its phases and their dials, read from a TOML file.
//!
//! What a recipe leaves out has the default of the dots.llm1 report where it states one. [`Recipe::canonical`] writes everything
//! out, so that a kept recipe does not depend on defaults; [`Recipe::hash`] is of that form, without the ranks. Paths are relative to the folder that
//! the program runs in, as on a command line: recipes travel, data do not.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use dots_kernels::train::Precision;
use dots_model::hex;

mod canonical;
mod changes;
pub mod count;
mod error;
mod freeze;
mod model;
mod phases;
mod section;
mod sources;
mod tree;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tiny;

pub use changes::Change;
pub use error::{Place, RecipeError};
pub use freeze::Part;
pub use model::Model;
pub(crate) use model::{SHAPES, check_start};
pub use phases::{Attention, BatchStage, Kind, Length, Phase, Rate, Shape, Utk};
pub use sources::{Sampling, Source};
#[cfg(test)]
pub(crate) use tiny::tiny;

use section::Section;
use tree::{Entry, Table, Value};

/// Largest recipe file.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Most phases, and most sources.
const MOST: usize = 1000;

/// A run as data. Fields may be read freely; to change one, [`Recipe::set`] it, so that the canonical form and all checks follow.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// What the run is called: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Seed of the initial weights and of the data order.
    pub seed: u64,
    /// The model's shape and start.
    pub model: Model,
    /// Folder with `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Where documents, chats and problems come from, by name.
    pub sources: BTreeMap<String, Source>,
    /// AdamW's constants.
    pub optimizer: Optimizer,
    /// How the routers are balanced, where a phase does not say otherwise.
    pub balance: Balance,
    /// How numbers are computed.
    pub arithmetic: Arithmetic,
    /// What is done, in order; at least one, their names all different.
    pub phases: Vec<Phase>,
    /// When checkpoints are written.
    pub checkpoints: Checkpoints,
    /// When and on what the model is validated, where it is.
    pub validation: Option<Validation>,
    /// When a loss is not believed.
    pub spike: Spike,
    /// Among how many ranks the run is shared.
    pub ranks: Ranks,
    /// The file as it was written, with what was set since.
    written: Table,
    path: PathBuf,
}

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Optimizer {
    /// Decay of the mean gradient.
    pub beta1: f64,
    /// Decay of the mean squared gradient.
    pub beta2: f64,
    /// Keeps the division from zero.
    pub epsilon: f64,
    /// Decoupled decay of parameters of two or more dimensions.
    pub weight_decay: f64,
    /// Norm that the whole gradient is clipped to.
    pub clip: f64,
}

impl Default for Optimizer {
    /// dots.llm1's, with an epsilon of 1e-8, which its report does not state.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip: 1.0 }
    }
}

/// How the routers are balanced.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Balance {
    /// How far a router's bias moves after a step (γ).
    pub bias_rate: f64,
    /// Weight of the sequence-wise balance loss (α).
    pub sequence_loss: f64,
    /// Tokens of the run before the biases of [`Model::new_experts`] move.
    pub settle_tokens: u64,
}

/// How numbers are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arithmetic {
    /// Of matrix products.
    pub precision: Precision,
    /// Whether activations are computed again in the backward pass rather than kept.
    pub recompute: bool,
    /// Tokens that a rank works on at once; one sequence where that is longer.
    pub micro_batch_tokens: u64,
}

/// When checkpoints are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoints {
    /// Tokens from one to the next. One is written at the end of each phase too.
    pub every_tokens: u64,
    /// Newest whole states (with moments) that are kept for resuming. Weights are kept of every checkpoint.
    pub keep_states: usize,
}

/// When and on what the model is validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validation {
    /// Tokens from one to the next.
    pub every_tokens: u64,
    /// Tokens of each source that are looked at, always the same ones.
    pub tokens: u64,
    /// Names of sources of shards.
    pub sources: Vec<String>,
}

/// When a loss is not believed, and ends the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spike {
    /// Whether any loss is doubted.
    pub on: bool,
    /// How many deviations above the mean of the last losses …
    pub deviations: f64,
    /// … and how many nats above it a loss must be at least: on a flat curve deviations are tiny.
    pub nats: f64,
    /// How many of the last losses it is compared with.
    pub window: usize,
}

/// Among how many ranks a run is shared: `data · pipeline`, the expert ranks being among the data ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranks {
    /// Groups that see different sequences; `expert` divides it.
    pub data: usize,
    /// Ranks that share a layer's experts.
    pub expert: usize,
    /// Stages of layers, one after the other.
    pub pipeline: usize,
    /// Pieces of a stage that alternate (interleaved 1F1B).
    pub interleave: usize,
}

impl Recipe {
    /// Reads the file `path`.
    pub fn load(path: &Path) -> Result<Self, RecipeError> {
        let io = |source| RecipeError::Io { path: path.to_owned(), source };
        let mut text = String::new();
        fs::File::open(path).map_err(io)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(io)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            let message = format!("expected at most {MAX_FILE_BYTES} bytes, found more");
            return Err(RecipeError::Syntax { place: Place::File(path.to_owned(), None), message });
        }
        Self::parse(&text, path)
    }

    /// Reads the text of a recipe; errors name `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RecipeError> {
        Self::read(tree::parse(text, path)?, path.to_owned())
    }

    /// Sets one key, as `--set key=value` does: `phases.0.learning_rate.from` (or `phases.stable.…`, by name), to a TOML value or else a
    /// text. The shape's ratios and all checks follow; where those fail, the recipe stays as it was.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), RecipeError> {
        let mut written = self.written.clone();
        let parts: Vec<&str> = key.split('.').collect();
        put(&mut written, &parts, tree::parse_value(value)).ok_or_else(|| RecipeError::Wrong {
            place: Place::Set,
            key: key.to_owned(),
            expected: "keys of tables, and indices or names of phases that there are, joined by dots".to_owned(),
            found: "a key that leads nowhere".to_owned(),
        })?;
        *self = Self::read(written, self.path.clone())?;
        Ok(())
    }

    /// Everything that the recipe says and leaves unsaid, as a recipe that [`Recipe::parse`] reads to the same.
    pub fn canonical(&self) -> String {
        canonical::write(self)
    }

    /// SHA-256 of what is learnt, in hexadecimal: of the canonical form without its ranks, which say how it is and may change while a run
    /// lasts.
    pub fn hash(&self) -> String {
        use sha2::{Digest, Sha256};
        hex(&Sha256::digest(canonical::write_without_ranks(self)))
    }

    fn read(written: Table, path: PathBuf) -> Result<Self, RecipeError> {
        let mut top = Section::top(&written, Place::File(path.clone(), None));
        let name = top.text("name")?;
        let name = top.need("name", NAME_EXPECTED, name.filter(|name| is_name(name)))?;
        let seed = top.whole("seed", 0..=i64::MAX as u64)?.unwrap_or(1);

        let mut section = top.section("model")?;
        let model = model::read(&mut section, &path)?;
        section.finish(&model::other_names())?;

        let mut section = top.section("tokenizer")?;
        let tokenizer = section.text("path")?.filter(|path| !path.is_empty());
        let tokenizer = section.need("path", "a folder with tokenizer.json", tokenizer)?.into();
        section.finish(&[])?;

        let sources = sources::read(&mut top)?;
        let optimizer = read_optimizer(&mut top)?;

        let mut section = top.section("balance")?;
        let balance = Balance {
            bias_rate: section.not_negative("bias_rate")?.unwrap_or(1e-3),
            sequence_loss: section.not_negative("sequence_loss")?.unwrap_or(1e-4),
            // Where nothing else is said, the whole run.
            settle_tokens: section.count("settle_tokens", 0)?.unwrap_or(count::MOST),
        };
        if model.new_experts == 0 && section.has("settle_tokens") {
            return Err(section.wrong("settle_tokens", "model.new_experts beside it, which it is about", None));
        }
        section.finish(&[("gamma", "bias_rate"), ("alpha", "sequence_loss")])?;

        let mut section = top.section("arithmetic")?;
        let arithmetic = Arithmetic {
            precision: section.word("precision", &PRECISIONS)?.unwrap_or(Precision::Bf16),
            recompute: section.truth("recompute")?.unwrap_or(false),
            micro_batch_tokens: section.count("micro_batch_tokens", 1)?.unwrap_or(8192),
        };
        section.finish(&[])?;

        let ranks = read_ranks(&mut top, &model)?;
        let around = phases::Around {
            balance,
            context: model.config.max_position_embeddings,
            sources: &sources,
            data_ranks: ranks.data as u64,
            has_weights: model.start.is_some(),
        };
        let phases = read_phases(&mut top, &around)?;

        let mut section = top.section("checkpoints")?;
        let every_tokens = section.count("every_tokens", 1)?;
        let checkpoints = Checkpoints {
            every_tokens: section.need("every_tokens", count::EXPECTED, every_tokens)?,
            keep_states: section.whole("keep_states", 1..=1 << 20)?.unwrap_or(2) as usize,
        };
        section.finish(&[])?;
        let validation = read_validation(&mut top, &sources)?;
        let mut section = top.section("spike")?;
        let spike = Spike {
            on: section.truth("on")?.unwrap_or(true),
            deviations: section.positive("deviations")?.unwrap_or(8.0),
            nats: section.not_negative("nats")?.unwrap_or(1.0),
            window: section.whole("window", 2..=100_000)?.unwrap_or(100) as usize,
        };
        section.finish(&[("enabled", "on"), ("sigmas", "deviations")])?;
        top.finish(&[("data", "sources"), ("train", "phases"), ("parallel", "ranks"), ("checkpoint", "checkpoints")])?;
        Ok(Self {
            name,
            seed,
            model,
            tokenizer,
            sources,
            optimizer,
            balance,
            arithmetic,
            phases,
            checkpoints,
            validation,
            spike,
            ranks,
            written,
            path,
        })
    }
}

const PRECISIONS: [(&str, Precision); 2] = [("bf16", Precision::Bf16), ("f32", Precision::F32)];
const NAME_EXPECTED: &str = "1 to 100 letters, digits, '-', '_' and '.', the first no '.'";

/// Names stand in file names, in keys and in tables of the terminal.
fn is_name(name: &str) -> bool {
    let known = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '_' | '.');
    !name.starts_with('.') && (1..=100).contains(&name.len()) && name.chars().all(known)
}

/// AdamW computes in f32, and so its constants are held to what is left of them there: an epsilon of 0 divides by zero.
fn read_optimizer(top: &mut Section<'_>) -> Result<Optimizer, RecipeError> {
    let mut section = top.section("optimizer")?;
    let decay = |section: &mut Section<'_>, name| {
        let is_fit = |number: f64| number >= 0.0 && (number as f32) < 1.0;
        section.real(name, "a number from 0 to below 1, in f32 too", is_fit)
    };
    let positive = |section: &mut Section<'_>, name| {
        let is_fit = |number: f64| (f32::MIN_POSITIVE..=f32::MAX).contains(&(number as f32));
        section.real(name, "a number above 0 that f32 has, from 1.2e-38 to 3.4e38", is_fit)
    };
    let not_negative = |section: &mut Section<'_>, name| {
        let is_fit = |number: f64| number >= 0.0 && (number as f32).is_finite();
        section.real(name, "a number from 0 on that f32 has, to 3.4e38", is_fit)
    };
    let unsaid = Optimizer::default();
    let optimizer = Optimizer {
        beta1: decay(&mut section, "beta1")?.unwrap_or(unsaid.beta1),
        beta2: decay(&mut section, "beta2")?.unwrap_or(unsaid.beta2),
        epsilon: positive(&mut section, "epsilon")?.unwrap_or(unsaid.epsilon),
        weight_decay: not_negative(&mut section, "weight_decay")?.unwrap_or(unsaid.weight_decay),
        clip: positive(&mut section, "clip")?.unwrap_or(unsaid.clip),
    };
    section.finish(&[
        ("max_grad_norm", "clip"),
        ("eps", "epsilon"),
        ("adam_beta1", "beta1"),
        ("adam_beta2", "beta2"),
    ])?;
    Ok(optimizer)
}

fn read_ranks(top: &mut Section<'_>, model: &Model) -> Result<Ranks, RecipeError> {
    let mut section = top.section("ranks")?;
    let many = |section: &mut Section<'_>, name| section.whole(name, 1..=1 << 16).map(|n| n.unwrap_or(1) as usize);
    let ranks = Ranks {
        data: many(&mut section, "data")?,
        expert: many(&mut section, "expert")?,
        pipeline: many(&mut section, "pipeline")?,
        interleave: many(&mut section, "interleave")?,
    };
    let wrong = |name, expected| Err(section.wrong(name, expected, None));
    let (experts, layers) = (model.config.n_routed_experts, model.config.num_hidden_layers);
    if !experts.is_multiple_of(ranks.expert) || !ranks.data.is_multiple_of(ranks.expert) {
        return wrong("expert", format!("a divisor of the {experts} experts and of the {} data ranks", ranks.data));
    }
    if ranks.pipeline > layers {
        return wrong("pipeline", format!("at most the {layers} layers"));
    }
    if ranks.interleave > 1 && (ranks.pipeline == 1 || ranks.pipeline * ranks.interleave > layers) {
        return wrong("interleave", format!("1, or pipeline above 1 and at most {layers} pieces of a layer in all"));
    }
    section.finish(&[("data_parallel", "data"), ("expert_parallel", "expert"), ("pipeline_parallel", "pipeline")])?;
    Ok(ranks)
}

fn read_phases(top: &mut Section<'_>, around: &phases::Around<'_>) -> Result<Vec<Phase>, RecipeError> {
    let sections = top.list("phases")?.filter(|phases| (1..=MOST).contains(&phases.len()));
    let sections = top.need("phases", &format!("1 to {MOST} [[phases]]"), sections)?;
    let mut phases: Vec<Phase> = Vec::new();
    for section in sections {
        let phase = phases::read(section, around, phases.is_empty())?;
        if phases.iter().any(|other| other.name == phase.name) {
            return Err(top.wrong("phases", "names of their own", Some(format!("{:?} twice", phase.name))));
        }
        phases.push(phase);
    }
    Ok(phases)
}

fn read_validation(
    top: &mut Section<'_>,
    sources: &BTreeMap<String, Source>,
) -> Result<Option<Validation>, RecipeError> {
    let is_there = top.has("validation");
    let mut section = top.section("validation")?;
    if !is_there {
        return Ok(None);
    }
    let every_tokens = section.count("every_tokens", 1)?;
    let tokens = section.count("tokens", 1)?;
    let names = section.texts("sources")?.filter(|names| !names.is_empty());
    let validation = Validation {
        every_tokens: section.need("every_tokens", count::EXPECTED, every_tokens)?,
        tokens: section.need("tokens", count::EXPECTED, tokens)?,
        sources: section.need("sources", "names of sources of shards", names)?,
    };
    let is_shards = |name: &&String| !matches!(sources.get(*name), Some(Source::Shards(_)));
    if let Some(name) = validation.sources.iter().find(is_shards) {
        return Err(section.wrong("sources", "names of sources of shards", Some(format!("{name:?}"))));
    }
    section.finish(&[])?;
    Ok(Some(validation))
}

/// Puts `value` at `parts` below `table`, making tables on the way; `None` where something else is in the way.
fn put(table: &mut Table, parts: &[&str], value: Value) -> Option<()> {
    let (first, rest) = parts.split_first().filter(|(first, _)| !first.is_empty())?;
    let new = |value| Entry { place: Place::Set, value };
    if rest.is_empty() {
        table.insert((*first).to_owned(), new(value));
        return Some(());
    }
    let entry = table.entry((*first).to_owned()).or_insert_with(|| new(Value::Table(Table::new())));
    match &mut entry.value {
        Value::Table(table) => put(table, rest, value),
        Value::List(items) => {
            let (which, rest) = rest.split_first()?;
            let is_meant = |item: &Entry| match &item.value {
                Value::Table(table) => {
                    table.get("name").is_some_and(|name| name.value == Value::Text((*which).to_owned()))
                }
                _ => false,
            };
            let index = which.parse().ok().or_else(|| items.iter().position(is_meant))?;
            match &mut items.get_mut(index)?.value {
                Value::Table(table) if !rest.is_empty() => put(table, rest, value),
                _ => None,
            }
        }
        // A rate said as a number becomes a table of its ends.
        other if rest == ["from"] || rest == ["to"] || rest == ["shape"] => {
            let mut table = Table::new();
            table.insert("from".to_owned(), new(std::mem::replace(other, Value::Truth(false))));
            put(&mut table, rest, value)?;
            *other = Value::Table(table);
            Some(())
        }
        _ => None,
    }
}
