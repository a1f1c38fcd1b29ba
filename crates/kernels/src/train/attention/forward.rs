//! Forward.

use std::ops::Range;

use super::{BLOCK, Heads, ITEM, ROWS, Scratch, seen};
use crate::{
    float::{bf16_to_f32, exp, f32_to_bf16},
    isa::for_each_isa,
    train::gemm::{
        Data,
        kernel::{A, Kernel, Out, Rows, Tile, Words},
        pack::{LANES, Line, ROW_LINES, multiply_unit, pack_columns, pack_lanes, rows_of, words},
    },
};

/// Positions `block · ITEM` on of some heads.
///
/// # Safety
/// `out` and `lse` hold all positions, and nobody else touches these.
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
    let dim = shape.head_dim;
    let steps = dim.div_ceil(kernel.step_numbers());
    let queries = block * ITEM..((block + 1) * ITEM).min(shape.sequence_tokens);
    let scale = 1.0 / (dim as f32).sqrt();
    let [k, v] = [k, v].map(|x| item.view(x, shape.kv_heads, item.kv_head));
    let heads = item.heads();
    let (first_block, last_block) = (attend_from[queries.start] as usize / BLOCK, (queries.end - 1) / BLOCK);
    for head in heads.clone() {
        let out = item.out(out, head);
        for row in queries.clone() {
            // SAFETY: `out` holds the row, which is this item's.
            unsafe { std::slice::from_raw_parts_mut(out.start.add(row * out.stride), dim) }.fill(0.0);
        }
        scratch.tops.fill(f32::NEG_INFINITY);
        scratch.sums.fill(0.0);
        let q = item.view(q, shape.heads, head);
        for key_block in first_block..=last_block {
            let keys = key_block * BLOCK..((key_block + 1) * BLOCK).min(queries.end);
            // With one block of keys, the next head finds it packed.
            if head == heads.start || first_block < last_block {
                pack_columns(kernel, k, keys.clone(), 0..dim, steps, &mut scratch.keys);
                let along = BLOCK / kernel.step_numbers();
                pack_lanes(kernel, v, keys.clone(), 0..dim, along, &mut scratch.values);
            }
            for first in queries.clone().step_by(ROWS) {
                let rows = ROWS.min(queries.end - first);
                let seen = seen(attend_from, first, first + rows, &keys);
                if seen.is_empty() {
                    continue;
                }
                let scores = Tile {
                    a: A::Rows(rows_of(kernel, q, first..first + rows, 0..dim, &mut scratch.rows)),
                    b: scratch.keys[seen.start / LANES * steps..].as_ptr(),
                    unit_lines: steps,
                    steps,
                    out: Out {
                        start: scratch.scores.as_mut_ptr().cast::<f32>().wrapping_add(seen.start),
                        stride: BLOCK,
                    },
                    cols: seen.len(),
                    add: false,
                };
                // SAFETY: both operands are packed, and scratch has room for `ROWS` rows of `BLOCK` scores.
                unsafe { multiply_unit(kernel, rows, scores) };
                let rows_out = Out { start: out.start.wrapping_add(first * out.stride), ..out };
                for r in 0..rows {
                    let from = (attend_from[first + r] as usize).clamp(keys.start, keys.end) - keys.start;
                    let to = (first + r + 1).clamp(keys.start, keys.end) - keys.start;
                    let row = first + r - queries.start;
                    let scores = &mut scratch.scores[r * BLOCK / LANES..][..BLOCK / LANES];
                    let weights = &mut scratch.weight_rows[r * ROW_LINES..][..ROW_LINES];
                    let (top, sum) = (&mut scratch.tops[row], &mut scratch.sums[row]);
                    let keep = weigh(kernel, scores, weights, scale, from..to, seen.clone(), top, sum);
                    if keep != 1.0 {
                        // SAFETY: `out` holds the row, which is this item's.
                        let out = unsafe { std::slice::from_raw_parts_mut(rows_out.start.add(r * out.stride), dim) };
                        out.iter_mut().for_each(|out| *out *= keep);
                    }
                }
                let number = kernel.step_numbers();
                let values = Tile {
                    a: A::Rows(Rows::packed(
                        scratch.weight_rows.as_ptr().cast::<u32>().wrapping_add(seen.start / number),
                    )),
                    b: scratch.values[seen.start / number..].as_ptr(),
                    unit_lines: BLOCK / number,
                    // Values are packed up to the last key only.
                    steps: (seen.end.min(keys.len()) - seen.start).div_ceil(number),
                    out: rows_out,
                    cols: dim,
                    add: true,
                };
                // SAFETY: as above; the rows of `out` are this item's.
                unsafe { multiply_unit(kernel, rows, values) };
            }
        }
        for row in queries.clone() {
            let (top, sum) = (scratch.tops[row - queries.start], scratch.sums[row - queries.start]);
            // SAFETY: as above.
            unsafe {
                let out = std::slice::from_raw_parts_mut(out.start.add(row * out.stride), dim);
                out.iter_mut().for_each(|out| *out /= sum);
                *lse.start.add((item.start() + row) * lse.stride + head) = top + sum.ln();
            }
        }
    }
}

/// Makes the weights of one row from its scores, those in `seen` but not in `own` zeros. Gives what the row's results so far are to
/// be multiplied by.
#[allow(clippy::too_many_arguments, reason = "the inner half of `block`")]
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
#[allow(clippy::too_many_arguments, reason = "as `weigh`")]
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
