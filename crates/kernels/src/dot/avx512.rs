//! Tiles in AVX-512.
//!
//! Callers have checked every length (see the parent module), so loads go by pointer.

use std::arch::x86_64::*;

/// `R × M` dot products.
///
/// # Safety
/// The processor must have these instructions; rows must be as long as the caller checks.
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
