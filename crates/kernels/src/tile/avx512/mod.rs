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
    isa::array,
    packed::{Panel, Q3_LEVELS, Q4_LEVELS, TILE, VECTOR},
    prefetch::{Ahead, prefetch},
};

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

/// `dots[p] · 2^exponent` for the exponent of a group's sixteen. Written by hand: the compiler asks of the shift that it be below 32,
/// and spreads the question over four instructions.
///
/// # Safety
/// The processor must have AVX-512; `group` must point to a group.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn shifted<const P: usize>(dots: [__m512i; P], group: *const QuantisedGroup, half: usize) -> [__m512i; P] {
    // SAFETY: one of the two exponents.
    let exponent = unsafe { (&raw const (*group).exponents).cast::<i32>().add(half) };
    let mut out = [_mm512_setzero_si512(); P];
    if P == 1 {
        // SAFETY: reads the exponent.
        unsafe {
            asm!(
                "vpsllvd {out}, {dots}, dword ptr [{exponent}]{{1to16}}",
                out = lateout(zmm_reg) out[0],
                dots = in(zmm_reg) dots[0],
                exponent = in(reg) exponent,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        return out;
    }
    // SAFETY: as above.
    let exponent = _mm512_set1_epi32(unsafe { *exponent });
    for (out, dots) in out.iter_mut().zip(dots) {
        // SAFETY: registers only.
        unsafe {
            asm!(
                "vpsllvd {out}, {dots}, {exponent}",
                out = lateout(zmm_reg) *out,
                dots = in(zmm_reg) dots,
                exponent = in(zmm_reg) exponent,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
    out
}

/// The sums of sixteen products of half a group, shifted, of `$p` tiles and `$m` rows of activations. `$w(p, v)` is vector `v` of
/// weights of tile `p`.
macro_rules! shifted_dots {
    ($p:ident, $m:ident, $mins:ident; $x:ident, $group:ident, $half:literal, $w:expr) => {{
        let mut dots = [[_mm512_setzero_si512(); $m]; $p];
        if !$mins {
            for m in 0..$m {
                let offset = _mm512_set1_epi32((*$x[m].add($group)).offsets[$half]);
                dots.iter_mut().for_each(|dots| dots[m] = offset);
            }
        }
        for four in 0..4 {
            let mut w = [_mm512_setzero_si512(); $p];
            for p in 0..$p {
                w[p] = $w(p, 4 * $half + four);
            }
            for m in 0..$m {
                let codes = four_codes($x[m].add($group), 16 * $half + 4 * four);
                for p in 0..$p {
                    dots[p][m] = _mm512_dpbusd_epi32(dots[p][m], w[p], codes);
                }
            }
        }
        for m in 0..$m {
            let mut of_row = [_mm512_setzero_si512(); $p];
            for p in 0..$p {
                of_row[p] = dots[p][m];
            }
            let of_row = shifted(of_row, $x[m].add($group), $half);
            for p in 0..$p {
                dots[p][m] = of_row[p];
            }
        }
        dots
    }};
}

/// Adds to `$block` what half `$half` of one group gives in types with a scale for each sixteen weights.
macro_rules! add_sixteen {
    ($p:ident, $m:ident, $mins:ident; $x:ident, $group:ident, $half:literal, $block:ident, $scales:expr, $mins_of:expr, $dots:expr) => {{
        for p in 0..$p {
            let (scale, min) = ($scales(p, $half), $mins_of(p, $half));
            for m in 0..$m {
                $block[p][m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps($dots[p][m]), scale, $block[p][m]);
                if $mins {
                    let x_sum = _mm512_set1_ps((*$x[m].add($group)).sums_of_16[$half]);
                    $block[p][m] = _mm512_fmadd_ps(min, x_sum, $block[p][m]);
                }
            }
        }
    }};
}

/// Adds to `$block` what one group of 32 columns gives, without its block's scale.
macro_rules! multiply_group {
    ($p:ident, $m:ident, $sixteens:ident, $mins:ident; $x:ident, $group:ident, $block:ident, $scales:expr, $mins_of:expr, $w:expr) => {{
        let first = shifted_dots!($p, $m, $mins; $x, $group, 0, $w);
        if $sixteens {
            add_sixteen!($p, $m, $mins; $x, $group, 0, $block, $scales, $mins_of, first);
        }
        let second = shifted_dots!($p, $m, $mins; $x, $group, 1, $w);
        if $sixteens {
            add_sixteen!($p, $m, $mins; $x, $group, 1, $block, $scales, $mins_of, second);
        } else {
            for p in 0..$p {
                let (scale, min) = ($scales(p, 0), $mins_of(p, 0));
                for m in 0..$m {
                    let both = _mm512_cvtepi32_ps(_mm512_add_epi32(first[p][m], second[p][m]));
                    $block[p][m] = _mm512_fmadd_ps(both, scale, $block[p][m]);
                    if $mins {
                        let x_sum = _mm512_set1_ps((*$x[m].add($group)).sum_of_32);
                        $block[p][m] = _mm512_fmadd_ps(min, x_sum, $block[p][m]);
                    }
                }
            }
        }
    }};
}

/// Adds products to `sums: (P, M, ROWS)`. `SIXTEENS`: a scale for each 16 weights; `MINS`: with minimums, codes from 0 on.
///
/// # Safety
/// The processor must have these instructions; the tiles hold as many columns of such a type, and `x` must hold these.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub unsafe fn multiply_add<const P: usize, const M: usize, const SIXTEENS: bool, const MINS: bool>(
    tiles: [&Tile; P],
    x: [&[QuantisedGroup]; M],
    sums: [&mut [[f32; ROWS]; M]; P],
) {
    let x: [_; M] = array(|m| x[m].as_ptr());
    let per_group = if SIXTEENS { 2 } else { 1 };
    let groups = tiles[0].cols / 32;
    for first in (0..groups).step_by(BLOCK_GROUPS) {
        let mut block = [[_mm512_setzero_ps(); M]; P];
        for group in first..(first + BLOCK_GROUPS).min(groups) {
            // SAFETY: each tile holds `cols / 32` tiles of codes with their scales and minimums, `x` as many groups.
            unsafe {
                let number =
                    |from: &[f32], i: usize| _mm512_loadu_ps(from.as_ptr().add((per_group * group + i) * ROWS));
                let scales = |p: usize, i: usize| number(&tiles[p].scales, i);
                let mins = |p: usize, i: usize| if MINS { number(&tiles[p].mins, i) } else { _mm512_setzero_ps() };
                let w = |p: usize, v: usize| {
                    _mm512_loadu_si512(tiles[p].codes.as_ptr().add(group * TILE + v * VECTOR).cast())
                };
                multiply_group!(P, M, SIXTEENS, MINS; x, group, block, scales, mins, w);
            }
        }
        for m in 0..M {
            // SAFETY: `x` holds group `first`.
            let scale = _mm512_set1_ps(unsafe { (*x[m].add(first)).scale });
            for p in 0..P {
                let sums = &mut sums[p][m];
                // SAFETY: sixteen numbers, which need no alignment.
                unsafe {
                    let sum = _mm512_fmadd_ps(block[p][m], scale, _mm512_loadu_ps(sums.as_ptr()));
                    _mm512_storeu_ps(sums.as_mut_ptr(), sum);
                }
            }
        }
    }
}

/// `(P, M, ROWS)` products of panels of `BITS` bits and `tiles` tiles. `VBMI`: the processor has these instructions too, and GFNI.
///
/// # Safety
/// The processor must have these instructions; each of `panels` and of `x` must hold `tiles` groups.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub unsafe fn multiply_panels<const P: usize, const M: usize, const BITS: usize, const VBMI: bool>(
    panels: &[Panel<'_>; P],
    tiles: usize,
    x: &[&[QuantisedGroup]; M],
    ahead: &mut impl Ahead,
) -> [[[f32; ROWS]; M]; P] {
    const SIXTEENS: bool = false;
    const MINS: bool = false;
    let x: [_; M] = array(|m| x[m].as_ptr());
    let mut acc = [[_mm512_setzero_ps(); M]; P];
    let codes: [_; P] = array(|p| panels[p].codes().as_ptr());
    let scales: [_; P] = array(|p| panels[p].scales().as_ptr());
    // The next panels' scales are asked for by place, since a stream that yields sixteen bytes a tile is too slow for
    // the processor to see.
    let panel_bytes = panels[0].codes().len() + panels[0].scales().len() + 4 * ROWS;
    for scales in scales {
        prefetch(scales.wrapping_add(panels[0].scales().len() + P * panel_bytes), 1);
    }
    // Adds the products of a group to `block`.
    macro_rules! add_group {
        ($block:ident, $group:expr) => {
            let group = $group;
            // SAFETY: each panel holds `tiles` tiles of codes and of sixteen scales, `x` as many groups.
            unsafe {
                let codes: [_; P] = array(|p| codes[p].add(group * TILE / 8 * BITS));
                let mut scale = [_mm512_setzero_ps(); P];
                for p in 0..P {
                    let scales = _mm_loadu_si128(scales[p].add(group * ROWS).cast());
                    scale[p] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales));
                }
                let scale = |p: usize, _: usize| scale[p];
                // Those of one panel fit in registers; those of two are made where they are wanted.
                let all = if P == 1 { vectors::<BITS, VBMI>(codes[0]) } else { [_mm512_setzero_si512(); 8] };
                let w = |p: usize, v: usize| if P == 1 { all[v] } else { vector::<BITS, VBMI>(codes[p], v) };
                multiply_group!(P, M, SIXTEENS, MINS; x, group, $block, scale, |_: usize, _: usize| _mm512_setzero_ps(), w);
            }
        };
    }
    for first in (0..tiles).step_by(BLOCK_GROUPS) {
        for scales in scales {
            prefetch(scales.wrapping_add(first * ROWS + P * panel_bytes), 1);
        }
        ahead.step(codes[0].wrapping_add(first * TILE / 8 * BITS), BLOCK_GROUPS * 64 * BITS);
        let mut block = [[_mm512_setzero_ps(); M]; P];
        // Written out: as a loop of one or two turns it is a twentieth slower.
        const { assert!(BLOCK_GROUPS == 2) };
        add_group!(block, first);
        if first + 1 < tiles {
            add_group!(block, first + 1);
        }
        for m in 0..M {
            // SAFETY: `x` holds group `first`.
            let scale = _mm512_set1_ps(unsafe { (*x[m].add(first)).scale });
            for p in 0..P {
                acc[p][m] = _mm512_fmadd_ps(block[p][m], scale, acc[p][m]);
            }
        }
    }
    let mut out = [[[0.0; ROWS]; M]; P];
    for p in 0..P {
        // SAFETY: sixteen numbers of four bytes, little-endian as this processor; the load needs no alignment.
        let row_scales = unsafe { _mm512_loadu_ps(panels[p].row_scale_bytes().as_ptr().cast()) };
        for m in 0..M {
            // SAFETY: sixteen numbers; the store needs no alignment.
            unsafe { _mm512_storeu_ps(out[p][m].as_mut_ptr(), _mm512_mul_ps(acc[p][m], row_scales)) };
        }
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
    let mut out = [_mm512_setzero_si512(); 8];
    for (v, out) in out.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *out = unsafe { vector::<BITS, VBMI>(codes, v) };
    }
    out
}

/// Vector `v` of them.
///
/// # Safety
/// As above.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn vector<const BITS: usize, const VBMI: bool>(codes: *const u8, v: usize) -> __m512i {
    // SAFETY: the caller's promise: a tile has `BITS` registers.
    let plane = |at: usize| unsafe { _mm512_loadu_si512(codes.add(at * VECTOR).cast()) };
    if VBMI && matches!(BITS, 5 | 6) {
        // Levels are codes less half their range, so what raises them by 128 goes with the highest bits.
        let low = moved(plane(v / 2), 4 * (v % 2), 0);
        // SAFETY: the caller's promise.
        let high = unsafe {
            match BITS {
                5 => highest::<0x70>(plane(4), FIFTH_BITS[v]),
                _ => highest::<0x60>(plane(4 + v / 4), UPPER_PAIRS[v % 4]),
            }
        };
        return _mm512_ternarylogic_epi32::<0xF8>(high, low, _mm512_set1_epi8(15));
    }
    // Bits of a plane, brought to where the code has them; what stands beside them is of other vectors.
    let (low, high, high_bits) = match BITS {
        3 => (moved(plane(v / 4), 2 * (v % 4), 0), moved(plane(2), v, 2), 4),
        5 => (moved(plane(v / 2), 4 * (v % 2), 0), moved(plane(4), v, 4), 16),
        6 => (moved(plane(v / 2), 4 * (v % 2), 0), moved(plane(4 + v / 4), 2 * (v % 4), 4), 48),
        4 => (moved(plane(v / 2), 4 * (v % 2), 0), _mm512_setzero_si512(), 0),
        _ => return plane(v),
    };
    let code = if BITS == 4 { low } else { chosen(high, low, high_bits) };
    if VBMI {
        // SAFETY: the caller's promise.
        return unsafe { look_up(BITS, code) };
    }
    let code = _mm512_and_si512(code, _mm512_set1_epi8((1 << BITS) - 1));
    match BITS {
        3 => _mm512_shuffle_epi8(table(&raised(&Q3_LEVELS)), code),
        4 => _mm512_shuffle_epi8(table(&raised(&Q4_LEVELS)), code),
        _ => _mm512_add_epi8(code, _mm512_set1_epi8((128u8 - (1 << (BITS - 1))) as i8)),
    }
}

/// Bit `from` of each byte at bit `to`, and those beside it with it. Both are constants after inlining.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn moved(plane: __m512i, from: usize, to: usize) -> __m512i {
    let count = |bits: usize| _mm_cvtsi32_si128(bits as i32);
    match from >= to {
        true if from == to => plane,
        true => _mm512_srl_epi16(plane, count(from - to)),
        false => _mm512_sll_epi16(plane, count(to - from)),
    }
}

/// The bits in `mask` of each byte of `a`, the others of `b`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn chosen(a: __m512i, b: __m512i, mask: i8) -> __m512i {
    _mm512_ternarylogic_epi32::<0xD8>(b, a, _mm512_set1_epi8(mask))
}

/// For each vector, the matrix that takes its bit of Q5_D's plane of single bits to all of bits 4 to 7. Turned about below 7 they are 112 for a
/// code below 16 and 128 for others: 16 off the code and 128 on.
const FIFTH_BITS: [u64; 8] = {
    let mut out = [0; 8];
    let mut v = 0;
    while v < 8 {
        out[v] = 0x0101_0101 << v;
        v += 1;
    }
    out
};

/// For each vector of four, the matrix that takes the lower of its two bits in Q6_D's plane of pairs to bit 4 and the upper to bits 5 to 7, which
/// are turned about below 7 as well: 32 off the code and 128 on.
const UPPER_PAIRS: [u64; 4] = {
    let mut out = [0; 4];
    let mut v = 0;
    while v < 4 {
        out[v] = 0x0102_0202 << (2 * v);
        v += 1;
    }
    out
};

/// `matrix · x`, byte by byte of `x` and in bits, then those of `TURNED` turned about.
///
/// # Safety
/// The processor must have GFNI. Written by hand, as [`look_up`] is.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn highest<const TURNED: u8>(x: __m512i, matrix: u64) -> __m512i {
    let out;
    // SAFETY: the caller's promise; registers only.
    unsafe {
        asm!(
            "vgf2p8affineqb {out}, {x}, {matrix}, {turned}",
            out = lateout(zmm_reg) out,
            x = in(zmm_reg) x,
            matrix = in(zmm_reg) _mm512_set1_epi64(matrix as i64),
            turned = const TURNED,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

/// The levels of codes of `bits` bits. The permutation looks at six bits of each byte, and the table repeats its levels up to 64, so that
/// what stands above a code need not be cut off.
///
/// # Safety
/// The processor must have AVX-512 VBMI. Written by hand, as a function for these instructions would not be inlined into those
/// that do without.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn look_up(bits: usize, codes: __m512i) -> __m512i {
    const fn levels(kind: WeightType) -> [u8; 64] {
        let mut out = [0; 64];
        let mut i = 0;
        while i < 64 {
            out[i] = kind.level(i as u8 & ((1 << kind.packed_bits()) - 1)) as u8 ^ 0x80;
            i += 1;
        }
        out
    }
    static LEVELS: [[u8; 64]; 2] = [levels(WeightType::Q3_D), levels(WeightType::Q4_D)];
    let out;
    // SAFETY: the caller's promise; a table is 64 bytes, and the rest is registers only.
    unsafe {
        let levels = _mm512_loadu_si512(LEVELS[bits - 3].as_ptr().cast());
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
        let codes: [u8; TILE] = std::array::from_fn(|i| (i * 167 + i / 256 * 31) as u8);
        // SAFETY: the processor has the instructions, and there are codes for a tile of any bits.
        let bytes = |vectors: [__m512i; 8]| unsafe { std::mem::transmute::<[__m512i; 8], [u8; TILE]>(vectors) };
        macro_rules! check {
            ($bits:literal) => {
                // SAFETY: as above.
                let with = unsafe { vectors::<$bits, true>(codes.as_ptr()) };
                // SAFETY: as above.
                let without = unsafe { vectors::<$bits, false>(codes.as_ptr()) };
                assert_eq!(bytes(with), bytes(without), "{} bits", $bits);
            };
        }
        check!(3);
        check!(4);
        check!(5);
        check!(6);
        check!(8);
    }
}
