use proptest::prelude::*;

use super::{
    random::{exclusion_uniform, philox},
    *,
};

const PLAIN: Sampling<'_> = Sampling::PLAIN;
const GREEDY: Sampling<'_> = Sampling::GREEDY;

fn sample(logits: &[f32], sampling: &Sampling<'_>) -> u32 {
    Sampler::default().sample(logits, sampling)
}

/// The filtered distribution by a full sort, best first, as `(id, weight)`.
fn filtered(logits: &[f32], sampling: &Sampling<'_>) -> Vec<(u32, f64)> {
    let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).filter(|(_, l)| !l.is_nan()).collect();
    sorted.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap());
    let max = sorted[0].1;
    let mut kept: Vec<(u32, f64)> = sorted
        .iter()
        .map(|&(id, logit)| (id, ((logit - max) / sampling.temperature).exp()))
        .filter(|&(_, weight)| weight > 0.0 && weight >= sampling.min_p)
        .map(|(id, weight)| (id, f64::from(weight)))
        .collect();
    if sampling.top_k > 0 {
        kept.truncate(sampling.top_k);
    }
    let mass = |kept: &[(u32, f64)]| kept.iter().map(|(_, weight)| weight).sum::<f64>();
    let keep_first = |kept: &mut Vec<(u32, f64)>, share: f32| {
        let (total, mut before) = (mass(kept), 0.0);
        kept.retain(|(_, weight)| {
            let is_kept = before < f64::from(share) * total;
            before += weight;
            is_kept
        });
    };
    if sampling.typical_p < 1.0 {
        let total = mass(&kept);
        let surprise = |&(_, weight): &(u32, f64)| -(weight / total).ln();
        let entropy: f64 = kept.iter().map(|candidate| candidate.1 / total * surprise(candidate)).sum();
        let distance = |candidate: &(u32, f64)| (surprise(candidate) - entropy).abs();
        kept.sort_by(|a, b| distance(a).total_cmp(&distance(b)));
        keep_first(&mut kept, sampling.typical_p);
        kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
    if sampling.top_p < 1.0 {
        keep_first(&mut kept, sampling.top_p);
    }
    let is_excluding = exclusion_uniform(sampling.seed, sampling.position) < f64::from(sampling.xtc_probability);
    if is_excluding && sampling.xtc_threshold <= 0.5 {
        let least = f64::from(sampling.xtc_threshold) * mass(&kept);
        let top = kept.iter().take_while(|(_, weight)| *weight >= least).count();
        kept.drain(..top.saturating_sub(1));
    }
    kept
}

fn sample_by_full_sort(logits: &[f32], sampling: &Sampling<'_>) -> u32 {
    let kept = filtered(logits, sampling);
    let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
    let target = uniform(sampling.seed, sampling.position) * total;
    let mut sum = 0.0;
    for &(id, weight) in &kept {
        sum += weight;
        if sum > target {
            return id;
        }
    }
    kept.last().unwrap().0
}

fn support(logits: &[f32], sampling: Sampling<'_>) -> Vec<u32> {
    let mut sampler = Sampler::default();
    let mut ids: Vec<u32> =
        (0..2000).map(|position| sampler.sample(logits, &Sampling { position, ..sampling })).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn hashed_logits(vocab_size: usize, seed: u64, scale: f64) -> Vec<f32> {
    (0..vocab_size).map(|id| (uniform(seed, id as u64).ln() * -scale) as f32).collect()
}

#[test]
fn philox_gives_the_authors_known_answers() {
    assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(philox([!0; 4], [!0; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    assert_eq!(
        philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
    );
}

#[test]
fn greedy_takes_the_best_and_among_equals_the_lowest_id() {
    assert_eq!(sample(&[0.5, 2.0, -1.0, 2.0], &GREEDY), 1);
    assert_eq!(sample(&[-0.0, 0.0], &GREEDY), 0);
    assert_eq!(sample(&[0.0, 1.0], &Sampling { temperature: 1e-6, ..PLAIN }), 1);
}

#[test]
fn top_k_keeps_exactly_its_number_and_the_lower_ids_of_equals() {
    let logits = [0.0, 1.0, 1.0, 1.0, 0.5];
    assert_eq!(support(&logits, Sampling { top_k: 1, ..PLAIN }), [1]);
    assert_eq!(support(&logits, Sampling { top_k: 2, ..PLAIN }), [1, 2]);
    assert_eq!(support(&logits, Sampling { top_k: 4, ..PLAIN }), [1, 2, 3, 4]);
    assert_eq!(support(&logits, Sampling { top_k: usize::MAX, ..PLAIN }), [0, 1, 2, 3, 4]);
}

#[test]
fn top_p_keeps_the_smallest_set_that_reaches_it_and_never_nothing() {
    let logits = [0.0; 4];
    assert_eq!(support(&logits, Sampling { top_p: 1e-9, ..PLAIN }), [0]);
    assert_eq!(support(&logits, Sampling { top_p: 0.5, ..PLAIN }), [0, 1]);
    assert_eq!(support(&logits, Sampling { top_p: 0.501, ..PLAIN }), [0, 1, 2]);
    assert_eq!(support(&logits, Sampling { top_p: 1.0, ..PLAIN }), [0, 1, 2, 3]);
    // Of the two that top_k leaves, each has one half.
    assert_eq!(support(&logits, Sampling { top_p: 0.5, top_k: 2, ..PLAIN }), [0]);
}

#[test]
fn min_p_is_a_share_of_the_best_after_temperature() {
    let logits = [0.0, -1.0, -2.0];
    assert_eq!(support(&logits, Sampling { min_p: 1.0, ..PLAIN }), [0]);
    assert_eq!(support(&logits, Sampling { min_p: 0.3, ..PLAIN }), [0, 1]);
    assert_eq!(support(&logits, Sampling { min_p: 0.3, temperature: 2.0, ..PLAIN }), [0, 1, 2]);
}

#[test]
fn typical_p_keeps_what_is_nearest_to_the_expected_surprise() {
    // Probabilities 1/2, 1/4, 1/8, 1/8; the entropy is 1.75 bits, and the surprises are 1, 2, 3 and 3.
    let logits = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln);
    assert_eq!(support(&logits, Sampling { typical_p: 1e-9, ..PLAIN }), [1]);
    assert_eq!(support(&logits, Sampling { typical_p: 0.24, ..PLAIN }), [1]);
    assert_eq!(support(&logits, Sampling { typical_p: 0.26, ..PLAIN }), [0, 1]);
    assert_eq!(support(&logits, Sampling { typical_p: 0.74, ..PLAIN }), [0, 1]);
    assert_eq!(support(&logits, Sampling { typical_p: 0.76, ..PLAIN }), [0, 1, 2]);
    assert_eq!(support(&logits, Sampling { typical_p: 0.9, ..PLAIN }), [0, 1, 2, 3]);
    // Of the two that top_k leaves, with 2/3 and 1/3, the first is the nearer.
    assert_eq!(support(&logits, Sampling { typical_p: 0.5, top_k: 2, ..PLAIN }), [0]);
}

#[test]
fn xtc_excludes_all_top_choices_but_the_last() {
    let logits = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
    let always = Sampling { xtc_probability: 1.0, ..PLAIN };
    assert_eq!(support(&logits, Sampling { xtc_threshold: 0.15, ..always }), [2, 3]);
    assert_eq!(support(&logits, Sampling { xtc_threshold: 0.25, ..always }), [1, 2, 3]);
    // One alone above the threshold stays, and so does everything where none is.
    assert_eq!(support(&logits, Sampling { xtc_threshold: 0.35, ..always }), [0, 1, 2, 3]);
    assert_eq!(support(&logits, Sampling { xtc_threshold: 0.45, ..always }), [0, 1, 2, 3]);
    assert_eq!(support(&logits, Sampling { xtc_threshold: 0.0, ..always }), [3]);
    assert_eq!(support(&[0.0; 3], Sampling { xtc_threshold: 0.3, ..always }), [2]);
    // Probabilities are those that the other filters leave: 4/7 and 3/7.
    assert_eq!(support(&logits, Sampling { xtc_threshold: 0.42, top_k: 2, ..always }), [1]);
    // Two can be as probable as one half, and no two more.
    assert_eq!(support(&[0.0; 2], Sampling { xtc_threshold: 0.5, ..always }), [1]);
    assert_eq!(support(&[0.0; 2], Sampling { xtc_threshold: 0.51, ..always }), [0, 1]);
    assert_eq!(support(&logits, Sampling { xtc_threshold: 0.15, xtc_probability: 0.5, ..PLAIN }), [0, 1, 2, 3]);
}

#[test]
fn where_xtc_does_not_exclude_the_token_is_the_one_without_it() {
    let logits = hashed_logits(500, 9, 2.0);
    let (mut same, mut other) = (0, 0);
    for position in 0..1000 {
        let plain = Sampling { position, ..PLAIN };
        let xtc = Sampling { xtc_probability: 0.3, xtc_threshold: 0.01, ..plain };
        if exclusion_uniform(0, position) >= 0.3 {
            assert_eq!(sample(&logits, &xtc), sample(&logits, &plain));
            same += 1;
        } else {
            other += 1;
        }
    }
    assert!((250..350).contains(&other) && same + other == 1000);
}

#[test]
fn greedy_takes_no_notice_of_filters() {
    let filters = Sampling { typical_p: 0.1, xtc_probability: 1.0, xtc_threshold: 0.0, top_k: 2, ..GREEDY };
    assert_eq!(sample(&[0.1, 0.3, 0.2], &filters), 1);
}

#[test]
fn small_temperatures_neither_overflow_nor_leave_the_best() {
    let logits = [f32::MIN, -1e30, 3.0, 3.1, f32::NAN];
    assert_eq!(support(&logits, Sampling { temperature: 1.1e-5, ..PLAIN }), [3]);
    assert_eq!(support(&[f32::MAX, f32::MIN, f32::MAX], Sampling { temperature: 1.1e-5, ..PLAIN }), [0, 2]);
    assert_eq!(support(&[5.0, 0.0, -5.0], Sampling { temperature: f32::MAX, ..PLAIN }), [0, 1, 2]);
}

#[test]
fn penalties_are_those_computed_by_hand() {
    let adjusted = |sampling: Sampling<'_>| {
        let mut sampler = Sampler::default();
        sampler.sample(&[2.0, -2.0, 1.0, 0.5], &sampling);
        sampler.logits
    };
    let seen = [(0, 0), (1, 3), (2, 1)];
    assert_eq!(adjusted(Sampling { repetition_penalty: 2.0, seen: &seen, ..PLAIN }), [1.0, -4.0, 0.5, 0.5]);
    assert_eq!(adjusted(Sampling { presence_penalty: 0.5, seen: &seen, ..PLAIN }), [2.0, -2.5, 0.5, 0.5]);
    assert_eq!(adjusted(Sampling { frequency_penalty: 0.5, seen: &seen, ..PLAIN }), [2.0, -3.5, 0.5, 0.5]);
    let all = Sampling {
        logit_bias: &[(1, 4.0), (3, f32::NEG_INFINITY), (99, 1.0)],
        repetition_penalty: 2.0,
        presence_penalty: 0.25,
        frequency_penalty: 0.5,
        seen: &seen,
        ..PLAIN
    };
    assert_eq!(adjusted(all), [1.0, -0.75, -0.25, f32::NEG_INFINITY]);
    // What follows from the history is taken after the penalties, so that these do not scale it.
    let late = [(0, -0.5), (1, f32::NEG_INFINITY), (3, 1.0), (99, 1.0)];
    let all = Sampling { history_bias: &late, ..all };
    assert_eq!(adjusted(all), [0.5, f32::NEG_INFINITY, -0.25, f32::NEG_INFINITY]);
}

#[test]
fn only_what_the_mask_allows_is_chosen() {
    let mut logits = vec![0.0; 70];
    logits[3] = 9.0;
    let mask = [0b10, 0, 0b100];
    assert_eq!(support(&logits, Sampling { mask: Some(&mask), ..PLAIN }), [1, 66]);
    assert_eq!(sample(&logits, &Sampling { mask: Some(&mask[..1]), ..GREEDY }), 1);
    // Even what is forbidden otherwise, where the mask allows nothing else.
    let forbidden = [(1, f32::NEG_INFINITY), (66, f32::NEG_INFINITY)];
    assert_eq!(sample(&logits, &Sampling { mask: Some(&mask), history_bias: &forbidden, ..PLAIN }), 1);
}

#[test]
fn nan_is_never_chosen_and_nothing_to_choose_gives_the_lowest_allowed_id() {
    let nan = f32::NAN;
    assert_eq!(support(&[nan, 0.0, -nan, 0.0], PLAIN), [1, 3]);
    assert_eq!(sample(&[nan, -1.0, nan], &GREEDY), 1);
    assert_eq!(support(&[0.0, f32::INFINITY, f32::INFINITY], PLAIN), [1, 2]);
    for hopeless in [[nan; 3], [f32::NEG_INFINITY; 3]] {
        assert_eq!(sample(&hopeless, &GREEDY), 0);
        assert_eq!(sample(&hopeless, &PLAIN), 0);
        assert_eq!(sample(&hopeless, &Sampling { mask: Some(&[0b100]), ..PLAIN }), 2);
        assert_eq!(top_logprobs(&hopeless, 3), (f64::NEG_INFINITY, vec![]));
        assert_eq!(log_prob_and_rank(&hopeless, 1).0, f32::NEG_INFINITY);
    }
    assert_eq!(sample(&[1.0, 2.0], &Sampling { mask: Some(&[]), ..PLAIN }), 0);
    assert_eq!(log_prob_and_rank(&[nan, 0.0, 1.0], 0), (f32::NEG_INFINITY, 2));
    assert_eq!(log_prob_and_rank(&[f32::INFINITY, 0.0], 0), (0.0, 0));
}

#[test]
fn a_sampler_keeps_nothing_from_one_token_to_the_next() {
    let mut sampler = Sampler::default();
    for position in 0..50 {
        let logits = hashed_logits(if position % 2 == 0 { 3000 } else { 40 }, position, 2.0);
        let typical_p = if position % 3 == 0 { 0.7 } else { 1.0 };
        let sampling = Sampling { position, top_p: 0.95, typical_p, xtc_probability: 0.5, ..PLAIN };
        assert_eq!(sampler.sample(&logits, &sampling), sample(&logits, &sampling));
    }
}

#[test]
fn a_flat_vocabulary_is_searched_to_its_end() {
    let logits = vec![0.0; 152_064];
    for (seed, top_p, typical_p) in [(1, 1.0, 1.0), (2, 0.99, 1.0), (3, 0.5, 1.0), (4, 1.0, 0.9), (5, 0.9, 0.9)] {
        let sampling = Sampling { seed, top_p, typical_p, ..PLAIN };
        assert_eq!(sample(&logits, &sampling), sample_by_full_sort(&logits, &sampling));
    }
}

#[test]
fn log_probabilities_equal_those_in_f64() {
    let logits = hashed_logits(10_000, 5, 3.0);
    let exact = logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln();
    let (log_sum_exp, top) = top_logprobs(&logits, 20);
    assert!((log_sum_exp - exact).abs() < 1e-6);
    assert_eq!(top.len(), 20);
    for (rank, &(id, logprob)) in top.iter().enumerate() {
        assert!((f64::from(logprob) - (f64::from(logits[id as usize]) - exact)).abs() < 1e-6);
        assert_eq!(log_prob_and_rank(&logits, id), (logprob, rank));
    }
}

proptest! {
    #[test]
    fn sampling_equals_a_full_sort(
        vocab_size in 1usize..3000,
        logits_seed: u64,
        scale in 0.0f64..5.0,
        ties: bool,
        temperature in 0.05f32..3.0,
        top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
        top_k in prop_oneof![Just(0usize), 1usize..50, 1usize..4000],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0],
        typical_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
        (xtc_probability, xtc_threshold) in prop_oneof![Just((0.0f32, 0.1f32)), (0.0f32..1.0, 0.0f32..0.6)],
        seed: u64,
        position: u64,
    ) {
        let mut logits = hashed_logits(vocab_size, logits_seed, scale);
        if ties {
            logits.iter_mut().for_each(|logit| *logit = logit.round());
        }
        let filters = Sampling { top_p, top_k, min_p, typical_p, xtc_probability, xtc_threshold, ..PLAIN };
        let sampling = Sampling { temperature, seed, position, ..filters };
        prop_assert_eq!(sample(&logits, &sampling), sample_by_full_sort(&logits, &sampling));
    }

    #[test]
    fn no_logits_make_it_panic_or_choose_the_impossible(
        logits in prop::collection::vec(prop_oneof![any::<f32>(), Just(f32::NAN), Just(f32::NEG_INFINITY)], 1..40),
        temperature in 0.0f32..2.0,
        top_k in 0usize..9,
        typical_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
        xtc_probability in prop_oneof![Just(0.0f32), Just(1.0f32)],
        seed: u64,
    ) {
        let sampling = Sampling { temperature, top_k, typical_p, xtc_probability, seed, ..PLAIN };
        let id = sample(&logits, &sampling) as usize;
        let is_possible = |logit: &f32| !logit.is_nan() && *logit > f32::NEG_INFINITY;
        prop_assert!(id < logits.len());
        prop_assert!(is_possible(&logits[id]) || !logits.iter().any(is_possible));
    }

    #[test]
    fn the_best_are_those_of_a_full_sort(logits in prop::collection::vec(-4i8..4, 1..300), count in 0usize..310) {
        let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
        let mut sorted: Vec<u32> = (0..logits.len() as u32).collect();
        sorted.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        sorted.truncate(count);
        let top: Vec<u32> = top_logprobs(&logits, count).1.into_iter().map(|(id, _)| id).collect();
        prop_assert_eq!(top, sorted);
    }
}
