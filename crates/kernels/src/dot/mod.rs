//! Dot products with sums in f32, of numbers in f32 and in bf16: `R` rows of weights with `M` rows of activations.
//!
//! Each of the `R · M` sums is taken in the same order whatever `R` and `M` are (Law 2), so a tile's shape is a matter of
//! speed alone. The plain reference is `portable`; AVX-512 has its own.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16;
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

/// Whether [`dot_bf16`] can be called.
pub fn has_bf16(isa: Isa) -> bool {
    #[cfg(target_arch = "x86_64")]
    return isa == Isa::Avx512 && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    return {
        isa;
        false
    };
}

/// `R × M` dot products of bf16 numbers: each of `rows` has `2 · cols` bytes, each row of `x` its numbers and zeros up to a
/// multiple of 32. Panics on a machine without them ([`has_bf16`]).
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
pub fn dot_bf16<const R: usize, const M: usize>(isa: Isa, rows: [&[u8]; R], x: [&[u16]; M]) -> [[f32; M]; R] {
    assert!(has_bf16(isa));
    let cols = rows.first().map_or(0, |row| row.len() / 2);
    assert!(rows.iter().all(|row| row.len() == 2 * cols));
    assert!(x.iter().all(|x| x.len() >= cols.next_multiple_of(32)));
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the processor has the instructions, and lengths are checked above.
    return unsafe { bf16::dot(rows, cols, x) };
    #[cfg(not(target_arch = "x86_64"))]
    unreachable!("`has_bf16` is false")
}
