//! The plain reference.

use super::{ROWS, Tile};
use crate::activations::QuantisedRow;

/// `(ROWS, len)` to `(len, ROWS)`.
pub fn interleave<T: Copy>(rows: &[T], len: usize, out: &mut [T]) {
    for (i, out) in out.chunks_mut(ROWS).take(len).enumerate() {
        for (row, out) in out.iter_mut().enumerate() {
            *out = rows[row * len + i];
        }
    }
}

/// `(M, ROWS)` products in groups of `G`.
pub fn dot<const M: usize, const G: usize>(tile: &Tile, x: [QuantisedRow<'_>; M]) -> [[f32; ROWS]; M] {
    x.map(|x| {
        let (mut sums, mut biases) = ([0.0f32; ROWS], [0.0f32; ROWS]);
        let groups = tile.codes.chunks(ROWS * G).zip(tile.scales.chunks(ROWS)).zip(tile.biases.chunks(ROWS));
        for (group, ((codes, scales), group_biases)) in groups.take(tile.groups).enumerate() {
            for (i, codes) in codes.chunks(16 * ROWS).enumerate() {
                let sixteen = group * G / 16 + i;
                let mut dots = [0i32; ROWS];
                for (codes, x) in codes.chunks(4 * ROWS).zip(x.codes[16 * sixteen..].chunks(4)) {
                    for row in 0..ROWS {
                        for i in 0..4 {
                            dots[row] += i32::from(codes[4 * row + i]) * i32::from(x[i]);
                        }
                    }
                }
                for row in 0..ROWS {
                    sums[row] = (dots[row] as f32).mul_add(scales[row] * x.scales[sixteen], sums[row]);
                }
            }
            let x_sum = if G == 16 { x.sums_of_16[group] } else { x.sums_of_32[group] };
            for row in 0..ROWS {
                biases[row] = group_biases[row].mul_add(x_sum, biases[row]);
            }
        }
        std::array::from_fn(|row| sums[row] + biases[row])
    })
}
