//! Rows of activations, as they are and rounded to 8 bits.

use crate::isa::for_each_isa;

/// Activations that share one scale when rounded. Sixteen rather than 32: the error's variance is a quarter lower, for a
/// few more instructions in a product.
pub const GROUP: usize = 16;

/// Rows are padded with zeros to a multiple of this: the widest vector of codes.
const PAD: usize = 64;

/// Rows rounded to 8 bits in groups of [`GROUP`], each row by itself, so that a row's numbers do not depend on its company.
#[derive(Debug, Default)]
pub struct QuantisedRows {
    /// `(rows, padded_cols)`, padding zero.
    pub(crate) codes: Vec<i8>,
    /// `(rows, padded_cols / 16)`: `x ≈ scale · code`.
    pub(crate) scales: Vec<f32>,
    /// `(rows, padded_cols / 16)`: `scale · Σ codes` of each 16.
    pub(crate) sums_of_16: Vec<f32>,
    /// `(rows, padded_cols / 32)`: the same of each 32.
    pub(crate) sums_of_32: Vec<f32>,
    pub(crate) padded_cols: usize,
    rows: usize,
}

impl QuantisedRows {
    /// Room for `rows` rows of `cols`.
    pub fn with_capacity(rows: usize, cols: usize) -> Self {
        let padded = rows * cols.next_multiple_of(PAD);
        Self {
            codes: Vec::with_capacity(padded),
            scales: Vec::with_capacity(padded / GROUP),
            sums_of_16: Vec::with_capacity(padded / 16),
            sums_of_32: Vec::with_capacity(padded / 32),
            padded_cols: 0,
            rows: 0,
        }
    }

    /// Bytes that [`QuantisedRows::with_capacity`] takes; `usize::MAX` where that is more.
    pub fn capacity_bytes(rows: usize, cols: usize) -> usize {
        let padded = rows.saturating_mul(cols.next_multiple_of(PAD));
        padded.saturating_add((padded / GROUP + padded / 16 + padded / 32).saturating_mul(4))
    }

    /// Sets the shape. Contents are undefined until each row is filled.
    pub(crate) fn shape(&mut self, rows: usize, cols: usize) {
        self.rows = rows;
        self.padded_cols = cols.next_multiple_of(PAD);
        self.codes.resize(rows * self.padded_cols, 0);
        self.scales.resize(rows * self.padded_cols / GROUP, 0.0);
        self.sums_of_16.resize(rows * self.padded_cols / 16, 0.0);
        self.sums_of_32.resize(rows * self.padded_cols / 32, 0.0);
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// One row.
    pub(crate) fn row(&self, row: usize) -> QuantisedRow<'_> {
        let cols = self.padded_cols;
        QuantisedRow {
            codes: &self.codes[row * cols..(row + 1) * cols],
            scales: &self.scales[row * (cols / GROUP)..(row + 1) * (cols / GROUP)],
            sums_of_16: &self.sums_of_16[row * (cols / 16)..(row + 1) * (cols / 16)],
            sums_of_32: &self.sums_of_32[row * (cols / 32)..(row + 1) * (cols / 32)],
        }
    }

    /// What row `row` stands for after rounding, `cols` of it.
    pub fn dequantise(&self, row: usize, cols: usize) -> Vec<f32> {
        let row = self.row(row);
        row.codes[..cols].iter().enumerate().map(|(i, &code)| f32::from(code) * row.scales[i / GROUP]).collect()
    }
}

/// One row of 8-bit activations.
#[derive(Clone, Copy, Debug)]
pub struct QuantisedRow<'a> {
    /// `(cols)`, padded with zeros to a multiple of 64.
    pub codes: &'a [i8],
    /// One for [`GROUP`] codes.
    pub scales: &'a [f32],
    /// One for 16 codes: scale times their sum.
    pub sums_of_16: &'a [f32],
    /// One for 32 codes: the sum of two of those.
    pub sums_of_32: &'a [f32],
}

for_each_isa! {
    /// Rounds one row. `x` may be shorter than `codes`: the rest is zero.
    pub(crate) fn quantise_row(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums_of_16: &mut [f32], sums_of_32: &mut [f32]) = quantise_row_body
}

#[inline(always)]
fn quantise_row_body(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums_of_16: &mut [f32], sums_of_32: &mut [f32]) {
    let (groups, rest) = x.as_chunks::<GROUP>();
    let mut last = [0.0; GROUP];
    last[..rest.len()].copy_from_slice(rest);
    let groups = groups.iter().chain((!rest.is_empty()).then_some(&last));
    let codes = codes.as_chunks_mut::<GROUP>().0;
    let used = x.len().div_ceil(GROUP);
    let each = groups.zip(&mut *codes).zip(&mut *scales).zip(&mut *sums_of_16);
    for (((x, codes), scale), sum) in each {
        *sum = quantise_group(x, codes, scale);
    }
    codes[used..].as_flattened_mut().fill(0);
    scales[used..].fill(0.0);
    sums_of_16[used..].fill(0.0);
    for (sum, halves) in sums_of_32.iter_mut().zip(sums_of_16.as_chunks::<2>().0) {
        *sum = halves[0] + halves[1];
    }
}

/// Rounds one group and gives its scale times the codes' sum.
#[inline(always)]
fn quantise_group(x: &[f32; GROUP], codes: &mut [i8; GROUP], scale: &mut f32) -> f32 {
    // Adding and subtracting 1.5 · 2^23 rounds to the nearest integer, ties to even.
    const ROUND: f32 = 12_582_912.0;
    let mut lanes = [0.0f32; GROUP];
    for i in 0..GROUP {
        lanes[i] = x[i].abs();
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
        }
    }
    let largest = lanes[0];
    *scale = largest / 127.0;
    let inverse = if *scale > f32::MIN_POSITIVE { 127.0 / largest } else { 0.0 };
    let mut total = 0i32;
    for i in 0..GROUP {
        let code = (x[i] * inverse + ROUND) - ROUND;
        codes[i] = (code as i32) as i8;
        total += i32::from(codes[i]);
    }
    *scale * total as f32
}

/// Rows of activations that products read: `(rows, cols)` in f32, and rounded where the fast arithmetic wants them.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// `(rows, cols)`.
    pub f32: &'a [f32],
    /// Inputs of the product.
    pub cols: usize,
    /// The same rows in 8 bits; `None` in exact arithmetic.
    pub quantised: Option<&'a QuantisedRows>,
}

impl<'a> Activations<'a> {
    /// Activations that are used as they are.
    pub fn exact(f32: &'a [f32], cols: usize) -> Self {
        Self { f32, cols, quantised: None }
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.f32.len() / self.cols
    }

    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        &self.f32[row * self.cols..(row + 1) * self.cols]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn rounding_errs_by_at_most_half_a_step_and_sums_are_of_the_codes() {
        for isa in Isa::available() {
            let x: Vec<f32> = (0..150).map(|i| ((i * 37 % 101) as f32 - 50.0) * (1.0 + i as f32)).collect();
            let mut rows = QuantisedRows::with_capacity(1, 150);
            rows.shape(1, 150);
            quantise_row(isa, &x, &mut rows.codes, &mut rows.scales, &mut rows.sums_of_16, &mut rows.sums_of_32);
            for (i, (a, b)) in x.iter().zip(rows.dequantise(0, 150)).enumerate() {
                assert!((a - b).abs() <= rows.scales[i / GROUP] * 0.5001, "{isa:?} {i}: {a} {b}");
            }
            for (group, sum) in rows.sums_of_16.iter().enumerate() {
                let codes = rows.codes[16 * group..16 * (group + 1)].iter().map(|&code| i32::from(code)).sum::<i32>();
                assert_eq!(*sum, rows.scales[group] * codes as f32);
            }
            for (group, sum) in rows.sums_of_32.iter().enumerate() {
                assert_eq!(*sum, rows.sums_of_16[2 * group] + rows.sums_of_16[2 * group + 1]);
            }
            assert_eq!(rows.codes.len(), 192);
            assert!(rows.codes[150..].iter().all(|&code| code == 0));
        }
    }

    #[test]
    fn rows_of_zeros_and_of_tiny_numbers_stay_finite() {
        for value in [0.0, 1e-44, f32::MIN_POSITIVE] {
            let mut rows = QuantisedRows::default();
            rows.shape(1, 32);
            let QuantisedRows { codes, scales, sums_of_16, sums_of_32, .. } = &mut rows;
            quantise_row(Isa::best(), &[value; 32], codes, scales, sums_of_16, sums_of_32);
            assert!(rows.dequantise(0, 32).iter().all(|x| x.is_finite()));
        }
    }
}
