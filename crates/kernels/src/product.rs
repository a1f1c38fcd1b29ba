//! Matrix products, many at once: `out = x · Wᵀ` for a list of jobs whose work all threads share.
//!
//! A job is one weight matrix with the rows of activations that want it, so a mixture's experts are as many jobs, and the
//! three projections of attention are three. Work is cut by rows of weights only: a sum along `k` is never split, and its
//! order does not depend on how many rows of activations came along.

use crate::{
    Weights,
    activations::{Activations, QuantisedRows, quantise_row},
    compute::{Compute, Scratch},
    decode::decode_row_unscaled,
    dot::dot_f32,
    float::silu,
    isa::Isa,
    tile::{self, Tile},
};

/// Items that each thread should find in a list of jobs, so that none waits long for the last.
const ITEMS_PER_THREAD: usize = 24;

/// Rows of weights that a thread takes at a time: many where there is enough to share, since what is asked of memory ahead
/// is wasted at an item's end.
fn item_rows(total_rows: usize, threads: usize) -> usize {
    (total_rows / (threads * ITEMS_PER_THREAD)).next_multiple_of(tile::ROWS).clamp(tile::ROWS, 8 * tile::ROWS)
}

/// Which rows of the activations a job is for.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// Consecutive rows from the first on.
    From(usize, usize),
    /// These rows, in this order.
    List(&'a [u32]),
}

impl Rows<'_> {
    fn len(&self) -> usize {
        match self {
            Self::From(_, count) => *count,
            Self::List(rows) => rows.len(),
        }
    }

    fn get(&self, index: usize) -> usize {
        match self {
            Self::From(first, _) => first + index,
            Self::List(rows) => rows[index] as usize,
        }
    }
}

/// One product: `out: (rows, weights.rows)`.
pub struct Job<'a> {
    /// `(any, k)`.
    pub x: Activations<'a>,
    /// `(out, k)`.
    pub weights: Weights<'a>,
    /// Rows of the activations, in the order of `out`.
    pub rows: Rows<'a>,
    /// Where the results go.
    pub out: &'a mut [f32],
}

/// One gated product: `out: (rows, gate.rows) = silu(x · gateᵀ) · (x · upᵀ)`.
pub struct SwigluJob<'a> {
    /// `(any, k)`.
    pub x: Activations<'a>,
    /// `(out, k)`.
    pub gate: Weights<'a>,
    /// `(out, k)`.
    pub up: Weights<'a>,
    /// Rows of the activations, in the order of `out`.
    pub rows: Rows<'a>,
    /// Where the results go.
    pub out: &'a mut [f32],
}

/// A job's output, written by several threads at once.
#[derive(Clone, Copy)]
struct Out {
    start: *mut f32,
    rows: usize,
    cols: usize,
}

// SAFETY: threads write through it to columns that no other thread writes (see `run_items`).
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    fn new(out: &mut [f32], rows: usize, cols: usize) -> Self {
        assert_eq!(Some(out.len()), rows.checked_mul(cols), "a job's output holds its rows");
        Self { start: out.as_mut_ptr(), rows, cols }
    }

    /// The number at (`row`, `col`).
    ///
    /// # Safety
    /// No other thread may hold or touch it.
    #[allow(clippy::mut_from_ref, reason = "the exclusive access is the caller's promise")]
    unsafe fn at(&self, row: usize, col: usize) -> &mut f32 {
        assert!(row < self.rows && col < self.cols);
        // SAFETY: inside the slice that `new` took, whose borrow outlives the loop.
        unsafe { &mut *self.start.add(row * self.cols + col) }
    }
}

impl Compute {
    /// Runs every job.
    pub fn products(&self, jobs: &mut [Job<'_>]) {
        let outs: Vec<Out> = jobs.iter_mut().map(|job| Out::new(job.out, job.rows.len(), job.weights.rows())).collect();
        self.run_items(jobs.iter().map(|job| job.weights.rows()), |index, rows, scratch| {
            let (job, out) = (&jobs[index], &outs[index]);
            multiply(self.isa(), scratch, job.weights, rows, job.x, job.rows, |row, col, value| {
                // SAFETY: only this item has column `col` of this job.
                unsafe { *out.at(row, col) = value };
            });
        });
    }

    /// Runs every gated job.
    pub fn swiglu_products(&self, jobs: &mut [SwigluJob<'_>]) {
        let outs: Vec<Out> = jobs.iter_mut().map(|job| Out::new(job.out, job.rows.len(), job.gate.rows())).collect();
        assert!(jobs.iter().all(|job| job.gate.rows() == job.up.rows()));
        self.run_items(jobs.iter().map(|job| job.gate.rows()), |index, rows, scratch| {
            let (job, out) = (&jobs[index], &outs[index]);
            multiply(self.isa(), scratch, job.gate, rows.clone(), job.x, job.rows, |row, col, value| {
                // SAFETY: only this item has column `col` of this job.
                unsafe { *out.at(row, col) = value };
            });
            multiply(self.isa(), scratch, job.up, rows, job.x, job.rows, |row, col, value| {
                // SAFETY: as above.
                let gate = unsafe { out.at(row, col) };
                *gate = silu(*gate) * value;
            });
        });
    }

    /// Rounds every row of `x: (rows, cols)` into `out`.
    pub fn quantise(&self, x: &[f32], cols: usize, out: &mut QuantisedRows) {
        let rows = x.len() / cols;
        out.shape(rows, cols);
        let padded = out.padded_cols;
        let codes = out.codes.chunks_mut(padded).zip(out.scales.chunks_mut(padded / 16));
        let sums = out.sums_of_16.chunks_mut(padded / 16).zip(out.sums_of_32.chunks_mut(padded / 32));
        let mut parts: Vec<_> = x.chunks(cols).zip(codes).zip(sums).collect();
        self.for_each(&mut parts, |_, ((x, (codes, scales)), (sums_of_16, sums_of_32))| {
            quantise_row(self.isa(), x, codes, scales, sums_of_16, sums_of_32);
        });
    }

    /// Cuts matrices of `heights` rows into items and shares them: `work(matrix, rows, scratch)`. Each pair of matrix and
    /// row goes to exactly one call.
    fn run_items(
        &self,
        heights: impl Iterator<Item = usize>,
        work: impl Fn(usize, std::ops::Range<usize>, &mut Scratch) + Sync,
    ) {
        let heights: Vec<usize> = heights.collect();
        let mut ends = Vec::with_capacity(heights.len());
        let mut items = 0;
        let item_rows = item_rows(heights.iter().sum(), self.threads());
        for height in &heights {
            items += height.div_ceil(item_rows);
            ends.push(items);
        }
        self.run(items, |item, scratch| {
            let matrix = ends.partition_point(|&end| end <= item);
            let before = if matrix == 0 { 0 } else { ends[matrix - 1] };
            let first = (item - before) * item_rows;
            work(matrix, first..(first + item_rows).min(heights[matrix]), scratch);
        });
    }
}

/// Products of `weights`' rows `range` with the listed rows of `x`: `emit(index in rows, row of weights, value)`.
fn multiply(
    isa: Isa,
    scratch: &mut Scratch,
    weights: Weights<'_>,
    range: std::ops::Range<usize>,
    x: Activations<'_>,
    rows: Rows<'_>,
    mut emit: impl FnMut(usize, usize, f32),
) {
    assert_eq!(weights.cols(), x.cols, "weights and activations share k");
    let quantised = x.quantised.filter(|_| weights.kind().is_quantised());
    // A few rows of activations in f32: decoded weights stay in the first cache.
    let step = if quantised.is_none() && rows.len() <= 4 { 4 } else { tile::ROWS };
    for first in range.clone().step_by(step) {
        let count = step.min(range.end - first);
        match quantised {
            Some(x) if rows.len() == 1 => {
                let values = scratch.tile.dot_one(isa, weights, first, count, x.row(rows.get(0)));
                for (r, value) in values[..count].iter().enumerate() {
                    emit(0, first + r, *value);
                }
            }
            Some(x) => {
                scratch.tile.fill(isa, weights, first, count);
                multiply_tile(isa, &scratch.tile, count, x, rows, |index, r, value| emit(index, first + r, value));
            }
            None => multiply_f32(isa, scratch, weights, first, count, x, rows, &mut emit),
        }
    }
}

/// Products of a tile's first `count` rows: `emit(index in rows, row of the tile, value)`.
fn multiply_tile(
    isa: Isa,
    tile: &Tile,
    count: usize,
    x: &QuantisedRows,
    rows: Rows<'_>,
    mut emit: impl FnMut(usize, usize, f32),
) {
    let mut index = 0;
    let mut take = |index: usize, values: &[[f32; tile::ROWS]]| {
        for (i, values) in values.iter().enumerate() {
            for (r, value) in values[..count].iter().enumerate() {
                emit(index + i, r, *value);
            }
        }
    };
    while index < rows.len() {
        let row = |i: usize| x.row(rows.get(index + i));
        index += match rows.len() - index {
            tile::WIDTH.. => {
                take(index, &tile.dot::<{ tile::WIDTH }>(isa, std::array::from_fn(row)));
                tile::WIDTH
            }
            4.. => {
                take(index, &tile.dot::<4>(isa, std::array::from_fn(row)));
                4
            }
            2.. => {
                take(index, &tile.dot::<2>(isa, std::array::from_fn(row)));
                2
            }
            _ => {
                take(index, &tile.dot::<1>(isa, [row(0)]));
                1
            }
        };
    }
}

#[allow(clippy::too_many_arguments, reason = "the inner half of `multiply`")]
fn multiply_f32(
    isa: Isa,
    scratch: &mut Scratch,
    weights: Weights<'_>,
    first: usize,
    count: usize,
    x: Activations<'_>,
    rows: Rows<'_>,
    emit: &mut impl FnMut(usize, usize, f32),
) {
    let cols = weights.cols();
    scratch.f32.resize(count * cols, 0.0);
    for (row, out) in scratch.f32.chunks_mut(cols).enumerate() {
        decode_row_unscaled(isa, weights, first + row, &mut scratch.unpacked, out);
    }
    let decoded = scratch.f32.as_slice();
    tiles::<2, &[f32]>(
        count,
        rows.len(),
        |index| x.row(rows.get(index)),
        |r, x| dot_f32::<4, 2>(isa, decoded, r, cols, x),
        |r, x| dot_f32::<4, 1>(isa, decoded, r, cols, [x]).map(|[v]| v),
        |r, x| dot_f32::<1, 1>(isa, decoded, r, cols, [x])[0][0],
        |index, r, value| emit(index, first + r, value * weights.row_scale(first + r)),
    );
}

/// Covers `height` rows of weights by `width` rows of activations with tiles of 4 by `M`, then 4 by 1, then single ones.
fn tiles<const M: usize, X: Copy>(
    height: usize,
    width: usize,
    x: impl Fn(usize) -> X,
    block: impl Fn(usize, [X; M]) -> [[f32; M]; 4],
    column: impl Fn(usize, X) -> [f32; 4],
    single: impl Fn(usize, X) -> f32,
    mut emit: impl FnMut(usize, usize, f32),
) {
    let mut index = 0;
    while index < width {
        let wide = index + M <= width;
        let count = if wide { M } else { 1 };
        let mut r = 0;
        while r < height {
            if r + 4 > height {
                for i in index..index + count {
                    emit(i, r, single(r, x(i)));
                }
                r += 1;
            } else if wide {
                let values = block(r, std::array::from_fn(|i| x(index + i)));
                for (dr, row) in values.iter().enumerate() {
                    for (i, value) in row.iter().enumerate() {
                        emit(index + i, r + dr, *value);
                    }
                }
                r += 4;
            } else {
                for (dr, value) in column(r, x(index)).into_iter().enumerate() {
                    emit(index, r + dr, value);
                }
                r += 4;
            }
        }
        index += count;
    }
}
