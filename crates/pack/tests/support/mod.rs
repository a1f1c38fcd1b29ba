//! What the tests of this crate share.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use dots_kernels::{
    Isa,
    decode::{Unpacked, decode_row},
};
use dots_model::{
    Checkpoint,
    checkpoint::Tensor,
    cpu::{CpuExecutor, CpuOptions},
    executor::{Arithmetic, Batch, Executor, Slice, Want},
};
use dots_pack::{Options, Recipe, Summary};

/// A file or folder of `tests/fixtures/goldens`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens").join(name)
}

pub fn open(path: &Path) -> Checkpoint {
    Checkpoint::open(path).unwrap_or_else(|error| panic!("{error}"))
}

/// Options of the recipe `name` with `exceptions`.
pub fn options(name: &str, exceptions: &[&str]) -> Options {
    let mut recipe = Recipe::named(name).unwrap();
    exceptions.iter().for_each(|exception| recipe.except(exception).unwrap());
    Options { recipe, calibration: None, threads: 2 }
}

/// Packs the golden `name` into `out`.
pub fn pack(name: &str, out: &Path, options: &Options) -> Summary {
    dots_pack::pack(&open(&golden(name)), out, options, &mut ()).unwrap_or_else(|error| panic!("{error}"))
}

/// All numbers of a tensor.
pub fn decoded(tensor: &Tensor) -> Vec<f32> {
    let [rows, cols] = tensor.shape[..] else { return tensor.to_f32_vec().unwrap() };
    let mut out = vec![0.0; rows * cols];
    for (row, out) in out.chunks_mut(cols).enumerate() {
        decode_row(Isa::best(), tensor.weights().unwrap(), row, &mut Unpacked::default(), out);
    }
    out
}

/// Σ w (x - y)² / Σ w x²; `weights: (cols)`, or empty.
pub fn relative_error(x: &[f32], y: &[f32], weights: &[f32]) -> f64 {
    assert_eq!(x.len(), y.len());
    let weight = |i: usize| weights.get(i % weights.len().max(1)).map_or(1.0, |w| f64::from(*w));
    let sum = |f: &dyn Fn(usize) -> f64| (0..x.len()).map(|i| weight(i) * f(i)).sum::<f64>();
    sum(&|i| f64::from(x[i] - y[i]).powi(2)) / sum(&|i| f64::from(x[i]).powi(2))
}

/// Every file of `folder` by name.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

/// A copy of a flat folder.
pub fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    files(folder).iter().for_each(|(name, bytes)| std::fs::write(copy.path().join(name), bytes).unwrap());
    copy
}

/// Logits at every position of `tokens`: `(tokens, vocab)`.
pub fn logits(checkpoint: &Checkpoint, arithmetic: Arithmetic, tokens: &[u32]) -> Vec<Vec<f32>> {
    let options = CpuOptions {
        arithmetic,
        cache_type: arithmetic.cache_type(),
        threads: 2,
        cache_tokens: 256,
        max_batch_tokens: 256,
    };
    let mut executor = CpuExecutor::new(checkpoint, &options).unwrap();
    let block_table: Vec<u32> = (0..8).collect();
    let wants: Vec<Want<'_>> = (0..tokens.len()).map(|row| Want { row, logits: true, ..Want::default() }).collect();
    let slices = vec![Slice { tokens, start: 0, block_table: &block_table, wants: &wants }];
    let ticket = executor.submit(&Batch { slices }).unwrap();
    executor.collect(ticket).rows.iter().map(|row| row.logits.clone().unwrap()).collect()
}

pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - top).exp()).sum();
    logits.iter().map(|x| f64::from(x - top) - sum.ln()).collect()
}

/// KL(p ‖ q) of the two softmaxes.
pub fn divergence(p: &[f32], q: &[f32]) -> f64 {
    log_softmax(p).into_iter().zip(log_softmax(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}
