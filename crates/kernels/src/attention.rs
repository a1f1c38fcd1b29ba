//! Causal attention over a paged cache.
//!
//! A sequence's keys and values are cut into spans of [`SPAN`] positions, counted from the sequence's start. Each span
//! is folded into the row's running result (largest score, sum of exponentials, weighted values) in order. Spans depend on
//! positions alone, so a row's numbers are the same however the batch, the chunk or the threads were cut.

use crate::{
    compute::Compute,
    float::{bf16_to_f32, exp, f32_to_bf16},
    isa::Isa,
};

/// Positions in a span.
pub const SPAN: usize = 256;

/// Query rows of one head that share a pass over its keys and values while they are in the cache.
const QUERY_ROWS: usize = 8;

/// A number as the cache stores it.
pub trait CacheElement: Copy + Default + Send + Sync + 'static {
    /// Bytes of one number.
    const BYTES: usize;
    /// Rounds into the cache's type.
    fn store(x: f32) -> Self;
    /// Back to f32.
    fn load(self) -> f32;
}

impl CacheElement for f32 {
    const BYTES: usize = 4;
    #[inline(always)]
    fn store(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }
}

/// A bfloat16 by its bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Bf16(pub u16);

impl CacheElement for Bf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    fn store(x: f32) -> Self {
        Self(f32_to_bf16(x))
    }
    #[inline(always)]
    fn load(self) -> f32 {
        bf16_to_f32(self.0)
    }
}

/// One layer's keys and values: `(blocks, 2, kv_heads, block_tokens, head_dim)`, keys first.
#[derive(Clone, Copy)]
pub struct LayerCache<'a, E> {
    /// The numbers.
    pub data: &'a [E],
    /// Key and value heads.
    pub kv_heads: usize,
    /// Positions in a block; divides [`SPAN`].
    pub block_tokens: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl<'a, E: CacheElement> LayerCache<'a, E> {
    /// Numbers in one block of one layer.
    pub fn block_len(kv_heads: usize, block_tokens: usize, head_dim: usize) -> usize {
        2 * kv_heads * block_tokens * head_dim
    }

    /// Where the `head_dim` numbers of one position begin: keys (`part` 0) or values (`part` 1).
    pub fn offset(&self, block: usize, part: usize, head: usize, slot: usize) -> usize {
        (((block * 2 + part) * self.kv_heads + head) * self.block_tokens + slot) * self.head_dim
    }

    /// `(block_tokens, head_dim)` keys or values of one head in one block.
    fn rows(&self, block: usize, part: usize, head: usize) -> &'a [E] {
        &self.data[self.offset(block, part, head, 0)..][..self.block_tokens * self.head_dim]
    }
}

/// One sequence's part of the attention of a step.
#[derive(Clone, Copy)]
pub struct AttentionSlice<'a> {
    /// First of its rows in the queries.
    pub first_row: usize,
    /// How many rows.
    pub rows: usize,
    /// Position of the first row: it attends to positions up to and including its own.
    pub start: usize,
    /// The sequence's blocks in order.
    pub block_table: &'a [u32],
}

impl Compute {
    /// `out = softmax(q · kᵀ / √head_dim) · v` for every slice. `q` and `out` are `(rows, heads, head_dim)`; the heads
    /// share the cache's heads in equal groups. Keys and values of the rows themselves are in the cache already.
    pub fn attention<E: CacheElement>(
        &self,
        q: &[f32],
        heads: usize,
        cache: LayerCache<'_, E>,
        slices: &[AttentionSlice<'_>],
        out: &mut [f32],
    ) {
        let width = heads * cache.head_dim;
        assert_eq!(q.len(), out.len());
        assert!(heads.is_multiple_of(cache.kv_heads) && SPAN.is_multiple_of(cache.block_tokens));
        let mut parts = Vec::new();
        let mut rest = out;
        let mut at = 0;
        for slice in slices {
            let (skipped, tail) = rest.split_at_mut((slice.first_row - at) * width);
            debug_assert!(skipped.is_empty() || slice.first_row > at);
            let (rows, tail) = tail.split_at_mut(slice.rows * width);
            rest = tail;
            at = slice.first_row + slice.rows;
            let mut row = 0;
            for rows in rows.chunks_mut(QUERY_ROWS * width) {
                let count = rows.len() / width;
                parts.push((slice, row, rows));
                row += count;
            }
        }
        // Heads of one block of rows are separate items, so that one sequence fills all threads.
        let outs: Vec<_> =
            parts.iter_mut().map(|(slice, row, out)| (*slice, *row, SharedRows::new(out, width))).collect();
        self.run(outs.len() * heads, |item, _| {
            // Later rows have longer contexts: begin with them.
            let (slice, first, out) = &outs[outs.len() - 1 - item / heads];
            let head = item % heads;
            let kv_head = head / (heads / cache.kv_heads);
            for i in 0..out.rows {
                let row = slice.first_row + first + i;
                let q = &q[row * width + head * cache.head_dim..][..cache.head_dim];
                // SAFETY: this item alone has this head of these rows.
                let out = unsafe { out.head(i, head, cache.head_dim) };
                attend(self.isa(), q, cache, kv_head, slice.block_table, slice.start + first + i + 1, out);
            }
        });
    }
}

/// Some rows of the output, written by head from several threads.
struct SharedRows {
    start: *mut f32,
    rows: usize,
    width: usize,
}

// SAFETY: threads write to heads that no other thread writes (see `attention`).
unsafe impl Sync for SharedRows {}
// SAFETY: as above.
unsafe impl Send for SharedRows {}

impl SharedRows {
    fn new(rows: &mut [f32], width: usize) -> Self {
        Self { start: rows.as_mut_ptr(), rows: rows.len() / width, width }
    }

    /// # Safety
    /// No other thread may hold this head of this row.
    #[allow(clippy::mut_from_ref, reason = "the exclusive access is the caller's promise")]
    unsafe fn head(&self, row: usize, head: usize, head_dim: usize) -> &mut [f32] {
        let end = head.checked_add(1).and_then(|heads| heads.checked_mul(head_dim));
        assert!(row < self.rows && end.is_some_and(|end| end <= self.width));
        // SAFETY: inside the slice that `new` took, whose borrow outlives the loop.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.width + head * head_dim), head_dim) }
    }
}

/// One head of one row over positions `0..len`: `q` and `out` are `(head_dim)`.
pub fn attend<E: CacheElement>(
    isa: Isa,
    q: &[f32],
    cache: LayerCache<'_, E>,
    kv_head: usize,
    block_table: &[u32],
    len: usize,
    out: &mut [f32],
) {
    // Fewer blocks would leave positions out and give wrong numbers in silence.
    assert!(block_table.len().saturating_mul(cache.block_tokens) >= len, "the block table holds every position");
    match isa {
        // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { attend_avx512(q, cache, kv_head, block_table, len, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { attend_avx2(q, cache, kv_head, block_table, len, out) },
        _ => attend_body::<E, false>(q, cache, kv_head, block_table, len, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn attend_avx512<E: CacheElement>(
    q: &[f32],
    cache: LayerCache<'_, E>,
    kv_head: usize,
    block_table: &[u32],
    len: usize,
    out: &mut [f32],
) {
    attend_body::<E, true>(q, cache, kv_head, block_table, len, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn attend_avx2<E: CacheElement>(
    q: &[f32],
    cache: LayerCache<'_, E>,
    kv_head: usize,
    block_table: &[u32],
    len: usize,
    out: &mut [f32],
) {
    attend_body::<E, true>(q, cache, kv_head, block_table, len, out);
}

#[inline(always)]
fn attend_body<E: CacheElement, const FUSED: bool>(
    q: &[f32],
    cache: LayerCache<'_, E>,
    kv_head: usize,
    block_table: &[u32],
    len: usize,
    out: &mut [f32],
) {
    let scale = 1.0 / (cache.head_dim as f32).sqrt();
    let (mut top, mut sum) = (f32::NEG_INFINITY, 0.0);
    let mut buffer = [0.0f32; SPAN];
    out.fill(0.0);
    for at in (0..len).step_by(SPAN) {
        let scores = &mut buffer[..SPAN.min(len - at)];
        let blocks = &block_table[at / cache.block_tokens..];
        for (scores, block) in scores.chunks_mut(cache.block_tokens).zip(blocks) {
            score_keys::<E, FUSED>(q, cache.rows(*block as usize, 0, kv_head), scale, scores);
        }
        let span_top = scores.iter().fold(f32::NEG_INFINITY, |m, &s| if s > m { s } else { m });
        let new_top = if span_top > top { span_top } else { top };
        if at > 0 {
            let keep = exp(top - new_top);
            sum *= keep;
            out.iter_mut().for_each(|x| *x *= keep);
        }
        top = new_top;
        sum += exponentials(scores, top);
        for (scores, block) in scores.chunks(cache.block_tokens).zip(blocks) {
            add_values::<E, FUSED>(scores, cache.rows(*block as usize, 1, kv_head), out);
        }
    }
    let inverse = 1.0 / sum;
    out.iter_mut().for_each(|x| *x *= inverse);
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction, `mul_add` is a slow call.
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `scores[i] = scale · (q · keys[i])`.
#[inline(always)]
fn score_keys<E: CacheElement, const FUSED: bool>(q: &[f32], keys: &[E], scale: f32, scores: &mut [f32]) {
    let (q_chunks, q_rest) = q.as_chunks::<16>();
    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(q.len())) {
        let (key_chunks, key_rest) = key.as_chunks::<16>();
        let mut lanes = [0.0f32; 16];
        for (q, key) in q_chunks.iter().zip(key_chunks) {
            for i in 0..16 {
                lanes[i] = multiply_add::<FUSED>(q[i], key[i].load(), lanes[i]);
            }
        }
        for (i, (q, key)) in q_rest.iter().zip(key_rest).enumerate() {
            lanes[i] = multiply_add::<FUSED>(*q, key.load(), lanes[i]);
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        *score = lanes[0] * scale;
    }
}

/// Replaces scores by e^(score − top) and gives their sum.
#[inline(always)]
fn exponentials(scores: &mut [f32], top: f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (chunks, rest) = scores.as_chunks_mut::<16>();
    for chunk in chunks {
        for i in 0..16 {
            chunk[i] = exp(chunk[i] - top);
            lanes[i] += chunk[i];
        }
    }
    let mut sum = lanes.iter().sum::<f32>();
    for score in rest {
        *score = exp(*score - top);
        sum += *score;
    }
    sum
}

/// `out += Σ weights[i] · values[i]`, in order of `i`.
#[inline(always)]
fn add_values<E: CacheElement, const FUSED: bool>(weights: &[f32], values: &[E], out: &mut [f32]) {
    /// Columns whose sums stay in registers.
    const WIDE: usize = 64;
    let dim = out.len();
    let (chunks, rest) = out.as_chunks_mut::<WIDE>();
    let done = chunks.len() * WIDE;
    for (c, out) in chunks.iter_mut().enumerate() {
        let mut sums = *out;
        for (weight, value) in weights.iter().zip(values.chunks_exact(dim)) {
            let value: &[E; WIDE] = value[c * WIDE..].first_chunk().expect("a chunk lies inside its row");
            for i in 0..WIDE {
                sums[i] = multiply_add::<FUSED>(*weight, value[i].load(), sums[i]);
            }
        }
        *out = sums;
    }
    for (weight, value) in weights.iter().zip(values.chunks_exact(dim)) {
        for (out, value) in rest.iter_mut().zip(&value[done..]) {
            *out = multiply_add::<FUSED>(*weight, value.load(), *out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Softmax attention in f64 over plain rows.
    fn reference(q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>]) -> Vec<f64> {
        let scale = 1.0 / (q.len() as f64).sqrt();
        let dot = |k: &[f32]| k.iter().zip(q).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() * scale;
        let scores: Vec<f64> = keys.iter().map(|k| dot(k)).collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        let mut out = vec![0.0; q.len()];
        for (score, value) in scores.iter().zip(values) {
            for (out, value) in out.iter_mut().zip(value) {
                *out += (score - top).exp() / sum * f64::from(*value);
            }
        }
        out
    }

    fn noise(seed: &mut u64) -> f32 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (*seed >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    #[test]
    fn scattered_blocks_give_what_plain_attention_gives() {
        const TOKENS: usize = 32;
        for (isa, head_dim) in Isa::available().into_iter().flat_map(|isa| [16, 24, 64, 128].map(|d| (isa, d))) {
            for len in [1usize, 31, 32, 33, 255, 256, 257, 700] {
                let mut seed = len as u64;
                let blocks = len.div_ceil(TOKENS);
                // Blocks in reverse, every other one of the pool, two heads of which the second is read.
                let table: Vec<u32> = (0..blocks).map(|i| 2 * (blocks - i) as u32).collect();
                let block = LayerCache::<f32>::block_len(2, TOKENS, head_dim);
                let mut data = vec![f32::NAN; block * (2 * blocks + 1)];
                let q: Vec<f32> = (0..head_dim).map(|_| 3.0 * noise(&mut seed)).collect();
                let rows = |seed: &mut u64| (0..len).map(|_| (0..head_dim).map(|_| noise(seed)).collect()).collect();
                let (keys, values): (Vec<Vec<f32>>, Vec<Vec<f32>>) = (rows(&mut seed), rows(&mut seed));
                for at in 0..len {
                    for (part, row) in [(0, &keys[at]), (1, &values[at])] {
                        let cache = LayerCache { data: &data, kv_heads: 2, block_tokens: TOKENS, head_dim };
                        let to = cache.offset(table[at / TOKENS] as usize, part, 1, at % TOKENS);
                        data[to..to + head_dim].copy_from_slice(row);
                    }
                }
                let cache = LayerCache { data: &data, kv_heads: 2, block_tokens: TOKENS, head_dim };
                let mut out = vec![0.0; head_dim];
                attend(isa, &q, cache, 1, &table, len, &mut out);
                for (got, want) in out.iter().zip(reference(&q, &keys, &values)) {
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{isa:?} {head_dim} {len}: {got} {want}");
                }
            }
        }
    }
}
