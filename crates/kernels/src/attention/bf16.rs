//! Attention over a bf16 cache with AVX512-BF16: queries and weights are rounded to bf16, products are summed in f32.

use std::arch::x86_64::*;

use super::{
    Item, SPAN, Scratch, Work,
    cache::{BLOCK_TOKENS, COLUMNS, Part},
    vector::{LOG2_E, exp2, lanes, prefetch, raise_top},
};
use crate::float::f32_to_bf16;

/// Rows that share a pass over keys and values in registers: two vectors of sums each.
const ROWS: usize = 8;

/// Bytes of one step along a panel's depth: 32 columns of two numbers.
const STEP: usize = 4 * COLUMNS;

/// Folds every span into `scratch.work` for all rows of `item`.
///
/// # Safety
/// The machine has AVX-512 with F, BW, DQ, VL and BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn attend(item: &Item<'_>, scratch: &mut Scratch) {
    let Scratch { queries, work, .. } = scratch;
    round_queries(item, queries);
    for at in (0..item.end()).step_by(SPAN) {
        for first in (0..item.rows).step_by(ROWS) {
            match ROWS.min(item.rows - first) {
                1 => fold::<1>(item, queries, at, first, work),
                2 => fold::<2>(item, queries, at, first, work),
                3 => fold::<3>(item, queries, at, first, work),
                4 => fold::<4>(item, queries, at, first, work),
                5 => fold::<5>(item, queries, at, first, work),
                6 => fold::<6>(item, queries, at, first, work),
                7 => fold::<7>(item, queries, at, first, work),
                _ => fold::<ROWS>(item, queries, at, first, work),
            }
        }
    }
}

/// `queries: (rows, head_dim / 2)`, pairs of bf16.
#[inline(always)]
fn round_queries(item: &Item<'_>, queries: &mut [u32]) {
    let shape = item.cache.shape;
    let scale = LOG2_E / (shape.head_dim as f32).sqrt();
    for (row, queries) in queries.chunks_exact_mut(shape.head_dim / 2).take(item.rows).enumerate() {
        for (pair, query) in queries.iter_mut().zip(item.query(row).as_chunks::<2>().0) {
            let [low, high] = query.map(|x| u32::from(f32_to_bf16(x * scale)));
            *pair = low | high << 16;
        }
    }
}

/// Folds one span into `R` rows from `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn fold<const R: usize>(item: &Item<'_>, queries: &[u32], at: usize, first: usize, work: &mut Work) {
    let valid: [usize; R] = std::array::from_fn(|r| item.valid(first + r, at));
    let count = valid[R - 1];
    if count == 0 {
        return;
    }
    let shape = item.cache.shape;
    let padded_dim = shape.padded_dim();
    let (pairs, panel_bytes) = (shape.head_dim / 2, shape.panel_bytes());
    let blocks = &item.blocks(at)[..count.div_ceil(BLOCK_TOKENS)];
    let part = |block: u32, part| item.cache.part(block as usize, item.kv_head, part);

    let queries: [&[u32]; R] = std::array::from_fn(|r| &queries[(first + r) * pairs..][..pairs]);
    for (i, &block) in blocks.iter().enumerate() {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        let ahead = part(block, Part::Values).as_ptr();
        multiply_add_panel(queries, part(block, Part::Keys), pairs, ahead, &mut sums);
        for (r, sums) in sums.iter().enumerate() {
            let scores = &mut work.scores[r * SPAN + i * BLOCK_TOKENS..][..BLOCK_TOKENS];
            // SAFETY: 32 numbers.
            unsafe {
                _mm512_storeu_ps(scores.as_mut_ptr(), sums[0]);
                _mm512_storeu_ps(scores.as_mut_ptr().add(16), sums[1]);
            }
        }
    }

    let mut keep = [1.0; R];
    for r in 0..R {
        if valid[r] > 0 {
            keep[r] = weigh(work, first + r, r, valid[r], blocks.len());
        } else {
            work.weights[r * SPAN / 2..][..blocks.len() * BLOCK_TOKENS / 2].fill(0);
        }
    }

    // Blocks of the next span, which are asked for while this one's values are read.
    let next = item.blocks(at + SPAN);
    for panel in 0..padded_dim / COLUMNS {
        let out = |r: usize| (first + r) * padded_dim + panel * COLUMNS;
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for (r, sums) in sums.iter_mut().enumerate() {
            *sums = load(&work.out[out(r)..], _mm512_set1_ps(keep[r]));
        }
        for (i, &block) in blocks.iter().enumerate() {
            let values = &part(block, Part::Values)[panel * panel_bytes..][..panel_bytes];
            let ahead = next.get(i).map_or(values.as_ptr(), |&block| part(block, Part::Keys)[panel * panel_bytes..].as_ptr());
            let weights: [&[u32]; R] = std::array::from_fn(|r| &work.weights[(r * SPAN + i * BLOCK_TOKENS) / 2..]);
            let positions = BLOCK_TOKENS.min(count - i * BLOCK_TOKENS);
            multiply_add_panel(weights, values, positions / 2, ahead, &mut sums);
            if positions % 2 == 1 {
                let last = without_partner(&values[positions / 2 * STEP..]);
                multiply_add_panel(weights.map(|w| &w[positions / 2..]), &last.0, 1, ahead, &mut sums);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut work.out[out(r)..][..COLUMNS];
            // SAFETY: 32 numbers.
            unsafe {
                _mm512_storeu_ps(out.as_mut_ptr(), sums[0]);
                _mm512_storeu_ps(out.as_mut_ptr().add(16), sums[1]);
            }
        }
    }
}

/// 32 numbers times `factor`.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(numbers: &[f32], factor: __m512) -> [__m512; 2] {
    let numbers = &numbers[..COLUMNS];
    // SAFETY: 32 numbers.
    let [low, high] = unsafe { [_mm512_loadu_ps(numbers.as_ptr()), _mm512_loadu_ps(numbers.as_ptr().add(16))] };
    [_mm512_mul_ps(low, factor), _mm512_mul_ps(high, factor)]
}

#[repr(align(64))]
struct Step([u8; STEP]);

/// One step of values of which only the first position of each pair counts: the other is not this sequence's, and may be
/// anything, while its weight of 0 makes nothing of numbers only.
fn without_partner(step: &[u8]) -> Step {
    let mut own = Step([0; STEP]);
    for (to, from) in own.0.as_chunks_mut::<4>().0.iter_mut().zip(step.as_chunks::<4>().0) {
        *to = [from[0], from[1], 0, 0];
    }
    own
}

/// Makes the weights of one row of a span from its scores, as pairs of bf16, and adds up what was rounded. Gives what the
/// row's results so far are to be multiplied by.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn weigh(work: &mut Work, row: usize, r: usize, valid: usize, blocks: usize) -> f32 {
    let (top, keep) = raise_top(work, row, r * SPAN, valid);
    let top = _mm512_set1_ps(top);
    let ones = bf16(_mm512_set1_epi32(0x3f80_3f80));
    let mut sums = _mm512_setzero_ps();
    let scores = work.scores[r * SPAN..][..SPAN].as_chunks::<BLOCK_TOKENS>().0;
    let weights = work.weights[r * SPAN / 2..][..SPAN / 2].as_chunks_mut::<{ BLOCK_TOKENS / 2 }>().0;
    for (i, (scores, weights)) in scores.iter().zip(weights).take(blocks).enumerate() {
        let count = valid.saturating_sub(i * BLOCK_TOKENS);
        // SAFETY: 32 numbers.
        let (low, high) = unsafe { (_mm512_loadu_ps(scores.as_ptr()), _mm512_loadu_ps(scores.as_ptr().add(16))) };
        let mut low = exp2(_mm512_sub_ps(low, top));
        let mut high = exp2(_mm512_sub_ps(high, top));
        if count < BLOCK_TOKENS {
            low = _mm512_maskz_mov_ps(lanes(count), low);
            high = _mm512_maskz_mov_ps(lanes(count.saturating_sub(16)), high);
        }
        let rounded = _mm512_cvtne2ps_pbh(high, low);
        sums = _mm512_dpbf16_ps(sums, rounded, ones);
        // SAFETY: as many bytes; any bits are a vector of either type.
        unsafe { _mm512_storeu_si512(weights.as_mut_ptr().cast(), std::mem::transmute::<__m512bh, __m512i>(rounded)) };
    }
    work.sums[row] = work.sums[row] * keep + _mm512_reduce_add_ps(sums);
    keep
}

#[inline(always)]
fn bf16(bits: __m512i) -> __m512bh {
    // SAFETY: any bits are a vector of either type.
    unsafe { std::mem::transmute(bits) }
}

/// `sums[r] += Σ a[r][pair] · panel[pair]`, in order of pairs. `panel` is aligned. One row reads memory as fast as it comes,
/// and asks for what lies at the same place behind `ahead`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn multiply_add_panel<const R: usize>(
    a: [&[u32]; R],
    panel: &[u8],
    pairs: usize,
    ahead: *const u8,
    sums: &mut [[__m512; 2]; R],
) {
    assert!(a.iter().all(|a| a.len() >= pairs) && panel.len() >= pairs * STEP);
    let mut own = *sums;
    for pair in 0..pairs {
        // SAFETY: `panel` has so many steps.
        let [low, high] = unsafe {
            let step = panel.as_ptr().add(pair * STEP).cast::<__m512i>();
            [bf16(_mm512_loadu_si512(step)), bf16(_mm512_loadu_si512(step.add(1)))]
        };
        if R == 1 {
            prefetch(ahead.wrapping_add(pair * STEP));
            prefetch(ahead.wrapping_add(pair * STEP + 64));
        }
        for r in 0..R {
            // SAFETY: every row has so many pairs.
            let x = bf16(_mm512_set1_epi32(unsafe { *a[r].get_unchecked(pair) } as i32));
            own[r][0] = _mm512_dpbf16_ps(own[r][0], x, low);
            own[r][1] = _mm512_dpbf16_ps(own[r][1], x, high);
        }
    }
    *sums = own;
}
