//! `dots compare` on the small random models of `tests/fixtures`.

mod support;

use std::{fs, path::Path};

use serde_json::Value;
use support::{Ran, dots, fixture};

fn compare(reference: &Path, model: &Path, more: &[&str]) -> Ran {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let mut command = dots();
    command.arg("compare").arg(reference).arg(model).arg("--text").arg(text).args(more);
    Ran::of(command)
}

const SHORT: [&str; 4] = ["--context", "64", "--tokens", "200"];

fn compared(reference: &str, model: &str, more: &[&str]) -> Value {
    let ran = compare(&fixture(reference), &fixture(model), &[&SHORT, more, &["--json"]].concat()).succeeded();
    serde_json::from_str(&ran.stdout).unwrap()
}

fn mean(report: &Value) -> f64 {
    report["kl_divergence"]["mean"].as_f64().unwrap()
}

#[test]
fn a_model_does_not_diverge_from_itself_nor_from_the_same_weights_in_another_layout() {
    for (reference, model) in [("hf", "hf"), ("hf", "hf-fused"), ("gguf/dots1-Q4_K_M.gguf", "gguf/dots1-Q4_K_M.gguf")] {
        let report = compared(reference, model, &[]);
        assert_eq!((mean(&report), &report["same_best_token"]), (0.0, &1.0.into()), "{model}: {report}");
        assert_eq!(report["reference"]["perplexity"], report["model"]["perplexity"], "{model}: {report}");
    }
}

#[test]
fn fewer_bits_diverge_more() {
    let reports = ["Q5_1", "Q4_K_M", "Q2_K"]
        .map(|kind| compared("gguf/dots1-Q5_K_M.gguf", &format!("gguf/dots1-{kind}.gguf"), &[]));
    for pair in reports.windows(2) {
        let bits = |report: &Value| report["model"]["bits_per_weight"].as_f64().unwrap();
        assert!(bits(&pair[0]) > bits(&pair[1]) && mean(&pair[0]) < mean(&pair[1]), "{pair:?}");
        assert!(pair[0]["kl_divergence"]["standard_error"].as_f64().unwrap() > 0.0, "{pair:?}");
    }
}

#[test]
fn fast_arithmetic_adds_its_own_rounding() {
    let report = compared("hf", "hf", &["--arithmetic", "fast"]);
    assert!(mean(&report) > 0.0 && mean(&report) < 0.05, "{report}");
    assert_eq!((&report["reference"]["cache_type"], &report["model"]["cache_type"]), (&"f32".into(), &"bf16".into()));
}

#[test]
fn a_position_is_a_token_that_another_of_its_window_follows() {
    // Three windows of 64 tokens and one of 8.
    assert_eq!(compared("hf", "hf", &[])["positions"], 3 * 63 + 7);
}

#[test]
fn perplexity_is_that_of_the_golden_log_probabilities() {
    let case = &support::golden_cases("hf")[6];
    let expected: Vec<f64> =
        case["next_token_logprobs"].as_array().unwrap().iter().map(|logprob| logprob.as_f64().unwrap()).collect();
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    fs::write(&text, case["text"].as_str().unwrap()).unwrap();
    let mut command = dots();
    command.arg("compare").args([fixture("hf"), fixture("hf")]).arg("--text").arg(text).args([
        "--context",
        "256",
        "--json",
    ]);
    let report: Value = serde_json::from_str(&Ran::of(command).succeeded().stdout).unwrap();
    let expected = (-expected.iter().sum::<f64>() / expected.len() as f64).exp();
    let found = report["model"]["perplexity"].as_f64().unwrap();
    assert!((found / expected - 1.0).abs() < 1e-4, "{found} where {expected} is right");
}

/// The model with another `tokenizer.json`.
fn with_tokenizer(edit: impl Fn(String) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture("hf")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let path = folder.path().join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, edit(text)).unwrap();
    folder
}

#[test]
fn a_token_that_the_model_has_no_row_for_is_named() {
    let folder = with_tokenizer(|text| {
        let mut file: Value = serde_json::from_str(&text).unwrap();
        let added = file["added_tokens"].as_array_mut().unwrap();
        let mut more = added[0].clone();
        (more["id"], more["content"]) = (600.into(), "<|more|>".into());
        added.push(more);
        file.to_string()
    });
    // The last token is predicted and not read, so no step of either model would look at it.
    let text = folder.path().join("text");
    fs::write(&text, "one two<|more|>").unwrap();
    let mut command = dots();
    command.arg("compare").args([folder.path(), folder.path()]).arg("--text").arg(text).args(["--context", "64"]);
    Ran::of(command).failed_saying(&["vocab_size 512", "600"]);
}

#[test]
fn other_vocabularies_are_refused() {
    // As long, but another token at some id.
    let folder = with_tokenizer(|text| text.replace("<|endofresponse|>", "<|endofanswer|>"));
    let path = folder.path().to_str().unwrap();
    compare(&fixture("hf"), folder.path(), &[]).failed_saying(&[path, "506", "<|endofresponse|>", "<|endofanswer|>"]);
}

#[test]
fn what_cannot_be_compared_is_said() {
    compare(&fixture("hf"), &fixture("hf"), &["--context", "257"]).failed_saying(&["--context", "256", "257"]);
    compare(&fixture("hf"), &fixture("hf"), &["--context", "64", "--tokens", "1"])
        .failed_saying(&["README.md", "at least 2 tokens"]);
    let mut command = dots();
    command.arg("compare").args([fixture("hf"), fixture("hf")]).args(["--text", "no/such/file", "--context", "64"]);
    Ran::of(command).failed_saying(&["no/such/file"]);
}

#[test]
fn the_report_shows_what_was_found() {
    let ran = compare(&fixture("hf"), &fixture("hf-fp8"), &SHORT).succeeded();
    for word in
        ["hf-fp8", "196 positions", "bits per weight", "perplexity", "KL(reference || model)", "99 %", "same best"]
    {
        assert!(ran.stdout.contains(word), "{word} is not in\n{}", ran.stdout);
    }
}
