//! Experts added to every MoE layer of a trained model.

use std::{collections::HashMap, path::Path};

use dots_model::{Checkpoint, Config};
use serde_json::{Map, Value, json};

use super::{Domain, ExpertsError, expert_of, layer_of, numbers, parent, probe::probe, size, wrong};
use crate::{
    checkpoint::{Published, publish},
    cpu::random::normals,
};

/// Logit that a new expert's row adds to its start's on the new domain's tokens, and on those of the domain to keep: there its score is
/// a fiftieth of what it was.
const LOGITS: [f64; 2] = [1.0, -4.0];

/// What new experts start as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Copies of the experts that most tokens of the new domain choose, each of another one while there are enough.
    Nearest,
    /// Random gate and up projections of the old ones' size, and a down projection of zeros: they say nothing at first.
    Fresh,
}

/// How experts are added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Add {
    /// How many to each MoE layer.
    pub count: usize,
    /// What they start as.
    pub from: From,
    /// Deviation of the normal noise on copies, as a share of the copied matrix's root mean square.
    pub noise: f64,
    /// Of the noise.
    pub seed: u64,
}

impl Add {
    /// The shape of `checkpoint` with the new experts; fails where it makes no sense.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<Config, ExpertsError> {
        let config = &checkpoint.config;
        if config.first_k_dense_replace == config.num_hidden_layers {
            let expected = "a model with MoE layers (`dots experts upcycle` makes one)";
            return wrong("experts add", expected, "one whose layers are all dense");
        }
        if self.count == 0 {
            return wrong("count", "at least 1", "0");
        }
        if !(0.0..=1.0).contains(&self.noise) {
            return wrong("noise", "a share from 0 to 1", self.noise.to_string());
        }
        let experts = config.n_routed_experts.saturating_add(self.count);
        let config = Config { n_routed_experts: experts, ..config.clone() };
        config.validate(&checkpoint.path)?;
        Ok(config)
    }
}

/// What was added to one MoE layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Added {
    /// The layer.
    pub layer: usize,
    /// By new expert, the expert that it is a copy of, the share of the new domain's tokens that choose that one, and, where a domain to
    /// keep was looked at, the share of that one's tokens.
    pub sources: Vec<(usize, f64, Option<f64>)>,
}

/// Writes `checkpoint` with `add.count` more experts in each MoE layer into the new folder `out`. `new` is what its routers do with the
/// domain to learn, and `keep` what they do with a text whose loss should stay as it is.
///
/// A new expert's row of the router is that of the expert it is a copy of (of a fresh one: of the expert that it would be), with noise, and its
/// balancing bias the layer's lowest. With `keep`, to the row is added a direction found by ridge regression on the router's inputs, which
/// raises the logit on the new domain's tokens and lowers it on those of the domain to keep, so that these go on choosing the old
/// experts. `lineage` goes into `dots.json` beside what this says itself.
pub fn add(
    checkpoint: &Checkpoint,
    add: &Add,
    new: &Domain,
    keep: Option<&Domain>,
    lineage: &Map<String, Value>,
    out: &Path,
) -> Result<Vec<Added>, ExpertsError> {
    let config = add.check(checkpoint)?;
    let old_experts = checkpoint.config.n_routed_experts;
    let first_layer = config.first_k_dense_replace;
    let added: Vec<Added> = (first_layer..config.num_hidden_layers)
        .map(|layer| {
            let moe = layer - first_layer;
            let nearest = new.experts(moe);
            let source = |(expert, share)| (expert, share, keep.map(|keep| keep.share(moe, expert)));
            Added { layer, sources: nearest.into_iter().cycle().take(add.count).map(source).collect() }
        })
        .collect();
    let directions: Option<Vec<Vec<f32>>> = keep.map(|keep| {
        let layers = new.layers.iter().zip(&keep.layers);
        layers
            .map(|(of_new, of_keep)| probe((of_new, new.tokens), (of_keep, keep.tokens), LOGITS[0], LOGITS[1]))
            .collect()
    });
    let plan = Plan { checkpoint, add, old_experts, first_layer, added: &added, directions: directions.as_deref() };

    let mut lineage = lineage.clone();
    let sources: HashMap<String, Vec<usize>> = (added.iter())
        .map(|layer| (layer.layer.to_string(), layer.sources.iter().map(|source| source.0).collect()))
        .collect();
    let said = json!({
        "from": parent(checkpoint),
        "old_experts": old_experts,
        "count": add.count,
        "start": match add.from { From::Nearest => "nearest", From::Fresh => "fresh" },
        "nearest": sources,
        "noise": add.noise,
        "seed": add.seed,
        "new_domain_tokens": new.tokens,
        "kept_domain_tokens": keep.map(|keep| keep.tokens),
    });
    lineage.insert("experts_added".to_owned(), said);
    let about = Published { config: &config, tokenizer: &checkpoint.path, lineage: &lineage };
    publish(out, &about, &mut |name, shape| plan.tensor(name, shape))?;
    Ok(added)
}

struct Plan<'a> {
    checkpoint: &'a Checkpoint,
    add: &'a Add,
    old_experts: usize,
    first_layer: usize,
    added: &'a [Added],
    /// By MoE layer, `(hidden)`.
    directions: Option<&'a [Vec<f32>]>,
}

impl Plan<'_> {
    /// The numbers of a tensor of the widened model.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ExpertsError> {
        let moe = layer_of(name).and_then(|layer| layer.checked_sub(self.first_layer));
        let sources = moe.map_or(&[][..], |moe| &self.added[moe].sources);
        if let Some((expert, named)) = expert_of(name)
            && let Some(nth) = expert.checked_sub(self.old_experts)
        {
            let copied = numbers(self.checkpoint, &named(sources[nth].0), shape)?;
            return Ok(match self.add.from {
                From::Nearest => self.noisy(name, copied),
                From::Fresh if name.ends_with(".down_proj.weight") => vec![0.0; copied.len()],
                From::Fresh => self.normal(name, copied.len(), size(&copied)),
            });
        }
        let is_bias = name.ends_with(".mlp.gate.e_score_correction_bias");
        if !is_bias && !name.ends_with(".mlp.gate.weight") {
            return numbers(self.checkpoint, name, shape);
        }
        let old = [&[self.old_experts], &shape[1..]].concat();
        let mut rows = numbers(self.checkpoint, name, &old)?;
        if is_bias {
            let lowest = rows.iter().copied().fold(f32::INFINITY, f32::min);
            rows.resize(shape[0], lowest);
            return Ok(rows);
        }
        let hidden = shape[1];
        let copied: Vec<f32> =
            sources.iter().flat_map(|source| &rows[source.0 * hidden..][..hidden]).copied().collect();
        let mut new = self.noisy(name, copied);
        if let (Some(directions), Some(moe)) = (self.directions, moe) {
            for row in new.chunks_mut(hidden) {
                row.iter_mut().zip(&directions[moe]).for_each(|(x, direction)| *x += direction);
            }
        }
        rows.extend(new);
        Ok(rows)
    }

    fn noisy(&self, name: &str, mut numbers: Vec<f32>) -> Vec<f32> {
        let noise = self.normal(name, numbers.len(), self.add.noise * size(&numbers));
        numbers.iter_mut().zip(noise).for_each(|(x, noise)| *x += noise);
        numbers
    }

    fn normal(&self, name: &str, count: usize, deviation: f64) -> Vec<f32> {
        normals(self.add.seed, name).take(count).map(|x| (x * deviation) as f32).collect()
    }
}
