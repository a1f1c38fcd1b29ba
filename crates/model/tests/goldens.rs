//! The forward pass against what independent implementations compute (`tests/fixtures/goldens`, and the full set where
//! `DOTS_GOLDENS` names it).

mod support;

use std::path::{Path, PathBuf};

use dots_model::{
    Checkpoint,
    cpu::{CpuExecutor, CpuOptions},
    executor::{Arithmetic, Batch, CacheType, Executor, Output, Slice, Want},
};
use serde_json::Value;
use support::golden as committed;

/// Beside the repository's own goldens, a folder with the whole set: the GGUF files too large to commit.
fn goldens(folder: &str) -> PathBuf {
    match std::env::var_os("DOTS_GOLDENS") {
        Some(all) => PathBuf::from(all).join(folder),
        None => committed(folder),
    }
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn executor(path: &Path, arithmetic: Arithmetic) -> CpuExecutor {
    executor_with(path, arithmetic, arithmetic.cache_type())
}

fn executor_with(path: &Path, arithmetic: Arithmetic, cache_type: CacheType) -> CpuExecutor {
    let checkpoint = Checkpoint::open(path).unwrap();
    let options = CpuOptions { arithmetic, cache_type, threads: 2, cache_tokens: 256, max_batch_tokens: 256 };
    CpuExecutor::new(&checkpoint, &options).unwrap()
}

/// Feeds `tokens` from position `start` of the one sequence whose cache is the whole pool.
fn feed(executor: &mut CpuExecutor, tokens: &[u32], start: usize, wants: &[Want<'_>]) -> Vec<Output> {
    let block_table: Vec<u32> = (0..8).rev().collect();
    let batch = Batch { slices: vec![Slice { tokens, start, block_table: &block_table, wants }] };
    let ticket = executor.submit(&batch).unwrap();
    executor.collect(ticket).rows.clone()
}

fn last_logits(executor: &mut CpuExecutor, tokens: &[u32]) -> Vec<f32> {
    let want = Want { row: tokens.len() - 1, logits: true, ..Want::default() };
    feed(executor, tokens, 0, &[want]).remove(0).logits.unwrap()
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - top).exp()).sum();
    logits.iter().map(|x| f64::from(x - top) - sum.ln()).collect()
}

/// KL(p ‖ q) of the two softmaxes.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    log_softmax(p).into_iter().zip(log_softmax(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Logits, log-probabilities, experts and their weights, and greedy tokens of one Hugging Face golden.
fn check_hugging_face(folder: &str) {
    let golden = json(&goldens(folder).join("golden.json"));
    let mut executor = executor(&goldens(folder), Arithmetic::Exact);
    for case in golden["cases"].as_array().unwrap() {
        let (text, tokens) = (case["text"].as_str().unwrap(), ids(&case["ids"]));
        let wants: Vec<Want<'_>> = (0..tokens.len())
            .map(|row| {
                let last = row + 1 == tokens.len();
                Want { row, logits: last, routing: last, score: tokens.get(row + 1).copied(), ..Want::default() }
            })
            .collect();
        let outputs = feed(&mut executor, &tokens, 0, &wants);
        let last = outputs.last().unwrap();
        let difference = largest_difference(last.logits.as_ref().unwrap(), &numbers(&case["last_logits"]));
        assert!(difference < 1e-4, "{folder} {text:?}: logits differ by {difference}");

        for (output, want) in outputs.iter().zip(numbers(&case["next_token_logprobs"])) {
            let got = output.score.unwrap().0;
            assert!((got - want).abs() < 1e-4, "{folder} {text:?}: log-probability {got}, expected {want}");
        }

        for layer in last.routing.as_ref().unwrap() {
            let want = case["routing_last_position"][layer.layer.to_string()].as_array().unwrap();
            let mut got = layer.experts.clone();
            got.sort_by(|a, b| b.1.total_cmp(&a.1));
            for ((expert, weight), want) in got.iter().zip(want) {
                assert_eq!(u64::from(*expert), want[0].as_u64().unwrap(), "{folder} {text:?} layer {}", layer.layer);
                assert!((f64::from(*weight) - want[1].as_f64().unwrap()).abs() < 1e-4);
            }
            assert_eq!(got.len(), want.len());
        }

        let mut logits = last.logits.clone().unwrap();
        for (position, want) in (tokens.len()..).zip(ids(&case["greedy_24"])) {
            let mut order: Vec<usize> = (0..logits.len()).collect();
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            if logits[order[0]] - logits[order[1]] < 2e-4 {
                break;
            }
            assert_eq!(order[0] as u32, want, "{folder} {text:?} at position {position}");
            let next = Want { logits: true, ..Want::default() };
            logits = feed(&mut executor, &[want], position, &[next]).remove(0).logits.unwrap();
        }
    }
}

#[test]
fn exact_arithmetic_gives_the_numbers_of_transformers() {
    check_hugging_face("hf");
}

#[test]
fn fused_experts_and_the_newer_config_give_the_same_numbers() {
    check_hugging_face("hf-fused");
}

#[test]
fn the_epsilon_of_the_norms_is_the_configs() {
    check_hugging_face("hf-small");
}

#[test]
fn fp8_weights_give_the_logits_of_the_decoded_weights() {
    let golden = json(&goldens("hf-fp8").join("golden.json"));
    for (arithmetic, tolerance) in [(Arithmetic::Exact, 1e-3), (Arithmetic::Fast, 0.2)] {
        let mut executor = executor(&goldens("hf-fp8"), arithmetic);
        for case in golden["cases"].as_array().unwrap() {
            let got = last_logits(&mut executor, &ids(&case["ids"]));
            let difference = largest_difference(&got, &numbers(&case["last_logits"]));
            assert!(difference < tolerance, "{arithmetic:?} {}: {difference}", case["text"]);
        }
    }
}

#[test]
fn every_gguf_type_gives_the_logits_of_its_decoded_weights_and_drifts_no_more_than_llama_cpp() {
    let golden = json(&goldens("gguf").join("golden.json"));
    let llama_cpp = json(&goldens("gguf").join("llamacpp.json"));
    let (mut ours, mut theirs, mut files) = (0.0, 0.0, 0);
    for (file, golden) in golden.as_object().unwrap() {
        let path = goldens("gguf").join(file);
        if !path.exists() {
            println!("{file}: not in this set");
            continue;
        }
        let mut exact = executor(&path, Arithmetic::Exact);
        let mut fast = executor(&path, Arithmetic::Fast);
        let cases = golden["cases"].as_array().unwrap();
        let mut divergences = 0.0;
        for case in cases {
            let (tokens, want) = (ids(&case["ids"]), numbers(&case["last_logits"]));
            let difference = largest_difference(&last_logits(&mut exact, &tokens), &want);
            assert!(difference < 1e-3, "{file} {}: logits differ by {difference}", case["text"]);
            divergences += divergence(&want, &last_logits(&mut fast, &tokens));
        }
        let own = divergences / cases.len() as f64;
        let other = llama_cpp[file]["mean_kl_to_exact"].as_f64().unwrap();
        println!("{file:20} KL of fast arithmetic {own:.2e}, of llama.cpp {other:.2e}");
        ours += own;
        theirs += other;
        files += 1;
    }
    assert!(files >= 10, "{files} files");
    println!("mean over {files} files: {:.3e}, of llama.cpp {:.3e}", ours / files as f64, theirs / files as f64);
    assert!(ours <= theirs, "fast arithmetic drifts further than llama.cpp: {ours:.3e} against {theirs:.3e}");
}

#[test]
fn each_cache_type_drifts_as_little_as_its_bits_allow() {
    let files = ["hf", "hf-fp8", "gguf/dots1-Q8_0.gguf", "gguf/dots1-Q4_K_M.gguf"];
    let golden = json(&goldens("hf").join("golden.json"));
    let all_logits = |executor: &mut CpuExecutor, tokens: &[u32]| -> Vec<Vec<f32>> {
        let wants: Vec<_> = (0..tokens.len()).map(|row| Want { row, logits: true, ..Want::default() }).collect();
        feed(executor, tokens, 0, &wants).into_iter().map(|row| row.logits.unwrap()).collect()
    };
    for (cache_type, most) in [(CacheType::Bf16, 5e-5), (CacheType::Q8, 5e-4), (CacheType::Q4, 5e-2)] {
        for arithmetic in [Arithmetic::Exact, Arithmetic::Fast] {
            let mut divergences = Vec::new();
            for file in files.iter().filter(|file| goldens(file).exists()) {
                let mut exact = executor(&goldens(file), Arithmetic::Exact);
                let mut rounded = executor_with(&goldens(file), arithmetic, cache_type);
                for case in golden["cases"].as_array().unwrap() {
                    let tokens = ids(&case["ids"]);
                    let (want, got) = (all_logits(&mut exact, &tokens), all_logits(&mut rounded, &tokens));
                    divergences.extend(want.iter().zip(&got).map(|(want, got)| divergence(want, got)));
                }
            }
            divergences.sort_by(f64::total_cmp);
            let (mean, middle) =
                (divergences.iter().sum::<f64>() / divergences.len() as f64, divergences[divergences.len() / 2]);
            println!(
                "{arithmetic:?}, cache in {:4}: KL to exact {mean:.2e} in the mean of {} positions, {middle:.2e} in the middle",
                cache_type.name(),
                divergences.len()
            );
            if arithmetic == Arithmetic::Exact {
                // The mean is that of the few positions where an expert flips.
                assert!(middle < most, "{cache_type:?}: {middle:.2e}");
            }
        }
    }
}

#[test]
fn rotations_are_right_to_the_last_position() {
    let golden = json(&committed("rope.json"));
    let head_dim = golden["head_dim"].as_u64().unwrap() as usize;
    let theta = golden["rope_theta"].as_f64().unwrap();
    let positions = ids(&golden["positions"]);
    assert_eq!(positions.iter().max(), Some(&32_767));
    let table = dots_kernels::RopeTable::new(32_768, head_dim, theta);
    for (i, position) in positions.iter().enumerate() {
        let (cos, sin) = (numbers(&golden["cos"][i]), numbers(&golden["sin"][i]));
        for (k, (got_cos, got_sin)) in table.at(*position as usize).iter().enumerate() {
            assert!(
                (got_cos - cos[k]).abs() < 1e-6 && (got_sin - sin[k]).abs() < 1e-6,
                "position {position}, pair {k}"
            );
        }
    }
}
