//! Attention over a q8 or q4 cache with AVX512-VNNI: codes are multiplied as they lie in memory, and summed in integers.
//!
//! Queries are rounded to 15 bits and weights (times the scales of the values) to 16, each by a row's largest of the span, and
//! cut into two bytes: a product is two products of bytes. One byte would do for half the time, but weights of long texts are
//! mostly far below the largest, and would vanish.

use std::arch::x86_64::*;

use super::{
    Item, SPAN, Scratch, Work,
    cache::{BLOCK_TOKENS, COLUMNS, CacheType, LayerCache, Part},
    vector::{LOG2_E, exp2, lanes, prefetch, raise_top},
};

/// Rows that share a pass over keys and values in registers: two bytes of two vectors of sums each.
const ROWS: usize = 4;

/// Bytes of one step along a panel's depth: 32 columns of four codes.
const STEP: usize = 4 * COLUMNS;

/// Steps of a panel of values, and of the keys under one scale in q4.
const PANEL_STEPS: usize = BLOCK_TOKENS / 4;

/// Words of one byte of a row's weights.
const WEIGHT_WORDS: usize = SPAN / 4;

/// Folds every span into `scratch.work` for all rows of `item`.
///
/// # Safety
/// The machine has AVX-512 with F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn attend(item: &Item<'_>, scratch: &mut Scratch) {
    match item.cache.shape.kind {
        CacheType::Q4 => attend_codes::<true>(item, scratch),
        _ => attend_codes::<false>(item, scratch),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn attend_codes<const Q4: bool>(item: &Item<'_>, scratch: &mut Scratch) {
    round_queries::<Q4>(item, scratch);
    let Scratch { queries, query_sums, query_scales, work, .. } = scratch;
    let queries = Queries { codes: queries, sums: query_sums, scales: query_scales };
    for at in (0..item.end()).step_by(SPAN) {
        for first in (0..item.rows).step_by(ROWS) {
            match ROWS.min(item.rows - first) {
                1 => fold::<1, Q4>(item, &queries, at, first, work),
                2 => fold::<2, Q4>(item, &queries, at, first, work),
                3 => fold::<3, Q4>(item, &queries, at, first, work),
                _ => fold::<ROWS, Q4>(item, &queries, at, first, work),
            }
        }
    }
}

/// An item's queries, rounded.
struct Queries<'a> {
    /// `(rows, 2, padded_dim / 4)`: high and low bytes, four to a word.
    codes: &'a [u32],
    /// `(rows, panels)`: sums of high and of low bytes; in q8 all of them lie in the first.
    sums: &'a [[i32; 2]],
    /// `(rows)`
    scales: &'a [f32],
}

#[inline(always)]
fn round_queries<const Q4: bool>(item: &Item<'_>, scratch: &mut Scratch) {
    /// Largest code: 127 times 128, so that both bytes are signed.
    const MOST: f32 = 16_256.0;
    let shape = item.cache.shape;
    let (words, panels) = (shape.padded_dim() / 4, shape.padded_dim() / COLUMNS);
    let scale = LOG2_E / (shape.head_dim as f32).sqrt();
    for row in 0..item.rows {
        let query = item.query(row);
        let top = query.iter().fold(0.0f32, |top, x| top.max(x.abs()));
        let inverse = if top > f32::MIN_POSITIVE { MOST / top } else { 0.0 };
        scratch.query_scales[row] = top / MOST * scale;
        let (high, low) = scratch.queries[2 * row * words..][..2 * words].split_at_mut(words);
        high.fill(0);
        low.fill(0);
        let sums = &mut scratch.query_sums[row * panels..][..panels];
        sums.fill([0; 2]);
        for (dim, x) in query.iter().enumerate() {
            let code = (x * inverse).round_ties_even() as i32;
            let (high_byte, low_byte) = ((code + 64) >> 7, ((code + 64) & 127) - 64);
            high[dim / 4] |= u32::from(high_byte as u8) << (dim % 4 * 8);
            low[dim / 4] |= u32::from(low_byte as u8) << (dim % 4 * 8);
            let sum = &mut sums[if Q4 { dim / COLUMNS } else { 0 }];
            sum[0] += high_byte;
            sum[1] += low_byte;
        }
    }
}

/// Folds one span into `R` rows from `first` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn fold<const R: usize, const Q4: bool>(
    item: &Item<'_>,
    queries: &Queries<'_>,
    at: usize,
    first: usize,
    work: &mut Work,
) {
    let valid: [usize; R] = std::array::from_fn(|r| item.valid(first + r, at));
    let count = valid[R - 1];
    if count == 0 {
        return;
    }
    let span =
        Span { cache: item.cache, kv_head: item.kv_head, blocks: &item.blocks(at)[..count.div_ceil(BLOCK_TOKENS)] };
    // Several rows ask for the keys or the values of a block of the next span; the next rows ask for others.
    let tile = first / ROWS;
    let asked = item.blocks(at + SPAN).get(tile / 2).map(|&block| {
        item.cache.part(block as usize, item.kv_head, if tile.is_multiple_of(2) { Part::Keys } else { Part::Values })
    });
    score::<R, Q4>(&span, asked, queries, first, work);
    let mut keep = [1.0; R];
    for r in 0..R {
        if valid[r] > 0 {
            keep[r] = weigh(work, first + r, r, valid[r], span.blocks.len());
        } else {
            work.scores[r * SPAN..][..span.blocks.len() * BLOCK_TOKENS].fill(0.0);
        }
    }
    add_values::<R, Q4>(&span, item.blocks(at + SPAN), &valid, keep, first, work);
}

/// A span's blocks of one head.
struct Span<'a> {
    cache: LayerCache<'a>,
    kv_head: usize,
    blocks: &'a [u32],
}

impl<'a> Span<'a> {
    /// Codes and scales.
    #[inline(always)]
    fn part(&self, block: u32, part: Part) -> (&'a [u8], &'a [u8]) {
        self.cache.part(block as usize, self.kv_head, part).split_at(self.cache.shape.codes_bytes())
    }
}

/// `work.scores = queries · keys`, by row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn score<const R: usize, const Q4: bool>(
    span: &Span<'_>,
    asked: Option<&[u8]>,
    queries: &Queries<'_>,
    first: usize,
    work: &mut Work,
) {
    let shape = span.cache.shape;
    let (words, panels) = (shape.padded_dim() / 4, shape.padded_dim() / COLUMNS);
    let codes: [[&[u32]; 2]; R] = std::array::from_fn(|r| {
        let (high, low) = queries.codes[2 * (first + r) * words..][..2 * words].split_at(words);
        [high, low]
    });
    for (i, &block) in span.blocks.iter().enumerate() {
        let (keys, scales) = span.part(block, Part::Keys);
        let (ahead, ahead_scales) = span.part(block, Part::Values);
        let mut scores = [[_mm512_setzero_ps(); 2]; R];
        // A block's share of what is asked for, and each step's.
        let asked = asked.filter(|_| R > 1).map(|asked| {
            let share = asked.len() / (SPAN / BLOCK_TOKENS);
            (asked[i * share..].as_ptr(), share.div_ceil(words))
        });
        if Q4 {
            for panel in 0..panels {
                let step = panel * PANEL_STEPS;
                let at = step * STEP / 2;
                let (ahead, share) = match asked {
                    Some((ahead, share)) => (ahead.wrapping_add(step * share), share),
                    None => (ahead[at..].as_ptr(), 0),
                };
                let keys = Panel { bytes: &keys[at..], first: step, ahead };
                let sums = multiply::<R, true, true>(codes, &[keys], PANEL_STEPS, share);
                let (scale, minimum) = (scales_q4(scales, 2 * panel), scales_q4(scales, 2 * panel + 1));
                for (r, scores) in scores.iter_mut().enumerate() {
                    let [high, low] = queries.sums[(first + r) * panels + panel];
                    let query_sum = _mm512_set1_ps((128 * high + low) as f32);
                    for half in 0..2 {
                        let dot = joined(sums[r][0][half], sums[r][1][half], 128.0);
                        scores[half] = _mm512_fmadd_ps(dot, scale[half], scores[half]);
                        scores[half] = _mm512_fmadd_ps(query_sum, minimum[half], scores[half]);
                    }
                }
            }
        } else {
            let (ahead, share) = asked.unwrap_or((ahead.as_ptr(), 0));
            let sums = multiply::<R, true, false>(codes, &[Panel { bytes: keys, first: 0, ahead }], words, share);
            let scale = scales_q8(scales);
            for (r, scores) in scores.iter_mut().enumerate() {
                // Key codes are stored with 128 added.
                let [high, low] = queries.sums[(first + r) * panels];
                let (high, low) = (_mm512_set1_epi32(128 * high), _mm512_set1_epi32(128 * low));
                for half in 0..2 {
                    let high = _mm512_sub_epi32(sums[r][0][half], high);
                    let low = _mm512_sub_epi32(sums[r][1][half], low);
                    scores[half] = _mm512_mul_ps(joined(high, low, 128.0), scale[half]);
                }
            }
        }
        if R == 1 {
            ahead_scales.chunks(64).for_each(|line| prefetch(line.as_ptr()));
        }
        for (r, scores) in scores.iter().enumerate() {
            let factor = _mm512_set1_ps(queries.scales[first + r]);
            let out = &mut work.scores[r * SPAN + i * BLOCK_TOKENS..][..BLOCK_TOKENS];
            // SAFETY: 32 numbers.
            unsafe {
                _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(scores[0], factor));
                _mm512_storeu_ps(out.as_mut_ptr().add(16), _mm512_mul_ps(scores[1], factor));
            }
        }
    }
}

/// Replaces the scores of one row of a span by weights and adds these up. Gives what the row's results so far are to be
/// multiplied by.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn weigh(work: &mut Work, row: usize, r: usize, valid: usize, blocks: usize) -> f32 {
    let (top, keep) = raise_top(work, row, r * SPAN, valid);
    let top = _mm512_set1_ps(top);
    let mut sums = _mm512_setzero_ps();
    let scores = work.scores[r * SPAN..][..blocks * BLOCK_TOKENS].as_chunks_mut::<16>().0;
    for (i, scores) in scores.iter_mut().enumerate() {
        let own = lanes(valid.saturating_sub(16 * i));
        // SAFETY: 16 numbers, read and written.
        unsafe {
            let weights = exp2(_mm512_sub_ps(_mm512_loadu_ps(scores.as_ptr()), top));
            let weights = _mm512_maskz_mov_ps(own, weights);
            sums = _mm512_add_ps(sums, weights);
            _mm512_storeu_ps(scores.as_mut_ptr(), weights);
        }
    }
    work.sums[row] = work.sums[row] * keep + _mm512_reduce_add_ps(sums);
    keep
}

/// `work.out = work.out · keep + weights · values`, by row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn add_values<const R: usize, const Q4: bool>(
    span: &Span<'_>,
    next: &[u32],
    valid: &[usize; R],
    keep: [f32; R],
    first: usize,
    work: &mut Work,
) {
    let shape = span.cache.shape;
    let (padded_dim, panel_bytes) = (shape.padded_dim(), shape.panel_bytes());
    let mut rounded = [Rounded::default(); R];
    for panel in 0..padded_dim / COLUMNS {
        if Q4 || panel == 0 {
            for r in 0..R {
                rounded[r] = round_weights::<Q4>(span, panel, r, valid[r], work);
            }
        }
        let mut panels = [Panel { bytes: &[], first: 0, ahead: std::ptr::null() }; SPAN / BLOCK_TOKENS];
        for (i, (to, &block)) in panels.iter_mut().zip(span.blocks).enumerate() {
            let bytes = &span.part(block, Part::Values).0[panel * panel_bytes..][..panel_bytes];
            // A single row asks for keys of the next span as it goes.
            let ahead = match next.get(i) {
                Some(&block) if R == 1 => span.part(block, Part::Keys).0[panel * panel_bytes..].as_ptr(),
                _ => bytes.as_ptr(),
            };
            *to = Panel { bytes, first: i * PANEL_STEPS, ahead };
        }
        let weights: [[&[u32]; 2]; R] = std::array::from_fn(|r| {
            let (high, low) = work.weights[2 * r * WEIGHT_WORDS..][..2 * WEIGHT_WORDS].split_at(WEIGHT_WORDS);
            [high, low]
        });
        let sums = multiply::<R, false, Q4>(weights, &panels[..span.blocks.len()], PANEL_STEPS, 0);
        for r in 0..R {
            let out = &mut work.out[(first + r) * padded_dim + panel * COLUMNS..][..COLUMNS];
            let (keep, scale) = (_mm512_set1_ps(keep[r]), _mm512_set1_ps(rounded[r].scale));
            let minimum = _mm512_set1_ps(rounded[r].minimum);
            for (half, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                // SAFETY: 16 numbers, read and written.
                unsafe {
                    let old = _mm512_fmadd_ps(_mm512_loadu_ps(out.as_ptr()), keep, minimum);
                    let new = _mm512_fmadd_ps(joined(sums[r][0][half], sums[r][1][half], 256.0), scale, old);
                    _mm512_storeu_ps(out.as_mut_ptr(), new);
                }
            }
        }
    }
    if R == 1 {
        for &block in next {
            span.part(block, Part::Keys).1.chunks(64).for_each(|line| prefetch(line.as_ptr()));
        }
    }
}

/// What rounded weights of one row of a span stand for.
#[derive(Clone, Copy, Default)]
struct Rounded {
    /// What one unit is.
    scale: f32,
    /// Weights times the minima of the values, in all.
    minimum: f32,
}

/// Rounds the weights of one row, times the scales of a panel's values, to 16 bits: high and low bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn round_weights<const Q4: bool>(span: &Span<'_>, panel: usize, r: usize, valid: usize, work: &mut Work) -> Rounded {
    const MOST: f32 = 65_535.0;
    let len = span.blocks.len() * BLOCK_TOKENS;
    let weights = work.scores[r * SPAN..][..len].as_chunks::<BLOCK_TOKENS>().0;
    let scaled = work.scaled[r * SPAN..][..len].as_chunks_mut::<BLOCK_TOKENS>().0;
    let (mut tops, mut minima) = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for (i, ((weights, scaled), &block)) in weights.iter().zip(scaled.iter_mut()).zip(span.blocks).enumerate() {
        let scales = span.part(block, Part::Values).1;
        let (scale, minimum) = match Q4 {
            true => (scales_q4(scales, 2 * panel), scales_q4(scales, 2 * panel + 1)),
            false => (scales_q8(scales), [_mm512_setzero_ps(); 2]),
        };
        for half in 0..2 {
            // Scales of positions that are not this row's may be anything.
            let own = lanes(valid.saturating_sub(i * BLOCK_TOKENS + 16 * half));
            // SAFETY: 32 numbers, read and written.
            unsafe {
                let weights = _mm512_loadu_ps(weights.as_ptr().add(16 * half));
                let product = _mm512_maskz_mul_ps(own, weights, scale[half]);
                tops = _mm512_max_ps(tops, product);
                _mm512_storeu_ps(scaled.as_mut_ptr().add(16 * half), product);
                if Q4 {
                    minima = _mm512_mask3_fmadd_ps(weights, minimum[half], minima, own);
                }
            }
        }
    }
    let top = _mm512_reduce_max_ps(tops);
    let inverse = _mm512_set1_ps(if top > f32::MIN_POSITIVE { MOST / top } else { 0.0 });
    let (high, low) = work.weights[2 * r * WEIGHT_WORDS..][..2 * WEIGHT_WORDS].split_at_mut(WEIGHT_WORDS);
    let words = high.as_chunks_mut::<4>().0.iter_mut().zip(low.as_chunks_mut::<4>().0);
    for (scaled, (high, low)) in scaled.as_flattened().as_chunks::<16>().0.iter().zip(words) {
        // SAFETY: 16 numbers read, 16 bytes written to each.
        unsafe {
            let codes = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(scaled.as_ptr()), inverse));
            _mm_storeu_si128(high.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(_mm512_srli_epi32::<8>(codes)));
            _mm_storeu_si128(low.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(codes));
        }
    }
    Rounded { scale: top / MOST, minimum: _mm512_reduce_add_ps(minima) }
}

/// `high · factor + low`.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined(high: __m512i, low: __m512i, factor: f32) -> __m512 {
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(high), _mm512_set1_ps(factor), _mm512_cvtepi32_ps(low))
}

/// One scale for each of 32 positions.
#[inline]
#[target_feature(enable = "avx512f")]
fn scales_q8(scales: &[u8]) -> [__m512; 2] {
    let scales = &scales[..4 * BLOCK_TOKENS];
    // SAFETY: 32 numbers.
    unsafe { [_mm512_loadu_ps(scales.as_ptr().cast()), _mm512_loadu_ps(scales.as_ptr().add(64).cast())] }
}

/// The same in bf16; `row` counts scales and minima of panels in turn.
#[inline]
#[target_feature(enable = "avx512f")]
fn scales_q4(scales: &[u8], row: usize) -> [__m512; 2] {
    let scales = &scales[row * 2 * BLOCK_TOKENS..][..2 * BLOCK_TOKENS];
    // SAFETY: 32 numbers.
    let (first, second) = unsafe {
        (_mm256_loadu_si256(scales.as_ptr().cast()), _mm256_loadu_si256(scales.as_ptr().add(BLOCK_TOKENS).cast()))
    };
    [widened(first), widened(second)]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn widened(bf16: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bf16)))
}

/// Some of a depth.
#[derive(Clone, Copy)]
struct Panel<'a> {
    bytes: &'a [u8],
    /// Steps along the depth that come before.
    first: usize,
    /// What will be wanted next.
    ahead: *const u8,
}

/// `Σ a[r][byte][step] · panels[step]` over panels of `steps` steps each, exact. `KEYS`: the panels' codes are unsigned and `a` is
/// signed; else the other way round. One row reads memory as fast as it comes, and asks for what lies at the same place behind
/// `ahead`; several ask for `share` bytes there with each step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn multiply<const R: usize, const KEYS: bool, const Q4: bool>(
    a: [[&[u32]; 2]; R],
    panels: &[Panel<'_>],
    steps: usize,
    share: usize,
) -> [[[__m512i; 2]; 2]; R] {
    let step_bytes = if Q4 { STEP / 2 } else { STEP };
    let mut sums = [[[_mm512_setzero_si512(); 2]; 2]; R];
    for &Panel { bytes, first, ahead } in panels {
        assert!(a.as_flattened().iter().all(|a| a.len() >= first + steps) && bytes.len() >= steps * step_bytes);
        for step in 0..steps {
            let at = step * step_bytes;
            // SAFETY: the panel has so many steps.
            let codes = unsafe {
                let bytes = bytes.as_ptr().add(at).cast::<__m512i>();
                let low = _mm512_loadu_si512(bytes);
                if Q4 {
                    let mask = _mm512_set1_epi8(15);
                    [_mm512_and_si512(low, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(low), mask)]
                } else {
                    [low, _mm512_loadu_si512(bytes.add(1))]
                }
            };
            if R == 1 {
                prefetch(ahead.wrapping_add(at));
                if !Q4 {
                    prefetch(ahead.wrapping_add(at + 64));
                }
            } else if KEYS {
                prefetch(ahead.wrapping_add(step * share));
            }
            for r in 0..R {
                for byte in 0..2 {
                    // SAFETY: every row has so many steps.
                    let x = _mm512_set1_epi32(unsafe { *a[r][byte].get_unchecked(first + step) } as i32);
                    for half in 0..2 {
                        let sum = sums[r][byte][half];
                        sums[r][byte][half] = match KEYS {
                            true => _mm512_dpbusd_epi32(sum, codes[half], x),
                            false => _mm512_dpbusd_epi32(sum, x, codes[half]),
                        };
                    }
                }
            }
        }
    }
    sums
}
