//! From logits to a token, and to log-probabilities: the arithmetic that every executor shares.

use std::cmp::Ordering;

use crate::executor::Sampling;

/// Temperatures below this are greedy, as in vLLM.
pub const GREEDY_BELOW: f32 = 1e-5;

/// Candidates sorted at first where `top_k` sets no number; nearly every nucleus ends among them.
const FIRST_CANDIDATES: usize = 256;
const CANDIDATES_GROWTH: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Candidate {
    logit: f32,
    id: u32,
}

impl Candidate {
    fn best_first(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// Chooses tokens. It holds scratch memory, so that nothing is allocated once it has seen a vocabulary.
#[derive(Debug, Default)]
pub struct Sampler {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
    cumulative: Vec<f64>,
}

impl Sampler {
    /// Chooses a token from `logits: (vocab_size)`.
    ///
    /// The order is vLLM's: bias, repetition penalty, frequency and presence penalties, mask; then the best token if
    /// greedy, else temperature, `min_p`, `top_k`, `top_p` over the probabilities that are left, and a draw down the
    /// candidates, best first. Among equal logits the lower id is the better, so `top_k` keeps exactly its number.
    ///
    /// NaN is never chosen, and positive infinity counts as the largest number. Where nothing can be chosen, the answer
    /// is the lowest id that the mask allows, or 0.
    pub fn sample(&mut self, logits: &[f32], sampling: &Sampling<'_>) -> u32 {
        self.adjust(logits, sampling);
        let Some(best) = best(&self.logits) else { return lowest_allowed(sampling.mask, logits.len()) };
        if sampling.temperature < GREEDY_BELOW {
            return best.id;
        }
        let weight = |logit: f32| ((logit - best.logit) / sampling.temperature).exp();
        let is_kept = |weight: f32| weight > 0.0 && weight >= sampling.min_p;
        let uniform = uniform(sampling.seed, sampling.position);
        let top_p = f64::from(sampling.top_p);

        let (kept, kept_mass) = match sampling.top_k {
            0 => self
                .logits
                .iter()
                .map(|&logit| weight(logit))
                .filter(|&weight| is_kept(weight))
                .fold((0, 0.0), |(kept, mass), weight| (kept + 1, mass + f64::from(weight))),
            top_k => (top_k.min(self.logits.len()), 0.0),
        };
        let mut width = if sampling.top_k > 0 { kept } else { FIRST_CANDIDATES.min(kept) };
        loop {
            select_best(&self.logits, width, &mut self.candidates);
            self.cumulative.clear();
            let weights = self.candidates.iter().map(|candidate| weight(candidate.logit));
            self.cumulative.extend(weights.take_while(|&weight| is_kept(weight)).scan(0.0, |sum, weight| {
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
                _ => width = (width * CANDIDATES_GROWTH).min(kept),
            }
        }
    }

    fn adjust(&mut self, logits: &[f32], sampling: &Sampling<'_>) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        for &(id, bias) in sampling.logit_bias {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
        for &(id, generated) in sampling.seen {
            if let Some(logit) = self.logits.get_mut(id as usize) {
                let penalty = sampling.repetition_penalty;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
                if generated > 0 {
                    *logit -= sampling.frequency_penalty * generated as f32 + sampling.presence_penalty;
                }
            }
        }
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

fn is_allowed(mask: &[u32], id: usize) -> bool {
    mask.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
}

fn lowest_allowed(mask: Option<&[u32]>, vocab_size: usize) -> u32 {
    mask.and_then(|mask| (0..vocab_size).find(|&id| is_allowed(mask, id))).unwrap_or(0) as u32
}

/// The best candidate; none where every logit is NaN or negative infinity.
fn best(logits: &[f32]) -> Option<Candidate> {
    let mut best = Candidate { logit: f32::NEG_INFINITY, id: 0 };
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.logit {
            best = Candidate { logit, id: id as u32 };
        }
    }
    (best.logit > f32::NEG_INFINITY).then_some(best)
}

/// Leaves the `count` best candidates in `candidates`, best first. One pass: what cannot be among the best any more is
/// turned away at the floor, and the rest is cut back to `count` each time it doubles.
fn select_best(logits: &[f32], count: usize, candidates: &mut Vec<Candidate>) {
    fn cut(candidates: &mut Vec<Candidate>, count: usize) {
        if candidates.len() > count {
            candidates.select_nth_unstable_by(count - 1, Candidate::best_first);
            candidates.truncate(count);
        }
    }
    candidates.clear();
    if count == 0 {
        return;
    }
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > floor {
            candidates.push(Candidate { logit: logit.min(f32::MAX) + 0.0, id: id as u32 });
            if candidates.len() / 2 == count {
                cut(candidates, count);
                floor = candidates[count - 1].logit;
            }
        }
    }
    cut(candidates, count);
    candidates.sort_unstable_by(Candidate::best_first);
}

/// The logarithm of the sum of `exp(logits)`; NaN counts for nothing.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let Some(Candidate { logit: max, .. }) = best(logits) else { return f64::NEG_INFINITY };
    let max = max.min(f32::MAX);
    let weights = logits.iter().map(|logit| (logit.min(f32::MAX) - max).exp());
    let sum: f64 = logits.iter().zip(weights).filter(|(logit, _)| !logit.is_nan()).map(|(_, w)| f64::from(w)).sum();
    f64::from(max) + sum.ln()
}

/// The log-probability of a token with this logit under a [`log_sum_exp`]; negative infinity for NaN.
pub fn log_prob(logit: f32, log_sum_exp: f64) -> f32 {
    if logit.is_nan() || log_sum_exp == f64::NEG_INFINITY {
        return f32::NEG_INFINITY;
    }
    (f64::from(logit.min(f32::MAX)) - log_sum_exp) as f32
}

/// The [`log_sum_exp`] of `logits: (vocab_size)` and the log-probabilities of the `count` best tokens, best first. Tokens
/// that cannot be (NaN, negative infinity) are left out.
pub fn top_logprobs(logits: &[f32], count: usize) -> (f64, Vec<(u32, f32)>) {
    let log_sum_exp = log_sum_exp(logits);
    let mut candidates = Vec::new();
    select_best(logits, count, &mut candidates);
    (log_sum_exp, candidates.iter().map(|best| (best.id, log_prob(best.logit, log_sum_exp))).collect())
}

/// The log-probability of token `id` and its rank: how many tokens are better, where the lower of equal ids is.
pub fn log_prob_and_rank(logits: &[f32], id: u32) -> (f32, usize) {
    let logit = logits[id as usize];
    let (before, after) = logits.split_at(id as usize);
    let rank = if logit.is_nan() {
        logits.iter().filter(|other| !other.is_nan()).count()
    } else {
        before.iter().filter(|&&other| other >= logit).count() + after.iter().filter(|&&other| other > logit).count()
    };
    (log_prob(logit, log_sum_exp(logits)), rank)
}

/// A number in [0, 1) of 53 random bits that depends on the seed and the position alone (Law 2).
pub fn uniform(seed: u64, position: u64) -> f64 {
    let counter = [position as u32, (position >> 32) as u32, 0, 0];
    let [low, high, ..] = philox(counter, [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

/// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011).
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let left = u64::from(counter[0]) * 0xD251_1F53;
        let right = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (right >> 32) as u32 ^ counter[1] ^ key[0],
            right as u32,
            (left >> 32) as u32 ^ counter[3] ^ key[1],
            left as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests;
