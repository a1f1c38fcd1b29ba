//! How fast products are, by weight type and rows of activations: `cargo run --release -p dots-kernels --example products`.
//! Arguments: types, or none for the usual ones; `TOKENS=1,24` names the rows, `THREADS=1` the threads. Each line says GOP/s, and GB/s
//! of weights: of a matrix in the cache (128 rows), of one in memory, and of experts, eight at a time, out of more than any cache
//! holds.

use std::time::Instant;

use dots_kernels::{Activations, Compute, Job, QuantisedRows, Rows, WeightType, Weights, measure::Machine, packed};

/// Rows and columns of a matrix, and how many there are.
const SHAPES: [(usize, usize, usize); 4] = [(128, 4096, 1), (65_536, 4096, 1), (1408, 4096, 64), (4096, 1408, 64)];

/// Matrices that are multiplied in one call.
const TOGETHER: usize = 8;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = std::env::var("THREADS").ok().and_then(|text| text.parse().ok()).unwrap_or(cores);
    let usual = ["BF16", "F32", "Q4_K", "Q6_K", "Q5_0", "Q8_0", "Q3_D", "Q4_D", "Q5_D", "Q6_D", "Q8_D"];
    let kinds = WeightType::ALL.into_iter().filter(|kind| match asked.is_empty() {
        true => usual.contains(&kind.name()),
        false => asked.iter().any(|name| name == kind.name()),
    });
    if let Some(machine) = Machine::measure(threads, 1 << 28) {
        println!("{machine:?}");
    }
    let widths: Vec<usize> = match std::env::var("TOKENS") {
        Ok(text) => text.split(',').filter_map(|number| number.parse().ok()).collect(),
        Err(_) => vec![1, 2, 4, 8, 24, 128],
    };
    let compute = Compute::new(threads, 4096);
    for kind in kinds {
        for (rows, cols, count) in SHAPES {
            if !cols.is_multiple_of(kind.block_len()) {
                continue;
            }
            let bytes = random(kind, rows * count, cols);
            let weights: Vec<Weights<'_>> = bytes
                .chunks(bytes.len() / count)
                .map(|bytes| Weights::new(kind, rows, cols, bytes, &[]).expect("whole blocks"))
                .collect();
            for &tokens in &widths {
                if rows > 128 && tokens > 24 {
                    continue;
                }
                let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
                let mut q8 = QuantisedRows::default();
                compute.quantise(&x, cols, &mut q8);
                let mut out = vec![vec![0.0; tokens * rows]; TOGETHER];
                let mut seconds: Vec<f64> = (0..if rows > 128 { 5 } else { 400 })
                    .map(|_| {
                        let x = Activations { f32: &x, cols, quantised: Some(&q8) };
                        let start = Instant::now();
                        for weights in weights.chunks(TOGETHER) {
                            let mut jobs: Vec<Job<'_>> = weights
                                .iter()
                                .zip(&mut out)
                                .map(|(&weights, out)| Job { x, weights, rows: Rows::From(0, tokens), out })
                                .collect();
                            compute.products(&mut jobs);
                        }
                        start.elapsed().as_secs_f64()
                    })
                    .collect();
                seconds.sort_by(f64::total_cmp);
                let median = seconds[seconds.len() / 2];
                println!(
                    "{:5} {count:2} of {rows:6} x {cols}  {tokens:4} rows: {:7.1} GOP/s {:6.1} GB/s",
                    kind.name(),
                    2e-9 * (rows * cols * count * tokens) as f64 / median,
                    1e-9 * bytes.len() as f64 / median
                );
            }
        }
    }
}

/// Bytes that decode to small numbers, for timing alone.
fn random(kind: WeightType, rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes = vec![0u8; kind.matrix_bytes(rows, cols).expect("a small shape")];
    let mut state = 1u64;
    for byte in &mut bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (state >> 56) as u8;
    }
    if !kind.is_packed() {
        // Half-precision scales without infinities, wherever they stand.
        bytes.iter_mut().for_each(|byte| *byte &= 0x3b);
    } else {
        let panel = packed::panel_bytes(kind, cols).expect("a small shape");
        for panel in bytes.chunks_mut(panel) {
            let at = panel.len() - 4 * packed::ROWS;
            panel[at..].as_chunks_mut::<4>().0.iter_mut().for_each(|scale| *scale = 1e-5f32.to_le_bytes());
        }
    }
    bytes
}
