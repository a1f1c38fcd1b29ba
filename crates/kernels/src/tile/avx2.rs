//! Tiles in AVX2. Callers have checked every length (see the parent module), so loads go by pointer.

use std::arch::x86_64::*;

use super::{ROWS, Tile};
use crate::{
    WeightType,
    activations::{BLOCK_GROUPS, QuantisedGroup},
    packed::{Q3_LEVELS, Q4_LEVELS, TILE, VECTOR},
};

/// Adds products to `sums: (M, ROWS)`. `SIXTEENS`: a scale for each 16 weights; `MINS`: with minimums, codes from 0 on.
///
/// Even and odd codes are widened to 16 bits each: `maddubs` would saturate on codes of eight bits.
///
/// # Safety
/// The processor must have these instructions; `x` must hold the tile's columns.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn multiply_add<const M: usize, const SIXTEENS: bool, const MINS: bool>(
    tile: &Tile,
    x: [&[QuantisedGroup]; M],
    sums: &mut [[f32; ROWS]; M],
) {
    let bytes = _mm256_set1_epi16(0xff);
    let per_group = if SIXTEENS { 2 } else { 1 };
    // Eight rows at a time: their sums stay in registers.
    for rows in [0, 8] {
        let mut acc = [_mm256_setzero_ps(); M];
        for m in 0..M {
            // SAFETY: eight of sixteen numbers; the load needs no alignment.
            acc[m] = unsafe { _mm256_loadu_ps(sums[m].as_ptr().add(rows)) };
        }
        let mut block = [_mm256_setzero_ps(); M];
        for group in 0..tile.cols / 32 {
            // SAFETY: the tile holds `cols / 32` groups of sixteen rows' scales and minimums.
            let numbers = |from: &[f32], i: usize| unsafe {
                _mm256_loadu_ps(from.as_ptr().add((per_group * group + i) * ROWS + rows))
            };
            let mut first = [_mm256_setzero_si256(); M];
            for half in 0..2 {
                let mut dots = [_mm256_setzero_si256(); M];
                if !MINS {
                    for m in 0..M {
                        dots[m] = _mm256_set1_epi32(x[m][group].offsets[half]);
                    }
                }
                for four in 0..4 {
                    let v = 4 * half + four;
                    // SAFETY: the tile holds `cols / 32` groups of eight vectors, eight rows in each half of one.
                    let w = unsafe {
                        _mm256_loadu_si256(tile.codes.as_ptr().add(group * TILE + v * VECTOR + 4 * rows).cast())
                    };
                    let (even, odd) = (_mm256_and_si256(w, bytes), _mm256_srli_epi16::<8>(w));
                    for m in 0..M {
                        let codes = &x[m][group].codes.as_chunks::<4>().0[v];
                        let x = _mm256_set1_epi32(i32::from_le_bytes(codes.map(|code| code as u8)));
                        let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
                        let x_odd = _mm256_srai_epi16::<8>(x);
                        let products = _mm256_add_epi32(_mm256_madd_epi16(even, x_even), _mm256_madd_epi16(odd, x_odd));
                        dots[m] = _mm256_add_epi32(dots[m], products);
                    }
                }
                for m in 0..M {
                    let x = &x[m][group];
                    let dots = _mm256_sllv_epi32(dots[m], _mm256_set1_epi32(x.exponents[half]));
                    if SIXTEENS {
                        block[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots), numbers(&tile.scales, half), block[m]);
                        if MINS {
                            let x_sum = _mm256_set1_ps(x.sums_of_16[half]);
                            block[m] = _mm256_fmadd_ps(numbers(&tile.mins, half), x_sum, block[m]);
                        }
                    } else if half == 0 {
                        first[m] = dots;
                    } else {
                        let both = _mm256_cvtepi32_ps(_mm256_add_epi32(first[m], dots));
                        block[m] = _mm256_fmadd_ps(both, numbers(&tile.scales, 0), block[m]);
                        if MINS {
                            block[m] = _mm256_fmadd_ps(numbers(&tile.mins, 0), _mm256_set1_ps(x.sum_of_32), block[m]);
                        }
                    }
                }
            }
            if (group + 1).is_multiple_of(BLOCK_GROUPS) || group + 1 == tile.cols / 32 {
                for m in 0..M {
                    acc[m] = _mm256_fmadd_ps(block[m], _mm256_set1_ps(x[m][group].scale), acc[m]);
                    block[m] = _mm256_setzero_ps();
                }
            }
        }
        for m in 0..M {
            // SAFETY: eight of sixteen numbers; the store needs no alignment.
            unsafe { _mm256_storeu_ps(sums[m].as_mut_ptr().add(rows), acc[m]) };
        }
    }
}

/// The 8 vectors of one packed tile, each code replaced by its level plus 128.
///
/// # Safety
/// The processor must have these instructions; `codes` must hold one tile of `kind`.
#[target_feature(enable = "avx2")]
pub unsafe fn unpack_tile(kind: WeightType, codes: &[u8], out: &mut [u8; TILE]) {
    for v in 0..8 {
        for half in [0, 32] {
            // SAFETY: a tile has as many registers of 64 bytes as a code has bits, and none beyond is asked for.
            let plane = |at: usize| unsafe { _mm256_loadu_si256(codes.as_ptr().add(at * VECTOR + half).cast()) };
            let bits = |at: usize, shift: usize, mask: i8| {
                let shifted = _mm256_srl_epi16(plane(at), _mm_cvtsi32_si128(shift as i32));
                _mm256_and_si256(shifted, _mm256_set1_epi8(mask))
            };
            let raise = |code: __m256i, by: i8| _mm256_add_epi8(code, _mm256_set1_epi8(by));
            let level = match kind {
                WeightType::Q3_D => {
                    let code = _mm256_or_si256(bits(v / 4, 2 * (v % 4), 3), _mm256_slli_epi16::<2>(bits(2, v, 1)));
                    raise(_mm256_shuffle_epi8(table(std::array::from_fn(|i| Q3_LEVELS[i % 8])), code), -128)
                }
                WeightType::Q4_D => raise(_mm256_shuffle_epi8(table(Q4_LEVELS), bits(v / 2, 4 * (v % 2), 15)), -128),
                WeightType::Q5_D => {
                    let code = _mm256_or_si256(bits(v / 2, 4 * (v % 2), 15), _mm256_slli_epi16::<4>(bits(4, v, 1)));
                    raise(code, 112)
                }
                WeightType::Q6_D => {
                    let high = _mm256_slli_epi16::<4>(bits(4 + v / 4, 2 * (v % 4), 3));
                    raise(_mm256_or_si256(bits(v / 2, 4 * (v % 2), 15), high), 96)
                }
                _ => plane(v),
            };
            // SAFETY: half a vector; the store needs no alignment.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(v * VECTOR + half).cast(), level) };
        }
    }
}

/// A table of sixteen numbers for [`_mm256_shuffle_epi8`].
#[inline]
#[target_feature(enable = "avx2")]
fn table(levels: [i8; 16]) -> __m256i {
    // SAFETY: sixteen bytes; the load needs no alignment.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(levels.as_ptr().cast()) })
}
