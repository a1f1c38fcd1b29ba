//! A step shared among ranks is the step of one rank.

mod support;

use std::collections::HashMap;

use dots_kernels::train::Precision;
use dots_model::Config;
use dots_train::{
    cpu::{CpuStep, Options, Parameter},
    ranks::RankedStep,
    recipe::Ranks,
    step::{Dials, StateKind, Step, StepReport, Totals},
};
use support::{DIALS, OPTIONS, distance, documents, small, state, step};

const ONE: Ranks = Ranks { data: 1, expert: 1, pipeline: 1, interleave: 1 };
const KINDS: [StateKind; 3] = [StateKind::Weight, StateKind::FirstMoment, StateKind::SecondMoment];
const STEPS: usize = 4;

fn ranked(ranks: Ranks, options: &Options) -> RankedStep {
    RankedStep::random(&small(), 7, 0.08, options, ranks).unwrap()
}

/// Micro-batches of two sequences at most, so that five make several on every rank.
fn options() -> Options {
    Options { micro_batch_tokens: 42, sequence_tokens: 21, ..OPTIONS }
}

/// Some steps, and the state after the first and after all.
fn learnt(model: &mut impl Step) -> (Vec<StepReport>, [HashMap<String, Vec<f32>>; 4]) {
    let mut reports = vec![step(model, &documents(), &[2, 2, 1], DIALS)];
    // After one step the mean gradient is a tenth of the gradient.
    let gradient = state(model, StateKind::FirstMoment);
    reports.extend((1..STEPS).map(|_| step(model, &documents(), &[2, 2, 1], DIALS)));
    let [weights, first, second] = KINDS.map(|kind| state(model, kind));
    (reports, [gradient, weights, first, second])
}

/// Holds `ranks` to one rank within a millionth. Sums of six parts instead of two differ a little more from those of one.
fn compare(ranks: Ranks, options: &Options) {
    let most = if ranks.data <= 2 { 1e-6 } else { 2e-6 };
    let mut one = CpuStep::random(&small(), 7, 0.08, options).unwrap();
    let mut several = ranked(ranks, options);
    for kind in KINDS {
        assert_eq!(state(&mut several, kind), state(&mut one, kind), "{ranks:?} begins with other weights");
    }
    let sequences = documents();
    let (loss, targets) = several.evaluate(&sequences.some(0..2)).unwrap();
    let (want_loss, want_targets) = one.evaluate(&sequences.some(0..2)).unwrap();
    assert_eq!(targets, want_targets);
    assert!((loss / want_loss - 1.0).abs() < 1e-6, "{ranks:?}: {loss} {want_loss}");

    let ((reports, states), (want, want_states)) = (learnt(&mut several), learnt(&mut one));
    for (report, want) in reports.iter().zip(&want) {
        let pairs = [
            (report.loss, want.loss),
            (report.sequence_loss, want.sequence_loss),
            (report.gradient_norm, want.gradient_norm),
            (report.weight_norm, want.weight_norm),
        ];
        for (got, want) in pairs {
            assert!((got / want - 1.0).abs() < most, "{ranks:?}: {got} {want}");
        }
        assert_eq!(report.routers.len(), want.routers.len());
        for (router, want) in report.routers.iter().zip(&want.routers) {
            assert_eq!((router.layer, &router.loads, &router.biases), (want.layer, &want.loads, &want.biases));
            assert!((router.entropy / want.entropy - 1.0).abs() < 1e-6);
        }
    }
    assert_eq!(several.updates(), STEPS as u64);
    for (states, want) in states.iter().zip(&want_states) {
        assert_eq!(states.len(), want.len());
        for (name, numbers) in states {
            let distance = distance(numbers, &want[name]);
            assert!(distance <= most, "{ranks:?} {name}: {distance:e}");
        }
    }
}

#[test]
fn data_ranks_learn_what_one_rank_learns() {
    for data in [1, 2, 3, 6] {
        compare(Ranks { data, ..ONE }, &options());
    }
}

#[test]
fn expert_ranks_learn_what_one_rank_learns() {
    for (data, expert) in [(2, 2), (3, 3), (4, 2)] {
        compare(Ranks { data, expert, ..ONE }, &options());
        compare(Ranks { data, expert, ..ONE }, &Options { recompute: true, ..options() });
    }
}

#[test]
fn pipeline_stages_learn_what_one_rank_learns() {
    for (pipeline, interleave) in [(2, 1), (2, 2), (3, 1), (4, 1)] {
        compare(Ranks { pipeline, interleave, ..ONE }, &options());
        compare(Ranks { pipeline, interleave, ..ONE }, &Options { recompute: true, ..options() });
    }
}

#[test]
fn all_kinds_of_ranks_together_learn_what_one_rank_learns() {
    compare(Ranks { data: 2, expert: 1, pipeline: 2, interleave: 2 }, &options());
    compare(Ranks { data: 2, expert: 2, pipeline: 2, interleave: 1 }, &options());
    compare(Ranks { data: 4, expert: 2, pipeline: 2, interleave: 2 }, &options());
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let ranks = Ranks { data: 2, expert: 2, pipeline: 2, interleave: 2 };
    for precision in [Precision::F32, Precision::Bf16] {
        let with = |threads| learnt(&mut ranked(ranks, &Options { precision, threads, ..options() }));
        let one = with(1);
        assert!(with(8) == one, "{precision:?}");
        assert!(with(9) == one, "{precision:?}");
    }
}

/// Every tensor in the order in which it is handed out.
fn exported(model: &mut impl Step) -> Vec<(String, StateKind, Vec<usize>, Vec<u32>)> {
    let mut all = Vec::new();
    let mut give = |tensor: dots_train::step::StateTensor<'_>| {
        let bits = tensor.numbers.iter().map(|x| x.to_bits()).collect();
        all.push((tensor.name.to_owned(), tensor.kind, tensor.shape.to_vec(), bits));
        Ok(())
    };
    model.export(&mut give).unwrap();
    all
}

fn import(model: &mut impl Step, updates: u64, state: &[(String, StateKind, Vec<usize>, Vec<u32>)]) {
    let mut next = state.iter();
    let mut take = |name: &str, kind: StateKind, shape: &[usize], numbers: &mut [f32]| {
        let (kept_name, kept_kind, kept_shape, kept) = next.next().unwrap();
        assert_eq!((name, kind, shape), (kept_name.as_str(), *kept_kind, &kept_shape[..]));
        numbers.iter_mut().zip(kept).for_each(|(number, bits)| *number = f32::from_bits(*bits));
        Ok(())
    };
    model.import(updates, &mut take).unwrap();
}

#[test]
fn a_state_goes_from_one_layout_to_another_to_the_bit() {
    let sequences = documents();
    let layouts = [
        ONE,
        Ranks { data: 3, ..ONE },
        Ranks { data: 2, expert: 2, pipeline: 2, interleave: 2 },
        Ranks { pipeline: 4, ..ONE },
    ];
    let mut one = CpuStep::random(&small(), 9, 0.08, &options()).unwrap();
    step(&mut one, &sequences, &[2, 2, 1], DIALS);
    for ranks in layouts {
        let mut several = ranked(ranks, &options());
        let state = exported(&mut one);
        import(&mut several, one.updates(), &state);
        assert!(exported(&mut several) == state, "{ranks:?}");
        // Both go on alike, and back again.
        let (report, want) =
            (step(&mut several, &sequences, &[2, 2, 1], DIALS), step(&mut one, &sequences, &[2, 2, 1], DIALS));
        assert!((report.loss / want.loss - 1.0).abs() < 1e-6 && several.updates() == one.updates());
        import(&mut one, several.updates(), &exported(&mut several));
    }
}

#[test]
fn ranks_that_divide_nothing_are_named_with_what_they_should_divide() {
    let cases = [
        (
            Ranks { data: 4, expert: 4, ..ONE },
            "ranks.expert: expected a divisor of 6 experts and of 4 data ranks, found 4",
        ),
        (
            Ranks { data: 3, expert: 2, ..ONE },
            "ranks.expert: expected a divisor of 6 experts and of 3 data ranks, found 2",
        ),
        (Ranks { pipeline: 5, ..ONE }, "ranks.pipeline: expected 1 to 4 stages"),
        (Ranks { interleave: 2, ..ONE }, "ranks.interleave: expected 1"),
        (Ranks { pipeline: 2, interleave: 3, ..ONE }, "at most 4 pieces"),
        (Ranks { data: 0, ..ONE }, "ranks.data: expected 1 to 1024"),
        (Ranks { data: 1 << 15, expert: 1, pipeline: 1, interleave: 1 }, "ranks.data: expected 1 to 1024"),
    ];
    for (ranks, says) in cases {
        let error = RankedStep::random(&small(), 7, 0.08, &OPTIONS, ranks).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_number_that_is_not_finite_is_named_whichever_rank_holds_it_and_nothing_is_updated() {
    let sequences = documents();
    for ranks in [Ranks { data: 2, expert: 2, ..ONE }, Ranks { pipeline: 2, ..ONE }, Ranks { data: 3, ..ONE }] {
        let mut model = ranked(ranks, &options());
        for bad in ["model.layers.2.mlp.experts.3.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"] {
            let mut spoil = |name: &str, kind: StateKind, _: &[usize], numbers: &mut [f32]| {
                if name == bad && kind == StateKind::Weight {
                    numbers.fill(f32::NAN);
                }
                Ok(())
            };
            model.import(0, &mut spoil).unwrap();
            let before = exported(&mut model);
            model.begin(sequences.totals(), DIALS).unwrap();
            model.forward_backward(&sequences.some(0..2)).unwrap();
            model.forward_backward(&sequences.some(2..4)).unwrap();
            model.forward_backward(&sequences.some(4..5)).unwrap();
            let error = model.update().unwrap_err().to_string();
            assert!(error.ends_with(&format!("weight of {bad} is NaN")), "{error}");
            assert!(exported(&mut model) == before && model.updates() == 0);
        }
    }
}

#[test]
fn what_was_not_announced_is_refused_and_the_next_step_is_as_good_as_any() {
    let sequences = documents();
    let mut model = ranked(Ranks { data: 2, ..ONE }, &options());
    model.begin(Totals { sequences: 1, ..sequences.totals() }, DIALS).unwrap();
    let error = model.forward_backward(&sequences.some(0..2)).unwrap_err().to_string();
    assert!(error.starts_with("batch: totals: "), "{error}");
    assert!(model.update().is_err());
    model.begin(sequences.totals(), DIALS).unwrap();
    model.forward_backward(&sequences.some(0..2)).unwrap();
    assert!(model.update().unwrap_err().to_string().starts_with("batch: totals: "));
    let error = model.begin(Totals { targets: 0, sequences: 1 }, DIALS).unwrap_err().to_string();
    assert!(error.contains("at least one sequence and one target"), "{error}");
    let mut other = ranked(Ranks { data: 2, ..ONE }, &options());
    let split = &[2, 2, 1];
    assert_eq!(step(&mut model, &sequences, split, DIALS), step(&mut other, &sequences, split, DIALS));
}

#[test]
fn a_rank_takes_its_part_of_the_memory() {
    let bytes = |ranks| -> HashMap<&str, u64> {
        RankedStep::plan(&Config::dots_llm1(), &OPTIONS, ranks).unwrap().parts.into_iter().collect()
    };
    let one = bytes(ONE);
    for (ranks, weights) in [
        (Ranks { data: 2, ..ONE }, 2.0),
        (Ranks { pipeline: 2, ..ONE }, 1.0),
        // What is no expert is 5.4 % of the model, and 64 ranks hold all of it.
        (Ranks { data: 64, expert: 64, pipeline: 2, interleave: 2 }, 4.39),
    ] {
        let several = bytes(ranks);
        let ratio = |part| several[part] as f64 / one[part] as f64;
        assert!((ratio("weights") / weights - 1.0).abs() < 0.01, "{ranks:?}: {}", ratio("weights"));
        // However many ranks there are, each moment is kept once.
        assert!((ratio("moments") - 1.0).abs() < 1e-5, "{ranks:?}: {}", ratio("moments"));
    }
}

/// Attention, one expert of each mixture, and all rows of each router but two.
fn frozen(parameter: &Parameter) -> usize {
    let rows = parameter.shape[0];
    match &parameter.name {
        name if name.contains(".self_attn.") || name.contains(".experts.1.") => rows,
        name if name.ends_with(".mlp.gate.weight") => rows - 2,
        _ => 0,
    }
}

#[test]
fn what_is_frozen_stays_on_every_rank_and_counts_on_none() {
    let experts = small().n_routed_experts;
    let dials = Dials { balanced: [experts - 2, experts], ..DIALS };
    let mut one = CpuStep::random(&small(), 7, 0.08, &options()).unwrap();
    one.freeze(frozen);
    let table = one.parameters().to_vec();
    let before = state(&mut one, StateKind::Weight);
    let want = step(&mut one, &documents(), &[2, 2, 1], dials);
    let want_weights = state(&mut one, StateKind::Weight);
    for ranks in [Ranks { data: 3, ..ONE }, Ranks { data: 2, expert: 2, pipeline: 2, interleave: 1 }] {
        let mut several = ranked(ranks, &options());
        several.freeze(frozen);
        let report = step(&mut several, &documents(), &[2, 2, 1], dials);
        for (got, want) in [(report.gradient_norm, want.gradient_norm), (report.weight_norm, want.weight_norm)] {
            assert!((got / want - 1.0).abs() < 2e-6, "{ranks:?}: {got} {want}");
        }
        for (router, want) in report.routers.iter().zip(&want.routers) {
            assert_eq!(router.biases, want.biases, "{ranks:?}");
        }
        let weights = state(&mut several, StateKind::Weight);
        for (name, numbers) in &weights {
            assert!(distance(numbers, &want_weights[name]) <= 2e-6, "{ranks:?} {name}");
        }
        for parameter in &table {
            let name = &parameter.name;
            let (before, after) = (&before[name][..parameter.frozen], &weights[name][..parameter.frozen]);
            assert_eq!(before, after, "{ranks:?} {name}");
        }
    }
}
