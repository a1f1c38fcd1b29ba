//! What must not change a step on the goldens, and what may change it a little.

mod support;

use dots_kernels::train::Precision;
use dots_train::{cpu::Options, step::StateKind};
use support::{DIALS, OPTIONS, accumulate, distance, gradients, hf, recipe, state, step};

/// Two steps on the recipe's sequences, and the state after them.
fn learnt(options: &Options, split: &[usize]) -> Vec<(String, Vec<f32>)> {
    let mut model = hf(options);
    for _ in 0..2 {
        step(&mut model, &recipe(), split, DIALS);
    }
    let kinds = [StateKind::Weight, StateKind::FirstMoment, StateKind::SecondMoment];
    let mut all: Vec<_> = kinds
        .into_iter()
        .flat_map(|kind| {
            state(&mut model, kind).into_iter().map(move |(name, numbers)| (format!("{kind:?} {name}"), numbers))
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn bits(state: &[(String, Vec<f32>)]) -> Vec<u32> {
    state.iter().flat_map(|(_, numbers)| numbers.iter().map(|x| x.to_bits())).collect()
}

#[test]
fn threads_and_recomputed_activations_change_no_bit() {
    for precision in [Precision::F32, Precision::Bf16] {
        let options = Options { precision, ..OPTIONS };
        let want = bits(&learnt(&options, &[3, 1]));
        for (threads, recompute) in [(1, false), (3, false), (1, true), (2, true)] {
            let got = bits(&learnt(&Options { threads, recompute, ..options }, &[3, 1]));
            assert!(got == want, "{precision:?}, {threads} threads, recompute {recompute}");
        }
    }
}

#[test]
fn another_split_into_micro_batches_changes_gradients_by_a_millionth_at_most() {
    let of = |split: &[usize]| {
        let mut model = hf(&OPTIONS);
        accumulate(&mut model, &recipe(), split, DIALS);
        gradients(&model)
    };
    let want = of(&[4]);
    for split in [&[1, 1, 1, 1][..], &[3, 1], &[1, 3], &[2, 2]] {
        for (name, got) in of(split) {
            let distance = distance(&got, &want[&name]);
            assert!(distance <= 1e-6, "{split:?} {name}: {distance:e}");
        }
    }
}
