//! A dense model made into one of experts that computes the same (sparse upcycling).
//!
//! A dense MLP is a sum over its neurons. They are dealt out: some to the shared experts, the rest to `top_k` groups, and each group's are
//! copied into `experts / top_k` experts. A random router row for each set of copies is shared by the groups, so a token's best `top_k`
//! scores are those of one set, one expert of each group, with equal weights: all neurons are there once, whatever the router says, and
//! the experts part ways as they learn (virtual groups: He et al. 2024, "Upcycling Large Language Models into Mixture of Experts").

use std::path::Path;

use dots_model::{Checkpoint, Config};
use serde_json::{Map, Value, json};

use super::{ExpertsError, expert_of, layer_of, numbers, parent, size, wrong};
use crate::{
    checkpoint::{Published, publish},
    cpu::random::normals,
};

/// What a dense model is made into.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Upcycle {
    /// Routed experts of each MoE layer; a multiple of `top_k`.
    pub experts: usize,
    /// Experts chosen for a token.
    pub top_k: usize,
    /// Shared experts.
    pub shared: usize,
    /// How many of the first layers stay dense.
    pub dense_layers: usize,
    /// Deviation of the normal noise on routed experts, as a share of the copied matrix's root mean square. With none the model computes
    /// what the dense one does.
    pub noise: f64,
    /// Of the router and the noise.
    pub seed: u64,
}

/// Width and deviation of the published model's initial router: smaller ones start from larger numbers.
const FULL: (f64, f64) = (4096.0, 0.006);

/// Writes the dense `checkpoint` as a mixture of experts into the new folder `out`, and returns its shape. `lineage` goes into `dots.json`
/// beside what this says itself.
pub fn upcycle(
    checkpoint: &Checkpoint,
    upcycle: &Upcycle,
    lineage: &Map<String, Value>,
    out: &Path,
) -> Result<Config, ExpertsError> {
    let config = mixed(checkpoint, upcycle)?;
    let mut lineage = lineage.clone();
    let said = json!({
        "from": parent(checkpoint),
        "experts": upcycle.experts,
        "top_k": upcycle.top_k,
        "shared_experts": upcycle.shared,
        "dense_layers": upcycle.dense_layers,
        "noise": upcycle.noise,
        "seed": upcycle.seed,
    });
    lineage.insert("upcycled".to_owned(), said);
    let about = Published { config: &config, tokenizer: &checkpoint.path, lineage: &lineage };
    publish(out, &about, &mut |name, shape| tensor(checkpoint, upcycle, name, shape))?;
    Ok(config)
}

/// The shape of what the dense model becomes.
fn mixed(checkpoint: &Checkpoint, upcycle: &Upcycle) -> Result<Config, ExpertsError> {
    let config = &checkpoint.config;
    let Upcycle { experts, top_k, shared, dense_layers, noise, .. } = *upcycle;
    if config.first_k_dense_replace != config.num_hidden_layers {
        let found = format!("{} of {} layers dense", config.first_k_dense_replace, config.num_hidden_layers);
        return wrong("experts upcycle", "a model whose layers are all dense", found);
    }
    if dense_layers >= config.num_hidden_layers {
        let expected = format!("fewer than the {} layers", config.num_hidden_layers);
        return wrong("dense layers", expected, dense_layers.to_string());
    }
    if top_k == 0 || shared == 0 {
        return wrong("top-k and shared", "at least 1 of each", format!("{top_k} and {shared}"));
    }
    if experts == 0 || !experts.is_multiple_of(top_k) {
        return wrong("experts", format!("a multiple of top-k {top_k}"), experts.to_string());
    }
    let parts = top_k.saturating_add(shared);
    if !config.intermediate_size.is_multiple_of(parts) {
        let expected = format!("together a divisor of the dense width {}", config.intermediate_size);
        return wrong("top-k and shared", expected, format!("{top_k} + {shared} = {parts}"));
    }
    if !(0.0..=1.0).contains(&noise) {
        return wrong("noise", "a share from 0 to 1", noise.to_string());
    }
    let config = Config {
        first_k_dense_replace: dense_layers,
        moe_intermediate_size: config.intermediate_size / parts,
        n_routed_experts: experts,
        n_shared_experts: shared,
        num_experts_per_tok: top_k,
        // Equal weights of one each.
        norm_topk_prob: true,
        routed_scaling_factor: top_k as f32,
        ..config.clone()
    };
    config.validate(&checkpoint.path)?;
    Ok(config)
}

/// The numbers of a tensor of the mixture.
fn tensor(checkpoint: &Checkpoint, upcycle: &Upcycle, name: &str, shape: &[usize]) -> Result<Vec<f32>, ExpertsError> {
    const SHARED: &str = ".shared_experts";
    let Upcycle { top_k, shared, .. } = *upcycle;
    let is_moe = layer_of(name).is_some_and(|layer| layer >= upcycle.dense_layers);
    if !is_moe || !name.contains(".mlp.") {
        return numbers(checkpoint, name, shape);
    }
    if name.ends_with(".e_score_correction_bias") {
        return Ok(vec![0.0; shape[0]]);
    }
    if name.ends_with(".mlp.gate.weight") {
        let hidden = shape[1];
        let deviation = FULL.1 * (FULL.0 / hidden as f64).sqrt();
        let mut random = normals(upcycle.seed, name).map(|x| (x * deviation) as f32);
        let mut rows = Vec::with_capacity(shape.iter().product());
        for _ in 0..shape[0] / top_k {
            let row: Vec<f32> = random.by_ref().take(hidden).collect();
            (0..top_k).for_each(|_| rows.extend_from_slice(&row));
        }
        return Ok(rows);
    }
    // The first neurons are the shared experts', then come the groups'.
    let (dense, expert) = match expert_of(name) {
        Some((expert, _)) => (name.replace(&format!(".experts.{expert}."), "."), Some(expert)),
        None => (name.replace(SHARED, ""), None),
    };
    let is_down = name.ends_with(".down_proj.weight");
    let width = shape[usize::from(is_down)];
    let first = expert.map_or(0, |expert| (shared + expert % top_k) * width);
    let all = width / if expert.is_some() { 1 } else { shared } * (shared + top_k);
    let hidden = shape[usize::from(!is_down)];
    let dense_shape = if is_down { [hidden, all] } else { [all, hidden] };
    let whole = numbers(checkpoint, &dense, &dense_shape)?;
    let mut part: Vec<f32> = if is_down {
        whole.chunks(all).flat_map(|row| &row[first..first + width]).copied().collect()
    } else {
        whole[first * hidden..(first + width) * hidden].to_vec()
    };
    if expert.is_some() && upcycle.noise > 0.0 {
        let deviation = upcycle.noise * size(&part);
        part.iter_mut().zip(normals(upcycle.seed, name)).for_each(|(x, noise)| *x += (noise * deviation) as f32);
    }
    Ok(part)
}
