//! Blocks of ggml's types to interleaved tiles, without a stop at rows in memory.
//!
//! One step does all: [`columns`] takes sixteen bytes of each of the sixteen rows and gives four registers with a row a lane. So
//! nibbles are interleaved before they are codes, at half the work, and what a block says of its scales is unpacked for all rows
//! at once. The types that are not here go by way of `unpack_row`.

use std::arch::x86_64::*;

use super::super::{COLS, GROUPS, ROWS, Tile};
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

    /// Where row `row` begins.
    #[inline(always)]
    pub fn row(&self, row: usize) -> *const u8 {
        self.starts[row / 4].wrapping_add(row % 4 * self.stride)
    }

    /// What follows the last row, where it goes on to the end of a matrix, and the bytes of all sixteen.
    #[inline(always)]
    pub fn ahead(&self) -> (*const u8, usize) {
        (self.starts[0].wrapping_add(ROWS * self.stride), ROWS * self.stride)
    }

    /// The same rows `bytes` further on.
    #[inline(always)]
    pub fn skip(self, bytes: usize) -> Self {
        Self { starts: self.starts.map(|start| start.wrapping_add(bytes)), ..self }
    }
}

/// Lays codes into a tile.
struct Store<'a>(&'a mut [u8; ROWS * COLS]);

impl Store<'_> {
    /// The four vectors of columns `16 · sixteen` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    fn take(&mut self, sixteen: usize, vectors: [__m512i; 4]) {
        let out = &mut self.0.as_chunks_mut::<{ 16 * ROWS }>().0[sixteen];
        for (out, vector) in out.as_chunks_mut::<{ 4 * ROWS }>().0.iter_mut().zip(vectors) {
            // SAFETY: sixty-four bytes; the store needs no alignment.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), vector) };
        }
    }
}

/// Fills `tile.codes`, `scales` and `mins` from `tile.cols` columns that begin at `rows`. `false` for a type that is not here.
///
/// # Safety
/// The processor must have these instructions; each of `rows` must point to `tile.cols` weights of `kind`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
pub unsafe fn fill(kind: WeightType, rows: &RowStarts, tile: &mut Tile) -> bool {
    let mut numbers = Numbers { scales: &mut tile.scales, mins: &mut tile.mins, cols: tile.cols };
    // SAFETY: as the caller promises.
    unsafe { unpack(kind, rows, &mut numbers, &mut Store(&mut tile.codes)) }
}

/// Where scales and minimums go, and for how many columns.
struct Numbers<'a> {
    scales: &'a mut [f32; ROWS * GROUPS],
    mins: &'a mut [f32; ROWS * GROUPS],
    cols: usize,
}

impl Numbers<'_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn scale(&mut self, group: usize, scales: __m512) {
        // SAFETY: sixteen numbers; the store needs no alignment.
        unsafe { _mm512_storeu_ps(self.scales[group * ROWS..(group + 1) * ROWS].as_mut_ptr(), scales) };
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn min(&mut self, group: usize, mins: __m512) {
        // SAFETY: sixteen numbers; the store needs no alignment.
        unsafe { _mm512_storeu_ps(self.mins[group * ROWS..(group + 1) * ROWS].as_mut_ptr(), mins) };
    }
}

/// Unpacks `numbers.cols` columns. `false` for a type that is not here.
///
/// # Safety
/// As [`fill`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn unpack(kind: WeightType, rows: &RowStarts, numbers: &mut Numbers<'_>, out: &mut Store<'_>) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        match kind {
            WeightType::Q4_0 => each_32::<18>(rows, numbers, out, |block, out, at| q4_0(block, out, at)),
            WeightType::Q5_0 => each_32::<22>(rows, numbers, out, |block, out, at| q5_0(block, out, at)),
            WeightType::Q8_0 => each_32::<34>(rows, numbers, out, |block, out, at| q8_0(block, out, at)),
            WeightType::IQ4_NL => each_32::<18>(rows, numbers, out, |block, out, at| iq4_nl(block, out, at)),
            WeightType::Q4_K => k_blocks::<false>(rows, numbers, out),
            WeightType::Q5_K => k_blocks::<true>(rows, numbers, out),
            WeightType::Q6_K => q6_k(rows, numbers, out),
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
pub unsafe fn columns(rows: &RowStarts, at: usize) -> [__m512i; 4] {
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

/// Four registers. The standard library's ways to make an array know nothing of the instruction set, and what they call is
/// not inlined.
#[inline(always)]
fn each(of: impl Fn(usize) -> __m512i) -> [__m512i; 4] {
    [of(0), of(1), of(2), of(3)]
}

/// The half-precision numbers in the low halves of sixteen double words.
#[inline]
#[target_feature(enable = "avx512f")]
pub fn halves(x: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x))
}

/// The low or high four bits of each byte.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn low(x: __m512i) -> __m512i {
    _mm512_and_si512(x, _mm512_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub fn high(x: __m512i) -> __m512i {
    low(_mm512_srli_epi16::<4>(x))
}

/// Byte `i` of each double word, which has a sign, times `d`.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub fn byte_times(x: __m512i, i: usize, d: __m512) -> __m512 {
    let byte = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi32(1 << (8 * i)), x);
    _mm512_mul_ps(d, _mm512_cvtepi32_ps(byte))
}

/// Walks blocks of 32 weights in `BYTES` bytes; `block` gives their scales.
///
/// # Safety
/// As [`fill`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn each_32<const BYTES: usize>(
    rows: &RowStarts,
    numbers: &mut Numbers<'_>,
    out: &mut Store<'_>,
    block: impl Fn(&RowStarts, &mut Store<'_>, usize) -> __m512,
) {
    for i in 0..numbers.cols / 32 {
        let scales = block(&rows.skip(i * BYTES), out, 2 * i);
        // SAFETY: the tile has room for as many groups.
        unsafe { numbers.scale(i, scales) };
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn q4_0(block: &RowStarts, out: &mut Store<'_>, at: usize) -> __m512 {
    // SAFETY: a block has 18 bytes.
    unsafe {
        let (head, codes) = (columns(block, 0), columns(block, 2));
        let raise = _mm512_set1_epi8(128u8.wrapping_sub(8) as i8);
        out.take(at, each(|d| _mm512_add_epi8(low(codes[d]), raise)));
        out.take(at + 1, each(|d| _mm512_add_epi8(high(codes[d]), raise)));
        halves(head[0])
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn iq4_nl(block: &RowStarts, out: &mut Store<'_>, at: usize) -> __m512 {
    // SAFETY: a block has 18 bytes.
    unsafe {
        let (head, codes) = (columns(block, 0), columns(block, 2));
        let levels = super::table(&IQ4_LEVELS);
        out.take(at, each(|d| _mm512_shuffle_epi8(levels, low(codes[d]))));
        out.take(at + 1, each(|d| _mm512_shuffle_epi8(levels, high(codes[d]))));
        halves(head[0])
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn q5_0(block: &RowStarts, out: &mut Store<'_>, at: usize) -> __m512 {
    // SAFETY: a block has 22 bytes.
    unsafe {
        let (head, codes) = (columns(block, 0), columns(block, 6));
        let bits = _mm512_or_si512(_mm512_srli_epi32::<16>(head[0]), _mm512_slli_epi32::<16>(head[1]));
        let raise = _mm512_set1_epi8(128u8.wrapping_sub(16) as i8);
        let code = |v: usize, nibbles: __m512i| {
            let four = _mm512_and_si512(_mm512_srl_epi32(bits, _mm_cvtsi32_si128(4 * v as i32)), _mm512_set1_epi32(15));
            // Bit `i` to bit 4 of byte `i`: four copies, seven bits apart, each with one bit where it is wanted.
            let spread = _mm512_mullo_epi32(four, _mm512_set1_epi32(0x0020_4081));
            let fifth = _mm512_slli_epi32::<4>(_mm512_and_si512(spread, _mm512_set1_epi32(0x0101_0101)));
            _mm512_add_epi8(_mm512_or_si512(nibbles, fifth), raise)
        };
        out.take(at, each(|d| code(d, low(codes[d]))));
        out.take(at + 1, each(|d| code(4 + d, high(codes[d]))));
        halves(head[0])
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn q8_0(block: &RowStarts, out: &mut Store<'_>, at: usize) -> __m512 {
    // SAFETY: a block has 34 bytes.
    unsafe {
        let head = columns(block, 0);
        for half in 0..2 {
            let codes = columns(block, 2 + 16 * half);
            out.take(at + half, each(|d| _mm512_xor_si512(codes[d], _mm512_set1_epi8(-128))));
        }
        halves(head[0])
    }
}

/// What a block of Q4_K or Q5_K says of its eight groups: four scales or minimums a double word, without their factors.
pub struct KNumbers {
    pub d: __m512,
    pub d_min: __m512,
    pub scales: [__m512i; 2],
    pub mins: [__m512i; 2],
}

/// # Safety
/// Rows must point to such blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
pub unsafe fn k_numbers(rows: &RowStarts) -> KNumbers {
    // SAFETY: a block begins with two numbers of half precision and twelve bytes of scales and minimums.
    let [d, first, second, third] = unsafe { columns(rows, 0) };
    let bytes = |x: i32| _mm512_set1_epi32(x * 0x0101_0101);
    let six = |x| _mm512_and_si512(x, bytes(0x3f));
    let two = |x| _mm512_and_si512(_mm512_srli_epi32::<2>(x), bytes(0x30));
    let third_high = _mm512_and_si512(_mm512_srli_epi32::<4>(third), bytes(0x0f));
    KNumbers {
        d: halves(d),
        d_min: _mm512_sub_ps(_mm512_set1_ps(-0.0), halves(_mm512_srli_epi32::<16>(d))),
        scales: [six(first), _mm512_or_si512(_mm512_and_si512(third, bytes(0x0f)), two(first))],
        mins: [six(second), _mm512_or_si512(third_high, two(second))],
    }
}

/// Q4_K, and Q5_K with its plane of fifth bits.
///
/// # Safety
/// As [`fill`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn k_blocks<const FIFTH: bool>(rows: &RowStarts, numbers: &mut Numbers<'_>, out: &mut Store<'_>) {
    let (bytes, codes_at) = if FIFTH { (176, 48) } else { (144, 16) };
    for block in 0..numbers.cols / 256 {
        let rows = rows.skip(block * bytes);
        // SAFETY: a block begins with two numbers of half precision and twelve bytes of scales and minimums, and goes on with
        // 128 bytes of codes after, in Q5_K, 32 of bits.
        unsafe {
            let KNumbers { d, d_min, scales, mins } = k_numbers(&rows);
            for group in 0..8 {
                let (i, at) = (group / 4, group % 4);
                numbers.scale(8 * block + group, byte_times(scales[i], at, d));
                numbers.min(8 * block + group, byte_times(mins[i], at, d_min));
            }
            // Sixteen bytes hold half of two groups: low halves of the first, high halves of the second.
            for piece in 0..8 {
                let nibbles = columns(&rows, codes_at + 16 * piece);
                let (pair, half) = (piece / 2, piece % 2);
                let at = 16 * block + 4 * pair + half;
                let (mut a, mut b) = (each(|d| low(nibbles[d])), each(|d| high(nibbles[d])));
                if FIFTH {
                    let bits = columns(&rows, 16 + 16 * half);
                    for d in 0..4 {
                        let bits = _mm512_srl_epi16(bits[d], _mm_cvtsi32_si128(2 * pair as i32));
                        let bit = _mm512_slli_epi16::<4>(_mm512_and_si512(bits, _mm512_set1_epi8(1)));
                        a[d] = _mm512_or_si512(a[d], bit);
                        let bit = _mm512_slli_epi16::<3>(_mm512_and_si512(bits, _mm512_set1_epi8(2)));
                        b[d] = _mm512_or_si512(b[d], bit);
                    }
                }
                out.take(at, a);
                out.take(at + 2, b);
            }
        }
    }
}

/// # Safety
/// As [`fill`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn q6_k(rows: &RowStarts, numbers: &mut Numbers<'_>, out: &mut Store<'_>) {
    for block in 0..numbers.cols / 256 {
        let rows = rows.skip(block * 210);
        // SAFETY: a block has 210 bytes: 128 of low bits, 64 of high ones, 16 scales, and a number of half precision.
        unsafe {
            let raise = _mm512_set1_epi8(128u8.wrapping_sub(32) as i8);
            let (scales, tail) = (columns(&rows, 192), columns(&rows, 194));
            let d = halves(_mm512_srli_epi32::<16>(tail[3]));
            for group in 0..16 {
                numbers.scale(16 * block + group, byte_times(scales[group / 4], group % 4, d));
            }
            for piece in 0..4 {
                let (half, part) = (piece / 2, piece % 2);
                let first = columns(&rows, 64 * half + 16 * part);
                let second = columns(&rows, 64 * half + 32 + 16 * part);
                let bits = columns(&rows, 128 + 32 * half + 16 * part);
                for quarter in 0..4 {
                    let code = |d: usize| {
                        let nibbles = if quarter % 2 == 0 { first[d] } else { second[d] };
                        let four = if quarter < 2 { low(nibbles) } else { high(nibbles) };
                        // Bits 2 and 3 of each quarter's pair to bits 4 and 5.
                        let pair = match quarter {
                            0 => _mm512_slli_epi16::<4>(bits[d]),
                            1 => _mm512_slli_epi16::<2>(bits[d]),
                            2 => bits[d],
                            _ => _mm512_srli_epi16::<2>(bits[d]),
                        };
                        let code = _mm512_ternarylogic_epi32::<0xF8>(four, pair, _mm512_set1_epi8(0x30));
                        _mm512_add_epi8(code, raise)
                    };
                    out.take(16 * block + 8 * half + 2 * quarter + part, each(code));
                }
            }
        }
    }
}

const _: () = assert!(COLS.is_multiple_of(256), "a tile holds whole blocks");
