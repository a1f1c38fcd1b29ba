//! Log-probabilities of the model's own distribution.

use super::candidates::{Candidate, best, select_best};

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
