//! Which experts a token takes, and how much of each.

/// Chooses `top_k` experts for one token by DeepSeek-V3's rule without groups, as dots.llm1 uses it.
///
/// `logits: (experts)` is `x · Wᵀ` in f32; scores are their sigmoids, left in its place. The experts with the largest `score + bias` are
/// taken, ties to the lower index; their weights are the scores *without* the bias, divided by their sum where
/// `normalise`, times `scale`. The result is in the order of choice, the order in which outputs are added.
pub fn route(
    logits: &mut [f32],
    bias: &[f32],
    top_k: usize,
    normalise: bool,
    scale: f32,
    chosen: &mut Vec<(u32, f32)>,
) {
    chosen.clear();
    let scores = logits;
    scores.iter_mut().for_each(|x| *x = 1.0 / (1.0 + (-*x).exp()));
    for _ in 0..top_k.min(scores.len()) {
        let mut best: Option<(usize, f32)> = None;
        for expert in 0..scores.len() {
            if chosen.iter().any(|&(taken, _)| taken as usize == expert) {
                continue;
            }
            let biased = scores[expert] + bias[expert];
            // `is_none_or` takes the first expert even where every score is NaN.
            if best.is_none_or(|(_, top)| biased > top) {
                best = Some((expert, biased));
            }
        }
        let (expert, _) = best.expect("fewer experts are chosen than there are");
        chosen.push((expert as u32, scores[expert]));
    }
    let sum = chosen.iter().map(|(_, score)| score).sum::<f32>() + 1e-20;
    for (_, weight) in chosen.iter_mut() {
        *weight = if normalise { *weight / sum } else { *weight } * scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sigmoid(x: f32) -> f32 {
        1.0 / (1.0 + (-x).exp())
    }

    /// The bias decides: by score alone the order would be 0, 1, 2.
    const LOGITS: [f32; 4] = [2.0, 1.0, 0.0, -1.0];
    const BIAS: [f32; 4] = [-0.9, 0.0, 0.3, 0.3];

    fn chosen(normalise: bool, scale: f32) -> Vec<(u32, f32)> {
        let mut out = Vec::new();
        route(&mut LOGITS.clone(), &BIAS, 2, normalise, scale, &mut out);
        out
    }

    #[test]
    fn experts_are_chosen_by_biased_scores() {
        assert_eq!(chosen(true, 2.5).iter().map(|c| c.0).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn weights_are_the_unbiased_scores_normalised_then_scaled_once() {
        let sum = sigmoid(0.0) + sigmoid(1.0);
        for ((_, got), want) in chosen(true, 2.5).iter().zip([sigmoid(0.0) / sum * 2.5, sigmoid(1.0) / sum * 2.5]) {
            assert!((got - want).abs() < 1e-6);
        }
        assert!((chosen(true, 2.5).iter().map(|c| c.1).sum::<f32>() - 2.5).abs() < 1e-6);
    }

    #[test]
    fn without_normalisation_the_scores_are_scaled_as_they_are() {
        for ((_, got), want) in chosen(false, 2.0).iter().zip([sigmoid(0.0) * 2.0, sigmoid(1.0) * 2.0]) {
            assert!((got - want).abs() < 1e-6);
        }
    }

    #[test]
    fn ties_go_to_the_lower_index_and_nan_does_not_panic() {
        let mut out = Vec::new();
        route(&mut [1.0; 5], &[0.0; 5], 3, true, 1.0, &mut out);
        assert_eq!(out.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1, 2]);
        route(&mut [f32::NAN; 5], &[0.0; 5], 3, true, 1.0, &mut out);
        assert_eq!(out.len(), 3);
    }
}
