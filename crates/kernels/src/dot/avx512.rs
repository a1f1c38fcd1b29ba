//! Tiles in AVX-512 with VNNI.
//!
//! Callers have checked every length (see the parent module), so loads go by pointer.

use std::arch::x86_64::*;

use super::{CodeRows, QuantisedRow};
use crate::unpack::PAD;

/// Groups of 32: one scale of each side for eight lanes of four products.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub unsafe fn dot_quantised_32<const R: usize, const M: usize>(
    weights: CodeRows<'_>,
    first: usize,
    x: [QuantisedRow<'_>; M],
) -> [[f32; M]; R] {
    let groups = weights.cols / 32;
    let spread = [
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1),
        _mm512_setr_epi32(2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3),
    ];
    let mut sums = [[_mm512_setzero_ps(); M]; R];
    for step in 0..weights.cols / PAD {
        let mut scales = [_mm_setzero_ps(); R];
        for r in 0..R {
            // SAFETY: `scales` holds `groups` for each of the rows up to `first + R`, four of them a step.
            scales[r] = unsafe { _mm_loadu_ps(weights.scales.as_ptr().add((first + r) * groups + 4 * step)) };
        }
        for m in 0..M {
            // SAFETY: `x.scales` holds `groups`, four of them a step.
            let x_scales = unsafe { _mm_loadu_ps(x[m].scales.as_ptr().add(4 * step)) };
            for r in 0..R {
                let scale = _mm512_castps128_ps512(_mm_mul_ps(scales[r], x_scales));
                for half in 0..2 {
                    let at = step * PAD + half * 64;
                    // SAFETY: both sides hold `cols` codes, a multiple of `PAD`.
                    let (w, x) = unsafe {
                        (
                            _mm512_loadu_si512(weights.codes.as_ptr().add((first + r) * weights.cols + at).cast()),
                            _mm512_loadu_si512(x[m].codes.as_ptr().add(at).cast()),
                        )
                    };
                    let dots = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x));
                    let scale = _mm512_permutexvar_ps(spread[half], scale);
                    sums[r][m] = _mm512_fmadd_ps(dots, scale, sums[r][m]);
                }
            }
        }
    }
    let mut out = [[0.0; M]; R];
    for r in 0..R {
        for m in 0..M {
            let mut bias = _mm512_setzero_ps();
            for step in 0..groups.div_ceil(16) {
                let left = groups - 16 * step;
                let mask = if left >= 16 { u16::MAX } else { (1 << left) - 1 };
                // SAFETY: masked to the `groups` biases of the row, and to twice as many sums.
                let (biases, low, high) = unsafe {
                    let sums = x[m].sums.as_ptr().add(32 * step);
                    let (mask_low, mask_high) = sum_masks(left);
                    (
                        _mm512_maskz_loadu_ps(mask, weights.biases.as_ptr().add((first + r) * groups + 16 * step)),
                        _mm512_maskz_loadu_ps(mask_low, sums),
                        _mm512_maskz_loadu_ps(mask_high, sums.wrapping_add(16)),
                    )
                };
                bias = _mm512_fmadd_ps(biases, add_pairs(low, high), bias);
            }
            out[r][m] = _mm512_reduce_add_ps(_mm512_add_ps(sums[r][m], bias));
        }
    }
    out
}

/// Masks of the first and second sixteen of `2 · left` sums.
#[inline(always)]
fn sum_masks(left: usize) -> (u16, u16) {
    let bits = if left >= 16 { u32::MAX } else { (1 << (2 * left)) - 1 };
    (bits as u16, (bits >> 16) as u16)
}

/// `(a0 + a1, a2 + a3, …, b14 + b15)`.
#[target_feature(enable = "avx512f")]
fn add_pairs(a: __m512, b: __m512) -> __m512 {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    _mm512_add_ps(_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
}

/// Groups of 16: one weight scale for four lanes, one activation scale for eight.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub unsafe fn dot_quantised_16<const R: usize, const M: usize>(
    weights: CodeRows<'_>,
    first: usize,
    x: [QuantisedRow<'_>; M],
) -> [[f32; M]; R] {
    let groups = weights.cols / 16;
    let spread = [
        _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3),
        _mm512_setr_epi32(4, 4, 4, 4, 5, 5, 5, 5, 6, 6, 6, 6, 7, 7, 7, 7),
    ];
    let twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    let mut sums = [[_mm512_setzero_ps(); M]; R];
    for step in 0..weights.cols / PAD {
        let mut scales = [_mm256_setzero_ps(); R];
        for r in 0..R {
            // SAFETY: `scales` holds `groups` for each of the rows up to `first + R`, eight of them a step.
            scales[r] = unsafe { _mm256_loadu_ps(weights.scales.as_ptr().add((first + r) * groups + 8 * step)) };
        }
        for m in 0..M {
            // SAFETY: `x.scales` holds `cols / 32`, four of them a step.
            let x_scales = unsafe { _mm_loadu_ps(x[m].scales.as_ptr().add(4 * step)) };
            let x_scales = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(x_scales), twice);
            for r in 0..R {
                let scale = _mm512_castps256_ps512(_mm256_mul_ps(scales[r], x_scales));
                for half in 0..2 {
                    let at = step * PAD + half * 64;
                    // SAFETY: both sides hold `cols` codes, a multiple of `PAD`.
                    let (w, x) = unsafe {
                        (
                            _mm512_loadu_si512(weights.codes.as_ptr().add((first + r) * weights.cols + at).cast()),
                            _mm512_loadu_si512(x[m].codes.as_ptr().add(at).cast()),
                        )
                    };
                    let dots = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x));
                    let scale = _mm512_permutexvar_ps(spread[half], scale);
                    sums[r][m] = _mm512_fmadd_ps(dots, scale, sums[r][m]);
                }
            }
        }
    }
    let mut out = [[0.0; M]; R];
    for r in 0..R {
        for m in 0..M {
            let mut bias = _mm512_setzero_ps();
            for step in 0..groups.div_ceil(16) {
                let left = groups - 16 * step;
                let mask = if left >= 16 { u16::MAX } else { (1 << left) - 1 };
                // SAFETY: masked to the `groups` biases of the row and as many sums.
                let (biases, x_sums) = unsafe {
                    (
                        _mm512_maskz_loadu_ps(mask, weights.biases.as_ptr().add((first + r) * groups + 16 * step)),
                        _mm512_maskz_loadu_ps(mask, x[m].sums.as_ptr().add(16 * step)),
                    )
                };
                bias = _mm512_fmadd_ps(biases, x_sums, bias);
            }
            out[r][m] = _mm512_reduce_add_ps(_mm512_add_ps(sums[r][m], bias));
        }
    }
    out
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
pub unsafe fn dot_f32<const R: usize, const M: usize>(
    weights: &[f32],
    first: usize,
    cols: usize,
    x: [&[f32]; M],
) -> [[f32; M]; R] {
    let mut sums = [[[_mm512_setzero_ps(); 2]; M]; R];
    for step in 0..cols.div_ceil(32) {
        for half in 0..2 {
            let at = 32 * step + 16 * half;
            let left = cols.saturating_sub(at);
            let mask = if left >= 16 { u16::MAX } else { (1 << left) - 1 };
            let mut rows = [_mm512_setzero_ps(); R];
            for r in 0..R {
                // SAFETY: masked to the row's `cols` numbers; `weights` holds `first + R` rows.
                rows[r] =
                    unsafe { _mm512_maskz_loadu_ps(mask, weights.as_ptr().wrapping_add((first + r) * cols + at)) };
            }
            for m in 0..M {
                // SAFETY: masked to the `cols` numbers that each row of `x` holds.
                let x = unsafe { _mm512_maskz_loadu_ps(mask, x[m].as_ptr().wrapping_add(at)) };
                for r in 0..R {
                    sums[r][m][half] = _mm512_fmadd_ps(rows[r], x, sums[r][m][half]);
                }
            }
        }
    }
    let mut out = [[0.0; M]; R];
    for r in 0..R {
        for m in 0..M {
            out[r][m] = _mm512_reduce_add_ps(_mm512_add_ps(sums[r][m][0], sums[r][m][1]));
        }
    }
    out
}
