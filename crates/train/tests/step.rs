//! What a step promises whatever the model, on one with fewer key heads than query heads and two dense layers: the same bits however
//! it is computed, errors instead of panics, a whole state.

mod support;

use dots_kernels::train::Precision;
use dots_train::{
    cpu::{CpuStep, Options},
    step::{Dials, MicroBatch, NO_TARGET, StateKind, Step, StepError, StepReport, Totals},
};
use support::{DIALS, OPTIONS, accumulate, documents, gradients, small, state, step};

fn model(options: &Options) -> CpuStep {
    CpuStep::random(&small(), 7, 0.08, options).unwrap()
}

/// Tensors by name, in its order.
type Named = Vec<(String, Vec<f32>)>;

/// Two steps, and all that they leave.
fn two_steps(options: &Options) -> (Vec<StepReport>, [Named; 3]) {
    let mut model = model(options);
    let reports = (0..2).map(|_| step(&mut model, &documents(), &[2, 3], DIALS)).collect();
    let kinds = [StateKind::Weight, StateKind::FirstMoment, StateKind::SecondMoment];
    let all = kinds.map(|kind| {
        let mut all: Vec<_> = state(&mut model, kind).into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    });
    (reports, all)
}

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for precision in PRECISIONS {
        let with = |threads| two_steps(&Options { precision, threads, ..OPTIONS });
        let one = with(1);
        assert_eq!(with(2), one);
        assert_eq!(with(3), one);
    }
}

#[test]
fn activations_computed_again_give_the_same_bits_in_less_memory() {
    for precision in PRECISIONS {
        let kept = Options { precision, ..OPTIONS };
        let again = Options { recompute: true, ..kept };
        assert_eq!(two_steps(&again), two_steps(&kept));
        let bytes = |options| CpuStep::plan(&small(), options).total_bytes();
        assert!(bytes(&again) < bytes(&kept));
    }
}

#[test]
fn a_state_that_is_exported_and_imported_goes_on_with_the_same_bits() {
    let sequences = documents();
    let mut first = model(&OPTIONS);
    step(&mut first, &sequences, &[5], DIALS);
    let mut kept = Vec::new();
    let mut give = |tensor: dots_train::step::StateTensor<'_>| {
        kept.push((tensor.name.to_owned(), tensor.kind, tensor.shape.to_vec(), tensor.numbers.to_vec()));
        Ok(())
    };
    first.export(&mut give).unwrap();
    let names: Vec<&str> =
        kept.iter().filter(|(_, kind, ..)| *kind == StateKind::Weight).map(|(name, ..)| name.as_str()).collect();
    let mut expected: Vec<String> = dots_model::checkpoint::expected_tensors(&small()).map(|(name, _)| name).collect();
    let mut sorted: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    sorted.sort();
    expected.sort();
    assert_eq!(sorted, expected);

    let mut second = CpuStep::random(&small(), 8, 0.08, &Options { threads: 1, ..OPTIONS }).unwrap();
    let mut next = kept.iter();
    let mut take = |name: &str, kind: StateKind, shape: &[usize], numbers: &mut [f32]| {
        let (kept_name, kept_kind, kept_shape, kept) = next.next().unwrap();
        assert_eq!((name, kind, shape), (kept_name.as_str(), *kept_kind, &kept_shape[..]));
        numbers.copy_from_slice(kept);
        Ok(())
    };
    second.import(first.updates(), &mut take).unwrap();
    for _ in 0..2 {
        assert_eq!(step(&mut second, &sequences, &[5], DIALS), step(&mut first, &sequences, &[5], DIALS));
    }
    assert_eq!(second.weights(), first.weights());
}

#[test]
fn an_evaluation_is_the_loss_before_the_update_and_changes_nothing() {
    let sequences = documents();
    let (mut plain, mut watched) = (model(&OPTIONS), model(&OPTIONS));
    accumulate(&mut plain, &sequences, &[2, 3], DIALS);
    let want = plain.update().unwrap();

    watched.begin(sequences.totals(), DIALS).unwrap();
    watched.forward_backward(&sequences.some(0..2)).unwrap();
    let (loss, targets) = watched.evaluate(&sequences.batch()).unwrap();
    watched.forward_backward(&sequences.some(2..5)).unwrap();
    assert_eq!(watched.update().unwrap(), want);
    assert_eq!(watched.weights(), plain.weights());
    assert_eq!(targets, sequences.totals().targets);
    assert!((loss / targets as f64 - want.loss).abs() < 1e-6);
}

#[test]
fn random_weights_depend_on_their_place_and_on_nothing_else() {
    let with = |threads| CpuStep::random(&small(), 7, 0.08, &Options { threads, ..OPTIONS }).unwrap();
    let (one, three) = (with(1), with(3));
    assert_eq!(one.weights(), three.weights());
    // One more expert and one more layer change nothing of what was there.
    let larger = dots_model::Config { n_routed_experts: 7, num_hidden_layers: 5, ..small() };
    let larger = CpuStep::random(&larger, 7, 0.08, &OPTIONS).unwrap();
    for parameter in one.parameters().iter().filter(|parameter| !parameter.name.ends_with("mlp.gate.weight")) {
        let there = larger.parameters().iter().find(|there| there.name == parameter.name).unwrap();
        assert_eq!(one.weights()[parameter.range()], larger.weights()[there.range()], "{}", parameter.name);
        let numbers = &one.weights()[parameter.range()];
        if parameter.decays() {
            let squares = numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            let deviation = (squares / numbers.len() as f64).sqrt();
            assert!((deviation / 0.08 - 1.0).abs() < 0.15, "{}: {deviation}", parameter.name);
        } else {
            assert!(numbers.iter().all(|x| *x == 1.0));
        }
    }
    let other = CpuStep::random(&small(), 8, 0.08, &OPTIONS).unwrap();
    assert_ne!(one.weights(), other.weights());
}

#[test]
fn what_is_frozen_stays_and_counts_in_no_norm() {
    let sequences = documents();
    let mut model = model(&OPTIONS);
    let frozen = |name: &str| name.contains(".experts.") || name.contains("self_attn");
    model.freeze(|parameter| if frozen(&parameter.name) { parameter.shape[0] } else { 0 });
    let before = state(&mut model, StateKind::Weight);
    accumulate(&mut model, &sequences, &[5], DIALS);
    let learning = gradients(&model).into_iter().filter(|(name, _)| !frozen(name));
    let norm = learning.flat_map(|(_, numbers)| numbers).map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let report = model.update().unwrap();
    assert!((report.gradient_norm - norm).abs() < 1e-9 * norm.max(1.0));
    let after = state(&mut model, StateKind::Weight);
    for (name, before) in &before {
        assert_eq!(frozen(name), *before == after[name], "{name}");
    }
}

#[test]
fn of_a_router_with_new_experts_only_their_rows_and_biases_learn() {
    let mut model = model(&OPTIONS);
    let (experts, hidden) = (model.config().n_routed_experts, model.config().hidden_size);
    let old = experts - 2;
    let is_router = |name: &str| name.ends_with("mlp.gate.weight");
    model.freeze(|parameter| if is_router(&parameter.name) { old } else { 0 });
    let before = state(&mut model, StateKind::Weight);
    step(&mut model, &documents(), &[5], Dials { balanced: [old, experts], ..DIALS });
    let after = state(&mut model, StateKind::Weight);
    for (name, before) in before.iter().filter(|(name, _)| is_router(name)) {
        let (before, after) = (before.split_at(old * hidden), after[name].split_at(old * hidden));
        assert_eq!(before.0, after.0, "{name}");
        assert!(before.1.iter().zip(after.1).all(|(before, after)| before != after), "{name}");
    }
    for (name, before) in before.iter().filter(|(name, _)| name.ends_with("e_score_correction_bias")) {
        assert_eq!(before[..old], after[name][..old], "{name}");
    }
}

#[test]
fn a_number_that_is_not_finite_is_named_and_nothing_is_updated() {
    let sequences = documents();
    let mut model = model(&OPTIONS);
    let bad = "model.layers.2.mlp.experts.3.up_proj.weight";
    let mut spoil = |name: &str, kind: StateKind, _: &[usize], numbers: &mut [f32]| {
        if name == bad && kind == StateKind::Weight {
            numbers[5] = f32::NAN;
        }
        Ok(())
    };
    model.import(0, &mut spoil).unwrap();
    model.begin(sequences.totals(), DIALS).unwrap();
    let error = model.forward_backward(&sequences.batch()).unwrap_err().to_string();
    assert_eq!(error, format!("weight of {bad} is NaN"));
    assert!(matches!(model.update(), Err(StepError::Batch { field: "step", .. })));

    let mut model = self::model(&OPTIONS);
    let before = model.weights().to_vec();
    accumulate(&mut model, &sequences, &[5], DIALS);
    let parameter = model.parameters().iter().find(|parameter| parameter.name == bad).unwrap().clone();
    model.gradients_mut()[parameter.start + 1] = f32::INFINITY;
    let error = model.update().unwrap_err().to_string();
    assert_eq!(error, format!("gradient of {bad} is inf"));
    assert_eq!(model.weights(), before);
    assert_eq!(model.updates(), 0);
}

#[test]
fn batches_that_break_the_contract_are_errors() {
    let mut model = model(&OPTIONS);
    let good = documents().some(0..1).tokens.to_vec();
    let n = good.len();
    let from = vec![0u32; n];
    let targets = vec![1u32; n];
    let batch = MicroBatch { sequence_tokens: n, tokens: &good, attend_from: &from, targets: &targets };
    let changed = |numbers: &[u32], at: usize, to: u32| {
        let mut numbers = numbers.to_vec();
        numbers[at] = to;
        numbers
    };
    let (bad_tokens, bad_targets) = (changed(&good, 3, 90), changed(&targets, 4, 91));
    let (beyond, falls) = (changed(&from, 2, 3), changed(&from, 2, 1));
    let many = vec![0u32; 193];
    let all = |tokens| MicroBatch { sequence_tokens: 1, tokens, attend_from: tokens, targets: tokens };
    let cases = [
        ("tokens", "found 90 at sequence 0, position 3", MicroBatch { tokens: &bad_tokens, ..batch }),
        ("targets", "found 91 at sequence 0, position 4", MicroBatch { targets: &bad_targets, ..batch }),
        ("attend_from", "expected at most 2, found 3 at", MicroBatch { attend_from: &beyond, ..batch }),
        ("attend_from", "expected 1 or more", MicroBatch { attend_from: &falls, ..batch }),
        ("attend_from", "one for each of 21 tokens", MicroBatch { attend_from: &from[1..], ..batch }),
        ("targets", "one for each of 21 tokens", MicroBatch { targets: &[], ..batch }),
        ("tokens", "whole sequences of 20", MicroBatch { sequence_tokens: 20, ..batch }),
        ("tokens", "whole sequences of", MicroBatch { tokens: &[], attend_from: &[], targets: &[], ..batch }),
        ("sequence_tokens", "1 to 48", MicroBatch { sequence_tokens: 0, ..batch }),
        ("sequence_tokens", "1 to 48", MicroBatch { sequence_tokens: 49, ..batch }),
        ("tokens", "at most 192", all(&many)),
    ];
    for (field, says, batch) in cases {
        let totals = Totals { targets: 1, sequences: 1 };
        model.begin(totals, DIALS).unwrap();
        for error in [model.forward_backward(&batch).unwrap_err(), model.evaluate(&batch).unwrap_err()] {
            let error = error.to_string();
            assert!(error.starts_with(&format!("batch: {field}: ")) && error.contains(says), "{error}");
        }
    }
    assert!(model.begin(Totals { targets: 0, sequences: 1 }, DIALS).is_err());
    assert!(model.update().is_err());
    // Fewer sequences came than were announced.
    model.begin(Totals { targets: n as u64, sequences: 2 }, DIALS).unwrap();
    model.forward_backward(&batch).unwrap();
    assert!(model.update().unwrap_err().to_string().starts_with("batch: totals: "));
}

#[test]
fn a_step_without_a_target_in_one_micro_batch_is_the_same_as_without_it() {
    let mut sequences = documents();
    let at = 2 * sequences.length;
    sequences.targets[..at].fill(NO_TARGET);
    let dials = Dials { sequence_loss: 0.0, ..DIALS };
    let mut both = model(&OPTIONS);
    accumulate(&mut both, &sequences, &[2, 3], dials);
    let mut one = model(&OPTIONS);
    one.begin(Totals { sequences: 3, ..sequences.totals() }, dials).unwrap();
    one.forward_backward(&sequences.some(2..5)).unwrap();
    assert_eq!(both.gradients(), one.gradients());
}

#[test]
fn what_no_machine_has_is_planned_and_refused_before_it_is_taken() {
    let most = Options { micro_batch_tokens: 1 << 50, ..OPTIONS };
    assert!(CpuStep::plan(&small(), &most).total_bytes() > 1 << 50);
    let error = CpuStep::random(&small(), 1, 0.1, &most).unwrap_err();
    assert!(matches!(error, dots_model::Error::Memory(_)), "{error}");
    let full = CpuStep::plan(&dots_model::Config::dots_llm1(), &OPTIONS);
    // Weights, gradients and two moments of 142.8 billion parameters.
    assert!(full.total_bytes() > 16 * 142_700_000_000);
}

/// The whole step's gradient of each tensor is the slope of its loss along it, with the same experts chosen at both ends.
#[test]
fn the_gradient_is_the_slope_of_the_whole_loss() {
    let sequences = documents();
    let still = Dials { learning_rate: 0.0, sequence_loss: 0.3, bias_rate: 0.0, ..DIALS };
    let loads = |report: &StepReport| report.routers.iter().map(|router| router.loads.clone()).collect::<Vec<_>>();
    let mut model = CpuStep::random(&small(), 7, 0.3, &OPTIONS).unwrap();
    accumulate(&mut model, &sequences, &[2, 3], still);
    let gradients = gradients(&model);
    let want_loads = loads(&model.update().unwrap());
    let mut seen = 0;
    for (name, gradient) in &gradients {
        let norm = gradient.iter().map(|d| f64::from(*d).powi(2)).sum::<f64>().sqrt();
        // An expert that nobody chose, or a slope that rounding in f32 hides.
        if norm < 1e-3 {
            continue;
        }
        let mut end = |distance: f64| {
            let factor = (distance / norm) as f32;
            let mut shift = |tensor: &str, kind: StateKind, _: &[usize], numbers: &mut [f32]| {
                if tensor == name && kind == StateKind::Weight {
                    numbers.iter_mut().zip(gradient).for_each(|(x, d)| *x += factor * d);
                }
                Ok(())
            };
            model.import(0, &mut shift).unwrap();
            let report = step(&mut model, &sequences, &[5], still);
            (report.loss + 0.3 * report.sequence_loss, loads(&report))
        };
        let reach = 4e-3;
        let ((up, loads_up), (down, loads_down)) = (end(reach), end(-2.0 * reach));
        end(reach);
        if loads_up != want_loads || loads_down != want_loads {
            continue;
        }
        let slope = (up - down) / (2.0 * reach);
        assert!((slope / norm - 1.0).abs() < 2e-2, "{name}: slope {slope}, norm of the gradient {norm}");
        seen += 1;
    }
    assert!(seen * 3 > gradients.len() * 2, "{seen} of {} tensors", gradients.len());
}
