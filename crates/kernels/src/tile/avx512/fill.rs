//! Blocks of ggml's types to interleaved tiles, without a stop at rows in memory.
//!
//! One step does all: [`columns`] takes sixteen bytes of each of the sixteen rows and gives four registers with a row a lane. So
//! nibbles are interleaved before they are codes, at half the work, and what a block says of its scales is unpacked for all rows
//! at once. The types that are not here go by way of `unpack_row`.

use std::arch::x86_64::*;

use super::super::{COLS, ROWS, Tile};
use crate::{WeightType, unpack::IQ4_LEVELS};

/// A stretch of whole blocks of each of sixteen rows. A start and a stride, since sixteen pointers fit in no machine's registers.
#[derive(Clone, Copy)]
pub struct RowStarts {
    /// Of rows 0, 4, 8 and 12.
    starts: [*const u8; 4],
    /// Bytes from one row to the next.
    stride: usize,
}

impl RowStarts {
    /// Rows `stride` bytes apart from `start` on.
    pub fn new(start: *const u8, stride: usize) -> Self {
        Self { starts: std::array::from_fn(|i| start.wrapping_add(4 * i * stride)), stride }
    }

    /// The same rows `bytes` further on.
    #[inline(always)]
    fn skip(self, bytes: usize) -> Self {
        Self { starts: self.starts.map(|start| start.wrapping_add(bytes)), ..self }
    }
}

/// Fills `tile.codes`, `scales` and `mins` from `tile.cols` columns that begin at `rows`. `false` for a type that is not here.
///
/// # Safety
/// The processor must have these instructions; each of `rows` must point to `tile.cols` weights of `kind`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub unsafe fn fill(kind: WeightType, rows: &RowStarts, tile: &mut Tile) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        match kind {
            WeightType::Q4_0 => each_32::<18>(rows, tile, |block, out| q4_0(block, out)),
            WeightType::Q5_0 => each_32::<22>(rows, tile, |block, out| q5_0(block, out)),
            WeightType::Q8_0 => each_32::<34>(rows, tile, |block, out| q8_0(block, out)),
            WeightType::IQ4_NL => each_32::<18>(rows, tile, |block, out| iq4_nl(block, out)),
            WeightType::Q4_K => k_blocks::<false>(rows, tile),
            WeightType::Q5_K => k_blocks::<true>(rows, tile),
            WeightType::Q6_K => q6_k(rows, tile),
            _ => return false,
        }
    }
    true
}

/// Bytes `at..at + 16` of every row as four registers: lane `r` of register `d` is double word `d` of row `r`.
///
/// # Safety
/// Each row must hold these bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn columns(rows: &RowStarts, at: usize) -> [__m512i; 4] {
    // SAFETY: the caller's promise; loads need no alignment.
    let load = |four: usize, i: usize| unsafe { _mm_loadu_si128(rows.starts[four].add(i * rows.stride + at).cast()) };
    let four = |i: usize| {
        let low = _mm512_castsi128_si512(load(0, i));
        let low = _mm512_inserti32x4::<1>(low, load(1, i));
        _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(low, load(2, i)), load(3, i))
    };
    let x = [four(0), four(1), four(2), four(3)];
    let (a, b) = (_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpacklo_epi32(x[2], x[3]));
    let (c, d) = (_mm512_unpackhi_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[2], x[3]));
    [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b), _mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d)]
}

/// The half-precision numbers in the low halves of sixteen double words.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(x: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x))
}

/// The low or high four bits of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn low(x: __m512i) -> __m512i {
    _mm512_and_si512(x, _mm512_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn high(x: __m512i) -> __m512i {
    low(_mm512_srli_epi16::<4>(x))
}

/// Byte `i` of each double word.
#[inline]
#[target_feature(enable = "avx512f")]
fn byte(x: __m512i, i: u32) -> __m512i {
    _mm512_and_si512(_mm512_srl_epi32(x, _mm_cvtsi32_si128(8 * i as i32)), _mm512_set1_epi32(0xff))
}

/// Where one group of 32 columns goes.
struct Group<'a> {
    codes: &'a mut [[u8; 4 * ROWS]],
    scales: &'a mut [f32; ROWS],
}

impl Group<'_> {
    /// Vector `v`: columns `4v..4v + 4`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(&mut self, v: usize, codes: __m512i) {
        // SAFETY: sixty-four bytes; the store needs no alignment.
        unsafe { _mm512_storeu_si512(self.codes[v].as_mut_ptr().cast(), codes) };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store_scales(&mut self, scales: __m512) {
        // SAFETY: sixteen numbers; the store needs no alignment.
        unsafe { _mm512_storeu_ps(self.scales.as_mut_ptr(), scales) };
    }
}

/// Walks blocks of 32 weights in `BYTES` bytes.
///
/// # Safety
/// As [`fill`].
#[inline(always)]
unsafe fn each_32<const BYTES: usize>(rows: &RowStarts, tile: &mut Tile, block: impl Fn(&RowStarts, Group<'_>)) {
    let codes = tile.codes.as_chunks_mut::<{ 4 * ROWS }>().0.chunks_mut(8);
    let scales = tile.scales.as_chunks_mut::<ROWS>().0;
    for (i, (codes, scales)) in codes.zip(scales).take(tile.cols / 32).enumerate() {
        block(&rows.skip(i * BYTES), Group { codes, scales });
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn q4_0(block: &RowStarts, mut out: Group<'_>) {
    // SAFETY: a block has 18 bytes.
    let (head, codes) = unsafe { (columns(block, 0), columns(block, 2)) };
    out.store_scales(halves(head[0]));
    let raise = _mm512_set1_epi8(128u8.wrapping_sub(8) as i8);
    for (d, codes) in codes.into_iter().enumerate() {
        out.store(d, _mm512_add_epi8(low(codes), raise));
        out.store(4 + d, _mm512_add_epi8(high(codes), raise));
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn iq4_nl(block: &RowStarts, mut out: Group<'_>) {
    // SAFETY: a block has 18 bytes.
    let (head, codes) = unsafe { (columns(block, 0), columns(block, 2)) };
    out.store_scales(halves(head[0]));
    let levels = super::table(&IQ4_LEVELS);
    for (d, codes) in codes.into_iter().enumerate() {
        out.store(d, _mm512_shuffle_epi8(levels, low(codes)));
        out.store(4 + d, _mm512_shuffle_epi8(levels, high(codes)));
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn q5_0(block: &RowStarts, mut out: Group<'_>) {
    // SAFETY: a block has 22 bytes.
    let (head, codes) = unsafe { (columns(block, 0), columns(block, 6)) };
    out.store_scales(halves(head[0]));
    let bits = _mm512_or_si512(_mm512_srli_epi32::<16>(head[0]), _mm512_slli_epi32::<16>(head[1]));
    let raise = _mm512_set1_epi8(128u8.wrapping_sub(16) as i8);
    for v in 0..8 {
        let four = _mm512_and_si512(_mm512_srl_epi32(bits, _mm_cvtsi32_si128(4 * v as i32)), _mm512_set1_epi32(15));
        // Bit `i` to bit 4 of byte `i`: four copies, seven bits apart, each with one bit where it is wanted.
        let spread = _mm512_mullo_epi32(four, _mm512_set1_epi32(0x0020_4081));
        let fifth = _mm512_slli_epi32::<4>(_mm512_and_si512(spread, _mm512_set1_epi32(0x0101_0101)));
        let four = if v < 4 { low(codes[v]) } else { high(codes[v - 4]) };
        out.store(v, _mm512_add_epi8(_mm512_or_si512(four, fifth), raise));
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn q8_0(block: &RowStarts, mut out: Group<'_>) {
    // SAFETY: a block has 34 bytes.
    let (head, codes) = unsafe { (columns(block, 0), [columns(block, 2), columns(block, 18)]) };
    out.store_scales(halves(head[0]));
    for v in 0..8 {
        out.store(v, _mm512_xor_si512(codes[v / 4][v % 4], _mm512_set1_epi8(-128)));
    }
}

/// Q4_K, and Q5_K with its plane of fifth bits.
///
/// # Safety
/// As [`fill`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn k_blocks<const FIFTH: bool>(rows: &RowStarts, tile: &mut Tile) {
    let (bytes, codes_at) = if FIFTH { (176, 48) } else { (144, 16) };
    for block in 0..tile.cols / 256 {
        let rows = rows.skip(block * bytes);
        // SAFETY: a block begins with two numbers of half precision and twelve bytes of scales and minimums.
        let [d, first, second, third] = unsafe { columns(&rows, 0) };
        let (d, d_min) = (halves(d), halves(_mm512_srli_epi32::<16>(d)));
        for group in 0..8 {
            let at = group as u32 % 4;
            let six = |x| _mm512_and_si512(byte(x, at), _mm512_set1_epi32(63));
            let two = |x| _mm512_and_si512(_mm512_srli_epi32::<2>(byte(x, at)), _mm512_set1_epi32(0x30));
            let (scale, min) = if group < 4 {
                (six(first), six(second))
            } else {
                let four = byte(third, at);
                (
                    _mm512_or_si512(_mm512_and_si512(four, _mm512_set1_epi32(15)), two(first)),
                    _mm512_or_si512(_mm512_srli_epi32::<4>(four), two(second)),
                )
            };
            let scale = _mm512_mul_ps(d, _mm512_cvtepi32_ps(scale));
            let min = _mm512_mul_ps(d_min, _mm512_cvtepi32_ps(min));
            let to = (8 * block + group) * ROWS;
            // SAFETY: the tile has room for COLS / 16 groups.
            unsafe {
                _mm512_storeu_ps(tile.scales[to..to + ROWS].as_mut_ptr(), scale);
                _mm512_storeu_ps(tile.mins[to..to + ROWS].as_mut_ptr(), _mm512_sub_ps(_mm512_set1_ps(-0.0), min));
            }
        }
        let codes = tile.codes.as_chunks_mut::<{ 4 * ROWS }>().0;
        // Sixteen bytes hold half of two groups: low halves of the first, high halves of the second.
        for piece in 0..8 {
            // SAFETY: 128 bytes of codes.
            let nibbles = unsafe { columns(&rows, codes_at + 16 * piece) };
            let bits = match FIFTH {
                // SAFETY: 32 bytes of bits before the codes.
                true => unsafe { columns(&rows, 16 + 16 * (piece % 2)) },
                false => [_mm512_setzero_si512(); 4],
            };
            let pair = piece / 2;
            for (d, (nibbles, bits)) in nibbles.into_iter().zip(bits).enumerate() {
                let at = 64 * block + 16 * pair + 4 * (piece % 2) + d;
                let (mut a, mut b) = (low(nibbles), high(nibbles));
                if FIFTH {
                    let pair = _mm512_srl_epi16(bits, _mm_cvtsi32_si128(2 * pair as i32));
                    let bit = _mm512_slli_epi16::<4>(_mm512_and_si512(pair, _mm512_set1_epi8(1)));
                    a = _mm512_or_si512(a, bit);
                    b = _mm512_or_si512(b, _mm512_slli_epi16::<3>(_mm512_and_si512(pair, _mm512_set1_epi8(2))));
                }
                // SAFETY: sixty-four bytes each; stores need no alignment.
                unsafe {
                    _mm512_storeu_si512(codes[at].as_mut_ptr().cast(), a);
                    _mm512_storeu_si512(codes[at + 8].as_mut_ptr().cast(), b);
                }
            }
        }
    }
}

/// # Safety
/// As [`fill`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn q6_k(rows: &RowStarts, tile: &mut Tile) {
    let raise = _mm512_set1_epi8(128u8.wrapping_sub(32) as i8);
    for block in 0..tile.cols / 256 {
        let rows = rows.skip(block * 210);
        // SAFETY: a block has 210 bytes: 128 of low bits, 64 of high ones, 16 scales, and a number of half precision.
        let (scales, tail) = unsafe { (columns(&rows, 192), columns(&rows, 194)) };
        let d = halves(_mm512_srli_epi32::<16>(tail[3]));
        for group in 0..16 {
            let up = _mm512_sll_epi32(scales[group / 4], _mm_cvtsi32_si128(24 - 8 * (group as i32 % 4)));
            let scale = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(up)));
            let to = (16 * block + group) * ROWS;
            // SAFETY: sixteen numbers; the store needs no alignment.
            unsafe { _mm512_storeu_ps(tile.scales[to..to + ROWS].as_mut_ptr(), scale) };
        }
        let codes = tile.codes.as_chunks_mut::<{ 4 * ROWS }>().0;
        for half in 0..2 {
            for piece in 0..2 {
                // SAFETY: as above.
                let (first, second, bits) = unsafe {
                    (
                        columns(&rows, 64 * half + 16 * piece),
                        columns(&rows, 64 * half + 32 + 16 * piece),
                        columns(&rows, 128 + 32 * half + 16 * piece),
                    )
                };
                for d in 0..4 {
                    let quarters = [low(first[d]), low(second[d]), high(first[d]), high(second[d])];
                    for (quarter, four) in quarters.into_iter().enumerate() {
                        let pair = _mm512_srl_epi16(bits[d], _mm_cvtsi32_si128(2 * quarter as i32));
                        let two = _mm512_slli_epi16::<4>(_mm512_and_si512(pair, _mm512_set1_epi8(3)));
                        let code = _mm512_add_epi8(_mm512_or_si512(four, two), raise);
                        let at = 64 * block + 32 * half + 8 * quarter + 4 * piece + d;
                        // SAFETY: sixty-four bytes; the store needs no alignment.
                        unsafe { _mm512_storeu_si512(codes[at].as_mut_ptr().cast(), code) };
                    }
                }
            }
        }
    }
}

const _: () = assert!(COLS.is_multiple_of(256), "a tile holds whole blocks");
