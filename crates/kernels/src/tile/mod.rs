//! Sixteen rows of quantised weights side by side, and their products.
//!
//! A tile holds its rows interleaved: four consecutive codes of each of the sixteen rows, then the next four. So a lane is a
//! row, one activation is broadcast to all, nothing is summed across lanes, and a scale is one vector. The sum of a row and
//! an activation row is `Σ scale · x_scale · Σ code · x_code` over sixteens of codes in order, beside `Σ bias · x_sum` over
//! the weights' groups, whatever else is computed with it (Law 2).
//!
//! Where only one row of activations comes, AVX-512 leaves the codes row by row and adds the lanes of each sixteen up: that
//! is less work than interleaving, and since sums of codes are exact it gives the same bits. It goes a stretch of columns at
//! a time, so that codes never leave the first cache and memory is read all along.
//!
//! The plain reference is `portable`; AVX-512 and AVX2 do the same operations in the same order and give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::ops::Range;

use crate::{Weights, activations::QuantisedRow, isa::Isa, prefetch::prefetch, unpack::unpack_row};

/// Rows in a tile.
pub const ROWS: usize = 16;

/// Most rows of activations that are multiplied at once.
pub const WIDTH: usize = 8;

/// Columns of a stretch: whole blocks of every type, whole vectors of scales.
const STRETCH: usize = 1024;

/// Sixteen rows of one weight matrix, unpacked and interleaved. Reused from tile to tile.
#[derive(Debug, Default)]
pub struct Tile {
    /// `(cols / 4, ROWS, 4)`.
    codes: Vec<u8>,
    /// `(groups, ROWS)`.
    scales: Vec<f32>,
    /// `(groups, ROWS)`: what a group adds for each unit of activation, `min − offset · scale`.
    biases: Vec<f32>,
    /// Weights in a group: 16 or 32.
    group: usize,
    groups: usize,
    /// What is subtracted from each code.
    offset: f32,
    rows: Unpacked,
}

/// Sums over the columns so far: of scaled codes, and of biases.
#[derive(Default)]
struct Partial {
    sums: [f32; ROWS],
    biases: [f32; ROWS],
}

/// Rows before they are interleaved, each padded to whole vectors.
#[derive(Debug, Default)]
struct Unpacked {
    codes: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Tile {
    /// Room for rows of up to `cols` weights of any type.
    pub fn with_capacity(cols: usize) -> Self {
        let (codes, groups) = (ROWS * cols.next_multiple_of(64), ROWS * (cols / 16).next_multiple_of(16));
        let rows = Unpacked {
            codes: Vec::with_capacity(codes),
            scales: Vec::with_capacity(groups),
            mins: Vec::with_capacity(groups),
        };
        Self {
            codes: Vec::with_capacity(codes),
            scales: Vec::with_capacity(groups),
            biases: Vec::with_capacity(groups),
            group: 32,
            groups: 0,
            offset: 0.0,
            rows,
        }
    }

    /// Bytes that [`Tile::with_capacity`] takes.
    pub fn capacity_bytes(cols: usize) -> usize {
        2 * (ROWS * cols.next_multiple_of(64) + 2 * 4 * ROWS * (cols / 16).next_multiple_of(16))
    }

    /// Products of `count` (at most [`ROWS`]) rows of quantised `weights` from row `first` on with one row of activations.
    /// What lies beyond the rows means nothing.
    pub fn dot_one(
        &mut self,
        isa: Isa,
        weights: Weights<'_>,
        first: usize,
        count: usize,
        x: QuantisedRow<'_>,
    ) -> [f32; ROWS] {
        if isa != Isa::Avx512 {
            self.fill(isa, weights, first, count);
            return self.dot(isa, [x])[0];
        }
        let (cols, row_bytes) = (weights.cols(), weights.row(first).len());
        let mut partial = Partial::default();
        for start in (0..cols).step_by(STRETCH) {
            let end = cols.min(start + STRETCH);
            // The next stretch of the same rows, or the first of the next tile's.
            let ahead = if end < cols {
                row_bytes * STRETCH / cols
            } else {
                (ROWS - 1) * row_bytes + row_bytes * (cols - start) / cols
            };
            self.unpack(isa, weights, first..first + count, start..end, ahead);
            self.interleave_scales(isa);
            let x = x.from(start);
            self.check(x);
            #[cfg(target_arch = "x86_64")]
            match self.group {
                // SAFETY: `Isa::Avx512` only comes from `Isa::available`, which asked the processor; lengths are checked.
                16 => unsafe { avx512::dot_rows::<16>(self, x, &mut partial) },
                // SAFETY: as above.
                _ => unsafe { avx512::dot_rows::<32>(self, x, &mut partial) },
            }
        }
        std::array::from_fn(|row| partial.sums[row] + partial.biases[row])
    }

    /// Fills the tile with `count` (at most [`ROWS`]) rows of quantised `weights` from row `first` on. What lies beyond
    /// them in the tile gives numbers that mean nothing.
    pub fn fill(&mut self, isa: Isa, weights: Weights<'_>, first: usize, count: usize) {
        let ahead = 4 * weights.row(first).len();
        self.unpack(isa, weights, first..first + count, 0..weights.cols(), ahead);
        self.interleave_scales(isa);
        let len = self.rows.codes.len() / (4 * ROWS);
        self.codes.resize(self.rows.codes.len(), 0);
        match isa {
            // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor; each side
            // holds sixteen rows of a whole number of vectors.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe {
                avx512::interleave(self.rows.codes.as_chunks().0, len, self.codes.as_chunks_mut().0);
            },
            _ => portable::interleave(self.rows.codes.as_chunks::<4>().0, len, self.codes.as_chunks_mut().0),
        }
    }

    /// Unpacks columns of rows, after asking for what lies `ahead` bytes behind each.
    fn unpack(&mut self, isa: Isa, weights: Weights<'_>, rows: Range<usize>, cols: Range<usize>, ahead: usize) {
        let kind = weights.kind();
        self.group = kind.group_len();
        self.groups = cols.len() / self.group;
        let (padded_cols, padded_groups) = (cols.len().next_multiple_of(64), self.groups.next_multiple_of(16));
        let Unpacked { codes, scales, mins } = &mut self.rows;
        codes.resize(ROWS * padded_cols, 0);
        scales.resize(ROWS * padded_groups, 0.0);
        mins.resize(ROWS * padded_groups, 0.0);
        let bytes = |col: usize| col / kind.block_len() * kind.block_bytes();
        let each =
            codes.chunks_mut(padded_cols).zip(scales.chunks_mut(padded_groups)).zip(mins.chunks_mut(padded_groups));
        for (row, ((codes, scales), mins)) in rows.zip(each) {
            let bytes = &weights.row(row)[bytes(cols.start)..bytes(cols.end)];
            prefetch(bytes, ahead, bytes.len());
            unpack_row(isa, kind, bytes, codes, scales, mins);
        }
        self.offset = f32::from(kind.code_offset());
    }

    fn interleave_scales(&mut self, isa: Isa) {
        let Self { scales, biases, rows, offset, .. } = self;
        let len = rows.scales.len() / ROWS;
        scales.resize(ROWS * len, 0.0);
        biases.resize(ROWS * len, 0.0);
        match isa {
            // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe {
                avx512::interleave_scales(&rows.scales, &rows.mins, len, *offset, scales, biases);
            },
            _ => {
                portable::interleave(&rows.scales, len, scales);
                portable::interleave(&rows.mins, len, biases);
                for (bias, scale) in biases.iter_mut().zip(scales) {
                    *bias = (-*offset).mul_add(*scale, *bias);
                }
            }
        }
    }

    /// Stands for all that the kernels read of scales and activations without any check of their own.
    fn check(&self, x: QuantisedRow<'_>) {
        let cols = self.groups * self.group;
        assert!(self.scales.len() >= ROWS * self.groups && self.biases.len() >= ROWS * self.groups);
        assert!(x.codes.len() >= cols.next_multiple_of(64) && x.scales.len() >= cols / 16);
        assert!(x.sums_of_16.len() >= cols / 16 && x.sums_of_32.len() >= cols / 32);
    }

    /// Products of every row of the tile with `M` (at most [`WIDTH`]) rows of activations.
    pub fn dot<const M: usize>(&self, isa: Isa, x: [QuantisedRow<'_>; M]) -> [[f32; ROWS]; M] {
        x.iter().for_each(|x| self.check(*x));
        assert!(self.codes.len() >= ROWS * self.groups * self.group);
        match (isa, self.group) {
            // SAFETY: `Isa::Avx512` only comes from `Isa::available`, which asked the processor; lengths are checked above.
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, 16) => unsafe { avx512::dot::<M, 16>(self, x) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, _) => unsafe { avx512::dot::<M, 32>(self, x) },
            // SAFETY: as above, for AVX2.
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, 16) => unsafe { avx2::dot::<M, 16>(self, x) },
            // SAFETY: as above, for AVX2.
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, _) => unsafe { avx2::dot::<M, 32>(self, x) },
            (_, 16) => portable::dot::<M, 16>(self, x),
            _ => portable::dot::<M, 32>(self, x),
        }
    }
}
