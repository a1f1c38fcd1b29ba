//! Locally typical sampling and XTC, which look at more than the best candidates, and the other filters beside them.

use std::cmp::Ordering;

use super::{
    CANDIDATES_GROWTH, FIRST_CANDIDATES,
    candidates::{Candidate, select_best},
    random::{exclusion_uniform, uniform},
};
use crate::executor::Sampling;

/// What makes a logit a probability, but for the sum of all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    pub best: f32,
    pub temperature: f32,
}

impl Scale {
    /// 0 for the best logit, below it for others.
    pub fn exponent(self, logit: f32) -> f32 {
        (logit - self.best) / self.temperature
    }

    /// In [0, 1].
    pub fn weight(self, logit: f32) -> f32 {
        self.exponent(logit).exp()
    }

    fn mass(self, candidates: &[Candidate]) -> f64 {
        candidates.iter().map(|candidate| f64::from(self.weight(candidate.logit))).sum()
    }
}

/// Whether XTC excludes at this position, where there is something to exclude.
pub(super) fn excludes_top_choices(sampling: &Sampling<'_>) -> bool {
    sampling.xtc_threshold <= 0.5
        && exclusion_uniform(sampling.seed, sampling.position) < f64::from(sampling.xtc_probability)
}

/// Draws a token after all filters, over a list of all candidates; none where `min_p` leaves nothing, as one in [0, 1]
/// never does. `logits` hold no NaN, and `scale` has their best.
pub(super) fn draw_from_all(
    logits: &[f32],
    scale: Scale,
    sampling: &Sampling<'_>,
    candidates: &mut Vec<Candidate>,
) -> Option<u32> {
    let is_kept = |logit: f32| {
        let weight = scale.weight(logit);
        weight > 0.0 && weight >= sampling.min_p
    };
    if sampling.top_k > 0 {
        select_best(logits, sampling.top_k.min(logits.len()), candidates);
        candidates.retain(|candidate| is_kept(candidate.logit));
    } else {
        candidates.clear();
        let kept = (0..).zip(logits).filter(|&(_, &logit)| is_kept(logit));
        candidates.extend(kept.map(|(id, &logit)| Candidate { logit, id }));
    }
    let weight = |candidate: &Candidate| f64::from(scale.weight(candidate.logit));
    if sampling.typical_p < 1.0 {
        keep_typical(candidates, scale, f64::from(sampling.typical_p));
    }
    if sampling.top_p < 1.0 {
        let mass = f64::from(sampling.top_p) * scale.mass(candidates);
        let last = sort_until(candidates, Candidate::best_first, weight, |sum| sum >= mass);
        candidates.truncate(last + 1);
    }
    if excludes_top_choices(sampling) {
        exclude_top_choices(candidates, scale, f64::from(sampling.xtc_threshold));
    }
    let target = uniform(sampling.seed, sampling.position) * scale.mass(candidates);
    let chosen = sort_until(candidates, Candidate::best_first, weight, |sum| sum > target);
    candidates.get(chosen).map(|candidate| candidate.id)
}

/// Locally typical sampling of Meister et al., "Locally typical sampling" (2022): keeps the candidates whose surprise
/// `-ln p` lies nearest to its expectation, the entropy, up to the first that makes their probability `typical_p`. Of two
/// as near, the better comes first.
///
/// With `p = exp(x) / mass` the surprise is `ln mass - x` and its expectation `ln mass - E[x]`: the distance between them is
/// that between `x` and its own expectation.
fn keep_typical(candidates: &mut Vec<Candidate>, scale: Scale, typical_p: f64) {
    let weight = |candidate: &Candidate| f64::from(scale.weight(candidate.logit));
    let exponent = |candidate: &Candidate| f64::from(scale.exponent(candidate.logit));
    let mass = scale.mass(candidates);
    let expected = candidates.iter().map(|candidate| weight(candidate) * exponent(candidate)).sum::<f64>() / mass;
    let distance = |candidate: &Candidate| (exponent(candidate) - expected).abs();
    let nearest_first = |a: &Candidate, b: &Candidate| distance(a).total_cmp(&distance(b)).then(a.best_first(b));
    let last = sort_until(candidates, nearest_first, weight, |sum| sum >= typical_p * mass);
    candidates.truncate(last + 1);
}

/// XTC of p-e-w, "Exclude top choices" (text-generation-webui pull request 6335; llama.cpp has it in
/// `llama_sample_xtc_apply`): of the candidates whose probability is at least `threshold`, only the least probable stays.
fn exclude_top_choices(candidates: &mut Vec<Candidate>, scale: Scale, threshold: f64) {
    let least_weight = threshold * scale.mass(candidates);
    let is_top = |candidate: &Candidate| f64::from(scale.weight(candidate.logit)) >= least_weight;
    let least = candidates.iter().filter(|candidate| is_top(candidate)).copied().max_by(Candidate::best_first);
    candidates.retain(|candidate| !is_top(candidate) || Some(*candidate) == least);
}

/// Sorts the beginning of `candidates` as far as it takes for the sum of their weights to fulfil `is_enough`, and says
/// which one did it: the last where none does.
fn sort_until(
    candidates: &mut [Candidate],
    order: impl Fn(&Candidate, &Candidate) -> Ordering,
    weight: impl Fn(&Candidate) -> f64,
    is_enough: impl Fn(f64) -> bool,
) -> usize {
    let (mut sorted, mut sum, mut width) = (0, 0.0, FIRST_CANDIDATES);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        width = width.min(rest.len());
        if width < rest.len() {
            rest.select_nth_unstable_by(width - 1, &order);
        }
        rest[..width].sort_unstable_by(&order);
        for (index, candidate) in rest[..width].iter().enumerate() {
            sum += weight(candidate);
            if is_enough(sum) {
                return sorted + index;
            }
        }
        sorted += width;
        width *= CANDIDATES_GROWTH;
    }
    candidates.len().saturating_sub(1)
}
