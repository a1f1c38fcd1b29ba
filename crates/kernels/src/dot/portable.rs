//! The plain reference of every tile, vectorised by the compiler.

use super::{CodeRows, QuantisedRow};

/// Partial sums kept side by side.
const LANES: usize = 16;

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction, `mul_add` is a slow call.
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Adds lanes as a tree.
#[inline(always)]
fn sum(lanes: [f32; LANES]) -> f32 {
    let mut lanes = lanes;
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

#[inline(always)]
pub fn dot_quantised<const R: usize, const M: usize>(
    weights: CodeRows<'_>,
    first: usize,
    x: [QuantisedRow<'_>; M],
) -> [[f32; M]; R] {
    std::array::from_fn(|r| {
        let row = first + r;
        let groups = weights.cols / weights.group;
        let codes = &weights.codes[row * weights.cols..(row + 1) * weights.cols];
        let scales = &weights.scales[row * groups..(row + 1) * groups];
        let biases = &weights.biases[row * groups..(row + 1) * groups];
        std::array::from_fn(|m| match weights.group {
            16 => dot_row::<16>(codes, scales, biases, x[m]),
            _ => dot_row::<32>(codes, scales, biases, x[m]),
        })
    })
}

#[inline(always)]
fn dot_row<const G: usize>(codes: &[u8], scales: &[f32], biases: &[f32], x: QuantisedRow<'_>) -> f32 {
    let mut total = 0.0;
    let (codes, _) = codes.as_chunks::<G>();
    let (x_codes, _) = x.codes.as_chunks::<G>();
    for (group, (codes, x_codes)) in codes.iter().zip(x_codes).enumerate() {
        let mut dot = 0i32;
        for i in 0..G {
            dot += i32::from(codes[i]) * i32::from(x_codes[i]);
        }
        let x_sum = if G == 16 { x.sums[group] } else { x.sums[2 * group] + x.sums[2 * group + 1] };
        total += scales[group] * x.scales[group * G / 32] * dot as f32 + biases[group] * x_sum;
    }
    total
}

#[inline(always)]
pub fn dot_f32<const R: usize, const M: usize, const FUSED: bool>(
    weights: &[f32],
    first: usize,
    cols: usize,
    x: [&[f32]; M],
) -> [[f32; M]; R] {
    std::array::from_fn(|r| {
        let row = &weights[(first + r) * cols..(first + r + 1) * cols];
        std::array::from_fn(|m| {
            let mut lanes = [[0.0f32; LANES]; 2];
            let (row, row_rest) = row.as_chunks::<{ 2 * LANES }>();
            let (x, x_rest) = x[m].as_chunks::<{ 2 * LANES }>();
            for (w, x) in row.iter().zip(x) {
                for half in 0..2 {
                    for i in 0..LANES {
                        let at = half * LANES + i;
                        lanes[half][i] = multiply_add::<FUSED>(w[at], x[at], lanes[half][i]);
                    }
                }
            }
            for (i, (w, x)) in row_rest.iter().zip(x_rest).enumerate() {
                let (half, lane) = (i / LANES, i % LANES);
                lanes[half][lane] = multiply_add::<FUSED>(*w, *x, lanes[half][lane]);
            }
            sum(std::array::from_fn(|i| lanes[0][i] + lanes[1][i]))
        })
    })
}
