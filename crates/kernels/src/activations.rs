//! Rows of activations, as they are and rounded to 8 bits and to bf16.

use crate::{
    dot,
    float::{bf16_to_f32, f32_to_bf16},
    isa::{Isa, for_each_isa},
};

/// Activations that share one scale when rounded. Sixteen rather than 32: the error's variance is a quarter lower, for a
/// few more instructions in a product.
pub const GROUP: usize = 16;

/// Thirty-two activations of one row in 8 bits, with all that a product wants to know of them: one cache line, so that a kernel
/// walks each row by one pointer.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct QuantisedGroup {
    /// The numbers, each for its sixteen's scale.
    pub codes: [i8; 32],
    /// Of each sixteen: `x ≈ scale · code`.
    pub scales: [f32; 2],
    /// Of each sixteen: `-128 · Σ codes`, which takes the 128 off weights' codes that were raised by it.
    pub shifts: [i32; 2],
    /// Of each sixteen: `scale · Σ codes`.
    pub sums_of_16: [f32; 2],
    /// The sum of those two.
    pub sum_of_32: f32,
}

impl QuantisedGroup {
    const ZERO: Self = Self { codes: [0; 32], scales: [0.0; 2], shifts: [0; 2], sums_of_16: [0.0; 2], sum_of_32: 0.0 };
}

/// What rows are rounded to: what the weights that they meet are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rounding {
    /// 8 bits, for quantised weights.
    pub to_8_bits: bool,
    /// bf16, for weights in bf16 and FP8, on machines that multiply bf16 numbers.
    pub to_bf16: bool,
}

impl Default for Rounding {
    fn default() -> Self {
        Self { to_8_bits: true, to_bf16: true }
    }
}

/// Rows rounded to 8 bits in groups of [`GROUP`] and to bf16, each row by itself, so that a row's numbers do not depend on its
/// company.
#[derive(Debug, Default)]
pub struct QuantisedRows {
    /// `(rows, stride)`; what a row lacks of its last group is zero. Empty where nobody asked for 8 bits.
    pub(crate) data: Vec<QuantisedGroup>,
    /// `(rows, 32 · stride)`, in the same way; empty where nobody asked or the machine cannot multiply them.
    pub(crate) bf16: Vec<u16>,
    /// Groups from one row to the next. Odd: rows a power of two apart would all fall into the same few sets of the first
    /// cache.
    pub(crate) stride: usize,
    rounding: Rounding,
    rows: usize,
}

fn stride(cols: usize) -> usize {
    cols.div_ceil(32) | 1
}

impl QuantisedRows {
    /// Room for `rows` rows of `cols`, to be rounded as `rounding` says.
    pub fn with_capacity(rows: usize, cols: usize, rounding: Rounding) -> Self {
        let groups = rows * stride(cols);
        Self {
            data: Vec::with_capacity(if rounding.to_8_bits { groups } else { 0 }),
            bf16: Vec::with_capacity(if rounding.to_bf16 { 32 * groups } else { 0 }),
            rounding,
            ..Self::default()
        }
    }

    /// Bytes that [`QuantisedRows::with_capacity`] takes at most; `usize::MAX` where that is more.
    pub fn capacity_bytes(rows: usize, cols: usize) -> usize {
        rows.saturating_mul(stride(cols)).saturating_mul(size_of::<QuantisedGroup>() + 32 * size_of::<u16>())
    }

    /// Sets the shape, and gives each row's places in turn. Contents are undefined until they are filled.
    pub(crate) fn shape(
        &mut self,
        isa: Isa,
        rows: usize,
        cols: usize,
    ) -> impl Iterator<Item = (&mut [QuantisedGroup], &mut [u16])> {
        self.rows = rows;
        self.stride = stride(cols);
        let groups = rows * self.stride;
        self.data.resize(if self.rounding.to_8_bits { groups } else { 0 }, QuantisedGroup::ZERO);
        self.bf16.resize(if self.rounding.to_bf16 && dot::has_bf16(isa) { 32 * groups } else { 0 }, 0);
        let mut data = self.data.chunks_mut(self.stride);
        let mut bf16 = self.bf16.chunks_mut(32 * self.stride);
        (0..rows).map(move |_| (data.next().unwrap_or_default(), bf16.next().unwrap_or_default()))
    }

    /// Rows held.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// One row.
    pub(crate) fn row(&self, row: usize) -> &[QuantisedGroup] {
        &self.data[row * self.stride..(row + 1) * self.stride]
    }

    /// One row in bf16, zeros behind it up to a multiple of 32; `None` where rows are not rounded to that.
    pub(crate) fn bf16_row(&self, row: usize) -> Option<&[u16]> {
        self.bf16.get(row * 32 * self.stride..(row + 1) * 32 * self.stride).filter(|row| !row.is_empty())
    }

    /// What row `row` stands for after rounding to bf16, `cols` of it; `None` where it is not.
    pub fn rounded_to_bf16(&self, row: usize, cols: usize) -> Option<Vec<f32>> {
        Some(self.bf16_row(row)?[..cols].iter().map(|&bits| bf16_to_f32(bits)).collect())
    }

    /// What row `row` stands for after rounding to 8 bits, `cols` of it.
    pub fn dequantise(&self, row: usize, cols: usize) -> Vec<f32> {
        let number = |i: usize| {
            let group = &self.row(row)[i / 32];
            f32::from(group.codes[i % 32]) * group.scales[i % 32 / GROUP]
        };
        (0..cols).map(number).collect()
    }
}

for_each_isa! {
    /// Rounds one row into as many groups as it fills.
    pub(crate) fn quantise_row(x: &[f32], out: &mut [QuantisedGroup]) = quantise_row_body
}

#[inline(always)]
fn quantise_row_body(x: &[f32], out: &mut [QuantisedGroup]) {
    let (groups, rest) = x.as_chunks::<32>();
    let mut last = [0.0; 32];
    last[..rest.len()].copy_from_slice(rest);
    let groups = groups.iter().chain((!rest.is_empty()).then_some(&last));
    for (x, out) in groups.zip(out) {
        for half in 0..2 {
            let x: &[f32; GROUP] = x[GROUP * half..].first_chunk().expect("two sixteens are 32");
            let codes = out.codes[GROUP * half..].first_chunk_mut().expect("two sixteens are 32");
            let total = quantise_group(x, codes, &mut out.scales[half]);
            out.shifts[half] = -128 * total;
            out.sums_of_16[half] = out.scales[half] * total as f32;
        }
        out.sum_of_32 = out.sums_of_16[0] + out.sums_of_16[1];
    }
}

for_each_isa! {
    /// Rounds one row to bf16, and writes zeros up to the next multiple of 32.
    pub(crate) fn round_row_to_bf16(x: &[f32], out: &mut [u16]) = round_row_to_bf16_body
}

#[inline(always)]
fn round_row_to_bf16_body(x: &[f32], out: &mut [u16]) {
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = f32_to_bf16(x));
    let end = out.len().min(x.len().next_multiple_of(32));
    out[x.len()..end].fill(0);
}

/// Rounds one group and gives the codes' sum.
#[inline(always)]
fn quantise_group(x: &[f32; GROUP], codes: &mut [i8; GROUP], scale: &mut f32) -> i32 {
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
    total
}

/// Rows of activations that products read: `(rows, cols)` in f32, and rounded where the fast arithmetic wants them.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// `(rows, cols)`.
    pub f32: &'a [f32],
    /// Inputs of the product.
    pub cols: usize,
    /// The same rows, rounded; `None` in exact arithmetic.
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
            let mut rows = QuantisedRows::with_capacity(1, 150, Rounding::default());
            rows.shape(isa, 1, 150).for_each(|(out, _)| quantise_row(isa, &x, out));
            assert_eq!(rows.data.len(), 5);
            for (i, (a, b)) in x.iter().zip(rows.dequantise(0, 150)).enumerate() {
                let scale = rows.data[i / 32].scales[i % 32 / GROUP];
                assert!((a - b).abs() <= scale * 0.5001, "{isa:?} {i}: {a} {b}");
            }
            for group in &rows.data {
                for half in 0..2 {
                    let codes =
                        group.codes[16 * half..16 * (half + 1)].iter().map(|&code| i32::from(code)).sum::<i32>();
                    assert_eq!(group.sums_of_16[half], group.scales[half] * codes as f32);
                    assert_eq!(group.shifts[half], -128 * codes);
                }
                assert_eq!(group.sum_of_32, group.sums_of_16[0] + group.sums_of_16[1]);
            }
            assert!(rows.data[4].codes[22..].iter().all(|&code| code == 0));
        }
    }

    #[test]
    fn rows_of_zeros_and_of_tiny_numbers_stay_finite() {
        for value in [0.0, 1e-44, f32::MIN_POSITIVE] {
            let mut rows = QuantisedRows::default();
            rows.shape(Isa::best(), 1, 32).for_each(|(out, _)| quantise_row(Isa::best(), &[value; 32], out));
            assert!(rows.dequantise(0, 32).iter().all(|x| x.is_finite()));
        }
    }
}
