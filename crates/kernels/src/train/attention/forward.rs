//! Forward.

use std::ops::Range;

use super::{BLOCK, Heads, ITEM, ROWS, Scratch, seen};
use crate::{
    float::{bf16_to_f32, exp, f32_to_bf16},
    isa::for_each_isa,
    train::gemm::{
        Data, View,
        kernel::{A, Kernel, Out, Rows, Tile, Words},
        pack::{LANES, Line, ROW_LINES, multiply_unit, pack_columns, pack_lanes, rows_of, words},
    },
};

/// Positions `block · ITEM` on of some heads.
///
/// # Safety
/// Operands, `out` and `lse` hold all positions, and nobody else touches these of `out` and `lse`.
pub unsafe fn block(
    kernel: Kernel,
    item: &Heads<'_>,
    block: usize,
    [q, k, v]: [Data<'_>; 3],
    out: Out,
    lse: Out,
    scratch: &mut Scratch,
) {
    scratch.reserve();
    let (shape, attend_from) = (item.shape, item.attend_from());
    let (dim, number) = (shape.head_dim, kernel.step_numbers());
    let [k, v] = [k, v].map(|x| item.view(x, shape.kv_heads, item.kv_head));
    let heads = item.heads();
    let queries = block * ITEM..((block + 1) * ITEM).min(shape.sequence_tokens);
    let (first_block, last_block) = (attend_from[queries.start] as usize / BLOCK, (queries.end - 1) / BLOCK);
    for head in heads.clone() {
        let (q, out) = (item.view(q, shape.heads, head), item.out(out, head));
        let queries = Queries { kernel, item, head, range: queries.clone(), q, out };
        // SAFETY: `out` is the caller's promise.
        unsafe { queries.begin_rows(scratch) };
        for key_block in first_block..=last_block {
            let keys = key_block * BLOCK..((key_block + 1) * BLOCK).min(queries.range.end);
            // With one block of keys, the next head finds it packed.
            if head == heads.start || first_block < last_block {
                pack_columns(kernel, k, keys.clone(), 0..dim, dim.div_ceil(number), &mut scratch.keys);
                pack_lanes(kernel, v, keys.clone(), 0..dim, BLOCK / number, &mut scratch.values);
            }
            for first in queries.range.clone().step_by(ROWS) {
                let rows = first..(first + ROWS).min(queries.range.end);
                // SAFETY: scratch is reserved and holds these keys and values; the rest is the caller's promise.
                unsafe { queries.fold_rows(rows, &keys, scratch) };
            }
        }
        // SAFETY: the caller's promise.
        unsafe { queries.finish_rows(lse, scratch) };
    }
}

/// An item's queries of one head.
struct Queries<'a> {
    kernel: Kernel,
    item: &'a Heads<'a>,
    head: usize,
    range: Range<usize>,
    /// `(sequence_tokens, head_dim)` of `head`, and where its results go.
    q: View<'a>,
    out: Out,
}

impl Queries<'_> {
    /// Nothing is seen yet.
    ///
    /// # Safety
    /// `out` holds all positions, and nobody else touches these.
    #[inline]
    unsafe fn begin_rows(&self, scratch: &mut Scratch) {
        for row in self.range.clone() {
            // SAFETY: the caller's promise.
            unsafe { self.out.row(row, self.item.shape.head_dim) }.fill(0.0);
        }
        scratch.tops.fill(f32::NEG_INFINITY);
        scratch.sums.fill(0.0);
    }

    /// Folds what `rows`, at most [`ROWS`] of the queries, see of the keys `keys` into their results so far.
    ///
    /// # Safety
    /// `scratch` is reserved and holds these keys and their values; `q` and `out` hold all positions, and nobody else touches these rows
    /// of `out`.
    #[inline]
    unsafe fn fold_rows(&self, rows: Range<usize>, keys: &Range<usize>, scratch: &mut Scratch) {
        let (kernel, dim, attend_from) = (self.kernel, self.item.shape.head_dim, self.item.attend_from());
        let seen = seen(attend_from, rows.start, rows.end, keys);
        if seen.is_empty() {
            return;
        }
        let number = kernel.step_numbers();
        let steps = dim.div_ceil(number);
        let scores = Tile {
            a: A::Rows(rows_of(kernel, self.q, rows.clone(), 0..dim, &mut scratch.rows)),
            b: scratch.keys[seen.start / LANES * steps..].as_ptr(),
            unit_lines: steps,
            steps,
            out: Out { start: scratch.scores.as_mut_ptr().cast::<f32>().wrapping_add(seen.start), stride: BLOCK },
            cols: seen.len(),
            add: false,
        };
        // SAFETY: both operands are packed, and scratch has room for `ROWS` rows of `BLOCK` scores.
        unsafe { multiply_unit(kernel, rows.len(), scores) };
        let scale = 1.0 / (dim as f32).sqrt();
        for (r, row) in rows.clone().enumerate() {
            let from = (attend_from[row] as usize).clamp(keys.start, keys.end) - keys.start;
            let to = (row + 1).clamp(keys.start, keys.end) - keys.start;
            let scores = &mut scratch.scores[r * BLOCK / LANES..][..BLOCK / LANES];
            let weights = &mut scratch.weight_rows[r * ROW_LINES..][..ROW_LINES];
            let place = row - self.range.start;
            let (top, sum) = (&mut scratch.tops[place], &mut scratch.sums[place]);
            let keep = weigh(kernel, scores, weights, scale, from..to, seen.clone(), top, sum);
            if keep != 1.0 {
                // SAFETY: the caller's promise.
                unsafe { self.out.row(row, dim) }.iter_mut().for_each(|out| *out *= keep);
            }
        }
        let weights = scratch.weight_rows.as_ptr().cast::<u32>().wrapping_add(seen.start / number);
        let values = Tile {
            a: A::Rows(Rows::packed(weights)),
            b: scratch.values[seen.start / number..].as_ptr(),
            unit_lines: BLOCK / number,
            // Values are packed up to the last key only.
            steps: (seen.end.min(keys.len()) - seen.start).div_ceil(number),
            out: Out { start: self.out.start.wrapping_add(rows.start * self.out.stride), ..self.out },
            cols: dim,
            add: true,
        };
        // SAFETY: as above; the rows of `out` are the caller's promise.
        unsafe { multiply_unit(kernel, rows.len(), values) };
    }

    /// Divides by the sums of weights, and writes their logarithms.
    ///
    /// # Safety
    /// `out` and `lse` hold all positions, and nobody else touches these.
    #[inline]
    unsafe fn finish_rows(&self, lse: Out, scratch: &Scratch) {
        for (row, (top, sum)) in self.range.clone().zip(scratch.tops.iter().zip(&scratch.sums)) {
            // SAFETY: the caller's promise.
            unsafe {
                self.out.row(row, self.item.shape.head_dim).iter_mut().for_each(|out| *out /= sum);
                *lse.start.add((self.item.start() + row) * lse.stride + self.head) = top + sum.ln();
            }
        }
    }
}

/// Makes the weights of one row from its scores, those in `seen` but not in `own` zeros. Gives what the row's results so far are to
/// be multiplied by.
#[allow(clippy::too_many_arguments)]
fn weigh(
    kernel: Kernel,
    scores: &mut [Line],
    weights: &mut [Line],
    scale: f32,
    own: Range<usize>,
    seen: Range<usize>,
    top: &mut f32,
    sum: &mut f32,
) -> f32 {
    if own.is_empty() {
        let number = kernel.step_numbers();
        words(weights)[seen.start / number..seen.end / number].fill(0);
        return 1.0;
    }
    #[cfg(target_arch = "x86_64")]
    if kernel.words() == Words::Pairs {
        // SAFETY: `Pairs` is only chosen where the processor has AVX-512 BF16.
        return unsafe { super::x86::weigh(scores, weights, scale, own, seen, top, sum) };
    }
    weigh_scalar(kernel.isa(), kernel.words() == Words::Rounded, scores, weights, scale, own, seen, top, sum)
}

for_each_isa! {
    fn weigh_scalar(
        rounded: bool, scores: &mut [Line], weights: &mut [Line], scale: f32, own: Range<usize>, seen: Range<usize>, top: &mut f32,
        sum: &mut f32,
    ) -> f32 = weigh_body
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn weigh_body(
    rounded: bool,
    scores: &mut [Line],
    weights: &mut [Line],
    scale: f32,
    own: Range<usize>,
    seen: Range<usize>,
    top: &mut f32,
    sum: &mut f32,
) -> f32 {
    let (scores, weights) = (&words(scores)[own.clone()], words(weights));
    let largest = scores.iter().fold(f32::NEG_INFINITY, |top, &score| top.max(f32::from_bits(score))) * scale;
    let old = *top;
    *top = if largest > old { largest } else { old };
    let keep = if *top == old { 1.0 } else { exp(old - *top) };
    weights[seen.start..own.start].fill(0);
    weights[own.end..seen.end].fill(0);
    let mut sums = [0.0; LANES];
    for (weights, scores) in weights[own].chunks_mut(LANES).zip(scores.chunks(LANES)) {
        for ((weight, score), sum) in weights.iter_mut().zip(scores).zip(&mut sums) {
            let x = exp(f32::from_bits(*score) * scale - *top);
            *sum += x;
            *weight = if rounded { bf16_to_f32(f32_to_bf16(x)) } else { x }.to_bits();
        }
    }
    *sum = *sum * keep + sums.iter().sum::<f32>();
    keep
}
