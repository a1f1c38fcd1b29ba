//! Packed checkpoints against the numbers of `transformers`.

mod support;

use dots_model::{Checkpoint, executor::Arithmetic};
use dots_pack::gguf::{Held, export};
use serde_json::Value;
use support::{divergence, golden, logits, open, options, pack};

#[test]
fn eight_bits_drift_no_further_than_q8_0_and_fewer_bits_further() {
    let text = std::fs::read_to_string(golden("hf").join("golden.json")).unwrap();
    let cases: Value = serde_json::from_str(&text).unwrap();
    let cases: Vec<Vec<u32>> = cases["cases"].as_array().unwrap().iter().map(ids).collect();
    let source = open(&golden("hf"));
    // The median over all positions: in a random model, experts are chosen by hairs, and a mean would count those cut.
    let drift = |checkpoint: &Checkpoint, arithmetic| {
        let each = cases.iter().flat_map(|tokens| {
            let (p, q) = (logits(&source, Arithmetic::Exact, tokens), logits(checkpoint, arithmetic, tokens));
            p.iter().zip(&q).map(|(p, q)| divergence(p, q)).collect::<Vec<_>>()
        });
        let mut each: Vec<f64> = each.collect();
        each.sort_unstable_by(f64::total_cmp);
        each[each.len() / 2]
    };
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("q8_0.gguf");
    export(&source, &gguf, Held::named("Q8_0").unwrap(), 2, &mut ()).unwrap();
    let q8_0 = drift(&open(&gguf), Arithmetic::Exact);
    println!("Q8_0 median KL to bf16: {q8_0:.2e} exact");
    let mut before = 0.0;
    for recipe in ["q8", "q6", "q5", "q4", "q3"] {
        let out = folder.path().join(recipe);
        pack("hf", &out, &options(recipe, &[]));
        let packed = open(&out);
        let (exact, fast) = (drift(&packed, Arithmetic::Exact), drift(&packed, Arithmetic::Fast));
        println!("{recipe:4} median KL to bf16: {exact:.2e} exact, {fast:.2e} fast");
        if recipe == "q8" {
            assert!(exact < 1.5 * q8_0, "{exact} {q8_0}");
        }
        assert!(exact > before, "{recipe}: {exact} {before}");
        before = exact;
    }
}

fn ids(case: &Value) -> Vec<u32> {
    case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}
