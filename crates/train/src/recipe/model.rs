//! The model's shape from a few dials: what is left out has dots.llm1's ratio to what is said.

use std::path::{Path, PathBuf};

use dots_kernels::train::attention::MAX_HEAD_DIM;
use dots_model::{Checkpoint, Config, Error};

use super::{
    error::RecipeError,
    freeze::{self, Part},
    section::Section,
};

/// The model that a run trains.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Its shape.
    pub config: Config,
    /// Standard deviation of the normal distribution that matrices start from.
    pub initial_deviation: f64,
    /// Checkpoint folder whose weights the run starts from, in place of random ones.
    pub start: Option<PathBuf>,
    /// How many routed experts of each layer, the last ones, were added to the start.
    pub new_experts: usize,
    /// What stays as it is, each part once; new experts and their routers' rows never do.
    pub freeze: Vec<Part>,
}

impl Model {
    /// How many routed experts of each layer are not new.
    pub fn old_experts(&self) -> usize {
        self.config.n_routed_experts - self.new_experts
    }

    /// How many rows of the tensor `name`, of `rows` in all, stay as they are.
    pub fn frozen_rows(&self, name: &str, rows: usize) -> usize {
        freeze::frozen_rows(&self.freeze, self.old_experts(), name, rows)
    }

    /// The experts whose biases the sign balancing moves ([`crate::step::Dials::balanced`]), before the new ones have settled and after.
    pub fn balanced(&self, settled: bool) -> [usize; 2] {
        let first = if self.freeze.contains(&Part::Routers) { self.old_experts() } else { 0 };
        [first, if settled { self.config.n_routed_experts } else { self.old_experts() }]
    }
}

/// Width and deviation of the published model: smaller ones start from larger numbers, so that products keep their size.
const FULL_WIDTH: f64 = 4096.0;
const FULL_DEVIATION: f64 = 0.006;
/// Widths of MLPs are rounded up to whole multiples of this: the depth of a bf16 dot product's registers.
const MLP_MULTIPLE: u64 = 32;

/// Keys of `config.json`, and the dials that set them.
const CONFIG_KEYS: [(&str, &str); 17] = [
    ("vocab_size", "vocab_size"),
    ("hidden_size", "width"),
    ("intermediate_size", "dense_width"),
    ("moe_intermediate_size", "expert_width"),
    ("num_hidden_layers", "layers"),
    ("first_k_dense_replace", "dense_layers"),
    ("num_attention_heads", "heads"),
    ("num_key_value_heads", "kv_heads"),
    ("head_dim", "head_width"),
    ("n_routed_experts", "experts"),
    ("n_shared_experts", "shared_experts"),
    ("num_experts_per_tok", "top_k"),
    ("norm_topk_prob", "normalise_top_k"),
    ("routed_scaling_factor", "routed_scale"),
    ("rms_norm_eps", "norm_epsilon"),
    ("rope_theta", "rope_theta"),
    ("max_position_embeddings", "context"),
];

/// A dial, and what a model has of it.
type Size = (&'static str, fn(&Config) -> usize);

/// Dials that decide the shapes of weights.
pub(crate) const SHAPES: [Size; 11] = [
    ("layers", |config| config.num_hidden_layers),
    ("width", |config| config.hidden_size),
    ("dense_layers", |config| config.first_k_dense_replace),
    ("heads", |config| config.num_attention_heads),
    ("kv_heads", |config| config.num_key_value_heads),
    ("head_width", |config| config.head_dim),
    ("dense_width", |config| config.intermediate_size),
    ("experts", |config| config.n_routed_experts),
    ("shared_experts", |config| config.n_shared_experts),
    ("expert_width", |config| config.moe_intermediate_size),
    ("vocab_size", |config| config.vocab_size),
];

/// The first dial by which the weights of two models have other shapes, and its size in each.
fn other_shape(one: &Config, other: &Config) -> Option<(&'static str, usize, usize)> {
    SHAPES.iter().map(|(dial, of)| (*dial, of(one), of(other))).find(|(_, one, other)| one != other)
}

/// Whether `start` has the weights of a model of this `config`. The dials that are no sizes may be others.
pub(crate) fn check_start(start: &Checkpoint, config: &Config) -> Result<(), Error> {
    let Some((dial, expected, found)) = other_shape(config, &start.config) else { return Ok(()) };
    let key = CONFIG_KEYS.iter().find(|(_, of)| *of == dial).map_or(dial, |(key, _)| key);
    Err(Error::invalid(&start.path, key, format!("{expected}, as model.{dial} has it"), found.to_string()))
}

/// Head widths from dots.llm1's on down: the widest that leaves eight heads.
fn head_width(width: u64) -> u64 {
    [128, 64, 32].into_iter().find(|head| width >= 8 * head).unwrap_or(16)
}

/// `part` of the full model, at this width.
fn scaled(part: usize, width: u64) -> u64 {
    (part as u64 * width).div_ceil(FULL_WIDTH as u64).next_multiple_of(MLP_MULTIPLE)
}

/// The shape of dots.llm1 at another width and depth.
fn dots(layers: u64, width: u64) -> Config {
    let full = Config::dots_llm1();
    let head_width = head_width(width);
    let heads = (width / head_width).max(1) as usize;
    Config {
        num_hidden_layers: layers as usize,
        first_k_dense_replace: full.first_k_dense_replace.min(layers as usize),
        hidden_size: width as usize,
        head_dim: head_width as usize,
        num_attention_heads: heads,
        num_key_value_heads: heads,
        intermediate_size: scaled(full.intermediate_size, width) as usize,
        moe_intermediate_size: scaled(full.moe_intermediate_size, width) as usize,
        ..full
    }
}

pub fn read(section: &mut Section<'_>, path: &Path) -> Result<Model, RecipeError> {
    let start = section.text("start")?.map(PathBuf::from);
    let preset = section.word("preset", &[("dots", ())])?;
    let layers = section.whole("layers", 1..=4096)?;
    let width = section.whole("width", 1..=1 << 20)?;
    let full = Config::dots_llm1();
    let of_start = match &start {
        // A kept recipe says every dial and does not need the folder any more.
        Some(folder) if !CONFIG_KEYS.iter().all(|(_, dial)| section.has(dial)) => {
            if preset.is_some() {
                let found = Some("both".to_owned());
                return Err(section.wrong("preset", "a preset or a checkpoint to start from", found));
            }
            Some(Checkpoint::open(folder)?.config)
        }
        _ => None,
    };
    let preset = || dots(layers.unwrap_or(full.num_hidden_layers as u64), width.unwrap_or(full.hidden_size as u64));
    let base = of_start.clone().unwrap_or_else(preset);
    let size = |section: &mut Section<'_>, name, default: usize| {
        section.whole(name, 0..=1 << 30).map(|size| size.map_or(default, |size| size as usize))
    };
    let heads = size(section, "heads", base.num_attention_heads)?;
    let experts = size(section, "experts", base.n_routed_experts)?;
    let config = Config {
        num_hidden_layers: layers.map_or(base.num_hidden_layers, |layers| layers as usize),
        hidden_size: width.map_or(base.hidden_size, |width| width as usize),
        first_k_dense_replace: size(section, "dense_layers", base.first_k_dense_replace)?,
        num_attention_heads: heads,
        // One key head a query head, where the preset has that.
        num_key_value_heads: {
            let same = base.num_key_value_heads == base.num_attention_heads;
            size(section, "kv_heads", if same { heads } else { base.num_key_value_heads })?
        },
        head_dim: size(section, "head_width", base.head_dim)?,
        intermediate_size: size(section, "dense_width", base.intermediate_size)?,
        moe_intermediate_size: size(section, "expert_width", base.moe_intermediate_size)?,
        n_routed_experts: experts,
        n_shared_experts: size(section, "shared_experts", base.n_shared_experts)?,
        num_experts_per_tok: size(section, "top_k", base.num_experts_per_tok.min(experts))?,
        vocab_size: size(section, "vocab_size", base.vocab_size)?,
        max_position_embeddings: size(section, "context", base.max_position_embeddings)?,
        norm_topk_prob: section.truth("normalise_top_k")?.unwrap_or(base.norm_topk_prob),
        routed_scaling_factor: section.positive("routed_scale")?.map_or(base.routed_scaling_factor, |x| x as f32),
        rms_norm_eps: section.positive("norm_epsilon")?.map_or(base.rms_norm_eps, |x| x as f32),
        rope_theta: section.positive("rope_theta")?.unwrap_or(base.rope_theta),
    };
    if let Some((dial, expected, found)) = of_start.and_then(|of_start| other_shape(&of_start, &config)) {
        return Err(section.wrong(dial, format!("{expected}, the start's"), Some(found.to_string())));
    }
    match config.validate(path) {
        Err(Error::Invalid { field, expected, found, .. }) => {
            let dial = CONFIG_KEYS.iter().find(|(key, _)| *key == field).map_or(field.as_str(), |(_, dial)| dial);
            return Err(section.wrong(dial, expected, Some(found)));
        }
        other => other?,
    }
    if config.head_dim > MAX_HEAD_DIM {
        let expected = format!("an even number of at most {MAX_HEAD_DIM}, the widest heads that training computes");
        return Err(section.wrong("head_width", expected, Some(config.head_dim.to_string())));
    }
    let scaled = FULL_DEVIATION * (FULL_WIDTH / config.hidden_size as f64).sqrt();
    let initial_deviation = section.positive("initial_deviation")?.unwrap_or(scaled);
    let new_experts = section.whole("new_experts", 0..=config.n_routed_experts as u64 - 1)?.unwrap_or(0) as usize;
    if new_experts > 0 && start.is_none() {
        return Err(section.wrong("new_experts", "start beside it, a checkpoint that they were added to", None));
    }
    let freeze = freeze::read(section, new_experts)?;
    Ok(Model { config, initial_deviation, start, new_experts, freeze })
}

/// Names that people may know the dials by.
pub fn other_names() -> Vec<(&'static str, &'static str)> {
    CONFIG_KEYS.into_iter().chain([("depth", "layers"), ("max_model_len", "context")]).collect()
}
