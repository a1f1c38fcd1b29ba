//! Draws held to the exact distribution, which is computed in f64 by sorting everything.

use proptest::prelude::*;

use super::*;

const DRAWS: u64 = 4000;

/// The probability of every token, by the definitions of the settings; `None` where there is nothing to choose from, or
/// some threshold is so near that the sampler's f32 may fall on its other side.
fn exact(logits: &[f32], sampling: &Sampling<'_>) -> Option<Vec<f64>> {
    let mut scaled: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    for &(id, bias) in sampling.logit_bias {
        scaled[id as usize] += f64::from(bias);
    }
    for &(id, generated) in sampling.seen {
        let (logit, repetition) = (scaled[id as usize], f64::from(sampling.repetition_penalty));
        let (frequency, presence) = (f64::from(sampling.frequency_penalty), f64::from(sampling.presence_penalty));
        let repeated = if logit > 0.0 { logit / repetition } else { logit * repetition };
        scaled[id as usize] = repeated - frequency * f64::from(generated) - presence * f64::from(generated.min(1));
    }
    for &(id, bias) in sampling.history_bias {
        scaled[id as usize] += f64::from(bias);
    }
    for (id, logit) in scaled.iter_mut().enumerate() {
        if sampling.mask.is_some_and(|mask| mask[id / 32] >> (id % 32) & 1 == 0) {
            *logit = f64::NEG_INFINITY;
        }
        *logit /= f64::from(sampling.temperature);
    }
    let max = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max == f64::NEG_INFINITY {
        return None;
    }
    let mut kept: Vec<(usize, f64)> = scaled.iter().map(|logit| (logit - max).exp()).enumerate().collect();
    kept.retain(|&(_, weight)| weight > 0.0);
    kept.sort_by(|a, b| b.1.total_cmp(&a.1));
    normalise(&mut kept);

    let mut is_clear = true;
    let mut below = |value: f64, threshold: f64| {
        is_clear &= (value - threshold).abs() > 1e-5 * threshold;
        value < threshold
    };
    if sampling.min_p > 0.0 {
        let least = f64::from(sampling.min_p) * kept[0].1;
        kept.retain(|&(_, p)| !below(p, least));
        normalise(&mut kept);
    }
    if sampling.top_k > 0 {
        kept.truncate(sampling.top_k);
        normalise(&mut kept);
    }
    if sampling.typical_p < 1.0 {
        let entropy: f64 = kept.iter().map(|(_, p)| -p * p.ln()).sum();
        let distance = |p: f64| (-p.ln() - entropy).abs();
        kept.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)));
        keep_first(&mut kept, f64::from(sampling.typical_p), &mut below);
        kept.sort_by(|a, b| b.1.total_cmp(&a.1));
    }
    if sampling.top_p < 1.0 {
        keep_first(&mut kept, f64::from(sampling.top_p), &mut below);
    }
    let excluded = if sampling.xtc_threshold <= 0.5 { f64::from(sampling.xtc_probability) } else { 0.0 };
    let mut others = kept.clone();
    let top = kept.iter().take_while(|&&(_, p)| !below(p, f64::from(sampling.xtc_threshold))).count();
    others.drain(..top.saturating_sub(1));
    normalise(&mut others);

    let mut probabilities = vec![0.0; logits.len()];
    for (share, tokens) in [(1.0 - excluded, kept), (excluded, others)] {
        for (id, p) in tokens {
            probabilities[id] += share * p;
        }
    }
    is_clear.then_some(probabilities)
}

fn normalise(kept: &mut [(usize, f64)]) {
    let total: f64 = kept.iter().map(|(_, p)| p).sum();
    kept.iter_mut().for_each(|(_, p)| *p /= total);
}

/// Keeps the first of them that together reach `share`.
fn keep_first(kept: &mut Vec<(usize, f64)>, share: f64, below: &mut impl FnMut(f64, f64) -> bool) {
    let mut before = 0.0;
    kept.retain(|&(_, p)| {
        let is_kept = before == 0.0 || below(before, share);
        before += p;
        is_kept
    });
    normalise(kept);
}

/// Pearson's statistic of `DRAWS` draws against `probabilities`, and where it would be exceeded once in three million times.
/// Rare tokens are counted together; one that cannot come and does makes the statistic infinite.
fn chi_square(logits: &[f32], sampling: &Sampling<'_>, probabilities: &[f64]) -> (f64, f64) {
    let mut sampler = Sampler::default();
    let mut counts = vec![0.0; logits.len()];
    for draw in 0..DRAWS {
        let keys = Sampling { seed: sampling.seed.wrapping_add(draw), position: draw % 7, ..*sampling };
        counts[sampler.sample(logits, &keys) as usize] += 1.0;
    }
    let (mut statistic, mut bins) = (0.0, 0.0);
    let (mut rare_expected, mut rare_count) = (0.0, 0.0);
    let mut add = |expected: f64, count: f64| {
        statistic += (count - expected).powi(2) / expected;
        bins += 1.0;
    };
    for (&p, &count) in probabilities.iter().zip(&counts) {
        let expected = p * DRAWS as f64;
        if p == 0.0 && count > 0.0 {
            return (f64::INFINITY, 0.0);
        } else if expected >= 5.0 {
            add(expected, count);
        } else {
            rare_expected += expected;
            rare_count += count;
        }
    }
    if rare_expected >= 5.0 {
        add(rare_expected, rare_count);
    }
    // Wilson and Hilferty: the cube root is nearly normal. Five standard deviations.
    let freedom = f64::max(bins - 1.0, 1.0);
    let variance = 2.0 / (9.0 * freedom);
    (statistic, freedom * (1.0 - variance + 5.0 * variance.sqrt()).powi(3))
}

fn hold_to_the_exact_distribution(logits: &[f32], sampling: Sampling<'_>) {
    let probabilities = exact(logits, &sampling).expect("the settings of a fixed test are clear of every threshold");
    let (statistic, most) = chi_square(logits, &sampling, &probabilities);
    assert!(statistic < most, "{statistic} of at most {most} for {sampling:?}");
}

const LOGITS: [f32; 12] = [1.0, 0.2, -0.7, 2.1, 2.1, -3.0, 0.9, f32::NEG_INFINITY, 1.4, 0.0, -1.2, 0.6];
const PLAIN: Sampling<'_> = Sampling { seed: 77, ..Sampling::PLAIN };

#[test]
fn temperature_has_its_exact_distribution() {
    for temperature in [0.1, 0.6, 1.0, 1.7, 100.0] {
        hold_to_the_exact_distribution(&LOGITS, Sampling { temperature, ..PLAIN });
    }
}

#[test]
fn top_p_has_its_exact_distribution() {
    for top_p in [0.01, 0.3, 0.55, 0.8, 0.95, 0.999] {
        hold_to_the_exact_distribution(&LOGITS, Sampling { top_p, ..PLAIN });
    }
}

#[test]
fn top_k_has_its_exact_distribution() {
    for top_k in [1, 2, 3, 5, 11, 12, 50] {
        hold_to_the_exact_distribution(&LOGITS, Sampling { top_k, ..PLAIN });
    }
}

#[test]
fn min_p_has_its_exact_distribution() {
    for min_p in [0.001, 0.05, 0.2, 0.4, 0.9] {
        hold_to_the_exact_distribution(&LOGITS, Sampling { min_p, ..PLAIN });
    }
}

#[test]
fn typical_p_has_its_exact_distribution() {
    for typical_p in [0.01, 0.2, 0.5, 0.8, 0.95, 0.999] {
        hold_to_the_exact_distribution(&LOGITS, Sampling { typical_p, ..PLAIN });
    }
}

#[test]
fn xtc_has_its_exact_distribution() {
    for xtc_probability in [0.1, 0.5, 1.0] {
        for xtc_threshold in [0.0, 0.03, 0.1, 0.2, 0.3, 0.6] {
            hold_to_the_exact_distribution(&LOGITS, Sampling { xtc_probability, xtc_threshold, ..PLAIN });
        }
    }
}

#[test]
fn penalties_have_their_exact_distribution() {
    let seen = [(0, 0), (2, 1), (3, 2), (5, 1), (8, 0)];
    for (repetition_penalty, presence_penalty, frequency_penalty) in
        [(1.3, 0.0, 0.0), (0.8, 0.0, 0.0), (1.0, 0.7, 0.0), (1.0, -2.0, 0.0), (1.0, 0.0, 0.4), (1.2, 0.5, -0.3)]
    {
        let penalties = Sampling { repetition_penalty, presence_penalty, frequency_penalty, seen: &seen, ..PLAIN };
        hold_to_the_exact_distribution(&LOGITS, penalties);
    }
}

#[test]
fn biases_and_masks_have_their_exact_distribution() {
    let early = [(0, 1.5), (3, -2.0), (4, f32::NEG_INFINITY), (7, 100.0)];
    let late = [(1, 1.0), (8, -1.75), (6, f32::NEG_INFINITY)];
    let seen = [(0, 1), (1, 0)];
    let penalties = Sampling { repetition_penalty: 1.5, presence_penalty: 0.3, seen: &seen, ..PLAIN };
    hold_to_the_exact_distribution(&LOGITS, Sampling { logit_bias: &early, ..PLAIN });
    hold_to_the_exact_distribution(&LOGITS, Sampling { history_bias: &late, ..PLAIN });
    hold_to_the_exact_distribution(&LOGITS, Sampling { mask: Some(&[0b1011_0010_1101]), ..PLAIN });
    let all = Sampling { logit_bias: &early, history_bias: &late, mask: Some(&[0b1111_0010_1111]), ..penalties };
    hold_to_the_exact_distribution(&LOGITS, all);
}

#[test]
fn a_draw_beyond_the_first_candidates_has_its_exact_distribution() {
    let logits: Vec<f32> = (0..1000).map(|id| (uniform(3, id) * 0.5) as f32).collect();
    for (top_p, typical_p) in [(1.0, 1.0), (0.9, 1.0), (1.0, 0.9), (0.8, 0.9)] {
        hold_to_the_exact_distribution(&logits, Sampling { top_p, typical_p, ..PLAIN });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_settings_together_have_their_exact_distribution(
        logits in prop::collection::vec(prop_oneof![9 => -4.0f32..4.0, 1 => Just(f32::NEG_INFINITY)], 2..32),
        temperature in 0.3f32..2.0,
        top_p in prop_oneof![Just(1.0f32), 0.05f32..1.0],
        top_k in prop_oneof![Just(0usize), 1usize..40],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..0.5],
        typical_p in prop_oneof![Just(1.0f32), 0.05f32..1.0],
        (xtc_probability, xtc_threshold) in prop_oneof![Just((0.0f32, 0.1f32)), (0.0f32..1.0, 0.01f32..0.55)],
        (repetition_penalty, presence_penalty, frequency_penalty) in (0.5f32..2.0, -2.0f32..2.0, -2.0f32..2.0),
        seen in prop::collection::btree_map(0u32..32, 0u32..4, 0..6),
        early in prop::collection::btree_map(0u32..32, -3.0f32..3.0, 0..4),
        late in prop::collection::btree_map(0u32..32, prop_oneof![-3.0f32..3.0, Just(f32::NEG_INFINITY)], 0..4),
        mask in prop::option::of(any::<u32>()),
        seed: u64,
    ) {
        let vocab_size = logits.len() as u32;
        let seen: Vec<_> = seen.into_iter().filter(|&(id, _)| id < vocab_size).collect();
        let early: Vec<_> = early.into_iter().filter(|&(id, _)| id < vocab_size).collect();
        let late: Vec<_> = late.into_iter().filter(|&(id, _)| id < vocab_size).collect();
        let mask = mask.map(|word| [word]);
        let sampling = Sampling {
            temperature, top_p, top_k, min_p, typical_p, xtc_probability, xtc_threshold, seed,
            repetition_penalty, presence_penalty, frequency_penalty,
            seen: &seen, logit_bias: &early, history_bias: &late, mask: mask.as_ref().map(|mask| &mask[..]),
            ..Sampling::PLAIN
        };
        let probabilities = exact(&logits, &sampling);
        prop_assume!(probabilities.is_some());
        let (statistic, most) = chi_square(&logits, &sampling, &probabilities.unwrap());
        prop_assert!(statistic < most, "{} of at most {}", statistic, most);
    }
}
