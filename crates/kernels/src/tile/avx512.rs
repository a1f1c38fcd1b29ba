//! Tiles in AVX-512 with VNNI. Callers have checked every length (see the parent module), so loads go by pointer.

use std::arch::x86_64::*;

use super::{ROWS, Tile};
use crate::activations::QuantisedRow;

/// `(M, ROWS)` products in groups of `G`.
///
/// # Safety
/// The processor must have these instructions; `tile` and `x` must hold what [`Tile::dot`] checks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")]
pub unsafe fn dot<const M: usize, const G: usize>(tile: &Tile, x: [QuantisedRow<'_>; M]) -> [[f32; ROWS]; M] {
    let zero = _mm512_setzero_ps();
    let (mut sums, mut biases) = ([zero; M], [zero; M]);
    let mut codes = tile.codes.as_ptr();
    for group in 0..tile.groups {
        // SAFETY: the tile holds `groups` scales and biases of sixteen rows.
        let (scales, group_biases) = unsafe {
            (
                _mm512_loadu_ps(tile.scales.as_ptr().add(ROWS * group)),
                _mm512_loadu_ps(tile.biases.as_ptr().add(ROWS * group)),
            )
        };
        for sixteen in group * G / 16..(group + 1) * G / 16 {
            let mut dots = [_mm512_setzero_si512(); M];
            for four in 0..4 {
                // SAFETY: the tile holds `groups · G` codes of sixteen rows.
                let w = unsafe { _mm512_loadu_si512(codes.cast()) };
                codes = codes.wrapping_add(4 * ROWS);
                for m in 0..M {
                    // SAFETY: the row holds `groups · G` codes; the read needs no alignment.
                    let x = unsafe { x[m].codes.as_ptr().add(16 * sixteen + 4 * four).cast::<i32>().read_unaligned() };
                    dots[m] = _mm512_dpbusd_epi32(dots[m], w, _mm512_set1_epi32(x));
                }
            }
            for m in 0..M {
                // SAFETY: the row holds a scale for sixteen codes.
                let x_scale = unsafe { *x[m].scales.get_unchecked(sixteen) };
                let scale = _mm512_mul_ps(scales, _mm512_set1_ps(x_scale));
                sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[m]), scale, sums[m]);
            }
        }
        for m in 0..M {
            // SAFETY: the row holds a sum for each group.
            let x_sum = unsafe { *(if G == 16 { x[m].sums_of_16 } else { x[m].sums_of_32 }).get_unchecked(group) };
            biases[m] = _mm512_fmadd_ps(group_biases, _mm512_set1_ps(x_sum), biases[m]);
        }
    }
    let mut out = [[0.0; ROWS]; M];
    for m in 0..M {
        // SAFETY: sixteen numbers; the store needs no alignment.
        unsafe { _mm512_storeu_ps(out[m].as_mut_ptr(), _mm512_add_ps(sums[m], biases[m])) };
    }
    out
}

/// Sums of sixteen codes' products of four rows: `codes: (4, cols)` with `x: (cols)`, `cols` a multiple of 64, to
/// `sums: (cols / 64, 4 sixteens, 4 rows)`.
///
/// # Safety
/// The processor must have these instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub unsafe fn sum_sixteens(codes: &[u8], x: &[i8], sums: &mut [i32]) {
    let cols = codes.len() / 4;
    assert!(cols.is_multiple_of(64) && x.len() >= cols && sums.len() == cols / 4);
    for step in 0..cols / 64 {
        // SAFETY: `x` and each of the four rows hold `cols`, `sums` sixteen numbers a step.
        unsafe {
            let x = _mm512_loadu_si512(x.as_ptr().add(64 * step).cast());
            let mut rows = [_mm512_setzero_si512(); 4];
            for (r, row) in rows.iter_mut().enumerate() {
                let w = _mm512_loadu_si512(codes.as_ptr().add(r * cols + 64 * step).cast());
                *row = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x);
            }
            _mm512_storeu_si512(sums.as_mut_ptr().add(16 * step).cast(), add_lanes(rows));
        }
    }
}

/// `(ROWS)` products from `tile.sums`, for weights in groups of `G`.
///
/// # Safety
/// The processor must have these instructions; `tile` and `x` must hold what [`Tile::check`] checks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
pub unsafe fn scale_sums<const G: usize>(tile: &Tile, x: QuantisedRow<'_>) -> [f32; ROWS] {
    let steps = (tile.groups * G).div_ceil(64);
    assert!(tile.sums.len() >= ROWS / 4 * steps * 16);
    let mut sums = _mm512_setzero_ps();
    let mut biases = _mm512_setzero_ps();
    for step in 0..steps {
        let mut quarters = [_mm512_setzero_si512(); 4];
        for (q, quarter) in quarters.iter_mut().enumerate() {
            // SAFETY: four quarters of `steps` times sixteen numbers, as asserted.
            *quarter = unsafe { _mm512_loadu_si512(tile.sums.as_ptr().add(16 * (q * steps + step)).cast()) };
        }
        let mut scales = _mm512_setzero_ps();
        for (i, dots) in transpose_lanes(quarters).into_iter().enumerate() {
            let sixteen = 4 * step + i;
            let group = 16 * sixteen / G;
            if group == tile.groups {
                break;
            }
            if (16 * sixteen).is_multiple_of(G) {
                // SAFETY: the tile holds `groups` scales and biases of sixteen rows, the row a sum for each group.
                unsafe {
                    scales = _mm512_loadu_ps(tile.scales.as_ptr().add(ROWS * group));
                    let bias = _mm512_loadu_ps(tile.biases.as_ptr().add(ROWS * group));
                    let x_sum = *(if G == 16 { x.sums_of_16 } else { x.sums_of_32 }).get_unchecked(group);
                    biases = _mm512_fmadd_ps(bias, _mm512_set1_ps(x_sum), biases);
                }
            }
            // SAFETY: the row holds a scale for sixteen codes.
            let x_scale = unsafe { *x.scales.get_unchecked(sixteen) };
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(x_scale));
            sums = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, sums);
        }
    }
    let mut out = [0.0; ROWS];
    // SAFETY: sixteen numbers; the store needs no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_add_ps(sums, biases)) };
    out
}

/// Adds up each 128-bit lane of four rows: lane `l` of the result holds the four sums of the rows' lanes `l`.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_lanes(rows: [__m512i; 4]) -> __m512i {
    let pair = |a, b| _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (low, high) = (pair(rows[0], rows[1]), pair(rows[2], rows[3]));
    _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high))
}

/// Four rows a vector, a sixteen of codes a lane, to sixteen rows a vector.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_lanes(quarters: [__m512i; 4]) -> [__m512i; 4] {
    let [a, b, c, d] = quarters;
    let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
    let (even_high, odd_high) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(even, even_high),
        _mm512_shuffle_i32x4::<0x88>(odd, odd_high),
        _mm512_shuffle_i32x4::<0xdd>(even, even_high),
        _mm512_shuffle_i32x4::<0xdd>(odd, odd_high),
    ]
}

/// `(ROWS, len)` to `(len, ROWS)`; `len` is a multiple of 16.
///
/// # Safety
/// The processor must have these instructions; both sides must hold `ROWS · len`.
#[target_feature(enable = "avx512f")]
pub unsafe fn interleave(rows: &[[u8; 4]], len: usize, out: &mut [[u8; 4]]) {
    assert!(rows.len() >= ROWS * len && out.len() >= ROWS * len);
    for at in (0..len).step_by(16) {
        let mut block = [_mm512_setzero_si512(); ROWS];
        for row in 0..ROWS {
            // SAFETY: sixteen of the row's `len` from `at` on.
            block[row] = unsafe { _mm512_loadu_si512(rows.as_ptr().add(row * len + at).cast()) };
        }
        let block = transpose(block);
        for i in 0..16 {
            // SAFETY: one of the `len` columns of sixteen.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().add((at + i) * ROWS).cast(), block[i]) };
        }
    }
}

/// Interleaves scales, and minimums as biases: `min − offset · scale`. `len` groups a row, a multiple of 16.
///
/// # Safety
/// The processor must have these instructions.
#[target_feature(enable = "avx512f,fma")]
pub unsafe fn interleave_scales(
    scales: &[f32],
    mins: &[f32],
    len: usize,
    offset: f32,
    out_scales: &mut [f32],
    out_biases: &mut [f32],
) {
    let fits = |x: &[f32]| x.len() >= ROWS * len;
    assert!(fits(scales) && fits(mins) && fits(out_scales) && fits(out_biases));
    let offset = _mm512_set1_ps(-offset);
    for at in (0..len).step_by(16) {
        let mut scale_rows = [_mm512_setzero_si512(); ROWS];
        let mut min_rows = [_mm512_setzero_si512(); ROWS];
        for row in 0..ROWS {
            // SAFETY: sixteen of the row's `len` from `at` on.
            unsafe {
                scale_rows[row] = _mm512_loadu_si512(scales.as_ptr().add(row * len + at).cast());
                min_rows[row] = _mm512_loadu_si512(mins.as_ptr().add(row * len + at).cast());
            }
        }
        let (scale_rows, min_rows) = (transpose(scale_rows), transpose(min_rows));
        for i in 0..16 {
            let scale = _mm512_castsi512_ps(scale_rows[i]);
            let bias = _mm512_fmadd_ps(offset, scale, _mm512_castsi512_ps(min_rows[i]));
            // SAFETY: one of the `len` columns of sixteen.
            unsafe {
                _mm512_storeu_ps(out_scales.as_mut_ptr().add((at + i) * ROWS), scale);
                _mm512_storeu_ps(out_biases.as_mut_ptr().add((at + i) * ROWS), bias);
            }
        }
    }
}

/// Sixteen rows of sixteen double words to sixteen columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
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
