//! Dot products of tiles: `R` rows of weights with `M` rows of activations.
//!
//! Each of the `R · M` sums is taken in the same order whatever `R` and `M` are (Law 2), so a tile's shape is a matter of
//! speed alone. The plain reference is `portable`; AVX-512 has its own, since the compiler does not find `vpdpbusd`.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use crate::isa::{Isa, for_each_isa};

/// Quantised rows of weights, `R` of them from row `first` on, as [`crate::unpack::Unpacked`] holds them.
#[derive(Clone, Copy)]
pub struct CodeRows<'a> {
    /// `(rows, cols)`.
    pub codes: &'a [u8],
    /// `(rows, groups)`.
    pub scales: &'a [f32],
    /// `(rows, groups)`: what a group adds for each unit of activation, `min − offset · scale`.
    pub biases: &'a [f32],
    /// Codes a row, a multiple of [`crate::unpack::PAD`].
    pub cols: usize,
    /// Codes in a group: 16 or 32.
    pub group: usize,
}

/// One row of 8-bit activations.
#[derive(Clone, Copy, Default)]
pub struct QuantisedRow<'a> {
    /// As many as the weights have codes.
    pub codes: &'a [i8],
    /// One for 32.
    pub scales: &'a [f32],
    /// One for 16: scale times the codes' sum.
    pub sums: &'a [f32],
}

/// `R × M` dot products of quantised weights and activations.
pub fn dot_quantised<const R: usize, const M: usize>(
    isa: Isa,
    weights: CodeRows<'_>,
    first: usize,
    x: [QuantisedRow<'_>; M],
) -> [[f32; M]; R] {
    // One check here stands for all that the kernels read without any.
    assert!(weights.cols.is_multiple_of(crate::unpack::PAD) && (weights.group == 16 || weights.group == 32));
    let groups = weights.cols / weights.group;
    let end =
        first.checked_add(R).filter(|end| end.checked_mul(weights.cols).is_some_and(|n| weights.codes.len() >= n));
    let end = end.expect("the rows are there");
    assert!(weights.scales.len() >= end * groups && weights.biases.len() >= end * groups);
    for row in x {
        assert!(row.codes.len() == weights.cols);
        assert!(row.scales.len() == weights.cols / 32 && row.sums.len() == weights.cols / 16);
    }
    match isa {
        // SAFETY: `Isa::Avx512` only comes from `Isa::available`, which asked the processor; lengths are checked above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) if weights.group == 32 => unsafe { avx512::dot_quantised_32(weights, first, x) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) => unsafe { avx512::dot_quantised_16(weights, first, x) },
        // SAFETY: as above, for AVX2.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) => unsafe { dot_quantised_avx2(weights, first, x) },
        _ => portable::dot_quantised(weights, first, x),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dot_quantised_avx2<const R: usize, const M: usize>(
    weights: CodeRows<'_>,
    first: usize,
    x: [QuantisedRow<'_>; M],
) -> [[f32; M]; R] {
    portable::dot_quantised(weights, first, x)
}

/// `R × M` dot products in f32: `weights` is `(≥ first + R, cols)`, each row of `x` is `(cols)`.
pub fn dot_f32<const R: usize, const M: usize>(
    isa: Isa,
    weights: &[f32],
    first: usize,
    cols: usize,
    x: [&[f32]; M],
) -> [[f32; M]; R] {
    let end = first.checked_add(R).and_then(|end| end.checked_mul(cols));
    assert!(end.is_some_and(|end| weights.len() >= end) && x.iter().all(|row| row.len() == cols));
    match isa {
        // SAFETY: `Isa::Avx512` only comes from `Isa::available`, which asked the processor; lengths are checked above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) => unsafe { avx512::dot_f32(weights, first, cols, x) },
        // SAFETY: as above, for AVX2.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) => unsafe { dot_f32_avx2(weights, first, cols, x) },
        _ => portable::dot_f32::<R, M, false>(weights, first, cols, x),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn dot_f32_avx2<const R: usize, const M: usize>(
    weights: &[f32],
    first: usize,
    cols: usize,
    x: [&[f32]; M],
) -> [[f32; M]; R] {
    portable::dot_f32::<R, M, true>(weights, first, cols, x)
}

for_each_isa! {
    /// Turns minimums into biases, in place: what each unit of activation adds beside `scale · code`.
    pub fn mins_to_biases(offset: f32, scales: &[f32], mins: &mut [f32]) = mins_to_biases_body
}

#[inline(always)]
fn mins_to_biases_body(offset: f32, scales: &[f32], mins: &mut [f32]) {
    for (min, scale) in mins.iter_mut().zip(scales) {
        *min -= offset * scale;
    }
}
