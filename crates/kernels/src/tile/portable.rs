//! The plain reference.

use super::{COLS, Form, GROUPS, ROWS, Tile, Unpacked};
use crate::{
    WeightType,
    activations::{BLOCK_GROUPS, QuantisedGroup},
    packed::{TILE, VECTOR},
};

/// Interleaves what [`Unpacked`] holds, codes raised by `raise`.
pub fn interleave(rows: &Unpacked, raise: u8, tile: &mut Tile) {
    for (i, out) in tile.codes.as_chunks_mut::<{ 4 * ROWS }>().0.iter_mut().take(tile.cols / 4).enumerate() {
        for row in 0..ROWS {
            for j in 0..4 {
                out[4 * row + j] = rows.codes[row * COLS + 4 * i + j].wrapping_add(raise);
            }
        }
    }
    for group in 0..tile.cols / tile.form.group_len() {
        for row in 0..ROWS {
            tile.scales[group * ROWS + row] = rows.scales[row * GROUPS + group];
            tile.mins[group * ROWS + row] = rows.mins[row * GROUPS + group];
        }
    }
}

/// The 8 vectors of one packed tile, each code replaced by its level plus 128.
pub fn unpack_tile(kind: WeightType, codes: &[u8], out: &mut [u8; TILE]) {
    for (v, out) in out.as_chunks_mut::<VECTOR>().0.iter_mut().enumerate() {
        let plane = |at: usize| &codes[at..at + VECTOR];
        let (four, two, one) = (v / 2 * VECTOR, v / 4 * VECTOR, 4 * (v % 2));
        match kind {
            WeightType::Q3_D => {
                for ((out, low), high) in out.iter_mut().zip(plane(two)).zip(plane(TILE / 4)) {
                    *out = (low >> (2 * (v % 4))) & 3 | ((high >> v) & 1) << 2;
                }
            }
            WeightType::Q4_D => {
                for (out, low) in out.iter_mut().zip(plane(four)) {
                    *out = (low >> one) & 15;
                }
            }
            WeightType::Q5_D => {
                for ((out, low), high) in out.iter_mut().zip(plane(four)).zip(plane(TILE / 2)) {
                    *out = (low >> one) & 15 | ((high >> v) & 1) << 4;
                }
            }
            WeightType::Q6_D => {
                for ((out, low), high) in out.iter_mut().zip(plane(four)).zip(plane(TILE / 2 + two)) {
                    *out = (low >> one) & 15 | ((high >> (2 * (v % 4))) & 3) << 4;
                }
            }
            _ => out.copy_from_slice(plane(v * VECTOR)),
        }
        out.iter_mut().for_each(|code| *code = kind.level(*code) as u8 ^ 0x80);
    }
}

/// Adds products to `sums: (M, ROWS)`. `SIXTEENS`: a scale for each 16 weights; `MINS`: with minimums, codes from 0 on.
pub fn multiply_add<const M: usize, const SIXTEENS: bool, const MINS: bool>(
    tile: &Tile,
    x: [&[QuantisedGroup]; M],
    sums: &mut [[f32; ROWS]; M],
) {
    debug_assert_eq!(SIXTEENS, matches!(tile.form, Form::Signed16 | Form::WithMin16));
    for (sums, x) in sums.iter_mut().zip(x) {
        let groups = tile.codes.as_chunks::<TILE>().0.iter().zip(x).take(tile.cols / 32);
        let mut block = [0.0f32; ROWS];
        for (group, (codes, x)) in groups.enumerate() {
            let mut dots = [[0i32; ROWS]; 2];
            for (half, dots) in dots.iter_mut().enumerate() {
                if !MINS {
                    *dots = [x.offsets[half]; ROWS];
                }
                let codes = codes[half * TILE / 2..].chunks(VECTOR).zip(x.codes[16 * half..].chunks(4));
                for (codes, x) in codes.take(4) {
                    for row in 0..ROWS {
                        for i in 0..4 {
                            dots[row] += i32::from(codes[4 * row + i]) * i32::from(x[i]);
                        }
                    }
                }
                dots.iter_mut().for_each(|dots| *dots <<= x.exponents[half]);
            }
            for row in 0..ROWS {
                let sum = &mut block[row];
                if SIXTEENS {
                    for half in 0..2 {
                        let at = (2 * group + half) * ROWS + row;
                        *sum = (dots[half][row] as f32).mul_add(tile.scales[at], *sum);
                        if MINS {
                            *sum = tile.mins[at].mul_add(x.sums_of_16[half], *sum);
                        }
                    }
                } else {
                    let at = group * ROWS + row;
                    *sum = ((dots[0][row] + dots[1][row]) as f32).mul_add(tile.scales[at], *sum);
                    if MINS {
                        *sum = tile.mins[at].mul_add(x.sum_of_32, *sum);
                    }
                }
            }
            if (group + 1).is_multiple_of(BLOCK_GROUPS) || group + 1 == tile.cols / 32 {
                sums.iter_mut().zip(block).for_each(|(sum, block)| *sum = block.mul_add(x.scale, *sum));
                block = [0.0; ROWS];
            }
        }
    }
}
