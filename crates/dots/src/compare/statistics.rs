//! What two distributions over the same vocabulary differ by, position by position.

/// The two models at one position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// Log-probability of the token that follows: the reference's and the model's.
    pub log_probs: [f64; 2],
    /// KL(reference ‖ model), in nats.
    pub divergence: f64,
    /// Whether both find the same token best.
    pub same_best: bool,
}

impl Position {
    /// From the logits of both, `(vocab_size)` each, and the token that follows.
    pub fn of(reference: &[f32], model: &[f32], next: u32) -> Self {
        let sums = [log_sum_exp(reference), log_sum_exp(model)];
        let log_prob = |logits: &[f32], sum: f64| f64::from(logits[next as usize]) - sum;
        let divergence = reference
            .iter()
            .zip(model)
            .map(|(&p, &q)| {
                let (log_p, log_q) = (f64::from(p) - sums[0], f64::from(q) - sums[1]);
                log_p.exp() * (log_p - log_q)
            })
            .sum();
        Self {
            log_probs: [log_prob(reference, sums[0]), log_prob(model, sums[1])],
            divergence,
            same_best: best(reference) == best(model),
        }
    }
}

/// All positions together.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    pub positions: usize,
    /// The reference's and the model's.
    pub perplexity: [f64; 2],
    pub mean_divergence: f64,
    /// Of the mean, as if positions did not depend on each other.
    pub standard_error: f64,
    /// 99 of 100 positions diverge by no more.
    pub quantile_99: f64,
    pub largest_divergence: f64,
    /// Share of positions where both find the same token best.
    pub same_best: f64,
}

impl Summary {
    /// Of at least one position.
    pub fn of(positions: &[Position]) -> Self {
        let count = positions.len() as f64;
        let mean = |of: &dyn Fn(&Position) -> f64| positions.iter().map(of).sum::<f64>() / count;
        let mean_divergence = mean(&|position| position.divergence);
        let squares: f64 = positions.iter().map(|position| (position.divergence - mean_divergence).powi(2)).sum();
        let mut sorted: Vec<f64> = positions.iter().map(|position| position.divergence).collect();
        sorted.sort_by(f64::total_cmp);
        let quantile = |share: f64| sorted[((share * count).ceil() as usize).clamp(1, sorted.len()) - 1];
        Self {
            positions: positions.len(),
            perplexity: [0, 1].map(|i| (-mean(&|position| position.log_probs[i])).exp()),
            mean_divergence,
            standard_error: (squares / (count - 1.0).max(1.0) / count).sqrt(),
            quantile_99: quantile(0.99),
            largest_divergence: quantile(1.0),
            same_best: mean(&|position| f64::from(u8::from(position.same_best))),
        }
    }
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let most = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    most + logits.iter().map(|&logit| (f64::from(logit) - most).exp()).sum::<f64>().ln()
}

/// The largest, the first of equal ones.
fn best(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(probabilities: [f32; 3]) -> [f32; 3] {
        // Any number may be added to all.
        probabilities.map(|p| p.ln() + 5.0)
    }

    #[test]
    fn divergence_is_as_by_hand() {
        let position = Position::of(&logits([0.5, 0.25, 0.25]), &logits([0.25, 0.5, 0.25]), 1);
        // 0.5 ln 2 - 0.25 ln 2.
        assert!((position.divergence - 0.25 * 2f64.ln()).abs() < 1e-7, "{position:?}");
        assert!((position.log_probs[0] - 0.25f64.ln()).abs() < 1e-7, "{position:?}");
        assert!((position.log_probs[1] - 0.5f64.ln()).abs() < 1e-7, "{position:?}");
        assert!(!position.same_best);
    }

    #[test]
    fn equal_logits_do_not_diverge_at_all() {
        let logits = [1.5, -3.25, 0.1, 7.0];
        let position = Position::of(&logits, &logits, 2);
        assert_eq!((position.divergence, position.same_best), (0.0, true));
    }

    #[test]
    fn the_summary_is_as_by_hand() {
        let position = |divergence, log_probs, same_best| Position { log_probs, divergence, same_best };
        let positions: Vec<Position> = (1..=200)
            .map(|i| position(f64::from(i), [-(2f64.ln()), if i % 2 == 0 { 0.0 } else { -(16f64.ln()) }], i <= 150))
            .collect();
        let summary = Summary::of(&positions);
        assert_eq!((summary.positions, summary.mean_divergence), (200, 100.5));
        assert!((summary.perplexity[0] - 2.0).abs() < 1e-12 && (summary.perplexity[1] - 4.0).abs() < 1e-12);
        assert_eq!((summary.quantile_99, summary.largest_divergence, summary.same_best), (198.0, 200.0, 0.75));
        // The variance of 1..=n is n (n + 1) / 12.
        assert!((summary.standard_error - (201.0f64 / 12.0).sqrt()).abs() < 1e-12, "{summary:?}");
    }

    #[test]
    fn one_position_has_no_error_to_speak_of() {
        let one = Position { log_probs: [-1.0; 2], divergence: 0.5, same_best: true };
        let summary = Summary::of(&[one]);
        assert_eq!((summary.quantile_99, summary.largest_divergence, summary.standard_error), (0.5, 0.5, 0.0));
    }
}
