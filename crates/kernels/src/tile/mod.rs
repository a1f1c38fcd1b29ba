//! Sixteen rows of quantised weights side by side, and their products.
//!
//! A tile holds its rows interleaved: four consecutive codes of each of the sixteen rows, then the next four. So a lane is a
//! row, one activation is broadcast to all, nothing is summed across lanes, and a scale is one vector. The sum of a row and
//! an activation row is `Σ scale · x_scale · Σ code · x_code` over sixteens of codes in order, beside `Σ bias · x_sum` over
//! the weights' groups, whatever else is computed with it (Law 2).
//!
//! Where only one row of activations comes, AVX-512 leaves the codes row by row and adds the lanes of each group up: that
//! is less work than interleaving, and since sums of codes are exact it gives the same bits.
//!
//! The plain reference is `portable`; AVX-512 and AVX2 do the same operations in the same order and give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

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
    /// Whether `codes` are filled, or only `rows`.
    interleaved: bool,
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
            interleaved: false,
            rows,
        }
    }

    /// Bytes that [`Tile::with_capacity`] takes.
    pub fn capacity_bytes(cols: usize) -> usize {
        2 * (ROWS * cols.next_multiple_of(64) + 2 * 4 * ROWS * (cols / 16).next_multiple_of(16))
    }

    /// Fills the tile with `count` (at most [`ROWS`]) rows of quantised `weights` from row `first` on, for products with
    /// `width` rows of activations. What lies beyond the rows in the tile gives numbers that mean nothing.
    pub fn fill(&mut self, isa: Isa, weights: Weights<'_>, first: usize, count: usize, width: usize) {
        let kind = weights.kind();
        self.group = kind.group_len();
        self.groups = weights.cols() / self.group;
        let cols = weights.cols().next_multiple_of(64);
        let groups = self.groups.next_multiple_of(16);
        self.rows.codes.resize(ROWS * cols, 0);
        self.rows.scales.resize(ROWS * groups, 0.0);
        self.rows.mins.resize(ROWS * groups, 0.0);
        for row in 0..count {
            let codes = &mut self.rows.codes[row * cols..(row + 1) * cols];
            let scales = &mut self.rows.scales[row * groups..(row + 1) * groups];
            let mins = &mut self.rows.mins[row * groups..(row + 1) * groups];
            unpack_row(isa, kind, weights.row(first + row), codes, scales, mins);
        }
        self.codes.resize(ROWS * cols, 0);
        self.scales.resize(ROWS * groups, 0.0);
        self.biases.resize(ROWS * groups, 0.0);
        let offset = f32::from(kind.code_offset());
        self.interleaved = !(isa == Isa::Avx512 && width == 1);
        let Self { codes, scales, biases, rows, interleaved, .. } = self;
        match isa {
            // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor; each side
            // holds sixteen rows of a whole number of vectors.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe {
                if *interleaved {
                    avx512::interleave(rows.codes.as_chunks().0, cols / 4, codes.as_chunks_mut().0);
                }
                avx512::interleave_scales(&rows.scales, &rows.mins, groups, offset, scales, biases);
            },
            _ => {
                portable::interleave(rows.codes.as_chunks::<4>().0, cols / 4, codes.as_chunks_mut().0);
                portable::interleave(&rows.scales, groups, scales);
                portable::interleave(&rows.mins, groups, biases);
                for (bias, scale) in biases.iter_mut().zip(scales) {
                    *bias = (-offset).mul_add(*scale, *bias);
                }
            }
        }
    }

    /// Products of every row of the tile with `M` (at most [`WIDTH`]) rows of activations.
    pub fn dot<const M: usize>(&self, isa: Isa, x: [QuantisedRow<'_>; M]) -> [[f32; ROWS]; M] {
        // One check here stands for all that the kernels read without any.
        let cols = self.groups * self.group;
        assert!(self.interleaved || M == 1, "a tile filled for one row of activations takes one");
        assert!(self.codes.len() >= ROWS * cols);
        assert!(self.scales.len() >= ROWS * self.groups && self.biases.len() >= ROWS * self.groups);
        for row in x {
            assert!(row.codes.len() >= cols.next_multiple_of(64) && row.scales.len() >= cols / 16);
            assert!(row.sums_of_16.len() >= cols / 16 && row.sums_of_32.len() >= cols / 32);
        }
        match (isa, self.group) {
            // SAFETY: the rows hold `ROWS` times whole vectors of codes, as `fill` left them; for the rest see below.
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, 16) if !self.interleaved => unsafe { [avx512::dot_rows::<16>(self, x[0]); M] },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, _) if !self.interleaved => unsafe { [avx512::dot_rows::<32>(self, x[0]); M] },
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
