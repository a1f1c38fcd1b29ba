//! Backward: with weights `p` and scores `s`, `dv = pᵀ · d_out`, `ds = p · (d_out · vᵀ - Σ d_out · out) / √head_dim`,
//! `dq = ds · k`, `dk = dsᵀ · q`.

use std::ops::Range;

use super::{BLOCK, Heads, ROWS, Scratch, seen};
use crate::{
    float::{bf16_to_f32, exp, f32_to_bf16},
    isa::for_each_isa,
    train::gemm::{
        Data, View,
        kernel::{A, Kernel, Out, Rows, Tile, Words},
        pack::{LANES, Line, ROW_LINES, multiply_unit, pack_columns, pack_lanes, rows_of, words},
    },
};

/// All positions of some heads.
///
/// # Safety
/// Operands and gradients hold all positions, and nobody else touches these of the gradients.
pub unsafe fn heads(
    kernel: Kernel,
    item: &Heads<'_>,
    [q, k, v, d_out]: [Data<'_>; 4],
    [lse, means]: [&[f32]; 2],
    [dq, dk, dv]: [Out; 3],
    scratch: &mut Scratch,
) {
    scratch.reserve();
    let (shape, attend_from) = (item.shape, item.attend_from());
    let (tokens, dim) = (shape.sequence_tokens, shape.head_dim);
    let [k, v] = [k, v].map(|x| item.view(x, shape.kv_heads, item.kv_head));
    let [dk, dv] = [dk, dv].map(|d| item.out(d, item.kv_head));
    let number = kernel.step_numbers();
    let (steps, along) = (dim.div_ceil(number), BLOCK / number);
    let heads = item.heads();
    for d in [dk, dv].into_iter().chain(heads.clone().map(|head| item.out(dq, head))) {
        for row in 0..tokens {
            // SAFETY: `d` holds the row, which is this item's.
            unsafe { d.row(row, dim) }.fill(0.0);
        }
    }
    for keys in blocks(0, tokens) {
        pack_columns(kernel, k, keys.clone(), 0..dim, steps, &mut scratch.keys);
        pack_columns(kernel, v, keys.clone(), 0..dim, steps, &mut scratch.values);
        pack_lanes(kernel, k, keys.clone(), 0..dim, along, &mut scratch.keys_along);
        for queries in blocks(keys.start, tokens) {
            if attend_from[queries.start] as usize >= keys.end {
                break;
            }
            for head in heads.clone() {
                let [q, d_out] = [q, d_out].map(|x| item.view(x, shape.heads, head));
                pack_lanes(kernel, q, queries.clone(), 0..dim, along, &mut scratch.queries_along);
                pack_lanes(kernel, d_out, queries.clone(), 0..dim, along, &mut scratch.d_out_along);
                let (keys, queries, dq) = (keys.clone(), queries.clone(), item.out(dq, head));
                let pair = Pair { kernel, item, head, keys, queries, q, d_out, lse, means, dq, dk, dv };
                for first in pair.queries.clone().step_by(ROWS) {
                    // SAFETY: scratch is reserved and holds these blocks, packed above; gradients are the caller's promise.
                    unsafe {
                        let seen = pair.score_rows(first, scratch);
                        if !seen.is_empty() {
                            pair.add_to_queries(first, seen, scratch);
                        }
                    }
                }
                // SAFETY: as above, and all rows have their weights.
                unsafe { pair.add_to_keys_and_values(scratch) };
            }
        }
    }
}

/// A block of keys and values, and a block of one head's queries that see some of them.
struct Pair<'a> {
    kernel: Kernel,
    item: &'a Heads<'a>,
    head: usize,
    keys: Range<usize>,
    queries: Range<usize>,
    /// `(sequence_tokens, head_dim)` of `head`.
    q: View<'a>,
    d_out: View<'a>,
    /// `(tokens, heads)`.
    lse: &'a [f32],
    means: &'a [f32],
    /// The sequence's first row, of `head` and of its keys' head.
    dq: Out,
    dk: Out,
    dv: Out,
}

impl Pair<'_> {
    fn dim(&self) -> usize {
        self.item.shape.head_dim
    }

    /// Numbers in a step, and steps of a block along positions.
    fn along(&self) -> (usize, usize) {
        let number = self.kernel.step_numbers();
        (number, BLOCK / number)
    }

    /// How many rows of the queries are made at once from `first` on.
    #[inline(always)]
    fn rows(&self, first: usize) -> usize {
        ROWS.min(self.queries.end - first)
    }

    /// Weights and gradients of scores of [`ROWS`] of the queries from `first` on. Gives what they see, as [`seen`] does.
    ///
    /// # Safety
    /// `scratch` is reserved and holds `keys` and `values`, and views hold all positions.
    #[inline(always)]
    unsafe fn score_rows(&self, first: usize, scratch: &mut Scratch) -> Range<usize> {
        let (kernel, dim) = (self.kernel, self.dim());
        let (number, at, rows) = (kernel.step_numbers(), first - self.queries.start, self.rows(first));
        let seen = seen(self.item.attend_from(), first, first + rows, &self.keys);
        if seen.is_empty() {
            clear(scratch, number, at, rows, 0..BLOCK);
            return seen;
        }
        clear(scratch, number, at, rows, 0..seen.start);
        clear(scratch, number, at, rows, seen.end..BLOCK);
        let steps = dim.div_ceil(number);
        let queries = rows_of(kernel, self.q, first..first + rows, 0..dim, &mut scratch.rows);
        let d_rows = rows_of(kernel, self.d_out, first..first + rows, 0..dim, &mut scratch.d_rows);
        let products =
            [(queries, &scratch.keys, &mut scratch.scores), (d_rows, &scratch.values, &mut scratch.d_scores)];
        for (a, b, scores) in products {
            let start = scores.as_mut_ptr().cast::<f32>().wrapping_add(seen.start);
            let tile = Tile {
                a: A::Rows(a),
                b: b[seen.start / LANES * steps..].as_ptr(),
                unit_lines: steps,
                steps,
                out: Out { start, stride: BLOCK },
                cols: seen.len(),
                add: false,
            };
            // SAFETY: both operands are packed, and scratch has room for `ROWS` rows of `BLOCK` scores.
            unsafe { multiply_unit(kernel, rows, tile) };
        }
        let mut parts: [Row; ROWS] = std::array::from_fn(|_| Row::default());
        for (r, part) in parts[..rows].iter_mut().enumerate() {
            *part = self.row(first + r);
        }
        gradients(kernel, scratch, &parts[..rows], at, seen.clone(), 1.0 / (dim as f32).sqrt());
        seen
    }

    #[inline(always)]
    fn row(&self, row: usize) -> Row {
        let place = (self.item.start() + row) * self.item.shape.heads + self.head;
        let Range { start, end } = self.keys;
        Row {
            from: (self.item.attend_from()[row] as usize).clamp(start, end) - start,
            to: (row + 1).clamp(start, end) - start,
            lse: self.lse[place],
            mean: self.means[place],
        }
    }

    /// Adds to `dq` of these rows what comes by way of the keys that they see, `seen`.
    ///
    /// # Safety
    /// [`Self::score_rows`] was called for these rows just before; `scratch` holds `keys_along`; `dq` holds all positions, and nobody
    /// else touches these rows.
    #[inline(always)]
    unsafe fn add_to_queries(&self, first: usize, seen: Range<usize>, scratch: &Scratch) {
        let (dq, (number, along)) = (self.dq, self.along());
        let weights = scratch.weight_rows.as_ptr().cast::<u32>().wrapping_add(seen.start / number);
        let tile = Tile {
            a: A::Rows(Rows::packed(weights)),
            b: scratch.keys_along[seen.start / number..].as_ptr(),
            unit_lines: along,
            // Keys are packed up to the last one only.
            steps: (seen.end.min(self.keys.len()) - seen.start).div_ceil(number),
            out: Out { start: dq.start.wrapping_add(first * dq.stride), ..dq },
            cols: self.dim(),
            add: true,
        };
        // SAFETY: the caller's promise.
        unsafe { multiply_unit(self.kernel, self.rows(first), tile) };
    }

    /// Adds to `dk` and `dv` of the keys what comes by way of the queries.
    ///
    /// # Safety
    /// [`Self::score_rows`] was called for all of the queries; `scratch` holds `queries_along` and `d_out_along`; `dk` and `dv` hold all
    /// positions, and nobody else touches these.
    #[inline(always)]
    unsafe fn add_to_keys_and_values(&self, scratch: &Scratch) {
        let (Self { keys, queries, .. }, (number, along)) = (self, self.along());
        let attend_from = &self.item.attend_from()[queries.clone()];
        let operands = [
            (&scratch.weights, &scratch.d_out_along, self.dv),
            (&scratch.d_scores_along, &scratch.queries_along, self.dk),
        ];
        for unit in keys.clone().step_by(LANES) {
            // Rows before these keys, and those of later documents, do not see them.
            let first = unit.saturating_sub(queries.start) / number * number;
            let rows = LANES.min(keys.end - unit);
            let end = attend_from.partition_point(|&from| (from as usize) < unit + rows);
            if first >= end {
                continue;
            }
            let lines = (unit - keys.start) / LANES * along + first / number;
            for (a, b, out) in operands {
                let tile = Tile {
                    a: A::Lanes(a[lines..].as_ptr().cast()),
                    b: b[first / number..].as_ptr(),
                    unit_lines: along,
                    steps: (end - first).div_ceil(number),
                    out: Out { start: out.start.wrapping_add(unit * out.stride), ..out },
                    cols: self.dim(),
                    add: true,
                };
                // SAFETY: the caller's promise.
                unsafe { multiply_unit(self.kernel, rows, tile) };
            }
        }
    }
}

/// Blocks of positions from `start`, a block's first, on.
fn blocks(start: usize, tokens: usize) -> impl Iterator<Item = Range<usize>> {
    (start..tokens).step_by(BLOCK).map(move |at| at..(at + BLOCK).min(tokens))
}

/// What a row brings to its block of keys.
#[derive(Debug, Clone, Copy, Default)]
pub struct Row {
    /// The keys of the block that it sees.
    pub from: usize,
    pub to: usize,
    /// Logarithm of its sum of exponentials.
    pub lse: f32,
    /// `Σ d_out · out`.
    pub mean: f32,
}

/// Makes weights and gradients of scores along queries zero: those of `rows` rows from `at` on, for sixteens of keys `keys`.
fn clear(scratch: &mut Scratch, number: usize, at: usize, rows: usize, keys: Range<usize>) {
    for unit in keys.start / LANES..keys.end / LANES {
        let lines = unit * (BLOCK / number) + at / number..unit * (BLOCK / number) + (at + rows).div_ceil(number);
        scratch.weights[lines.clone()].fill(Line::default());
        scratch.d_scores_along[lines].fill(Line::default());
    }
}

/// From scores and gradients of weights: weights along queries, and gradients of scores both ways. The first of `rows` is the block's
/// row `at`.
fn gradients(kernel: Kernel, scratch: &mut Scratch, rows: &[Row], at: usize, seen: Range<usize>, scale: f32) {
    #[cfg(target_arch = "x86_64")]
    if kernel.words() == Words::Pairs {
        // SAFETY: `Pairs` is only chosen where the processor has AVX-512 BF16.
        unsafe { super::x86::gradients(scratch, rows, at, seen, scale) };
        return;
    }
    gradients_scalar(kernel.isa(), kernel.words() == Words::Rounded, scratch, rows, at, seen, scale);
}

for_each_isa! {
    fn gradients_scalar(rounded: bool, scratch: &mut Scratch, rows: &[Row], at: usize, seen: Range<usize>, scale: f32) = gradients_body
}

#[inline(always)]
fn gradients_body(rounded: bool, scratch: &mut Scratch, rows: &[Row], at: usize, seen: Range<usize>, scale: f32) {
    let round = |x: f32| if rounded { bf16_to_f32(f32_to_bf16(x)) } else { x }.to_bits();
    for (r, row) in rows.iter().enumerate() {
        let ds_row = &mut words(&mut scratch.weight_rows[r * ROW_LINES..][..ROW_LINES])[..BLOCK];
        for first in seen.clone().step_by(LANES) {
            let line = (r * BLOCK + first) / LANES;
            let along = first / LANES * BLOCK + at + r;
            let (scores, d_weights) = (&scratch.scores[line].0, &scratch.d_scores[line].0);
            let (weights, d_scores) = (&mut scratch.weights[along].0, &mut scratch.d_scores_along[along].0);
            for lane in 0..LANES {
                let own = first + lane >= row.from && first + lane < row.to;
                let weight = exp(f32::from_bits(scores[lane]) * scale - row.lse);
                let weight = if own { weight } else { 0.0 };
                let d_score = weight * (f32::from_bits(d_weights[lane]) - row.mean) * scale;
                let d_score = if own { d_score } else { 0.0 };
                weights[lane] = round(weight);
                d_scores[lane] = round(d_score);
            }
            ds_row[first..first + LANES].copy_from_slice(d_scores);
        }
    }
}

for_each_isa! {
    pub fn mean(a: &[f32], b: &[f32]) -> f32 = mean_body
}

#[inline(always)]
fn mean_body(a: &[f32], b: &[f32]) -> f32 {
    // Whole sixteens by themselves: a loop that may end early stays one number at a time.
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
    }
    sums[0] + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}
