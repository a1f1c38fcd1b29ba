//! Weights and gradients of scores as pairs of bf16, in AVX-512.

use std::{arch::x86_64::*, ops::Range};

use super::{BLOCK, Scratch, backward::Row};
use crate::{
    attention::vector::{LOG2_E, exp2, lanes},
    train::gemm::{
        pack::{LANES, Line, ROW_LINES},
        x86::interleave,
    },
};

/// The lanes of the sixteen from `first` on that lie in `own`.
#[inline(always)]
fn inside(own: &Range<usize>, first: usize) -> __mmask16 {
    lanes(own.end.saturating_sub(first)) & !lanes(own.start.saturating_sub(first))
}

/// Pairs of neighbours: sixteen numbers and the next sixteen.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn pairs(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of which every pattern is valid.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// See `forward::weigh`.
///
/// # Safety
/// The processor has these instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn weigh(
    scores: &mut [Line],
    weights: &mut [Line],
    scale: f32,
    own: Range<usize>,
    seen: Range<usize>,
    top: &mut f32,
    sum: &mut f32,
) -> f32 {
    // SAFETY: a line is 64 bytes, aligned.
    let load = |first: usize| unsafe { _mm512_load_ps(scores[first / LANES].0.as_ptr().cast()) };
    let mut tops = _mm512_set1_ps(f32::NEG_INFINITY);
    for first in seen.clone().step_by(LANES) {
        tops = _mm512_mask_max_ps(tops, inside(&own, first), tops, load(first));
    }
    let largest = _mm512_reduce_max_ps(tops) * scale;
    let old = *top;
    *top = if largest > old { largest } else { old };
    let keep = if *top == old { 1.0 } else { crate::float::exp(old - *top) };
    let (factor, less) = (_mm512_set1_ps(scale * LOG2_E), _mm512_set1_ps(-*top * LOG2_E));
    let weight = |first: usize| {
        let x = exp2(_mm512_fmadd_ps(load(first), factor, less));
        _mm512_maskz_mov_ps(inside(&own, first), x)
    };
    let mut sums = _mm512_setzero_ps();
    let words = weights.as_mut_ptr().cast::<u32>();
    for first in seen.clone().step_by(LANES) {
        let x = weight(first);
        sums = _mm512_add_ps(sums, x);
        let half = _mm512_castsi512_si256(pairs(x, _mm512_setzero_ps()));
        // SAFETY: a row has room for a word for each two keys of a block.
        unsafe {
            debug_assert!(first / 2 + LANES / 2 <= weights.len() * LANES);
            _mm256_storeu_si256(words.wrapping_add(first / 2).cast(), half);
        }
    }
    *sum = *sum * keep + _mm512_reduce_add_ps(sums);
    keep
}

/// See `backward::gradients`.
///
/// # Safety
/// The processor has these instructions; `at` is even.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub unsafe fn gradients(scratch: &mut Scratch, rows: &[Row], at: usize, seen: Range<usize>, scale: f32) {
    let factor = _mm512_set1_ps(scale * LOG2_E);
    for (pair, two) in rows.chunks(2).enumerate() {
        let less = [0, 1].map(|i| _mm512_set1_ps(-two.get(i).map_or(0.0, |row| row.lse) * LOG2_E));
        let mean = [0, 1].map(|i| _mm512_set1_ps(two.get(i).map_or(0.0, |row| row.mean)));
        let own = [0, 1].map(|i| two.get(i).map_or(0..0, |row| row.from..row.to));
        for first in seen.clone().step_by(LANES) {
            let mut weights = [_mm512_setzero_ps(); 2];
            let mut d_scores = [_mm512_setzero_ps(); 2];
            for i in 0..two.len() {
                let r = 2 * pair + i;
                let line = (r * BLOCK + first) / LANES;
                let mask = inside(&own[i], first);
                // SAFETY: a line is 64 bytes, aligned.
                let (scores, d_weights) = unsafe {
                    (
                        _mm512_load_ps(scratch.scores[line].0.as_ptr().cast()),
                        _mm512_load_ps(scratch.d_scores[line].0.as_ptr().cast()),
                    )
                };
                weights[i] = _mm512_maskz_mov_ps(mask, exp2(_mm512_fmadd_ps(scores, factor, less[i])));
                let d_weights = _mm512_mul_ps(_mm512_sub_ps(d_weights, mean[i]), _mm512_set1_ps(scale));
                d_scores[i] = _mm512_maskz_mul_ps(mask, weights[i], d_weights);
                let half = _mm512_castsi512_si256(pairs(d_scores[i], _mm512_setzero_ps()));
                let row = &mut scratch.weight_rows[r * ROW_LINES..][..ROW_LINES];
                // SAFETY: a row has room for a word for each two keys of a block.
                unsafe { _mm256_storeu_si256(row.as_mut_ptr().cast::<u32>().wrapping_add(first / 2).cast(), half) };
            }
            let along = first / LANES * (BLOCK / 2) + at / 2 + pair;
            let (to_weights, to_d_scores) = (&mut scratch.weights[along].0, &mut scratch.d_scores_along[along].0);
            // SAFETY: a line is 64 bytes, aligned.
            unsafe {
                _mm512_store_si512(to_weights.as_mut_ptr().cast(), interleave(weights[0], weights[1]));
                _mm512_store_si512(to_d_scores.as_mut_ptr().cast(), interleave(d_scores[0], d_scores[1]));
            }
        }
    }
}
