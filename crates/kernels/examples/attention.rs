//! Times attention by itself: `cargo run --release -p dots-kernels --example attention [DEPTH] [THREADS] [TYPE]`.
//!
//! 32 heads of 128 over a cache of each type: a prompt of 512 rows in GFLOP/s, single rows in GB/s of keys and values. Several
//! layers take turns, so that a single row finds nothing in the processor's caches.

use std::time::Instant;

use dots_kernels::{
    Compute,
    attention::{AttentionSlice, BLOCK_TOKENS, CacheMemory, CacheShape, CacheType, LayerCache},
};

const HEADS: usize = 32;
const HEAD_DIM: usize = 128;
const ROWS: usize = 512;
const LAYERS: usize = 4;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| arguments.get(i).map(|x| x.parse().expect("expected a number"));
    let depth: usize = number(0).unwrap_or(4096);
    let compute = Compute::new(number(1).unwrap_or(0), 0).with_heads(HEAD_DIM);
    let width = HEADS * HEAD_DIM;
    let blocks = (depth + ROWS).div_ceil(BLOCK_TOKENS);
    let table: Vec<u32> = (0..blocks as u32).collect();
    let q: Vec<f32> = (0..ROWS * width).map(|i| ((i * 7919 % 1000) as f32 / 500.0 - 1.0) * 2.0).collect();
    let mut out = vec![0.0; ROWS * width];
    let best = |runs: usize, run: &mut dyn FnMut()| {
        (0..runs)
            .map(|_| {
                let start = Instant::now();
                run();
                start.elapsed().as_secs_f64()
            })
            .fold(f64::INFINITY, f64::min)
    };
    for kind in CacheType::ALL.into_iter().filter(|kind| arguments.get(2).is_none_or(|name| name == kind.name())) {
        let shape = CacheShape { kind, kv_heads: HEADS, head_dim: HEAD_DIM };
        let layer_bytes = blocks * shape.block_bytes();
        let mut memory = CacheMemory::new(LAYERS * layer_bytes).expect("enough memory");
        let mut store_seconds = f64::INFINITY;
        for layer in memory.bytes_mut().chunks_mut(layer_bytes) {
            for start in (0..blocks * BLOCK_TOKENS).step_by(ROWS) {
                let rows = ROWS.min(blocks * BLOCK_TOKENS - start);
                let places: Vec<_> =
                    (start..start + rows).map(|p| (table[p / BLOCK_TOKENS], p % BLOCK_TOKENS)).collect();
                store_seconds = store_seconds.min(best(1, &mut || {
                    compute.store(layer, shape, &places, &q[..rows * width], &q[..rows * width]);
                }));
            }
        }
        let layers: Vec<_> = memory.bytes().chunks(layer_bytes).map(|bytes| LayerCache::new(bytes, shape)).collect();
        let prompt = AttentionSlice { first_row: 0, rows: ROWS, start: depth, block_table: &table };
        let seconds = best(3, &mut || compute.attention(&q, HEADS, layers[0], &[prompt], &mut out));
        let pairs: usize = (depth + 1..=depth + ROWS).sum();
        let operations = 4.0 * (pairs * width) as f64;
        let row = AttentionSlice { rows: 1, ..prompt };
        let row_seconds = best(5, &mut || {
            for layer in &layers {
                compute.attention(&q[..width], HEADS, *layer, &[row], &mut out[..width]);
            }
        }) / LAYERS as f64;
        let bytes = ((depth + 1) * shape.block_bytes() / BLOCK_TOKENS) as f64;
        println!(
            "{:>4}: {ROWS} rows at {depth}: {:6.1} ms, {:5.0} GFLOP/s; stored in {:4.1} ms; one row: {:6.3} ms, {:4.1} GB/s",
            kind.name(),
            1e3 * seconds,
            operations / seconds / 1e9,
            1e3 * store_seconds,
            1e3 * row_seconds,
            bytes / row_seconds / 1e9
        );
    }
}
