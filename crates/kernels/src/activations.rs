//! Rows of activations, as they are and rounded to 8 bits.

use crate::{isa::for_each_isa, unpack::PAD};

/// Activations that share one scale when rounded.
pub const GROUP: usize = 32;

/// Rows rounded to 8 bits in groups of [`GROUP`], each row by itself, so that a row's numbers do not depend on its company.
#[derive(Debug, Default)]
pub struct QuantisedRows {
    /// `(rows, padded_cols)`, padding zero.
    pub(crate) codes: Vec<i8>,
    /// `(rows, padded_cols / 32)`: `x ≈ scale · code`.
    pub(crate) scales: Vec<f32>,
    /// `(rows, padded_cols / 16)`: `scale · Σ codes` of each 16.
    pub(crate) sums: Vec<f32>,
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
            sums: Vec::with_capacity(padded / 16),
            padded_cols: 0,
            rows: 0,
        }
    }

    /// Bytes that [`QuantisedRows::with_capacity`] takes; `usize::MAX` where that is more.
    pub fn capacity_bytes(rows: usize, cols: usize) -> usize {
        let padded = rows.saturating_mul(cols.next_multiple_of(PAD));
        padded.saturating_add(padded / GROUP * 4).saturating_add(padded / 16 * 4)
    }

    /// Sets the shape. Contents are undefined until each row is filled.
    pub(crate) fn shape(&mut self, rows: usize, cols: usize) {
        self.rows = rows;
        self.padded_cols = cols.next_multiple_of(PAD);
        self.codes.resize(rows * self.padded_cols, 0);
        self.scales.resize(rows * self.padded_cols / GROUP, 0.0);
        self.sums.resize(rows * self.padded_cols / 16, 0.0);
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// What row `row` stands for after rounding, `cols` of it.
    pub fn dequantise(&self, row: usize, cols: usize) -> Vec<f32> {
        let codes = &self.codes[row * self.padded_cols..][..cols];
        let scales = &self.scales[row * self.padded_cols / GROUP..];
        codes.iter().enumerate().map(|(i, &code)| f32::from(code) * scales[i / GROUP]).collect()
    }
}

for_each_isa! {
    /// Rounds one row. `x` may be shorter than `codes`: the rest is zero.
    pub(crate) fn quantise_row(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [f32]) = quantise_row_body
}

#[inline(always)]
fn quantise_row_body(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [f32]) {
    let (groups, rest) = x.as_chunks::<GROUP>();
    let mut last = [0.0; GROUP];
    last[..rest.len()].copy_from_slice(rest);
    let groups = groups.iter().chain((!rest.is_empty()).then_some(&last));
    let (codes, _) = codes.as_chunks_mut::<GROUP>();
    let (sums, _) = sums.as_chunks_mut::<2>();
    let used = x.len().div_ceil(GROUP);
    for (((x, codes), scale), sums) in groups.zip(codes.iter_mut()).zip(scales.iter_mut()).zip(sums.iter_mut()) {
        quantise_group(x, codes, scale, sums);
    }
    codes[used..].as_flattened_mut().fill(0);
    scales[used..].fill(0.0);
    sums[used..].as_flattened_mut().fill(0.0);
}

#[inline(always)]
fn quantise_group(x: &[f32; GROUP], codes: &mut [i8; GROUP], scale: &mut f32, sums: &mut [f32; 2]) {
    // Adding and subtracting 1.5 · 2^23 rounds to the nearest integer, ties to even.
    const ROUND: f32 = 12_582_912.0;
    let mut lanes = [0.0f32; 16];
    for i in 0..16 {
        let (a, b) = (x[i].abs(), x[i + 16].abs());
        lanes[i] = if a > b { a } else { b };
    }
    let largest = lanes.iter().fold(0.0f32, |m, &v| if v > m { v } else { m });
    *scale = largest / 127.0;
    let inverse = if *scale > f32::MIN_POSITIVE { 127.0 / largest } else { 0.0 };
    let mut totals = [0i32; 2];
    for half in 0..2 {
        for i in 0..16 {
            let code = (x[16 * half + i] * inverse + ROUND) - ROUND;
            let code = (code as i32) as i8;
            codes[16 * half + i] = code;
            totals[half] += i32::from(code);
        }
    }
    *sums = [*scale * totals[0] as f32, *scale * totals[1] as f32];
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
            let x: Vec<f32> = (0..160).map(|i| ((i * 37 % 101) as f32 - 50.0) * (1.0 + i as f32)).collect();
            let mut rows = QuantisedRows::with_capacity(1, 160);
            rows.shape(1, 160);
            quantise_row(isa, &x, &mut rows.codes, &mut rows.scales, &mut rows.sums);
            for (i, (a, b)) in x.iter().zip(rows.dequantise(0, 160)).enumerate() {
                assert!((a - b).abs() <= rows.scales[i / GROUP] * 0.5001, "{isa:?} {i}: {a} {b}");
            }
            for (group, sum) in rows.sums.iter().enumerate() {
                let codes = rows.codes[16 * group..16 * (group + 1)].iter().map(|&code| i32::from(code)).sum::<i32>();
                assert_eq!(*sum, rows.scales[group / 2] * codes as f32);
            }
            assert_eq!(rows.codes.len(), 256);
            assert!(rows.codes[160..].iter().all(|&code| code == 0));
        }
    }

    #[test]
    fn rows_of_zeros_and_of_tiny_numbers_stay_finite() {
        for value in [0.0, 1e-44, f32::MIN_POSITIVE] {
            let mut rows = QuantisedRows::default();
            rows.shape(1, 32);
            quantise_row(Isa::best(), &[value; 32], &mut rows.codes, &mut rows.scales, &mut rows.sums);
            assert!(rows.dequantise(0, 32).iter().all(|x| x.is_finite()));
        }
    }
}
