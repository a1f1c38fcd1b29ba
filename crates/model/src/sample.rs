//! From logits to a token, and to log-probabilities: the arithmetic that every executor shares.

mod candidates;
mod depths;
mod filters;
mod logprobs;
mod random;

use candidates::{Candidate, best, select_best};
use depths::{Depths, Kept};
pub use logprobs::{log_prob, log_prob_and_rank, log_sum_exp, top_logprobs};
pub use random::uniform;

use crate::executor::Sampling;

/// Temperatures below this are greedy, as in vLLM.
pub const GREEDY_BELOW: f32 = 1e-5;

/// Candidates sorted at first where no setting says how many; nearly every draw ends among them.
const FIRST_CANDIDATES: usize = 256;
const CANDIDATES_GROWTH: usize = 8;

/// Chooses tokens. It holds scratch memory, so that nothing is allocated once it has seen a vocabulary.
#[derive(Debug, Default)]
pub struct Sampler {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
    cumulative: Vec<f64>,
    depths: Depths,
}

impl Sampler {
    /// Chooses a token from `logits: (vocab_size)`.
    ///
    /// The order is
    ///
    /// 1. `logit_bias`, `repetition_penalty`, `frequency_penalty` and `presence_penalty`, as in vLLM;
    /// 2. `history_bias`: llama.cpp takes DRY's share after the penalties, and where a token is forbidden the place does
    ///    not matter; then the mask;
    /// 3. the best token if greedy, which no later setting changes, as in vLLM;
    /// 4. `temperature`, `min_p`, `top_k`, `typical_p`, `top_p`, each over the probabilities that the one before leaves:
    ///    vLLM's order, and for `typical_p`, which it lacks, the place that llama.cpp gives it, between `top_k` and
    ///    `top_p`. Temperature is first, so that every threshold speaks of the distribution that is drawn from; llama.cpp
    ///    has it last, and the two agree at temperature 1;
    /// 5. XTC, last as in llama.cpp: it excludes the best of what would otherwise be drawn from;
    /// 6. a draw down the candidates, best first.
    ///
    /// Among equal logits the lower id is the better, so `top_k` keeps exactly its number. NaN is never chosen, and
    /// positive infinity counts as the largest number. Where nothing can be chosen, the answer is the lowest id that the
    /// mask allows, or 0: a mask is kept to even where all that it allows is forbidden otherwise.
    pub fn sample(&mut self, logits: &[f32], sampling: &Sampling<'_>) -> u32 {
        self.adjust(logits, sampling);
        let Some(best) = best(&self.logits) else { return lowest_allowed(sampling.mask, logits.len()) };
        if sampling.temperature < GREEDY_BELOW {
            return best.id;
        }
        let scale = filters::Scale { best: best.logit, temperature: sampling.temperature };
        if sampling.typical_p < 1.0 || filters::excludes_top_choices(sampling) {
            filters::draw_from_all(&self.logits, scale, sampling, &mut self.candidates).unwrap_or(best.id)
        } else {
            self.draw_from_best(best, scale, sampling)
        }
    }

    /// The draw for the settings of nearly every request, whose outcome the best candidates decide. Where they do not, the
    /// distribution is wide.
    fn draw_from_best(&mut self, best: Candidate, scale: filters::Scale, sampling: &Sampling<'_>) -> u32 {
        let allowed = Kept { logits: &self.logits, scale, min_p: sampling.min_p };
        let uniform = uniform(sampling.seed, sampling.position);
        let top_p = f64::from(sampling.top_p);

        let (kept, kept_mass) = match sampling.top_k {
            0 => self
                .logits
                .iter()
                .filter_map(|&logit| allowed.weight(logit))
                .fold((0, 0.0), |(kept, mass), weight| (kept + 1, mass + f64::from(weight))),
            top_k => (top_k.min(self.logits.len()), 0.0),
        };
        let width = if sampling.top_k > 0 { kept } else { FIRST_CANDIDATES.min(kept) };
        select_best(&self.logits, width, &mut self.candidates);
        self.cumulative.clear();
        let weights = self.candidates.iter().map_while(|candidate| allowed.weight(candidate.logit));
        self.cumulative.extend(weights.scan(0.0, |sum, weight| {
            *sum += f64::from(weight);
            Some(*sum)
        }));
        let Some(&covered) = self.cumulative.last() else { return best.id };
        let has_all = width >= kept;
        let total = if has_all { covered } else { kept_mass };

        let nucleus = if top_p < 1.0 {
            self.cumulative.get(self.cumulative.partition_point(|&sum| sum < top_p * total)).copied()
        } else {
            Some(total)
        };
        let chosen = nucleus
            .or(has_all.then_some(covered))
            .map(|nucleus| self.cumulative.partition_point(|&sum| sum <= uniform * nucleus));
        match chosen {
            Some(index) if index < self.cumulative.len() => return self.candidates[index].id,
            _ if has_all => return self.candidates[self.cumulative.len() - 1].id,
            _ => {}
        }
        self.depths.measure(allowed);
        let nucleus = match nucleus {
            Some(nucleus) => nucleus,
            None => {
                let last = self.depths.descend(allowed, &mut self.candidates, |sum| sum >= top_p * total);
                last.map_or(total, |(_, nucleus)| nucleus)
            }
        };
        let chosen = self.depths.descend(allowed, &mut self.candidates, |sum| sum > uniform * nucleus);
        chosen.map_or(best.id, |(chosen, _)| chosen.id)
    }

    fn adjust(&mut self, logits: &[f32], sampling: &Sampling<'_>) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        add(&mut self.logits, sampling.logit_bias);
        for &(id, generated) in sampling.seen {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                let penalty = sampling.repetition_penalty;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
                if generated > 0 {
                    *logit -= sampling.frequency_penalty * generated as f32 + sampling.presence_penalty;
                }
            }
        }
        add(&mut self.logits, sampling.history_bias);
        // Adding zero makes -0 equal to 0 in the order of candidates.
        for logit in &mut self.logits {
            *logit = if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) + 0.0 };
        }
        if let Some(mask) = sampling.mask {
            for (id, logit) in self.logits.iter_mut().enumerate() {
                if !is_allowed(mask, id) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }
}

fn add(logits: &mut [f32], biases: &[(u32, f32)]) {
    for &(id, bias) in biases {
        if let Some(logit) = logits.get_mut(id as usize) {
            *logit += bias;
        }
    }
}

fn is_allowed(mask: &[u32], id: usize) -> bool {
    mask.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}

fn lowest_allowed(mask: Option<&[u32]>, vocab_size: usize) -> u32 {
    mask.and_then(|mask| (0..vocab_size).find(|&id| is_allowed(mask, id))).unwrap_or(0) as u32
}

#[cfg(test)]
mod distribution;
#[cfg(test)]
mod tests;
