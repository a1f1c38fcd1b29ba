//! Packed checkpoints against the numbers of `transformers`.

mod support;

use dots_model::executor::Arithmetic;
use serde_json::Value;
use support::{golden, logits, open, options, pack};

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - top).exp()).sum();
    logits.iter().map(|x| f64::from(x - top) - sum.ln()).collect()
}

/// Mean over all positions of KL(p ‖ q) of the two softmaxes.
fn divergence(p: &[Vec<f32>], q: &[Vec<f32>]) -> f64 {
    let one = |(p, q): (&Vec<f32>, &Vec<f32>)| -> f64 {
        log_softmax(p).into_iter().zip(log_softmax(q)).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    p.iter().zip(q).map(one).sum::<f64>() / p.len() as f64
}

#[test]
fn fewer_bits_drift_further_and_eight_hardly_at_all() {
    let text = std::fs::read_to_string(golden("hf").join("golden.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let cases: Vec<Vec<u32>> = cases["cases"].as_array().unwrap().iter().map(ids).collect();
    let source = open(&golden("hf"));
    let mut before = 0.0;
    for (recipe, most) in [("q8", 3e-4), ("q6", 4e-3), ("q5", 2e-2), ("q4", 6e-2), ("q3", 3e-1)] {
        let out = tempfile::tempdir().unwrap();
        pack("hf", out.path(), &options(recipe, &[]));
        let packed = open(out.path());
        let mean = |arithmetic| {
            let each = cases.iter().map(|tokens| {
                divergence(&logits(&source, Arithmetic::Exact, tokens), &logits(&packed, arithmetic, tokens))
            });
            each.sum::<f64>() / cases.len() as f64
        };
        let (exact, fast) = (mean(Arithmetic::Exact), mean(Arithmetic::Fast));
        println!("{recipe:3} mean KL to bf16: {exact:.2e} exact, {fast:.2e} fast");
        assert!(exact > before && exact < most, "{recipe}: {exact}");
        assert!(fast < 2.0 * most, "{recipe}: {fast}");
        before = exact;
    }
}

fn ids(case: &Value) -> Vec<u32> {
    case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}
