use proptest::prelude::*;

use super::*;

const PLAIN: Sampling<'_> = Sampling {
    temperature: 1.0,
    top_p: 1.0,
    top_k: 0,
    min_p: 0.0,
    seed: 0,
    position: 0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    seen: &[],
    logit_bias: &[],
    mask: None,
};
const GREEDY: Sampling<'_> = Sampling { temperature: 0.0, ..PLAIN };

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
    let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
    let mut before = 0.0;
    if sampling.top_p < 1.0 {
        kept.retain(|(_, weight)| {
            let is_kept = before < f64::from(sampling.top_p) * total;
            before += weight;
            is_kept
        });
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
fn samples_follow_the_exact_filtered_distribution() {
    let logits = [1.0, 0.2, -0.7, 2.1, 2.1, -3.0, 0.9, f32::NEG_INFINITY, 1.4, 0.0, -1.2, 0.6];
    let settings = [
        PLAIN,
        Sampling { temperature: 0.6, ..PLAIN },
        Sampling { temperature: 1.7, ..PLAIN },
        Sampling { top_p: 0.8, ..PLAIN },
        Sampling { top_k: 5, ..PLAIN },
        Sampling { min_p: 0.2, ..PLAIN },
        Sampling { temperature: 1.3, top_k: 8, top_p: 0.9, min_p: 0.05, ..PLAIN },
    ];
    let draws = 40_000;
    for sampling in settings {
        let exact = filtered(&logits, &sampling);
        let total: f64 = exact.iter().map(|(_, weight)| weight).sum();
        let mut counts = [0u32; 12];
        let mut sampler = Sampler::default();
        for seed in 0..draws {
            counts[sampler.sample(&logits, &Sampling { seed, position: seed % 7, ..sampling }) as usize] += 1;
        }
        let chi_square: f64 = exact
            .iter()
            .map(|&(id, weight)| {
                let expected = draws as f64 * weight / total;
                (f64::from(counts[id as usize]) - expected).powi(2) / expected
            })
            .sum();
        let freedom = exact.len() as f64 - 1.0;
        assert!(chi_square < freedom + 4.0 * (2.0 * freedom).sqrt(), "{chi_square} with {freedom} for {sampling:?}");
        assert_eq!(exact.iter().map(|&(id, _)| counts[id as usize]).sum::<u32>(), draws as u32);
    }
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
}

#[test]
fn only_what_the_mask_allows_is_chosen() {
    let mut logits = vec![0.0; 70];
    logits[3] = 9.0;
    let mask = [0b10, 0, 0b100];
    assert_eq!(support(&logits, Sampling { mask: Some(&mask), ..PLAIN }), [1, 66]);
    assert_eq!(sample(&logits, &Sampling { mask: Some(&mask[..1]), ..GREEDY }), 1);
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
        let sampling = Sampling { position, top_p: 0.95, ..PLAIN };
        assert_eq!(sampler.sample(&logits, &sampling), sample(&logits, &sampling));
    }
}

#[test]
fn a_flat_vocabulary_is_searched_to_its_end() {
    let logits = vec![0.0; 152_064];
    for (seed, top_p) in [(1, 1.0), (2, 0.99), (3, 0.5)] {
        let sampling = Sampling { seed, top_p, ..PLAIN };
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
        seed: u64,
        position: u64,
    ) {
        let mut logits = hashed_logits(vocab_size, logits_seed, scale);
        if ties {
            logits.iter_mut().for_each(|logit| *logit = logit.round());
        }
        let sampling = Sampling { temperature, top_p, top_k, min_p, seed, position, ..PLAIN };
        prop_assert_eq!(sample(&logits, &sampling), sample_by_full_sort(&logits, &sampling));
    }

    #[test]
    fn no_logits_make_it_panic_or_choose_the_impossible(
        logits in prop::collection::vec(prop_oneof![any::<f32>(), Just(f32::NAN), Just(f32::NEG_INFINITY)], 1..40),
        temperature in 0.0f32..2.0,
        top_k in 0usize..9,
        seed: u64,
    ) {
        let id = sample(&logits, &Sampling { temperature, top_k, seed, ..PLAIN }) as usize;
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
