//! Sixteen rows of quantised weights side by side, and their products.
//!
//! A tile holds its rows interleaved: four consecutive codes of each of the sixteen rows, then the next four. So a lane is a
//! row, one activation is broadcast to all, nothing is summed across lanes, and a scale is one vector. The sum of a row and
//! an activation row is `Σ scale · x_scale · Σ code · x_code` over sixteens of codes in order, beside `Σ bias · x_sum` over
//! the weights' groups, whatever else is computed with it (Law 2).
//!
//! Where only one row of activations comes, AVX-512 leaves the codes row by row and adds the lanes of each sixteen up: that
//! is less work than interleaving, and since sums of codes are exact it gives the same bits. It goes four rows at a time, so
//! that codes never leave the first cache and memory does not rest for long.
//!
//! The plain reference is `portable`; AVX-512 and AVX2 do the same operations in the same order and give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::ops::Range;

use crate::{Weights, activations::QuantisedRow, isa::Isa, unpack::unpack_row};

/// Rows in a tile.
pub const ROWS: usize = 16;

/// Most rows of activations that are multiplied at once.
pub const WIDTH: usize = 8;

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
    /// `(ROWS / 4, cols / 64, 4, 4)`: sums of sixteen codes' products, four of them for each of four rows.
    sums: Vec<i32>,
    rows: Unpacked,
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
            sums: Vec::with_capacity(ROWS / 16 * cols.next_multiple_of(64)),
            rows,
        }
    }

    /// Bytes that [`Tile::with_capacity`] takes.
    pub fn capacity_bytes(cols: usize) -> usize {
        let cols = cols.next_multiple_of(64);
        2 * (ROWS * cols + 2 * 4 * ROWS * (cols / 16).next_multiple_of(16)) + 4 * (ROWS / 16 * cols)
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
        #[cfg(target_arch = "x86_64")]
        {
            let steps = weights.cols().div_ceil(64);
            self.sums.resize(ROWS / 4 * steps * 16, 0);
            self.shape(weights, 4);
            self.check(x);
            for (quarter, start) in (0..count).step_by(4).enumerate() {
                self.unpack(isa, weights, first + start..first + count.min(start + 4), start);
                let sums = &mut self.sums[quarter * steps * 16..(quarter + 1) * steps * 16];
                // SAFETY: `Isa::Avx512` only comes from `Isa::available`, which asked the processor; `shape` made room for
                // four rows of whole vectors, and `check` looked at `x`.
                unsafe { avx512::sum_sixteens(&self.rows.codes, x.codes, sums) };
            }
            self.interleave_scales(isa);
            self.check(x);
            match self.group {
                // SAFETY: as above; the sums are those of as many sixteens as `check` looked for.
                16 => unsafe { avx512::scale_sums::<16>(self, x) },
                // SAFETY: as above.
                _ => unsafe { avx512::scale_sums::<32>(self, x) },
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no `Isa::Avx512` here")
    }

    /// Fills the tile with `count` (at most [`ROWS`]) rows of quantised `weights` from row `first` on. What lies beyond
    /// them in the tile gives numbers that mean nothing.
    pub fn fill(&mut self, isa: Isa, weights: Weights<'_>, first: usize, count: usize) {
        self.shape(weights, ROWS);
        self.unpack(isa, weights, first..first + count, 0);
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

    /// Makes room for the codes of `code_rows` rows, and the scales of all.
    fn shape(&mut self, weights: Weights<'_>, code_rows: usize) {
        let kind = weights.kind();
        self.group = kind.group_len();
        self.groups = weights.cols() / self.group;
        self.offset = f32::from(kind.code_offset());
        let groups = self.groups.next_multiple_of(16);
        self.rows.codes.resize(code_rows * weights.cols().next_multiple_of(64), 0);
        for per_group in [&mut self.rows.scales, &mut self.rows.mins, &mut self.scales, &mut self.biases] {
            per_group.resize(ROWS * groups, 0.0);
        }
    }

    /// Unpacks rows of `weights`: their codes from the first on, their scales from row `scales_row` on.
    fn unpack(&mut self, isa: Isa, weights: Weights<'_>, rows: Range<usize>, scales_row: usize) {
        let (cols, groups) = (weights.cols().next_multiple_of(64), self.groups.next_multiple_of(16));
        let Unpacked { codes, scales, mins } = &mut self.rows;
        let scales = scales.chunks_mut(groups).zip(mins.chunks_mut(groups)).skip(scales_row);
        for ((row, codes), (scales, mins)) in rows.zip(codes.chunks_mut(cols)).zip(scales) {
            unpack_row(isa, weights.kind(), weights.row(row), codes, scales, mins);
        }
    }

    fn interleave_scales(&mut self, isa: Isa) {
        let Self { scales, biases, rows, offset, .. } = self;
        let len = rows.scales.len() / ROWS;
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
