//! Rows of activations, as they are and rounded to 8 bits and to bf16.

#[cfg(target_arch = "x86_64")]
mod avx512;

use crate::{
    dot,
    float::{bf16_to_f32, f32_to_bf16},
    isa::{Isa, for_each_isa},
};

/// Activations that share one step when rounded.
pub const GROUP: usize = 16;

/// Activations whose steps are powers of two times one f32 scale, so that a product can add up integers over all columns that
/// share a scale of weights: shifts run beside multiplications, a scale of its own for each sixteen would be one more of them.
/// Of twice the length, steps would be a tenth wider for a fortieth of the time. Divides every width of the published model.
pub const BLOCK: usize = 64;

/// Groups of 32 in a block.
pub const BLOCK_GROUPS: usize = BLOCK / 32;

/// Sixteens in a block.
const SIXTEENS: usize = BLOCK / GROUP;

/// The exponent of the widest step of a block. Sums of sixteen products are below 2^18, two of them shifted so far below 2^31.
const MOST: i32 = 12;

/// Thirty-two activations of one row in 8 bits, with all that a product wants to know of them: one cache line, so that a kernel
/// walks each row by one pointer. `x ≈ scale · 2^exponent · code`.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct QuantisedGroup {
    /// The numbers, each for its sixteen's step.
    pub codes: [i8; 32],
    /// Of each sixteen, 0 to 12.
    pub exponents: [i32; 2],
    /// Of each sixteen: `-128 · Σ codes`, which takes the 128 off weights' codes that were raised by it.
    pub offsets: [i32; 2],
    /// Of each sixteen: `2^exponent · Σ codes`, a whole number.
    pub sums_of_16: [f32; 2],
    /// The sum of those two.
    pub sum_of_32: f32,
    /// The block's.
    pub scale: f32,
}

impl QuantisedGroup {
    const ZERO: Self =
        Self { codes: [0; 32], exponents: [0; 2], offsets: [0; 2], sums_of_16: [0.0; 2], sum_of_32: 0.0, scale: 0.0 };

    /// What a code of a sixteen counts.
    fn step(&self, half: usize) -> f32 {
        self.scale * (1 << self.exponents[half]) as f32
    }
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

/// Rows rounded to 8 bits in groups of [`GROUP`] under the scales of blocks, and to bf16, each row by itself, so that a row's numbers do not depend on its
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
            f32::from(group.codes[i % 32]) * group.step(i % 32 / GROUP)
        };
        (0..cols).map(number).collect()
    }
}

/// Rounds one row into as many groups as it fills.
pub(crate) fn quantise_row(isa: Isa, x: &[f32], out: &mut [QuantisedGroup]) {
    match isa {
        // SAFETY: `Isa::Avx512` only comes from `Isa::available`, which asked the processor.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::quantise_row(x, out) },
        _ => quantise_row_plainly(isa, x, out),
    }
}

for_each_isa! {
    /// The reference: what rounds faster gives the same bits.
    fn quantise_row_plainly(x: &[f32], out: &mut [QuantisedGroup]) = quantise_row_body
}

#[inline(always)]
fn quantise_row_body(x: &[f32], out: &mut [QuantisedGroup]) {
    let (blocks, rest) = x.as_chunks::<BLOCK>();
    let mut last = [0.0; BLOCK];
    last[..rest.len()].copy_from_slice(rest);
    let blocks = blocks.iter().chain((!rest.is_empty()).then_some(&last));
    for (x, out) in blocks.zip(out.chunks_mut(BLOCK_GROUPS)) {
        quantise_block(x, out);
    }
}

/// Adding 1.5 · 2^23 rounds to the nearest integer, ties to even, and leaves it in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// Exponents of floats, as they store them, of the largest magnitudes that blocks are rounded for. Below 2^-100 all is nothing; what is
/// no number, or as good as infinite, must be seen in the product.
const ROUNDED: std::ops::RangeInclusive<i32> = 27..=252;

/// Rounds one block into as many groups of it as there are.
#[inline(always)]
fn quantise_block(x: &[f32; BLOCK], out: &mut [QuantisedGroup]) {
    let sixteens = x.as_chunks::<GROUP>().0;
    let steps = Steps::of(std::array::from_fn(|i| largest(&sixteens[i])));
    for (i, (pair, out)) in sixteens.as_chunks::<2>().0.iter().zip(out).enumerate() {
        out.scale = steps.scale;
        for (half, x) in pair.iter().enumerate() {
            let inverse = steps.inverses[2 * i + half];
            let mut codes = [0i8; GROUP];
            for (code, x) in codes.iter_mut().zip(x) {
                *code = (x * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i8;
            }
            let total: i32 = codes.iter().map(|&code| i32::from(code)).sum();
            out.codes[GROUP * half..GROUP * (half + 1)].copy_from_slice(&codes);
            out.exponents[half] = steps.exponents[2 * i + half];
            out.offsets[half] = -128 * total;
            out.sums_of_16[half] = (total << out.exponents[half]) as f32;
        }
        out.sum_of_32 = out.sums_of_16[0] + out.sums_of_16[1];
    }
}

/// The largest magnitude of a sixteen; what is no number counts as larger than all.
#[inline(always)]
fn largest(x: &[f32; GROUP]) -> f32 {
    f32::from_bits(x.iter().fold(0, |most, x| most.max(x.abs().to_bits())))
}

/// How a block is rounded.
struct Steps {
    scale: f32,
    exponents: [i32; SIXTEENS],
    /// One over each sixteen's step.
    inverses: [f32; SIXTEENS],
}

impl Steps {
    /// The steps for sixteens of these largest magnitudes: a sixteen reaches up to `m · 2^k`, with one `m` in [1, 2) for all and
    /// the least `k` that holds it. Of the `m` that fit one sixteen exactly, that of the least squared error: the sum of squared
    /// steps.
    #[inline(always)]
    fn of(largest: [f32; SIXTEENS]) -> Self {
        let exponents = largest.map(|x| (x.to_bits() >> 23) as i32);
        let fractions = largest.map(|x| (x.to_bits() & 0x007f_ffff) as i32);
        let top = exponents.iter().fold(0, |top, &exponent| top.max(exponent));
        if !ROUNDED.contains(&top) {
            let scale = if top < *ROUNDED.start() { 0.0 } else { f32::INFINITY };
            return Self { scale, exponents: [0; SIXTEENS], inverses: [0.0; SIXTEENS] };
        }
        let square = |exponent: i32| f32::from_bits(((127 + 2 * (exponent - top)).max(0) as u32) << 23);
        let squares = exponents.map(square);
        let mut costs = [0.0f32; SIXTEENS];
        for i in 0..SIXTEENS {
            for (cost, fraction) in costs.iter_mut().zip(&fractions) {
                *cost += if fractions[i] > *fraction { 4.0 * squares[i] } else { squares[i] };
            }
        }
        let mantissa = |fraction: i32| f32::from_bits(fraction as u32 | 127 << 23);
        let mut best = (f32::INFINITY, 0);
        for (cost, fraction) in costs.into_iter().zip(fractions) {
            let cost = cost * mantissa(fraction) * mantissa(fraction);
            best = if cost < best.0 { (cost, fraction) } else { best };
        }
        let (_, fraction) = best;
        let mut powers = [0i32; SIXTEENS];
        for i in 0..SIXTEENS {
            powers[i] = exponents[i] + i32::from(fractions[i] > fraction);
        }
        let least = powers.iter().fold(0, |most, &power| most.max(power)) - MOST;
        let power = |exponent: i32| f32::from_bits((exponent as u32) << 23);
        let inverse = 127.0 / mantissa(fraction);
        Self {
            scale: mantissa(fraction) / 127.0 * power(least),
            exponents: powers.map(|power| (power - least).max(0)),
            inverses: powers.map(|k| inverse * power(254 - k.max(least))),
        }
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
                let step = rows.data[i / 32].step(i % 32 / GROUP);
                assert!((a - b).abs() <= step * 0.5001, "{isa:?} {i}: {a} {b}");
            }
            for group in &rows.data {
                for half in 0..2 {
                    let codes =
                        group.codes[16 * half..16 * (half + 1)].iter().map(|&code| i32::from(code)).sum::<i32>();
                    assert_eq!(group.sums_of_16[half], (codes << group.exponents[half]) as f32);
                    assert_eq!(group.offsets[half], -128 * codes);
                }
                assert_eq!(group.sum_of_32, group.sums_of_16[0] + group.sums_of_16[1]);
            }
            assert!(rows.data[4].codes[22..].iter().all(|&code| code == 0));
        }
    }

    #[test]
    fn a_step_is_less_than_twice_what_its_sixteen_needs_unless_that_is_thousands_of_times_below_the_widest() {
        for isa in Isa::available() {
            let magnitude = |i: usize| (1.0 + (i * 29 % 31) as f32 / 32.0) * 2f32.powi(-((i * 5 % 17) as i32));
            let x: Vec<f32> = (0..4096).map(|i| magnitude(i / GROUP) * ((i % 16) as f32 - 7.0) / 8.0).collect();
            let mut rows = QuantisedRows::default();
            rows.shape(isa, 1, x.len()).for_each(|(out, _)| quantise_row(isa, &x, out));
            for (block, x) in rows.data.chunks(BLOCK_GROUPS).zip(x.chunks(BLOCK)) {
                let widest = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
                for (i, x) in x.chunks(GROUP).enumerate() {
                    let reach = 127.0 * block[i / 2].step(i % 2);
                    let largest = x.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
                    assert!(reach >= 0.9999 * largest, "{isa:?}: {reach} {largest}");
                    assert!(reach < 2.0001 * largest || largest < widest / 2048.0, "{isa:?}: {reach} {largest}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_is_seen_in_the_scale() {
        for isa in Isa::available() {
            for value in [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::NAN, -f32::NAN] {
                for place in 64..128 {
                    let mut x = [1.0; 128];
                    x[place] = value;
                    let mut rows = QuantisedRows::default();
                    rows.shape(isa, 1, 128).for_each(|(out, _)| quantise_row(isa, &x, out));
                    assert!(rows.data[0].scale.is_finite() && rows.data[2].scale.is_infinite());
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_reference() {
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        for isa in Isa::available() {
            for cols in [1usize, 16, 31, 32, 33, 64, 150, 255, 256, 257, 1408, 4096] {
                for spread in [0.0f32, 1.0, 20.0, 300.0] {
                    let mut x: Vec<f32> = (0..cols).map(|_| random() * (spread * random()).exp2()).collect();
                    // Ties between sixteens, which the first must win, and blocks of nothing.
                    if spread == 1.0 {
                        x.chunks_mut(GROUP).skip(1).step_by(2).for_each(|x| x[0] = 1.5);
                        x.chunks_mut(BLOCK).skip(1).step_by(3).for_each(|x| x.fill(0.0));
                    }
                    let groups = cols.div_ceil(32);
                    let (mut plain, mut fast) =
                        (vec![QuantisedGroup::ZERO; groups], vec![QuantisedGroup::ZERO; groups]);
                    quantise_row_plainly(Isa::Portable, &x, &mut plain);
                    quantise_row(isa, &x, &mut fast);
                    for (i, (plain, fast)) in plain.iter().zip(&fast).enumerate() {
                        assert_eq!(format!("{plain:?}"), format!("{fast:?}"), "{isa:?} {cols} {spread} {i}");
                    }
                }
            }
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
