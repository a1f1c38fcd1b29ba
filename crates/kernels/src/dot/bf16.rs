//! Tiles in AVX-512 BF16.
//!
//! An instruction takes two products into each of sixteen sums, so a row's numbers are taken 32 at a time, where they lie: lane `i`
//! sums the products of all pairs `2 i, 2 i + 1` modulo 32. The numbers that the parent's reference gives differ from these in
//! the order of the sum alone.

use std::arch::x86_64::*;

use crate::prefetch::prefetch;

/// Rows of activations up to which time goes into reading weights, which are then asked for ahead.
const FEW: usize = 2;

/// `R × M` dot products.
///
/// # Safety
/// The processor must have these instructions; rows must be as long as the caller checks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn dot<const R: usize, const M: usize>(rows: [&[u8]; R], cols: usize, x: [&[u16]; M]) -> [[f32; M]; R] {
    let mut sums = [[_mm512_setzero_ps(); M]; R];
    for step in 0..cols.div_ceil(32) {
        let left = cols - 32 * step;
        let mask = if left >= 32 { u32::MAX } else { (1 << left) - 1 };
        let mut weights = [_mm512_setzero_si512(); R];
        for r in 0..R {
            let at = rows[r].as_ptr().wrapping_add(64 * step);
            if M <= FEW {
                // The same place in the tile that follows.
                prefetch(at.wrapping_add(R * 2 * cols), 64);
            }
            // SAFETY: masked to the row's `2 · cols` bytes.
            weights[r] = unsafe { _mm512_maskz_loadu_epi16(mask, at.cast()) };
        }
        for m in 0..M {
            // SAFETY: each row of `x` holds a multiple of 32 numbers that is not less than `cols`.
            let x = bf16s(unsafe { _mm512_loadu_si512(x[m].as_ptr().wrapping_add(32 * step).cast()) });
            for r in 0..R {
                sums[r][m] = _mm512_dpbf16_ps(sums[r][m], bf16s(weights[r]), x);
            }
        }
    }
    std::array::from_fn(|r| std::array::from_fn(|m| _mm512_reduce_add_ps(sums[r][m])))
}

/// The same 512 bits, called 32 bf16 numbers.
#[inline(always)]
fn bf16s(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes of which every pattern is valid.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}
