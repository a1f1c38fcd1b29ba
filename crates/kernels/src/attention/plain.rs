//! Attention in f32, for every cache type and every machine: the reference of the other kernels, and what exact arithmetic
//! runs on. What is not f32 is unpacked, a span at a time for all rows of an item.

use super::{
    Item, SPAN, Scratch, Work,
    cache::{BLOCK_TOKENS, COLUMNS, CacheType, Part, unpack},
};
use crate::{float::exp, isa::Isa};

/// Rows that share a pass over keys and values in registers.
const ROWS: usize = 4;

/// Folds every span into `scratch.out` for all rows of `item`.
pub(super) fn attend(isa: Isa, item: &Item<'_>, scratch: &mut Scratch) {
    match isa {
        // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { attend_avx512(item, scratch) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { attend_avx2(item, scratch) },
        _ => attend_body::<false>(item, scratch),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn attend_avx512(item: &Item<'_>, scratch: &mut Scratch) {
    attend_body::<true>(item, scratch);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn attend_avx2(item: &Item<'_>, scratch: &mut Scratch) {
    attend_body::<true>(item, scratch);
}

#[inline(always)]
fn attend_body<const FUSED: bool>(item: &Item<'_>, scratch: &mut Scratch) {
    let Scratch { keys, values, work, .. } = scratch;
    for at in (0..item.end()).step_by(SPAN) {
        let span = Span::new(item, at, keys, values);
        for first in (0..item.rows).step_by(ROWS) {
            match ROWS.min(item.rows - first) {
                1 => fold::<1, FUSED>(item, &span, at, first, work),
                2 => fold::<2, FUSED>(item, &span, at, first, work),
                3 => fold::<3, FUSED>(item, &span, at, first, work),
                _ => fold::<ROWS, FUSED>(item, &span, at, first, work),
            }
        }
    }
}

type Panel<'a> = &'a [[f32; COLUMNS]];

/// Keys and values of a span, block by block.
struct Span<'a> {
    keys: [Panel<'a>; SPAN / BLOCK_TOKENS],
    values: [Panel<'a>; SPAN / BLOCK_TOKENS],
}

impl<'a> Span<'a> {
    #[inline(always)]
    fn new(item: &Item<'a>, at: usize, keys: &'a mut [f32], values: &'a mut [f32]) -> Self {
        let shape = item.cache.shape;
        let block_len = BLOCK_TOKENS * shape.padded_dim();
        let mut span = Self { keys: [&[]; SPAN / BLOCK_TOKENS], values: [&[]; SPAN / BLOCK_TOKENS] };
        let parts = [(Part::Keys, &mut span.keys, keys), (Part::Values, &mut span.values, values)];
        for (part, panels, buffer) in parts {
            let mut buffers = buffer.chunks_exact_mut(block_len.max(1));
            for ((block, panels), start) in item.blocks(at).iter().zip(panels).zip((at..).step_by(BLOCK_TOKENS)) {
                let bytes = item.cache.part(*block as usize, item.kv_head, part);
                if shape.kind == CacheType::F32 {
                    // SAFETY: any bytes are numbers; a part is aligned, so nothing is left over before or behind.
                    *panels = unsafe { bytes.align_to::<[f32; COLUMNS]>().1 };
                } else {
                    let buffer = buffers.next().expect("the buffer holds a span");
                    unpack(shape, part, bytes, BLOCK_TOKENS.min(item.end() - start), buffer);
                    *panels = buffer.as_chunks().0;
                }
            }
        }
        span
    }
}

/// Folds one span into `R` rows from `first` on.
#[inline(always)]
fn fold<const R: usize, const FUSED: bool>(item: &Item<'_>, span: &Span<'_>, at: usize, first: usize, work: &mut Work) {
    let valid: [usize; R] = std::array::from_fn(|r| item.valid(first + r, at));
    let count = valid[R - 1];
    if count == 0 {
        return;
    }
    let (head_dim, padded_dim) = (item.cache.shape.head_dim, item.cache.shape.padded_dim());
    let scale = 1.0 / (head_dim as f32).sqrt();
    let blocks = count.div_ceil(BLOCK_TOKENS);
    let queries: [&[f32]; R] = std::array::from_fn(|r| item.query(first + r));
    for (block, keys) in span.keys[..blocks].iter().enumerate() {
        let sums = multiply::<R, FUSED>([(queries, &keys[..head_dim])].into_iter());
        for (r, sums) in sums.iter().enumerate() {
            let scores = &mut work.scores[r * SPAN + block * BLOCK_TOKENS..][..BLOCK_TOKENS];
            scores.iter_mut().zip(sums).for_each(|(score, sum)| *score = sum * scale);
        }
    }

    let mut keep = [1.0; R];
    for r in 0..R {
        let (scores, later) = work.scores[r * SPAN..][..blocks * BLOCK_TOKENS].split_at_mut(valid[r]);
        later.fill(0.0);
        if scores.is_empty() {
            continue;
        }
        let top = scores.iter().fold(work.tops[first + r], |top, &score| if score > top { score } else { top });
        keep[r] = exp(work.tops[first + r] - top);
        work.tops[first + r] = top;
        work.sums[first + r] = work.sums[first + r] * keep[r] + exponentials(scores, top);
    }

    for panel in 0..padded_dim / COLUMNS {
        let steps = span.values[..blocks].iter().enumerate().map(|(block, values)| {
            let at = block * BLOCK_TOKENS;
            let weights: [&[f32]; R] = std::array::from_fn(|r| &work.scores[r * SPAN + at..]);
            // What lies behind the last position is another's, and may be anything.
            (weights, &values[panel * BLOCK_TOKENS..][..BLOCK_TOKENS.min(count - at)])
        });
        let sums = multiply::<R, FUSED>(steps);
        for (r, sums) in sums.iter().enumerate() {
            let out = &mut work.out[(first + r) * padded_dim + panel * COLUMNS..][..COLUMNS];
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out = *out * keep[r] + sum);
        }
    }
}

/// `Σ a[r][depth] · panel[depth]` over one panel after the other, in order of depth.
#[inline(always)]
fn multiply<'a, const R: usize, const FUSED: bool>(
    panels: impl Iterator<Item = ([&'a [f32]; R], Panel<'a>)>,
) -> [[f32; COLUMNS]; R] {
    // Sums that are not given in from outside stay in registers.
    let mut sums = [[0.0; COLUMNS]; R];
    for (a, panel) in panels {
        let a = a.map(|a| &a[..panel.len()]);
        for (depth, row) in panel.iter().enumerate() {
            for r in 0..R {
                let x = a[r][depth];
                for i in 0..COLUMNS {
                    sums[r][i] = multiply_add::<FUSED>(x, row[i], sums[r][i]);
                }
            }
        }
    }
    sums
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    // Without the instruction, `mul_add` is a slow call.
    if FUSED { a.mul_add(b, c) } else { a * b + c }
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
