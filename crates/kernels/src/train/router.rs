//! Routing with what training needs of it: the weights' gradients, the sequence-wise balance loss, the entropy.

use super::{
    BLOCK_ROWS,
    cut::{Cut, for_each},
};
use crate::{compute::Compute, float::exp, isa::for_each_isa};

/// How a layer's router chooses.
#[derive(Debug, Clone, Copy)]
pub struct Router<'a> {
    /// Experts that it chooses from.
    pub experts: usize,
    /// Experts that it chooses.
    pub top_k: usize,
    /// Whether weights are divided by their sum.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f32,
    /// `(experts)`: added to scores for the choice, and for nothing else.
    pub bias: &'a [f32],
    /// Positions of a sequence.
    pub sequence_tokens: usize,
    /// `(sequences)`: how many of them are no padding, at least one; the rest, at the end, has no part in the balance.
    pub filled: &'a [u32],
}

/// What the forward pass of a router leaves.
#[derive(Debug)]
pub struct Routed<'a> {
    /// `(rows, experts)`: sigmoids of the logits.
    pub scores: &'a mut [f32],
    /// `(rows, top_k)`: experts in the order of choice.
    pub chosen: &'a mut [u32],
    /// `(rows, top_k)`: their weights.
    pub weights: &'a mut [f32],
    /// `(sequences, experts)`: `experts / (top_k · filled)` times the positions whose `top_k` largest scores, without bias,
    /// have the expert among them. All experts count, those outside the sign balancing too: the loss is DeepSeek-V3's over all
    /// that a token may go to, and an expert that is new is drawn towards its share by this alone.
    pub fractions: &'a mut [f32],
    /// `(rows)`: the row's share of the balance loss, `Σ fraction · score / Σ score`; nothing on padding. A sequence's loss is its rows'
    /// mean, padding left out (DeepSeek-V3, equations 17 to 20).
    pub balance: &'a mut [f32],
    /// `(rows)`: entropy, in nats, of the scores divided by their sum.
    pub entropy: &'a mut [f32],
}

/// Routes rows. `scores` come in as logits; `largest: (rows, top_k)` is scratch.
///
/// Experts with the largest `score + bias` are taken, ties to the lower index; their weights are the scores without the bias,
/// divided by their sum where `normalise`, times `scale`.
pub fn router_forward(compute: &Compute, router: &Router<'_>, routed: &mut Routed<'_>, largest: &mut [u32]) {
    let Router { experts, top_k, sequence_tokens, .. } = *router;
    let parts = (
        Cut::new(&mut *routed.scores, BLOCK_ROWS * experts),
        Cut::new(&mut *routed.chosen, BLOCK_ROWS * top_k),
        Cut::new(&mut *routed.weights, BLOCK_ROWS * top_k),
        Cut::new(&mut *routed.entropy, BLOCK_ROWS),
        Cut::new(&mut *largest, BLOCK_ROWS * top_k),
    );
    for_each(compute, parts, |_, (scores, chosen, weights, entropy, largest)| {
        let rows = scores.chunks_exact_mut(experts).zip(chosen.chunks_exact_mut(top_k));
        let rows = rows.zip(weights.chunks_exact_mut(top_k)).zip(largest.chunks_exact_mut(top_k));
        for ((((scores, chosen), weights), largest), entropy) in rows.zip(entropy) {
            *entropy = sigmoids(compute.isa(), scores);
            // The weights' place holds the values that are compared, until they are weights.
            choose(scores, router.bias, chosen, weights);
            choose(scores, &[], largest, weights);
            weigh(router, scores, chosen, weights);
        }
    });
    let sequences = largest.chunks(sequence_tokens * top_k).zip(routed.fractions.chunks_exact_mut(experts));
    for ((largest, fractions), &filled) in sequences.zip(router.filled) {
        let chosen = top_k * filled as usize;
        let share = experts as f32 / chosen as f32;
        fractions.fill(0.0);
        // Counts are exact in f32 up to 2^24 positions of a sequence.
        largest[..chosen].iter().for_each(|expert| fractions[*expert as usize] += 1.0);
        fractions.iter_mut().for_each(|count| *count *= share);
    }
    let (scores, fractions) = (&*routed.scores, &*routed.fractions);
    for_each(compute, Cut::new(&mut *routed.balance, BLOCK_ROWS), |index, balance| {
        for (row, balance) in balance.iter_mut().enumerate() {
            let row = index * BLOCK_ROWS + row;
            if is_padding(router, row) {
                *balance = 0.0;
                continue;
            }
            let fractions = &fractions[row / sequence_tokens * experts..][..experts];
            let (along, sum) = share_of(compute.isa(), &scores[row * experts..][..experts], fractions);
            *balance = along / sum;
        }
    });
}

/// The logits' gradient, written over `d_logits: (rows, experts)`: of the weights, whose gradient is `d_weights: (rows, top_k)`, and of the balance
/// loss, which a row's share enters with the factor `balance_scale`, more where a part of its sequence is padding: `sequence_tokens / filled`
/// times as much.
pub fn router_backward(
    compute: &Compute,
    router: &Router<'_>,
    routed: &Routed<'_>,
    d_weights: &[f32],
    balance_scale: f32,
    d_logits: &mut [f32],
) {
    let Router { experts, top_k, sequence_tokens, normalise, scale, .. } = *router;
    for_each(compute, Cut::new(d_logits, BLOCK_ROWS * experts), |index, d_logits| {
        for (row, d_logits) in d_logits.chunks_exact_mut(experts).enumerate() {
            let row = index * BLOCK_ROWS + row;
            let scores = &routed.scores[row * experts..][..experts];
            let fractions = &routed.fractions[row / sequence_tokens * experts..][..experts];
            let (chosen, d_weights) = (&routed.chosen[row * top_k..][..top_k], &d_weights[row * top_k..][..top_k]);
            let filled = router.filled[row / sequence_tokens] as f32;
            let longer = if is_padding(router, row) { 0.0 } else { sequence_tokens as f32 / filled };
            balance_backward(compute.isa(), scores, fractions, balance_scale * longer, d_logits);
            let sum = if normalise { sum_of(scores, chosen) } else { 1.0 };
            let along = if normalise {
                chosen.iter().zip(d_weights).map(|(expert, d)| scores[*expert as usize] * d).sum::<f32>() / sum
            } else {
                0.0
            };
            for (expert, d) in chosen.iter().zip(d_weights) {
                d_logits[*expert as usize] += scale * (d - along) / sum;
            }
            through_sigmoid(compute.isa(), scores, d_logits);
        }
    });
}

fn is_padding(router: &Router<'_>, row: usize) -> bool {
    (row % router.sequence_tokens) as u32 >= router.filled[row / router.sequence_tokens]
}

/// The indices of the `chosen.len()` largest `scores + bias`, largest first, ties to the lower index; a NaN is never larger than
/// anything. `values` is scratch of the same length. No bias is zeros.
fn choose(scores: &[f32], bias: &[f32], chosen: &mut [u32], values: &mut [f32]) {
    let top_k = chosen.len();
    for expert in 0..scores.len() {
        let value = scores[expert] + bias.get(expert).copied().unwrap_or(0.0);
        let held = expert.min(top_k);
        let larger = held < top_k || value > values[top_k - 1];
        if !larger {
            continue;
        }
        let mut at = held.min(top_k - 1);
        while at > 0 && value > values[at - 1] {
            (values[at], chosen[at]) = (values[at - 1], chosen[at - 1]);
            at -= 1;
        }
        (values[at], chosen[at]) = (value, expert as u32);
    }
}

fn weigh(router: &Router<'_>, scores: &[f32], chosen: &[u32], weights: &mut [f32]) {
    let sum = if router.normalise { sum_of(scores, chosen) } else { 1.0 };
    for (weight, expert) in weights.iter_mut().zip(chosen) {
        *weight = scores[*expert as usize] / sum * router.scale;
    }
}

/// What the chosen scores are divided by.
fn sum_of(scores: &[f32], chosen: &[u32]) -> f32 {
    chosen.iter().map(|expert| scores[*expert as usize]).sum::<f32>() + 1e-20
}

for_each_isa! {
    /// Logits become their sigmoids; returns the entropy of those divided by their sum.
    fn sigmoids(scores: &mut [f32]) -> f32 = sigmoids_body
}

#[inline(always)]
fn sigmoids_body(scores: &mut [f32]) -> f32 {
    let mut sum = 0.0;
    for x in scores.iter_mut() {
        *x = 1.0 / (1.0 + exp(-*x));
        sum += *x;
    }
    // −Σ p ln p with p = s / sum, and 0 · ln 0 = 0.
    let along: f32 = scores.iter().map(|s| s * s.max(f32::MIN_POSITIVE).ln()).sum();
    sum.ln() - along / sum
}

for_each_isa! {
    /// `(Σ fraction · score, Σ score)`.
    fn share_of(scores: &[f32], fractions: &[f32]) -> (f32, f32) = share_of_body
}

#[inline(always)]
fn share_of_body(scores: &[f32], fractions: &[f32]) -> (f32, f32) {
    let (mut along, mut sum) = (0.0, 0.0);
    for (score, fraction) in scores.iter().zip(fractions) {
        along += fraction * score;
        sum += score;
    }
    (along, sum)
}

for_each_isa! {
    fn balance_backward(scores: &[f32], fractions: &[f32], balance_scale: f32, d_scores: &mut [f32]) = balance_backward_body
}

#[inline(always)]
fn balance_backward_body(scores: &[f32], fractions: &[f32], balance_scale: f32, d_scores: &mut [f32]) {
    if balance_scale == 0.0 {
        d_scores.fill(0.0);
        return;
    }
    let (along, sum) = share_of_body(scores, fractions);
    let mean = along / sum;
    let factor = balance_scale / sum;
    for (d, fraction) in d_scores.iter_mut().zip(fractions) {
        *d = factor * (fraction - mean);
    }
}

for_each_isa! {
    fn through_sigmoid(scores: &[f32], d: &mut [f32]) = through_sigmoid_body
}

#[inline(always)]
fn through_sigmoid_body(scores: &[f32], d: &mut [f32]) {
    for (d, score) in d.iter_mut().zip(scores) {
        *d *= score * (1.0 - score);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        isa::Isa,
        router::route,
        train::check::{numbers, slopes},
    };

    const EXPERTS: usize = 9;
    const TOP_K: usize = 3;
    const SEQUENCE: usize = 5;
    const ROWS: usize = 4 * SEQUENCE;
    /// The second sequence ends in padding.
    const FILLED: [u32; 4] = [SEQUENCE as u32, 3, SEQUENCE as u32, SEQUENCE as u32];
    const PADDING: std::ops::Range<usize> = SEQUENCE + 3..2 * SEQUENCE;

    struct Buffers {
        scores: Vec<f32>,
        chosen: Vec<u32>,
        weights: Vec<f32>,
        fractions: Vec<f32>,
        balance: Vec<f32>,
        entropy: Vec<f32>,
    }

    impl Buffers {
        fn new(logits: &[f32]) -> Self {
            Self {
                scores: logits.to_vec(),
                chosen: vec![0; ROWS * TOP_K],
                weights: vec![0.0; ROWS * TOP_K],
                fractions: vec![0.0; ROWS / SEQUENCE * EXPERTS],
                balance: vec![0.0; ROWS],
                entropy: vec![0.0; ROWS],
            }
        }

        fn routed(&mut self) -> Routed<'_> {
            Routed {
                scores: &mut self.scores,
                chosen: &mut self.chosen,
                weights: &mut self.weights,
                fractions: &mut self.fractions,
                balance: &mut self.balance,
                entropy: &mut self.entropy,
            }
        }
    }

    fn router(bias: &[f32], normalise: bool) -> Router<'_> {
        Router {
            experts: EXPERTS,
            top_k: TOP_K,
            normalise,
            scale: 2.5,
            bias,
            sequence_tokens: SEQUENCE,
            filled: &FILLED,
        }
    }

    #[test]
    fn choices_and_weights_are_those_of_the_model() {
        let (logits, bias) = (numbers(ROWS * EXPERTS, 1), numbers(EXPERTS, 2));
        for normalise in [false, true] {
            let mut got = Buffers::new(&logits);
            router_forward(&Compute::new(2, 0), &router(&bias, normalise), &mut got.routed(), &mut [0; ROWS * TOP_K]);
            let mut want = Vec::new();
            for row in 0..ROWS {
                let mut scores = logits[row * EXPERTS..][..EXPERTS].to_vec();
                route(&mut scores, &bias, TOP_K, normalise, 2.5, &mut want);
                for (i, (expert, weight)) in want.iter().enumerate() {
                    assert_eq!(got.chosen[row * TOP_K + i], *expert);
                    assert!((got.weights[row * TOP_K + i] - weight).abs() < 1e-6);
                }
            }
        }
    }

    #[test]
    fn ties_go_to_the_lower_index_and_nan_does_not_panic() {
        let (mut chosen, mut values) = ([9; 3], [0.0; 3]);
        choose(&[1.0; 5], &[0.0; 5], &mut chosen, &mut values);
        assert_eq!(chosen, [0, 1, 2]);
        choose(&[f32::NAN; 5], &[0.0; 5], &mut chosen, &mut values);
        assert_eq!(chosen, [0, 1, 2]);
        choose(&[0.1, 0.5, 0.2, 0.5, 0.9], &[], &mut chosen, &mut values);
        assert_eq!(chosen, [4, 1, 3]);
    }

    #[test]
    fn even_scores_have_the_entropy_of_a_fair_choice_and_a_balance_of_one() {
        let mut got = Buffers::new(&[0.0; ROWS * EXPERTS]);
        router_forward(&Compute::new(1, 0), &router(&[0.0; EXPERTS], true), &mut got.routed(), &mut [0; ROWS * TOP_K]);
        assert!(got.entropy.iter().all(|entropy| (entropy - (EXPERTS as f32).ln()).abs() < 1e-5));
        for (row, share) in got.balance.iter().enumerate() {
            assert!((share - if PADDING.contains(&row) { 0.0 } else { 1.0 }).abs() < 1e-5, "{row}: {share}");
        }
    }

    #[test]
    fn the_backward_pass_is_the_slope_with_the_choice_frozen() {
        let (logits, bias) = (numbers(ROWS * EXPERTS, 1), numbers(EXPERTS, 2));
        let (d_weights, balance_scale) = (numbers(ROWS * TOP_K, 3), 0.3);
        for isa in Isa::available() {
            for normalise in [false, true] {
                let (compute, router) = (Compute::with_isa(isa, 2, 0), router(&bias, normalise));
                let mut got = Buffers::new(&logits);
                router_forward(&compute, &router, &mut got.routed(), &mut [0; ROWS * TOP_K]);
                let mut d_logits = vec![7.0; ROWS * EXPERTS];
                router_backward(&compute, &router, &got.routed(), &d_weights, balance_scale, &mut d_logits);
                let loss = |inputs: &[Vec<f64>]| -> f64 {
                    let row = |row: usize| {
                        let scores: Vec<f64> =
                            inputs[0][row * EXPERTS..][..EXPERTS].iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
                        let chosen = &got.chosen[row * TOP_K..][..TOP_K];
                        let sum: f64 = chosen.iter().map(|expert| scores[*expert as usize]).sum();
                        let divisor = if normalise { sum } else { 1.0 };
                        let weighted = |(expert, d): (&u32, &f32)| scores[*expert as usize] * f64::from(*d);
                        let along: f64 = chosen.iter().zip(&d_weights[row * TOP_K..]).map(weighted).sum();
                        let fractions = &got.fractions[row / SEQUENCE * EXPERTS..][..EXPERTS];
                        let share: f64 = scores.iter().zip(fractions).map(|(s, f)| s * f64::from(*f)).sum();
                        let share = match row / SEQUENCE {
                            _ if PADDING.contains(&row) => 0.0,
                            1 => share * SEQUENCE as f64 / 3.0,
                            _ => share,
                        };
                        along / divisor * 2.5 + f64::from(balance_scale) * share / scores.iter().sum::<f64>()
                    };
                    (0..ROWS).map(row).sum()
                };
                slopes(&[&logits], loss, &[&d_logits]);
            }
        }
    }
}
