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
    let next = item.blocks(at + SPAN);
    // Several rows ask for a block of the next span, a piece with each block of this one; the next rows ask for another.
    let asked = next.get(first / ROWS).map(|&block| part(block, Part::Keys));

    let queries: [&[u32]; R] = std::array::from_fn(|r| &queries[(first + r) * pairs..][..pairs]);
    for (i, &block) in blocks.iter().enumerate() {
        let values = part(block, Part::Values).as_ptr();
        let ahead = match (R, asked) {
            (1, _) | (_, None) => values,
            (_, Some(asked)) => asked.as_ptr().wrapping_add(i * pairs * SHARE),
        };
        let keys = Panel { bytes: part(block, Part::Keys), first: 0, pairs, ahead };
        let sums = multiply(queries, &[keys]);
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

    let Work { weights, out, .. } = work;
    let weights: [&[u32]; R] = std::array::from_fn(|r| &weights[r * SPAN / 2..][..SPAN / 2]);
    let panel_count = padded_dim / COLUMNS;
    for panel in 0..panel_count {
        let mut panels = [Panel { bytes: &[], first: 0, pairs: 0, ahead: std::ptr::null() }; SPAN / BLOCK_TOKENS + 1];
        for (i, (to, &block)) in panels.iter_mut().zip(blocks).enumerate() {
            let bytes = &part(block, Part::Values)[panel * panel_bytes..][..panel_bytes];
            let first = i * BLOCK_TOKENS / 2;
            // A single row reads memory as fast as it comes: it asks for keys of the next span as it goes, block by block,
            // which are runs of 8 KiB and more.
            let piece = panel * blocks.len() + i;
            let ahead = match next.get(piece / panel_count) {
                Some(&block) if R == 1 => part(block, Part::Keys)[piece % panel_count * panel_bytes..].as_ptr(),
                _ => bytes.as_ptr(),
            };
            *to = Panel { bytes, first, pairs: (BLOCK_TOKENS / 2).min(count / 2 - first), ahead };
        }
        let last;
        if count % 2 == 1 {
            last = without_partner(&panels[count / BLOCK_TOKENS].bytes[count % BLOCK_TOKENS / 2 * STEP..][..STEP]);
            panels[blocks.len()] = Panel { bytes: &last.0, first: count / 2, pairs: 1, ahead: last.0.as_ptr() };
        }
        let sums = multiply(weights, &panels[..blocks.len() + count % 2]);
        for (r, sums) in sums.iter().enumerate() {
            let keep = _mm512_set1_ps(keep[r]);
            let out = &mut out[(first + r) * padded_dim + panel * COLUMNS..][..COLUMNS];
            for (out, sums) in out.as_chunks_mut::<16>().0.iter_mut().zip(sums) {
                // SAFETY: 16 numbers, read and written.
                unsafe {
                    let new = _mm512_fmadd_ps(_mm512_loadu_ps(out.as_ptr()), keep, *sums);
                    _mm512_storeu_ps(out.as_mut_ptr(), new);
                }
            }
        }
    }
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

/// Bytes of the next span that each pair of a query's dimensions asks for, where several rows are multiplied: a block's keys
/// and values take as many as there are blocks in a span.
const SHARE: usize = 2 * 2 * 2 * BLOCK_TOKENS * BLOCK_TOKENS / SPAN;

/// Some of a depth.
#[derive(Clone, Copy)]
struct Panel<'a> {
    bytes: &'a [u8],
    /// Pairs along the depth that come before.
    first: usize,
    pairs: usize,
    /// What will be wanted next.
    ahead: *const u8,
}

/// `Σ a[r][pair] · panels[pair]`, in order of pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn multiply<const R: usize>(a: [&[u32]; R], panels: &[Panel<'_>]) -> [[__m512; 2]; R] {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for &Panel { bytes, first, pairs, ahead } in panels {
        assert!(a.iter().all(|a| a.len() >= first + pairs) && bytes.len() >= pairs * STEP);
        for pair in 0..pairs {
            // SAFETY: the panel has so many steps.
            let [low, high] = unsafe {
                let step = bytes.as_ptr().add(pair * STEP).cast::<__m512i>();
                [bf16(_mm512_loadu_si512(step)), bf16(_mm512_loadu_si512(step.add(1)))]
            };
            if R == 1 {
                prefetch(ahead.wrapping_add(pair * STEP));
                prefetch(ahead.wrapping_add(pair * STEP + 64));
            } else {
                prefetch(ahead.wrapping_add(pair * SHARE));
            }
            for r in 0..R {
                // SAFETY: every row has so many pairs.
                let x = bf16(_mm512_set1_epi32(unsafe { *a[r].get_unchecked(first + pair) } as i32));
                sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, low);
                sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, high);
            }
        }
    }
    sums
}
