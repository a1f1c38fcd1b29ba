//! What the tests of the step read from `tests/fixtures/goldens`.
#![allow(dead_code, reason = "each test binary uses its share")]

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use dots_kernels::train::Precision;
use dots_model::{Checkpoint, Config};
use dots_train::{
    cpu::{CpuStep, Options},
    recipe::{Optimizer, Recipe},
    step::{ALL_EXPERTS, Dials, MicroBatch, NO_TARGET, StateKind, Step, StepReport, Totals},
};
use serde_json::Value;

/// A golden's path.
pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens").join(name)
}

pub fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

/// All tensors of a file of f32.
pub fn tensors(name: &str) -> HashMap<String, Vec<f32>> {
    let bytes = std::fs::read(golden(name)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |data: &[u8]| data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    file.tensors().into_iter().map(|(name, tensor)| (name, numbers(tensor.data()))).collect()
}

pub const OPTIONS: Options = Options {
    precision: Precision::F32,
    recompute: false,
    micro_batch_tokens: 192,
    sequence_tokens: 48,
    threads: 2,
    optimizer: Optimizer { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip: 1.0 },
};

pub const DIALS: Dials = Dials { learning_rate: 1e-3, sequence_loss: 0.01, bias_rate: 0.05, balanced: ALL_EXPERTS };

/// The `hf` golden, ready to learn.
pub fn hf(options: &Options) -> CpuStep {
    let checkpoint = Checkpoint::open(&golden("hf")).unwrap();
    CpuStep::from_checkpoint(&checkpoint, &checkpoint.config, options).unwrap()
}

/// A recipe of a tiny model; `rest` says what it learns from, and how.
pub fn tiny(rest: &str) -> Recipe {
    Recipe::parse(&format!("{}{rest}", include_str!("tiny.toml")), Path::new("tiny.toml")).unwrap()
}

/// A small model of another shape, with fewer key heads than query heads and two dense layers.
pub fn small() -> Config {
    Config {
        vocab_size: 90,
        hidden_size: 24,
        intermediate_size: 36,
        moe_intermediate_size: 12,
        num_hidden_layers: 4,
        first_k_dense_replace: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 8,
        n_routed_experts: 6,
        num_experts_per_tok: 2,
        n_shared_experts: 1,
        ..Config::dots_llm1()
    }
}

/// Sequences that are owned.
#[derive(Debug, Clone, Default)]
pub struct Sequences {
    pub length: usize,
    pub tokens: Vec<u32>,
    pub attend_from: Vec<u32>,
    pub targets: Vec<u32>,
}

impl Sequences {
    /// Whole sequences of one document each.
    pub fn whole(tokens: &[Vec<u32>]) -> Self {
        let mut all = Self { length: tokens[0].len(), ..Self::default() };
        for tokens in tokens {
            let targets = tokens[1..].iter().copied().chain([NO_TARGET]);
            all.push(tokens, &vec![0; tokens.len()], &targets.collect::<Vec<_>>());
        }
        all
    }

    pub fn push(&mut self, tokens: &[u32], attend_from: &[u32], targets: &[u32]) {
        self.length = tokens.len();
        self.tokens.extend(tokens);
        self.attend_from.extend(attend_from);
        self.targets.extend(targets);
    }

    pub fn count(&self) -> usize {
        self.tokens.len() / self.length
    }

    pub fn batch(&self) -> MicroBatch<'_> {
        self.some(0..self.count())
    }

    /// Some of them.
    pub fn some(&self, which: std::ops::Range<usize>) -> MicroBatch<'_> {
        let at = which.start * self.length..which.end * self.length;
        MicroBatch {
            sequence_tokens: self.length,
            tokens: &self.tokens[at.clone()],
            attend_from: &self.attend_from[at.clone()],
            targets: &self.targets[at],
        }
    }

    pub fn totals(&self) -> Totals {
        let targets = self.targets.iter().filter(|target| **target != NO_TARGET).count();
        Totals { targets: targets as u64, sequences: self.count() as u64 }
    }
}

/// The sequences of the `recipe` golden.
pub fn recipe() -> Sequences {
    let golden = json("recipe/golden.json");
    let rows = |field: &str| serde_json::from_value::<Vec<Vec<u32>>>(golden[field].clone()).unwrap();
    let mut sequences = Sequences::default();
    for ((tokens, documents), mask) in rows("tokens").iter().zip(rows("documents")).zip(rows("target_mask")) {
        let first = |at: usize| documents.iter().position(|document| *document == documents[at]).unwrap() as u32;
        let attend_from: Vec<u32> = (0..tokens.len()).map(first).collect();
        let target = |at: usize| if mask[at] == 1 { tokens[at + 1] } else { NO_TARGET };
        let targets: Vec<u32> = (0..tokens.len()).map(target).collect();
        sequences.push(tokens, &attend_from, &targets);
    }
    sequences
}

/// Some documents for [`small`], some positions without a target.
pub fn documents() -> Sequences {
    let length = 21;
    let mut sequences = Sequences::default();
    for sequence in 0..5u32 {
        let tokens: Vec<u32> = (0..length).map(|i| (i * i * 7 + sequence * 31 + i) % 90).collect();
        let attend_from: Vec<u32> = (0..length).map(|i| if i < 8 + sequence { 0 } else { 8 + sequence }).collect();
        let target = |i: u32| if (i + sequence) % 4 == 3 { NO_TARGET } else { (i * 5 + sequence) % 90 };
        sequences.push(&tokens, &attend_from, &(0..length).map(target).collect::<Vec<_>>());
    }
    sequences
}

/// One step over all of `sequences`, cut into micro-batches of so many.
pub fn step(step: &mut impl Step, sequences: &Sequences, micro_batches: &[usize], dials: Dials) -> StepReport {
    accumulate(step, sequences, micro_batches, dials);
    step.update().unwrap()
}

/// The same without the update.
pub fn accumulate(step: &mut impl Step, sequences: &Sequences, micro_batches: &[usize], dials: Dials) {
    step.begin(sequences.totals(), dials).unwrap();
    let mut start = 0;
    for count in micro_batches {
        step.forward_backward(&sequences.some(start..start + count)).unwrap();
        start += count;
    }
    assert_eq!(start, sequences.count());
}

/// Every gradient by name.
pub fn gradients(step: &CpuStep) -> HashMap<String, Vec<f32>> {
    let gradient = |parameter: &dots_train::cpu::Parameter| step.gradients()[parameter.range()].to_vec();
    step.parameters().iter().map(|parameter| (parameter.name.clone(), gradient(parameter))).collect()
}

/// Every tensor of a kind by name.
pub fn state(step: &mut impl Step, kind: StateKind) -> HashMap<String, Vec<f32>> {
    let mut all = HashMap::new();
    let mut give = |tensor: dots_train::step::StateTensor<'_>| {
        if tensor.kind == kind {
            assert_eq!(tensor.shape.iter().product::<usize>(), tensor.numbers.len());
            assert!(all.insert(tensor.name.to_owned(), tensor.numbers.to_vec()).is_none(), "{} twice", tensor.name);
        }
        Ok(())
    };
    step.export(&mut give).unwrap();
    all
}

/// `‖got − want‖ / ‖want‖`, and 0 where both are zero throughout.
pub fn distance(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let off = norm(&mut got.iter().zip(want).map(|(got, want)| f64::from(*got) - f64::from(*want)));
    if off == 0.0 { 0.0 } else { off / norm(&mut want.iter().map(|x| f64::from(*x))) }
}
