//! Sixteen rows of quantised weights side by side, and their products.
//!
//! A tile holds a stretch of columns of its rows interleaved: four consecutive codes of each of the sixteen rows, then the next
//! four. So a lane is a row, one activation is broadcast to all, nothing is summed across lanes, and a scale is one vector.
//! Packed types lie like this in their files, and a few rows of activations are multiplied with them where they are.
//!
//! Whatever the type, the path, and the rows that are computed together, the sum of a row of weights and one of activations is
//! taken in one order (Law 2). For each 64 columns: `block = 0`; for each 32 of them: `block += scale · (d₀ · 2^e₀ + d₁ · 2^e₁)`,
//! `block += min · x_sum`, where `d` are the exact integer sums of sixteen products, `e` their activations' exponents, the sum in
//! brackets is an integer too, and types without minimums have no second step; then `sum += x_scale · block`. Weights in groups of
//! sixteen have a scale for each: `block += scale₀ · (d₀ · 2^e₀)` and so on.
//!
//! The plain reference is `portable`; AVX-512 and AVX2 do the same operations in the same order and give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod portable;

use std::ops::Range;

use crate::{
    WeightType, Weights,
    activations::QuantisedGroup,
    isa::{Isa, amd_family},
    packed::{self, Panel},
    prefetch::Ahead,
    unpack::unpack_row,
};

/// Rows in a tile.
pub const ROWS: usize = packed::ROWS;

/// Columns that a tile holds at a time: with eight rows of activations and four tiles they stay in the first cache.
pub const COLS: usize = 256;

/// Most rows of activations that are multiplied at once.
pub const WIDTH: usize = 8;

/// Groups in a tile at most: of sixteen weights.
const GROUPS: usize = COLS / 16;

/// Sixteen rows of one weight matrix, up to [`COLS`] columns of them, unpacked and interleaved. Reused from tile to tile.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Tile {
    /// `(cols / 4, ROWS, 4)`.
    codes: [u8; ROWS * COLS],
    /// `(groups, ROWS)`.
    scales: [f32; ROWS * GROUPS],
    /// `(groups, ROWS)`: what a group adds for each unit of activation.
    mins: [f32; ROWS * GROUPS],
    /// Columns held, a multiple of 32.
    cols: usize,
    form: Form,
}

/// Rows before they are interleaved.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Unpacked {
    codes: [u8; ROWS * COLS],
    scales: [f32; ROWS * GROUPS],
    mins: [f32; ROWS * GROUPS],
}

/// What a type's numbers are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `scale · (code − 128)`, groups of 32.
    Signed32,
    /// `scale · (code − 128)`, groups of 16.
    Signed16,
    /// `scale · code + min`, groups of 32.
    WithMin32,
    /// `scale · code + min`, groups of 16.
    WithMin16,
}

impl Form {
    fn of(kind: WeightType) -> Self {
        match (kind.code_offset(), kind.group_len()) {
            (0, 16) => Self::WithMin16,
            (0, _) => Self::WithMin32,
            (_, 16) => Self::Signed16,
            (_, _) => Self::Signed32,
        }
    }

    fn group_len(self) -> usize {
        match self {
            Self::Signed32 | Self::WithMin32 => 32,
            Self::Signed16 | Self::WithMin16 => 16,
        }
    }
}

impl Default for Tile {
    fn default() -> Self {
        Self {
            codes: [0; ROWS * COLS],
            scales: [0.0; ROWS * GROUPS],
            mins: [0.0; ROWS * GROUPS],
            cols: 0,
            form: Form::Signed32,
        }
    }
}

impl Default for Unpacked {
    fn default() -> Self {
        Self { codes: [0; ROWS * COLS], scales: [0.0; ROWS * GROUPS], mins: [0.0; ROWS * GROUPS] }
    }
}

impl Tile {
    /// Fills the tile with columns `cols` (at most [`COLS`], from a multiple of it on) of rows `first..first + ROWS` of quantised
    /// `weights`; `first` is a multiple of [`ROWS`]. What lies beyond the matrix gives numbers that mean nothing.
    pub fn fill(&mut self, isa: Isa, weights: Weights<'_>, first: usize, cols: Range<usize>, unpacked: &mut Unpacked) {
        debug_assert!(first.is_multiple_of(ROWS) && cols.start.is_multiple_of(COLS) && cols.len() <= COLS);
        self.cols = cols.len();
        self.form = Form::of(weights.kind());
        if weights.kind().is_packed() {
            self.fill_packed(isa, weights, first, cols);
        } else {
            self.fill_rows(isa, weights, first, cols, unpacked);
        }
    }

    fn fill_packed(&mut self, isa: Isa, weights: Weights<'_>, first: usize, cols: Range<usize>) {
        let kind = weights.kind();
        let panel = weights.panel(first / ROWS);
        let tile_bytes = packed::TILE / 8 * kind.packed_bits();
        let tiles = cols.start / packed::GROUP..cols.end / packed::GROUP;
        let codes = &panel.codes()[tiles.start * tile_bytes..tiles.end * tile_bytes];
        for (codes, out) in codes.chunks_exact(tile_bytes).zip(self.codes.as_chunks_mut::<{ packed::TILE }>().0) {
            match isa {
                // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor; `codes` is
                // one whole tile of this type.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => unsafe { avx512::unpack_tile(kind, codes, out) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => unsafe { avx2::unpack_tile(kind, codes, out) },
                _ => portable::unpack_tile(kind, codes, out),
            }
        }
        let scales = &panel.scales()[tiles.start * ROWS..tiles.end * ROWS];
        for (out, scale) in self.scales.iter_mut().zip(scales) {
            *out = f32::from(*scale as i8);
        }
    }

    fn fill_rows(&mut self, isa: Isa, weights: Weights<'_>, first: usize, cols: Range<usize>, rows: &mut Unpacked) {
        let kind = weights.kind();
        let (block_len, block_bytes) = (kind.block_len(), kind.block_bytes());
        let bytes = cols.start / block_len * block_bytes..cols.end / block_len * block_bytes;
        #[cfg(target_arch = "x86_64")]
        if isa == Isa::Avx512 && first + ROWS <= weights.rows() {
            let starts = row_starts(weights, first, &cols);
            // SAFETY: `Isa::Avx512` only comes from `Isa::available`, which asked the processor; the sixteen rows lie one after
            // the other, and each has `cols` weights of this type from there on.
            if unsafe { avx512::fill(kind, &starts, self) } {
                return;
            }
        }
        for row in 0..ROWS.min(weights.rows() - first) {
            unpack_row(
                isa,
                kind,
                &weights.row(first + row)[bytes.clone()],
                &mut rows.codes[row * COLS..(row + 1) * COLS],
                &mut rows.scales[row * GROUPS..(row + 1) * GROUPS],
                &mut rows.mins[row * GROUPS..(row + 1) * GROUPS],
            );
        }
        // Codes are raised so that all types without minimums take 128 off.
        let raise = match self.form {
            Form::Signed16 | Form::Signed32 => 128 - kind.code_offset(),
            Form::WithMin16 | Form::WithMin32 => 0,
        };
        match isa {
            // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512::interleave(rows, raise, self) },
            _ => portable::interleave(rows, raise, self),
        }
    }
}

/// Adds the products of the tiles' rows with `M` (at most [`WIDTH`]) rows of activations to `sums: (P, M, ROWS)`. `x` begin at the
/// tiles' first column; the tiles are of one matrix and of the same columns.
#[inline(always)]
pub fn multiply_add<const P: usize, const M: usize>(
    isa: Isa,
    tiles: [&Tile; P],
    x: [&[QuantisedGroup]; M],
    sums: [&mut [[f32; ROWS]; M]; P],
) {
    let Tile { cols, form, .. } = *tiles[0];
    assert!(cols <= COLS && x.iter().all(|x| x.len() >= cols / 32));
    assert!(tiles.iter().all(|tile| (tile.cols, tile.form) == (cols, form)));
    macro_rules! each_form {
        ($module:ident, [$($count:ident)?], $tiles:expr, $sums:expr) => {
            match form {
                Form::Signed32 => $module::multiply_add::<$($count,)? M, false, false>($tiles, x, $sums),
                Form::Signed16 => $module::multiply_add::<$($count,)? M, true, false>($tiles, x, $sums),
                Form::WithMin32 => $module::multiply_add::<$($count,)? M, false, true>($tiles, x, $sums),
                Form::WithMin16 => $module::multiply_add::<$($count,)? M, true, true>($tiles, x, $sums),
            }
        };
    }
    match isa {
        // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor; lengths are
        // checked above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { each_form!(avx512, [P], tiles, sums) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => tiles.into_iter().zip(sums).for_each(|(tile, sums)| unsafe { each_form!(avx2, [], tile, sums) }),
        _ => tiles.into_iter().zip(sums).for_each(|(tile, sums)| each_form!(portable, [], tile, sums)),
    }
}

/// Columns `cols` of rows `first..first + ROWS`, which must all be there.
#[cfg(target_arch = "x86_64")]
fn row_starts(weights: Weights<'_>, first: usize, cols: &Range<usize>) -> avx512::RowStarts {
    assert!(first + ROWS <= weights.rows() && cols.end <= weights.cols());
    let row = weights.row(first);
    let start = &row[cols.start / weights.kind().block_len() * weights.kind().block_bytes()..];
    avx512::RowStarts::new(start.as_ptr(), row.len())
}

/// `(M, ROWS)` products of rows `first..first + ROWS` of `weights`, of a type that is not packed, with rows of activations: as
/// [`Tile::fill`] and [`multiply_add`] would give, but weights are read where they lie, which pays for few rows of
/// activations. `None` where there is no kernel for that.
pub fn multiply_rows<const M: usize>(
    isa: Isa,
    weights: Weights<'_>,
    first: usize,
    x: [&[QuantisedGroup]; M],
) -> Option<[[f32; ROWS]; M]> {
    if isa != Isa::Avx512 || weights.kind().is_packed() || first + ROWS > weights.rows() {
        return None;
    }
    assert!(x.iter().all(|x| x.len() >= weights.cols().div_ceil(32)));
    #[cfg(target_arch = "x86_64")]
    {
        let cols = weights.cols();
        let rows = row_starts(weights, first, &(0..cols));
        // SAFETY: `Isa::Avx512` only comes from `Isa::available`, which asked the processor; the sixteen rows lie one after the
        // other, and each has `cols` weights of this type; the lengths of `x` are checked above.
        unsafe { avx512::multiply_rows(weights.kind(), &rows, cols, x.map(<[_]>::as_ptr)) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no `Isa::Avx512` here")
}

/// Whether [`multiply_panels`] has kernels for this instruction set.
pub fn has_direct(isa: Isa) -> bool {
    matches!(isa, Isa::Avx512)
}

/// Whether two panels by four rows of activations are multiplied faster than one by eight. Where registers of 512 bits are multiplied
/// whole, two of them in a cycle, loads are what is short, and the former needs two thirds as many; where they are multiplied in halves
/// (Zen 4), unpacking is, and the former unpacks twice. The bits are the same.
pub fn prefers_pairs(isa: Isa) -> bool {
    isa == Isa::Avx512 && amd_family() != Some(0x19)
}

/// `(P, M, ROWS)` products of panels of one matrix with rows of activations, weights read where they lie; row scales included. `ahead`
/// takes a step for each block of activations along `k` of the first panel. Panics on an instruction set that [`has_direct`] does not name.
#[inline(always)]
pub fn multiply_panels<const P: usize, const M: usize>(
    isa: Isa,
    panels: &[Panel<'_>; P],
    x: &[&[QuantisedGroup]; M],
    ahead: &mut impl Ahead,
) -> [[[f32; ROWS]; M]; P] {
    let (kind, tiles) = (panels[0].kind(), panels[0].cols() / packed::GROUP);
    assert!(has_direct(isa) && x.iter().all(|x| x.len() >= tiles));
    assert!(panels.iter().all(|panel| (panel.kind(), panel.cols() / packed::GROUP) == (kind, tiles)));
    #[cfg(target_arch = "x86_64")]
    {
        let vbmi = is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("gfni");
        // SAFETY: `Isa::Avx512` only comes from `Isa::available`, which asked the processor; the lengths are checked above.
        unsafe {
            match (kind, vbmi) {
                (WeightType::Q3_D, true) => avx512::multiply_panels::<P, M, 3, true>(panels, tiles, x, ahead),
                (WeightType::Q3_D, false) => avx512::multiply_panels::<P, M, 3, false>(panels, tiles, x, ahead),
                (WeightType::Q4_D, true) => avx512::multiply_panels::<P, M, 4, true>(panels, tiles, x, ahead),
                (WeightType::Q4_D, false) => avx512::multiply_panels::<P, M, 4, false>(panels, tiles, x, ahead),
                (WeightType::Q5_D, true) => avx512::multiply_panels::<P, M, 5, true>(panels, tiles, x, ahead),
                (WeightType::Q5_D, false) => avx512::multiply_panels::<P, M, 5, false>(panels, tiles, x, ahead),
                (WeightType::Q6_D, true) => avx512::multiply_panels::<P, M, 6, true>(panels, tiles, x, ahead),
                (WeightType::Q6_D, false) => avx512::multiply_panels::<P, M, 6, false>(panels, tiles, x, ahead),
                _ => avx512::multiply_panels::<P, M, 8, false>(panels, tiles, x, ahead),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("no `Isa::Avx512` here")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        activations::QuantisedRows,
        compute::Compute,
        prefetch::{Again, Ask, Once},
    };

    /// A machine chooses one of these ways; all are held to give the same bits on any.
    #[test]
    fn panels_give_the_same_bits_alone_and_in_pairs() {
        let isa = Isa::best();
        if !has_direct(isa) {
            return;
        }
        let (cols, rows) = (160, 2 * ROWS);
        let numbers: Vec<f32> = (0..WIDTH * cols).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
        let mut quantised = QuantisedRows::default();
        Compute::with_isa(isa, 1, 0).quantise(&numbers, cols, &mut quantised);
        let x: [_; WIDTH] = std::array::from_fn(|row| quantised.row(row));
        for kind in WeightType::ALL.into_iter().filter(|kind| kind.is_packed()) {
            let mut bytes = vec![0; kind.matrix_bytes(rows, cols).expect("a small matrix")];
            for (panel, out) in bytes.chunks_exact_mut(packed::panel_bytes(kind, cols).expect("a panel")).enumerate() {
                let codes: Vec<u8> =
                    (0..ROWS * cols).map(|i| ((i * 31 + panel) % (1 << kind.packed_bits())) as u8).collect();
                let scales: Vec<i8> = (0..ROWS * cols / packed::GROUP).map(|i| (i * 11 % 200) as i8).collect();
                packed::write_panel(kind, cols, &codes, &scales, &std::array::from_fn(|row| 0.1 + row as f32), out);
            }
            let weights = Weights::new(kind, rows, cols, &bytes, &[]).expect("whole panels");
            let panels = [weights.panel(0), weights.panel(1)];
            let mut ask = Ask::new(bytes.as_ptr(), bytes.len(), cols / packed::GROUP);
            let alone = panels.map(|panel| x.map(|x| multiply_panels(isa, &[panel], &[x], &mut Again::new())[0][0]));
            let [first, second] = panels;
            assert_eq!(multiply_panels(isa, &[first], &x, &mut Again::new()), [alone[0]], "{kind:?}");
            assert_eq!(multiply_panels(isa, &[second], &x, &mut Once), [alone[1]], "{kind:?}");
            let both =
                |sums: [[[f32; ROWS]; WIDTH]; 2], at: usize, count: usize| sums.map(|of| of[at..at + count].to_vec());
            let four = multiply_panels(isa, &panels, &[x[0], x[1], x[2], x[3]], &mut ask);
            assert_eq!(four.map(|of| of.to_vec()), both(alone, 0, 4), "{kind:?}");
            let three = multiply_panels(isa, &panels, &[x[4], x[5], x[6]], &mut ask);
            assert_eq!(three.map(|of| of.to_vec()), both(alone, 4, 3), "{kind:?}");

            // By way of tiles: up to the panel's own scale, which these leave out, the same again.
            let mut tiles = [Tile::default(), Tile::default()];
            for (tile, first) in tiles.iter_mut().zip([0, ROWS]) {
                tile.fill(isa, weights, first, 0..cols, &mut Unpacked::default());
            }
            let zeros = [[0.0; ROWS]; 4];
            let (mut one, mut other, mut together) = (zeros, zeros, [zeros; 2]);
            let x = [x[0], x[1], x[2], x[3]];
            multiply_add(isa, [&tiles[0]], x, [&mut one]);
            multiply_add(isa, [&tiles[1]], x, [&mut other]);
            let [a, b] = &mut together;
            multiply_add(isa, [&tiles[0], &tiles[1]], x, [a, b]);
            assert_eq!(together, [one, other], "{kind:?}");
        }
    }
}
