//! The step is held to PyTorch's (`train/`) and to an independent float64 one (`recipe/`).

mod support;

use std::collections::HashMap;

use dots_kernels::train::Precision;
use dots_train::{
    cpu::{CpuStep, Options},
    step::{ALL_EXPERTS, Dials, StateKind, Step},
};
use serde_json::Value;
use support::{DIALS, OPTIONS, Sequences, accumulate, distance, gradients, hf, json, recipe, state, step, tensors};

fn pytorch() -> (Sequences, Vec<Value>) {
    let golden = json("train/golden.json");
    let tokens: Vec<Vec<u32>> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    (Sequences::whole(&tokens), golden["steps"].as_array().unwrap().clone())
}

const PYTORCH: Dials = Dials { learning_rate: 1e-3, sequence_loss: 0.0, bias_rate: 0.0, balanced: ALL_EXPERTS };

/// Every gradient is as near as `most`; those that are zero are exactly zero. Returns the largest distance.
fn near(got: &HashMap<String, Vec<f32>>, want: &HashMap<String, Vec<f32>>, most: f64) -> f64 {
    assert_eq!(got.len(), want.len());
    let mut largest = 0.0f64;
    for (name, want) in want {
        let distance = distance(&got[name], want);
        assert!(distance <= most, "{name}: {distance:e}");
        largest = largest.max(distance);
        for (got, _) in got[name].iter().zip(want).filter(|(_, want)| **want == 0.0) {
            assert_eq!(*got, 0.0, "{name}");
        }
    }
    largest
}

#[test]
fn gradients_are_pytorchs() {
    let (sequences, steps) = pytorch();
    let mut model = hf(&OPTIONS);
    accumulate(&mut model, &sequences, &[3], PYTORCH);
    let got = gradients(&model);
    let largest = near(&got, &tensors("train/gradients.safetensors"), 3e-5);
    println!("largest distance of a gradient: {largest:e}");
    let norm = got.values().flatten().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    assert!((norm - steps[0]["grad_norm"].as_f64().unwrap()).abs() < 1e-4);
}

#[test]
fn ten_losses_are_pytorchs() {
    let (sequences, steps) = pytorch();
    let mut model = hf(&OPTIONS);
    for (index, want) in steps.iter().enumerate() {
        let report = step(&mut model, &sequences, &[3], PYTORCH);
        let off = (report.loss - want["loss"].as_f64().unwrap()).abs();
        println!("step {index}: loss {}, off by {off:e}", report.loss);
        assert!(off <= 2e-5, "step {index}: {off:e}");
        assert!((report.gradient_norm - want["grad_norm"].as_f64().unwrap()).abs() < 2e-4);
    }
}

#[test]
fn packed_documents_balancing_and_unequal_micro_batches_give_the_recipes_step() {
    let (sequences, golden) = (recipe(), json("recipe/golden.json"));
    let mut model = hf(&OPTIONS);
    for (index, want) in golden["steps"].as_array().unwrap().iter().enumerate() {
        accumulate(&mut model, &sequences, &[3, 1], DIALS);
        if index == 0 {
            let largest = near(&gradients(&model), &tensors("recipe/gradients.safetensors"), 3e-5);
            println!("largest distance of a gradient: {largest:e}");
        }
        let report = model.update().unwrap();
        let number = |field: &str| want[field].as_f64().unwrap();
        assert!((report.loss - number("cross_entropy")).abs() < 2e-5);
        assert!((report.sequence_loss - number("sequence_loss")).abs() < 2e-5);
        assert!((report.gradient_norm - number("grad_norm")).abs() < 1e-4);
        for router in &report.routers {
            let layer = router.layer.to_string();
            assert_eq!(serde_json::to_value(&router.loads).unwrap(), want["loads"][&layer]);
            let biases: Vec<f64> = serde_json::from_value(want["biases_after"][&layer].clone()).unwrap();
            for (got, want) in router.biases.iter().zip(biases) {
                assert!((f64::from(*got) - want).abs() < 1e-6);
            }
            assert!(router.entropy > 0.0 && router.entropy <= 16f64.ln());
        }
    }
    let (got, want) = (state(&mut model, StateKind::Weight), tensors("recipe/final.safetensors"));
    assert_eq!(got.len(), want.len());
    for (name, want) in &want {
        let distance = distance(&got[name], want);
        // Where a gradient is near nothing, AdamW divides nothing by nothing: a weight may differ by a part of a rate.
        assert!(distance <= 3e-5, "{name}: {distance:e}");
    }
}

/// PyTorch's sequences hold tokens whose sixth and seventh expert lie closer together than bf16 rounds; who is chosen then decides
/// gradients, and not how they are computed. So this takes short sequences in which nobody is chosen otherwise, against the
/// gradients in f32 that PyTorch's hold above.
#[test]
fn gradients_in_bf16_are_those_in_f32_where_the_same_experts_are_chosen() {
    let (sequences, _) = pytorch();
    let [mut exact, mut rounded] =
        [Precision::F32, Precision::Bf16].map(|precision| hf(&Options { precision, ..OPTIONS }));
    let mut same = Sequences::default();
    for (start, tokens) in sequences.tokens.chunks_exact(LENGTH).enumerate() {
        let one = Sequences::whole(&[tokens.to_vec()]);
        // Loads of so few tokens in all layers tell a choice from another.
        let loads = |model: &mut CpuStep| -> Vec<Vec<u64>> {
            let report = step(model, &one, &[1], Dials { learning_rate: 0.0, ..PYTORCH });
            report.routers.into_iter().map(|router| router.loads).collect()
        };
        if loads(&mut exact) == loads(&mut rounded) {
            println!("part {start}");
            let at = start * LENGTH;
            same.push(tokens, &one.attend_from, &sequences.targets[at..at + LENGTH]);
        }
    }
    assert!(same.count() >= 4, "{} sequences", same.count());
    let count = same.count();
    accumulate(&mut exact, &same, &[count], PYTORCH);
    accumulate(&mut rounded, &same, &[count], PYTORCH);
    let (got, want) = (gradients(&rounded), gradients(&exact));
    let mut largest = 0.0f64;
    for (name, want) in &want {
        let got = &got[name];
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        if dot(want, want) == 0.0 {
            assert_eq!(dot(got, got), 0.0, "{name}");
            continue;
        }
        let cosine = dot(got, want) / (dot(got, got) * dot(want, want)).sqrt();
        let distance = distance(got, want);
        assert!(distance <= 3e-2 && cosine >= 0.999, "{name}: {distance:e}, cosine {cosine}");
        largest = largest.max(distance);
    }
    println!("{count} sequences, largest distance of a gradient: {largest:e}");
}

/// Positions of the parts that PyTorch's sequences are cut into for bf16.
const LENGTH: usize = 5;

/// With the choices that rounding turns: what lies at one has another gradient in anyone's bf16, so only the whole is held.
#[test]
fn all_gradients_together_in_bf16_are_within_3_percent_of_pytorchs_in_f32() {
    let (sequences, steps) = pytorch();
    let mut model = hf(&Options { precision: Precision::Bf16, ..OPTIONS });
    accumulate(&mut model, &sequences, &[3], PYTORCH);
    let (got, want) = (gradients(&model), tensors("train/gradients.safetensors"));
    let square = |numbers: &[f32]| numbers.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    let (mut far, mut norm) = (0.0, 0.0);
    for (name, want) in &want {
        far += distance(&got[name], want).powi(2) * square(want);
        norm += square(want);
    }
    let together = (far / norm).sqrt();
    println!("all together: {together:e}");
    assert!(together <= 3e-2, "{together:e}");
    let loss = model.update().unwrap().loss;
    assert!((loss - steps[0]["loss"].as_f64().unwrap()).abs() < 5e-3, "{loss}");
}
