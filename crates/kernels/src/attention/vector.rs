//! What the AVX-512 kernels share: powers of two, and the rows' running results.

use std::arch::x86_64::*;

use super::{SPAN, Work};

/// Scores are multiplied by this, so that weights are powers of two.
pub(crate) const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// 2^x to 3e-6 of itself for x up to 0; at least 2^-126, which is nothing beside a row's largest weight, 1.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(crate) fn exp2(x: __m512) -> __m512 {
    // A least-squares fit of 2^x - 1 on 0 to 1, relative to 2^x.
    const FIT: [f32; 4] = [0.693_044, 0.241_282_69, 0.052_240_897, 0.013_426_551];
    let x = _mm512_max_ps(x, _mm512_set1_ps(-126.0));
    // x less its floor, which `scalef` takes again.
    let fraction = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
    let mut power = _mm512_set1_ps(FIT[3]);
    for factor in [FIT[2], FIT[1], FIT[0], 1.0] {
        power = _mm512_fmadd_ps(power, fraction, _mm512_set1_ps(factor));
    }
    _mm512_scalef_ps(power, x)
}

/// The lanes below `count`, of 16.
#[inline(always)]
pub(crate) fn lanes(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}

/// Raises `row`'s largest score to that of `scores: (SPAN)`, of which the first `valid` count. Gives the new one, and what
/// the row's results so far are to be multiplied by.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn raise_top(work: &mut Work, row: usize, scores: usize, valid: usize) -> (f32, f32) {
    let mut tops = _mm512_set1_ps(f32::NEG_INFINITY);
    for (i, scores) in work.scores[scores..][..SPAN].as_chunks::<16>().0[..valid.div_ceil(16)].iter().enumerate() {
        // SAFETY: 16 numbers.
        let scores = unsafe { _mm512_loadu_ps(scores.as_ptr()) };
        tops = _mm512_mask_max_ps(tops, lanes(valid - 16 * i), tops, scores);
    }
    let old = work.tops[row];
    let top = _mm512_reduce_max_ps(tops);
    let top = if top > old { top } else { old };
    let keep = if top == old { 1.0 } else { _mm512_cvtss_f32(exp2(_mm512_set1_ps(old - top))) };
    work.tops[row] = top;
    (top, keep)
}

/// Asks for a cache line.
#[inline(always)]
pub(super) fn prefetch(at: *const u8) {
    // SAFETY: a prefetch reads nothing that the program sees, and never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) };
}
