//! Tiles in AVX2. Callers have checked every length (see the parent module), so loads go by pointer.

use std::arch::x86_64::*;

use super::{ROWS, Tile};
use crate::activations::QuantisedRow;

/// `(M, ROWS)` products in groups of `G`.
///
/// Even and odd codes are widened to 16 bits each: `maddubs` would saturate on codes of eight bits.
///
/// # Safety
/// The processor must have these instructions; `tile` and `x` must hold what [`Tile::dot`] checks.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn dot<const M: usize, const G: usize>(tile: &Tile, x: [QuantisedRow<'_>; M]) -> [[f32; ROWS]; M] {
    let zero = _mm256_setzero_ps();
    let (mut sums, mut biases) = ([[zero; 2]; M], [[zero; 2]; M]);
    let bytes = _mm256_set1_epi16(0xff);
    for group in 0..tile.groups {
        let (mut scales, mut group_biases) = ([zero; 2], [zero; 2]);
        for half in 0..2 {
            // SAFETY: the tile holds `groups` scales and biases of sixteen rows, eight rows in each half.
            unsafe {
                scales[half] = _mm256_loadu_ps(tile.scales.as_ptr().add(ROWS * group + 8 * half));
                group_biases[half] = _mm256_loadu_ps(tile.biases.as_ptr().add(ROWS * group + 8 * half));
            }
        }
        for sixteen in group * G / 16..(group + 1) * G / 16 {
            let mut dots = [[_mm256_setzero_si256(); 2]; M];
            for at in (16 * sixteen..16 * (sixteen + 1)).step_by(4) {
                let mut even = [_mm256_setzero_si256(); 2];
                let mut odd = even;
                for half in 0..2 {
                    // SAFETY: the tile holds `groups · G` codes of sixteen rows, eight rows in each half.
                    let w = unsafe { _mm256_loadu_si256(tile.codes.as_ptr().add(ROWS * at + 32 * half).cast()) };
                    even[half] = _mm256_and_si256(w, bytes);
                    odd[half] = _mm256_srli_epi16::<8>(w);
                }
                for m in 0..M {
                    // SAFETY: the row holds `groups · G` codes; the read needs no alignment.
                    let x = unsafe { x[m].codes.as_ptr().add(at).cast::<i32>().read_unaligned() };
                    let x = _mm256_set1_epi32(x);
                    let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
                    let x_odd = _mm256_srai_epi16::<8>(x);
                    for half in 0..2 {
                        let products = _mm256_add_epi32(
                            _mm256_madd_epi16(even[half], x_even),
                            _mm256_madd_epi16(odd[half], x_odd),
                        );
                        dots[m][half] = _mm256_add_epi32(dots[m][half], products);
                    }
                }
            }
            for m in 0..M {
                let x_scale = _mm256_set1_ps(x[m].scales[sixteen]);
                for half in 0..2 {
                    let scale = _mm256_mul_ps(scales[half], x_scale);
                    sums[m][half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[m][half]), scale, sums[m][half]);
                }
            }
        }
        for m in 0..M {
            let x_sum = _mm256_set1_ps(if G == 16 { x[m].sums_of_16[group] } else { x[m].sums_of_32[group] });
            for half in 0..2 {
                biases[m][half] = _mm256_fmadd_ps(group_biases[half], x_sum, biases[m][half]);
            }
        }
    }
    let mut out = [[0.0; ROWS]; M];
    for m in 0..M {
        for half in 0..2 {
            // SAFETY: eight of sixteen numbers; the store needs no alignment.
            unsafe {
                _mm256_storeu_ps(out[m].as_mut_ptr().add(8 * half), _mm256_add_ps(sums[m][half], biases[m][half]));
            }
        }
    }
    out
}
