//! Dot products in f32: `R` rows of weights with `M` rows of activations.
//!
//! Each of the `R · M` sums is taken in the same order whatever `R` and `M` are (Law 2), so a tile's shape is a matter of
//! speed alone. The plain reference is `portable`; AVX-512 has its own.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use crate::isa::Isa;

/// `R × M` dot products in f32: `weights` is `(≥ first + R, cols)`, each row of `x` is `(cols)`.
pub fn dot_f32<const R: usize, const M: usize>(
    isa: Isa,
    weights: &[f32],
    first: usize,
    cols: usize,
    x: [&[f32]; M],
) -> [[f32; M]; R] {
    assert!(weights.len() >= (first + R) * cols && x.iter().all(|row| row.len() == cols));
    match isa {
        // SAFETY: `Isa::Avx512` only comes from `Isa::available`, which asked the processor; lengths are checked above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512::dot_f32(weights, first, cols, x) },
        // SAFETY: as above, for AVX2.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { dot_f32_avx2(weights, first, cols, x) },
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
