//! Tiles in AVX-512 with VNNI. Callers have checked every length (see the parent module), so loads go by pointer.

mod fill;
mod rows;

use std::arch::{asm, x86_64::*};

pub use self::{
    fill::{RowStarts, fill},
    rows::multiply_rows,
};
use super::{COLS, GROUPS, ROWS, Tile, Unpacked};
use crate::{
    WeightType,
    activations::{BLOCK_GROUPS, QuantisedGroup},
    packed::{Panel, Q3_LEVELS, Q4_LEVELS, TILE, VECTOR},
    prefetch::{prefetch, prefetch_ahead},
};

/// From so many rows of activations on, weights are asked for once: a product is seldom waiting for them, and asking takes the
/// place of loads.
const MANY: usize = 5;

/// How far ahead weights are asked for then.
const MANY_AHEAD_BYTES: usize = 6144;

/// One activation's four codes in every lane.
///
/// # Safety
/// `group` must point to a group.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn four_codes(group: *const QuantisedGroup, at: usize) -> __m512i {
    // SAFETY: the caller's promise, and `at` is below 32; the read needs no alignment.
    _mm512_set1_epi32(unsafe { (&raw const (*group).codes).cast::<i8>().add(at).cast::<i32>().read_unaligned() })
}

/// `dots · 2^exponent` for the exponent of a group's sixteen. Written by hand: the compiler asks of the shift that it be below 32,
/// and spreads the question over four instructions.
///
/// # Safety
/// The processor must have AVX-512; `group` must point to a group.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn shifted(dots: __m512i, group: *const QuantisedGroup, half: usize) -> __m512i {
    let out;
    // SAFETY: reads one of the two exponents.
    unsafe {
        let exponent = (&raw const (*group).exponents).cast::<i32>().add(half);
        asm!(
            "vpsllvd {out}, {dots}, dword ptr [{exponent}]{{1to16}}",
            out = lateout(zmm_reg) out,
            dots = in(zmm_reg) dots,
            exponent = in(reg) exponent,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    out
}

/// The sums of sixteen products of half a group, shifted. `$w(v)` is vector `v` of weights.
macro_rules! shifted_dots {
    ($m:ident, $mins:ident; $x:ident, $group:ident, $half:literal, $w:expr) => {{
        let mut dots = [_mm512_setzero_si512(); $m];
        if !$mins {
            for m in 0..$m {
                dots[m] = _mm512_set1_epi32((*$x[m].add($group)).offsets[$half]);
            }
        }
        for four in 0..4 {
            let w = $w(4 * $half + four);
            for m in 0..$m {
                dots[m] = _mm512_dpbusd_epi32(dots[m], w, four_codes($x[m].add($group), 16 * $half + 4 * four));
            }
        }
        for m in 0..$m {
            dots[m] = shifted(dots[m], $x[m].add($group), $half);
        }
        dots
    }};
}

/// Adds to `$block` what one group of 32 columns gives, without its block's scale.
macro_rules! multiply_group {
    ($m:ident, $sixteens:ident, $mins:ident; $x:ident, $group:ident, $block:ident, $scales:expr, $mins_of:expr, $w:expr) => {{
        let first = shifted_dots!($m, $mins; $x, $group, 0, $w);
        if $sixteens {
            for m in 0..$m {
                $block[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(first[m]), $scales(0), $block[m]);
                if $mins {
                    let x_sum = _mm512_set1_ps((*$x[m].add($group)).sums_of_16[0]);
                    $block[m] = _mm512_fmadd_ps($mins_of(0), x_sum, $block[m]);
                }
            }
        }
        let second = shifted_dots!($m, $mins; $x, $group, 1, $w);
        for m in 0..$m {
            if $sixteens {
                $block[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(second[m]), $scales(1), $block[m]);
                if $mins {
                    let x_sum = _mm512_set1_ps((*$x[m].add($group)).sums_of_16[1]);
                    $block[m] = _mm512_fmadd_ps($mins_of(1), x_sum, $block[m]);
                }
            } else {
                let both = _mm512_cvtepi32_ps(_mm512_add_epi32(first[m], second[m]));
                $block[m] = _mm512_fmadd_ps(both, $scales(0), $block[m]);
                if $mins {
                    let x_sum = _mm512_set1_ps((*$x[m].add($group)).sum_of_32);
                    $block[m] = _mm512_fmadd_ps($mins_of(0), x_sum, $block[m]);
                }
            }
        }
    }};
}

/// Adds products to `sums: (M, ROWS)`. `SIXTEENS`: a scale for each 16 weights; `MINS`: with minimums, codes from 0 on.
///
/// # Safety
/// The processor must have these instructions; `x` must hold the tile's columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub unsafe fn multiply_add<const M: usize, const SIXTEENS: bool, const MINS: bool>(
    tile: &Tile,
    x: [&[QuantisedGroup]; M],
    sums: &mut [[f32; ROWS]; M],
) {
    let x = x.map(<[_]>::as_ptr);
    let per_group = if SIXTEENS { 2 } else { 1 };
    for first in (0..tile.cols / 32).step_by(BLOCK_GROUPS) {
        let mut block = [_mm512_setzero_ps(); M];
        for group in first..(first + BLOCK_GROUPS).min(tile.cols / 32) {
            // SAFETY: the tile holds `cols / 32` tiles of codes with their scales and minimums, `x` as many groups.
            unsafe {
                let codes = tile.codes.as_ptr().add(group * TILE);
                let scales = |i: usize| _mm512_loadu_ps(tile.scales.as_ptr().add((per_group * group + i) * ROWS));
                let mins = |i: usize| _mm512_loadu_ps(tile.mins.as_ptr().add((per_group * group + i) * ROWS));
                let w = |v: usize| _mm512_loadu_si512(codes.add(v * VECTOR).cast());
                multiply_group!(M, SIXTEENS, MINS; x, group, block, scales, mins, w);
            }
        }
        for m in 0..M {
            // SAFETY: `x` holds group `first`, and sums are sixteen numbers, which need no alignment.
            unsafe {
                let sum = _mm512_loadu_ps(sums[m].as_ptr());
                let sum = _mm512_fmadd_ps(block[m], _mm512_set1_ps((*x[m].add(first)).scale), sum);
                _mm512_storeu_ps(sums[m].as_mut_ptr(), sum);
            }
        }
    }
}

/// `(M, ROWS)` products of the first `tiles` tiles of a panel of `BITS` bits. `VBMI`: the processor has these instructions too.
///
/// # Safety
/// The processor must have these instructions; `panel` and each of `x` must hold `tiles` groups.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub unsafe fn multiply_panel<const M: usize, const BITS: usize, const VBMI: bool>(
    panel: Panel<'_>,
    tiles: usize,
    x: [&[QuantisedGroup]; M],
) -> [[f32; ROWS]; M] {
    const SIXTEENS: bool = false;
    const MINS: bool = false;
    let x = x.map(<[_]>::as_ptr);
    let mut acc = [_mm512_setzero_ps(); M];
    let (codes, scales) = (panel.codes(), panel.scales());
    // The next panel's scales are asked for by place, since a stream that yields sixteen bytes a tile is too slow for
    // the processor to see.
    let panel_bytes = codes.len() + scales.len() + 4 * ROWS;
    prefetch(scales.as_ptr().wrapping_add(scales.len() + panel_bytes), 1);
    for first in (0..tiles).step_by(BLOCK_GROUPS) {
        let mut block = [_mm512_setzero_ps(); M];
        for group in first..(first + BLOCK_GROUPS).min(tiles) {
            // SAFETY: the panel holds `tiles` tiles of codes and of sixteen scales, `x` as many groups. What is asked of memory
            // ahead need not exist.
            unsafe {
                let codes = codes.as_ptr().add(group * TILE / 8 * BITS);
                if M < MANY {
                    prefetch_ahead(codes, 64 * BITS);
                } else {
                    prefetch(codes.wrapping_add(MANY_AHEAD_BYTES), 64 * BITS);
                }
                let scales = scales.as_ptr().add(group * ROWS);
                prefetch(scales.wrapping_add(panel_bytes), 1);
                let vectors = vectors::<BITS, VBMI>(codes);
                let scale = _mm_loadu_si128(scales.cast());
                let scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scale));
                let w = |v: usize| vectors[v];
                multiply_group!(M, SIXTEENS, MINS; x, group, block, |_: usize| scale, |_: usize| scale, w);
            }
        }
        for m in 0..M {
            // SAFETY: `x` holds group `first`.
            acc[m] = _mm512_fmadd_ps(block[m], _mm512_set1_ps(unsafe { (*x[m].add(first)).scale }), acc[m]);
        }
    }
    let row_scales = panel.row_scales();
    // SAFETY: sixteen numbers; the load needs no alignment.
    let row_scales = unsafe { _mm512_loadu_ps(row_scales.as_ptr()) };
    let mut out = [[0.0; ROWS]; M];
    for m in 0..M {
        // SAFETY: sixteen numbers; the store needs no alignment.
        unsafe { _mm512_storeu_ps(out[m].as_mut_ptr(), _mm512_mul_ps(acc[m], row_scales)) };
    }
    out
}

/// The eight vectors of a tile of `BITS` bits at `codes`, as levels raised by 128.
///
/// # Safety
/// `codes` must point to a whole tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn vectors<const BITS: usize, const VBMI: bool>(codes: *const u8) -> [__m512i; 8] {
    // SAFETY: the caller's promise: a tile has `BITS` registers.
    let plane = |at: usize| unsafe { _mm512_loadu_si512(codes.add(at * VECTOR).cast()) };
    let mut out = [_mm512_setzero_si512(); 8];
    match BITS {
        3 => {
            let (levels, two) = (table(&raised(&Q3_LEVELS)), _mm512_set1_epi8(3));
            let high = plane(2);
            for v in 0..8 {
                let low = _mm512_and_si512(_mm512_srl_epi16(plane(v / 4), count(2 * (v % 4))), two);
                // Bit `v` of each byte to bit 2.
                let bit = _mm512_sll_epi16(_mm512_srl_epi16(high, count(v)), count(2));
                let code = _mm512_ternarylogic_epi32::<0xF8>(low, bit, _mm512_set1_epi8(4));
                out[v] = _mm512_shuffle_epi8(levels, code);
            }
        }
        4 => {
            let levels = table(&raised(&Q4_LEVELS));
            for v in 0..8 {
                out[v] = match VBMI {
                    // SAFETY: the caller's promise.
                    true => unsafe { look_up(levels, plane(v / 2), v) },
                    false => _mm512_shuffle_epi8(levels, four_bits(plane(v / 2), v)),
                };
            }
        }
        5 => {
            let high = plane(4);
            for v in 0..8 {
                let bit = _mm512_sll_epi16(_mm512_srl_epi16(high, count(v)), count(4));
                let code = _mm512_ternarylogic_epi32::<0xF8>(four_bits(plane(v / 2), v), bit, _mm512_set1_epi8(16));
                out[v] = _mm512_add_epi8(code, _mm512_set1_epi8(112));
            }
        }
        6 => {
            for v in 0..8 {
                let high = _mm512_sll_epi16(_mm512_srl_epi16(plane(4 + v / 4), count(2 * (v % 4))), count(4));
                let code = _mm512_ternarylogic_epi32::<0xF8>(four_bits(plane(v / 2), v), high, _mm512_set1_epi8(48));
                out[v] = _mm512_add_epi8(code, _mm512_set1_epi8(96));
            }
        }
        _ => {
            for (v, out) in out.iter_mut().enumerate() {
                *out = plane(v);
            }
        }
    }
    out
}

/// A shift's count. A constant after inlining.
#[inline]
#[target_feature(enable = "avx512f")]
fn count(bits: usize) -> __m128i {
    _mm_cvtsi32_si128(bits as i32)
}

/// The low half of each byte for even `v`, the high one for odd.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn four_bits(plane: __m512i, v: usize) -> __m512i {
    let shifted = if v.is_multiple_of(2) { plane } else { _mm512_srli_epi16::<4>(plane) };
    _mm512_and_si512(shifted, _mm512_set1_epi8(15))
}

/// The levels of the low half of each byte for even `v`, of the high one for odd. `levels` are sixteen, four times: the permutation
/// looks at six bits, so that no half has to be cut out.
///
/// # Safety
/// The processor must have AVX-512 VBMI. Written by hand, as a function for these instructions would not be inlined into those
/// that do without.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn look_up(levels: __m512i, plane: __m512i, v: usize) -> __m512i {
    let codes = if v.is_multiple_of(2) { plane } else { _mm512_srli_epi16::<4>(plane) };
    let out;
    // SAFETY: the caller's promise; registers only.
    unsafe {
        asm!(
            "vpermb {out}, {codes}, {levels}",
            out = lateout(zmm_reg) out,
            codes = in(zmm_reg) codes,
            levels = in(zmm_reg) levels,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

/// Levels as unsigned numbers raised by 128, repeated up to sixteen.
const fn raised<const N: usize>(levels: &[i8; N]) -> [u8; 16] {
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = levels[i % N] as u8 ^ 0x80;
        i += 1;
    }
    out
}

/// A table of sixteen bytes for [`_mm512_shuffle_epi8`].
#[inline]
#[target_feature(enable = "avx512f")]
fn table(bytes: &[u8; 16]) -> __m512i {
    // SAFETY: sixteen bytes; the load needs no alignment.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// The 8 vectors of one packed tile, each code replaced by its level plus 128.
///
/// # Safety
/// The processor must have these instructions; `codes` must hold one tile of `kind`.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn unpack_tile(kind: WeightType, codes: &[u8], out: &mut [u8; TILE]) {
    // SAFETY: a whole tile, as the caller promises.
    let vectors = unsafe {
        match kind {
            WeightType::Q3_D => vectors::<3, false>(codes.as_ptr()),
            WeightType::Q4_D => vectors::<4, false>(codes.as_ptr()),
            WeightType::Q5_D => vectors::<5, false>(codes.as_ptr()),
            WeightType::Q6_D => vectors::<6, false>(codes.as_ptr()),
            _ => vectors::<8, false>(codes.as_ptr()),
        }
    };
    for (out, vector) in out.as_chunks_mut::<VECTOR>().0.iter_mut().zip(vectors) {
        // SAFETY: sixty-four bytes; the store needs no alignment.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), vector) };
    }
}

/// Interleaves what [`Unpacked`] holds, codes raised by `raise`.
///
/// # Safety
/// The processor must have these instructions.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn interleave(rows: &Unpacked, raise: u8, tile: &mut Tile) {
    let raise = _mm512_set1_epi8(raise as i8);
    for at in (0..tile.cols).step_by(64) {
        let mut block = [_mm512_setzero_si512(); ROWS];
        for (row, block) in block.iter_mut().enumerate() {
            // SAFETY: each row has room for COLS codes, a multiple of 64, and `at` is below that.
            *block = unsafe { _mm512_loadu_si512(rows.codes.as_ptr().add(row * COLS + at).cast()) };
        }
        for (i, block) in transpose(block).into_iter().enumerate() {
            let block = _mm512_add_epi8(block, raise);
            // SAFETY: the tile has room for COLS columns of sixteen codes.
            unsafe { _mm512_storeu_si512(tile.codes.as_mut_ptr().add((at + 4 * i) * ROWS).cast(), block) };
        }
    }
    for (from, to) in [(&rows.scales, &mut tile.scales), (&rows.mins, &mut tile.mins)] {
        let mut block = [_mm512_setzero_si512(); ROWS];
        for (row, block) in block.iter_mut().enumerate() {
            // SAFETY: each row has room for GROUPS, which is sixteen.
            *block = unsafe { _mm512_loadu_si512(from.as_ptr().add(row * GROUPS).cast()) };
        }
        for (i, block) in transpose(block).into_iter().enumerate() {
            // SAFETY: the tile has room for GROUPS times sixteen.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().add(i * ROWS).cast(), block) };
        }
    }
}

/// Sixteen rows of sixteen double words to sixteen columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let zero = _mm512_setzero_si512();
    // Pairs of rows, then fours: within each 128-bit lane.
    let mut pairs = [zero; 16];
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = [zero; 16];
    for i in 0..4 {
        let p = &pairs[4 * i..4 * i + 4];
        fours[4 * i] = _mm512_unpacklo_epi64(p[0], p[2]);
        fours[4 * i + 1] = _mm512_unpackhi_epi64(p[0], p[2]);
        fours[4 * i + 2] = _mm512_unpacklo_epi64(p[1], p[3]);
        fours[4 * i + 3] = _mm512_unpackhi_epi64(p[1], p[3]);
    }
    // Column `4 · lane + i` now lies in lane `lane` of `fours[4 · quarter + i]`, for four rows a quarter.
    let mut out = [zero; 16];
    for i in 0..4 {
        let even = _mm512_shuffle_i32x4::<0x88>(fours[i], fours[4 + i]);
        let odd = _mm512_shuffle_i32x4::<0xdd>(fours[i], fours[4 + i]);
        let even_high = _mm512_shuffle_i32x4::<0x88>(fours[8 + i], fours[12 + i]);
        let odd_high = _mm512_shuffle_i32x4::<0xdd>(fours[8 + i], fours[12 + i]);
        out[i] = _mm512_shuffle_i32x4::<0x88>(even, even_high);
        out[8 + i] = _mm512_shuffle_i32x4::<0xdd>(even, even_high);
        out[4 + i] = _mm512_shuffle_i32x4::<0x88>(odd, odd_high);
        out[12 + i] = _mm512_shuffle_i32x4::<0xdd>(odd, odd_high);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn both_permutations_give_the_same_levels_for_every_byte() {
        if !Isa::available().contains(&Isa::Avx512) || !is_x86_feature_detected!("avx512vbmi") {
            return;
        }
        let codes: [u8; TILE / 2] = std::array::from_fn(|i| i as u8);
        // SAFETY: the processor has the instructions, and the codes are a whole tile of four bits.
        let bytes = |vectors: [__m512i; 8]| unsafe { std::mem::transmute::<[__m512i; 8], [u8; TILE]>(vectors) };
        // SAFETY: as above.
        let (with, without) = unsafe { (vectors::<4, true>(codes.as_ptr()), vectors::<4, false>(codes.as_ptr())) };
        assert_eq!(bytes(with), bytes(without));
    }
}
