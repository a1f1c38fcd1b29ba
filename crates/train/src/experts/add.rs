//! Experts added to every MoE layer of a trained model.

use std::{collections::HashMap, path::Path};

use dots_model::{Checkpoint, Config};
use serde_json::{Map, Value, json};

use super::{
    Domain, ExpertsError, domain::Seen, expert_of, gate::Gate, layer_of, numbers, parent, probe::probe, size, wrong,
};
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
    /// The most of the new domain's choices that may be new experts at the start, a share: the old ones go on helping with the others.
    pub most_new: f64,
    /// The most of the kept domain's tokens that may choose a new expert at the start, a share.
    pub most_kept: f64,
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
        for (name, share) in [("most-new", self.most_new), ("most-kept", self.most_kept)] {
            if !(0.0..=1.0).contains(&share) {
                return wrong(name, "a share from 0 to 1", share.to_string());
            }
        }
        let experts = config.n_routed_experts.saturating_add(self.count);
        let config = Config { n_routed_experts: experts, ..config.clone() };
        config.validate(&checkpoint.path)?;
        Ok(config)
    }

    fn noisy(&self, name: &str, mut numbers: Vec<f32>) -> Vec<f32> {
        let noise = self.normal(name, numbers.len(), self.noise * size(&numbers));
        numbers.iter_mut().zip(noise).for_each(|(x, noise)| *x += noise);
        numbers
    }

    fn normal(&self, name: &str, count: usize, deviation: f64) -> Vec<f32> {
        normals(self.seed, name).take(count).map(|x| (x * deviation) as f32).collect()
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
/// A new expert's row of the router is that of the expert it is a copy of (of a fresh one: of the expert that it would be), with noise. With
/// `keep`, to the row is added a direction found by ridge regression on the router's inputs, which raises the logit on the new domain's
/// tokens and lowers it on those of the domain to keep. The new experts of a layer share a balancing bias: the largest with which the two
/// domains keep to `add.most_new` and `add.most_kept`. `lineage` goes into
/// `dots.json` beside what this says itself.
pub fn add(
    checkpoint: &Checkpoint,
    add: &Add,
    new: &Domain,
    keep: Option<&Domain>,
    lineage: &Map<String, Value>,
    out: &Path,
) -> Result<Vec<Added>, ExpertsError> {
    let config = add.check(checkpoint)?;
    let first_layer = config.first_k_dense_replace;
    let added: Vec<Added> = (first_layer..config.num_hidden_layers)
        .map(|layer| {
            let moe = layer - first_layer;
            let nearest = new.experts(moe);
            let source = |(expert, share)| (expert, share, keep.map(|keep| keep.share(moe, expert)));
            Added { layer, sources: nearest.into_iter().cycle().take(add.count).map(source).collect() }
        })
        .collect();
    let layers = added
        .iter()
        .enumerate()
        .map(|(moe, added)| widen(checkpoint, add, added, &new.at(moe), keep.map(|keep| keep.at(moe))));
    let plan = Plan { checkpoint, add, first_layer, added: &added, routers: &layers.collect::<Result<Vec<_>, _>>()? };

    let mut lineage = lineage.clone();
    let sources: HashMap<String, Vec<usize>> = (added.iter())
        .map(|layer| (layer.layer.to_string(), layer.sources.iter().map(|source| source.0).collect()))
        .collect();
    let said = json!({
        "from": parent(checkpoint),
        "old_experts": checkpoint.config.n_routed_experts,
        "count": add.count,
        "start": match add.from { From::Nearest => "nearest", From::Fresh => "fresh" },
        "nearest": sources,
        "noise": add.noise,
        "seed": add.seed,
        "most_new": add.most_new,
        "most_kept": add.most_kept,
        "new_domain_tokens": new.tokens,
        "kept_domain_tokens": keep.map(|keep| keep.tokens),
    });
    lineage.insert("experts_added".to_owned(), said);
    let about = Published { config: &config, tokenizer: &checkpoint.path, lineage: &lineage };
    publish(out, &about, &mut |name, shape| plan.tensor(name, shape))?;
    Ok(added)
}

/// A layer's router with the new rows.
struct Router {
    /// `(experts, hidden)`
    rows: Vec<f32>,
    /// `(experts)`
    biases: Vec<f32>,
}

fn widen(
    checkpoint: &Checkpoint,
    add: &Add,
    added: &Added,
    new: &(&Seen, usize),
    keep: Option<(&Seen, usize)>,
) -> Result<Router, ExpertsError> {
    let Config { n_routed_experts: experts, hidden_size: hidden, num_experts_per_tok: top_k, .. } = checkpoint.config;
    let at = format!("model.layers.{}.mlp.gate", added.layer);
    let name = format!("{at}.weight");
    let mut rows = numbers(checkpoint, &name, &[experts, hidden])?;
    let mut biases = numbers(checkpoint, &format!("{at}.e_score_correction_bias"), &[experts])?;
    let copied = added.sources.iter().flat_map(|source| &rows[source.0 * hidden..][..hidden]).copied().collect();
    let mut new_rows = add.noisy(&name, copied);
    if let Some(keep) = keep {
        let direction = probe(*new, keep, LOGITS[0], LOGITS[1]);
        for row in new_rows.chunks_mut(hidden) {
            row.iter_mut().zip(&direction).for_each(|(x, direction)| *x += direction);
        }
    }
    let gate =
        Gate { old: &rows, biases: &biases, new: &new_rows, top_k, most_new: add.most_new, most_kept: add.most_kept };
    let bias = gate.bias(&new.0.sample, keep.map(|keep| &keep.0.sample[..]));
    biases.resize(experts + add.count, bias);
    rows.extend(new_rows);
    Ok(Router { rows, biases })
}

struct Plan<'a> {
    checkpoint: &'a Checkpoint,
    add: &'a Add,
    first_layer: usize,
    /// By MoE layer.
    added: &'a [Added],
    routers: &'a [Router],
}

impl Plan<'_> {
    /// The numbers of a tensor of the widened model.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ExpertsError> {
        let copy = || numbers(self.checkpoint, name, shape);
        let Some(moe) = layer_of(name).and_then(|layer| layer.checked_sub(self.first_layer)) else { return copy() };
        if name.ends_with(".mlp.gate.weight") {
            return Ok(self.routers[moe].rows.clone());
        }
        if name.ends_with(".mlp.gate.e_score_correction_bias") {
            return Ok(self.routers[moe].biases.clone());
        }
        let Some((expert, named)) = expert_of(name) else { return copy() };
        let Some(nth) = expert.checked_sub(self.checkpoint.config.n_routed_experts) else { return copy() };
        let copied = numbers(self.checkpoint, &named(self.added[moe].sources[nth].0), shape)?;
        Ok(match self.add.from {
            From::Nearest => self.add.noisy(name, copied),
            From::Fresh if name.ends_with(".down_proj.weight") => vec![0.0; copied.len()],
            From::Fresh => self.add.normal(name, copied.len(), size(&copied)),
        })
    }
}
