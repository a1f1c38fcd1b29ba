//! Blocks of ggml's types to interleaved tiles, without a stop at rows in memory.
//!
//! One step does all: [`columns`] takes sixteen bytes of each of the sixteen rows and gives four registers with a row a lane. So
//! nibbles are interleaved before they are codes, at half the work, and what a block says of its scales is unpacked for all rows
//! at once. The types that are not here go by way of `unpack_row`.

use std::arch::x86_64::*;

use super::super::{COLS, GROUPS, ROWS, Tile};
use crate::{WeightType, activations::QuantisedGroup, unpack::IQ4_LEVELS};

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

/// Takes the codes of sixteen rows, sixteen columns at a time.
trait Sink {
    /// The four vectors of columns `16 · sixteen` on.
    ///
    /// # Safety
    /// The processor must have AVX-512 with VNNI; `sixteen` must be below a tile's sixteenth.
    unsafe fn take(&mut self, sixteen: usize, vectors: [__m512i; 4]);
}

/// Lays codes into a tile.
struct Store<'a>(&'a mut [u8; ROWS * COLS]);

impl Sink for Store<'_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn take(&mut self, sixteen: usize, vectors: [__m512i; 4]) {
        let out = &mut self.0.as_chunks_mut::<{ 16 * ROWS }>().0[sixteen];
        for (out, vector) in out.as_chunks_mut::<{ 4 * ROWS }>().0.iter_mut().zip(vectors) {
            // SAFETY: sixty-four bytes; the store needs no alignment.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), vector) };
        }
    }
}

/// Multiplies codes as they come with `M` rows of activations, so that they are never stored.
struct Multiply<'a, const M: usize, const MINS: bool> {
    x: [*const QuantisedGroup; M],
    /// `(M, columns / 16)`.
    dots: &'a mut [[__m512i; COLS / 16]; M],
}

impl<const M: usize, const MINS: bool> Sink for Multiply<'_, M, MINS> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn take(&mut self, sixteen: usize, vectors: [__m512i; 4]) {
        let half = sixteen % 2;
        for m in 0..M {
            // SAFETY: `x` points to as many groups as the tile has columns.
            let dots = unsafe {
                let x = self.x[m].add(sixteen / 2);
                let mut dots = match MINS {
                    true => _mm512_setzero_si512(),
                    false => _mm512_set1_epi32((*x).offsets[half]),
                };
                for (four, vector) in vectors.into_iter().enumerate() {
                    dots = _mm512_dpbusd_epi32(dots, vector, super::four_codes(x, 16 * half + 4 * four));
                }
                dots
            };
            self.dots[m][sixteen] = dots;
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

/// Adds the products of `tile.cols` columns that begin at `rows` with `M` rows of activations to `sums: (M, ROWS)`, by way of
/// `tile.scales` and `mins` alone. `false` for a type that is not here.
///
/// # Safety
/// As [`fill`]; each of `x` must hold `tile.cols` columns. `SIXTEENS` and `MINS` must be those of `kind`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub unsafe fn multiply_rows<const M: usize, const SIXTEENS: bool, const MINS: bool>(
    kind: WeightType,
    rows: &RowStarts,
    tile: &mut Tile,
    x: [&[QuantisedGroup]; M],
    sums: &mut [[f32; ROWS]; M],
) -> bool {
    let x = x.map(<[_]>::as_ptr);
    let mut dots = [[_mm512_setzero_si512(); COLS / 16]; M];
    let mut numbers = Numbers { scales: &mut tile.scales, mins: &mut tile.mins, cols: tile.cols };
    // SAFETY: as the caller promises.
    unsafe {
        if !unpack(kind, rows, &mut numbers, &mut Multiply::<M, MINS> { x, dots: &mut dots }) {
            return false;
        }
        super::add_dots::<M, SIXTEENS, MINS>(&dots, tile, x, sums);
    }
    true
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
unsafe fn unpack<S: Sink>(kind: WeightType, rows: &RowStarts, numbers: &mut Numbers<'_>, sink: &mut S) -> bool {
    // SAFETY: as the caller promises.
    unsafe {
        match kind {
            WeightType::Q4_0 => each_32::<18, S>(rows, numbers, sink, |block, sink, at| q4_0(block, sink, at)),
            WeightType::Q5_0 => each_32::<22, S>(rows, numbers, sink, |block, sink, at| q5_0(block, sink, at)),
            WeightType::Q8_0 => each_32::<34, S>(rows, numbers, sink, |block, sink, at| q8_0(block, sink, at)),
            WeightType::IQ4_NL => each_32::<18, S>(rows, numbers, sink, |block, sink, at| iq4_nl(block, sink, at)),
            WeightType::Q4_K => k_blocks::<S, false>(rows, numbers, sink),
            WeightType::Q5_K => k_blocks::<S, true>(rows, numbers, sink),
            WeightType::Q6_K => q6_k(rows, numbers, sink),
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

/// Four registers. The standard library's ways to make an array know nothing of the instruction set, and what they call is
/// not inlined.
#[inline(always)]
fn each(of: impl Fn(usize) -> __m512i) -> [__m512i; 4] {
    [of(0), of(1), of(2), of(3)]
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

/// Walks blocks of 32 weights in `BYTES` bytes; `block` gives their scales.
///
/// # Safety
/// As [`fill`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn each_32<const BYTES: usize, S: Sink>(
    rows: &RowStarts,
    numbers: &mut Numbers<'_>,
    sink: &mut S,
    block: impl Fn(&RowStarts, &mut S, usize) -> __m512,
) {
    for i in 0..numbers.cols / 32 {
        let scales = block(&rows.skip(i * BYTES), sink, 2 * i);
        // SAFETY: the tile has room for as many groups.
        unsafe { numbers.scale(i, scales) };
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn q4_0<S: Sink>(block: &RowStarts, sink: &mut S, at: usize) -> __m512 {
    // SAFETY: a block has 18 bytes.
    unsafe {
        let (head, codes) = (columns(block, 0), columns(block, 2));
        let raise = _mm512_set1_epi8(128u8.wrapping_sub(8) as i8);
        sink.take(at, each(|d| _mm512_add_epi8(low(codes[d]), raise)));
        sink.take(at + 1, each(|d| _mm512_add_epi8(high(codes[d]), raise)));
        halves(head[0])
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn iq4_nl<S: Sink>(block: &RowStarts, sink: &mut S, at: usize) -> __m512 {
    // SAFETY: a block has 18 bytes.
    unsafe {
        let (head, codes) = (columns(block, 0), columns(block, 2));
        let levels = super::table(&IQ4_LEVELS);
        sink.take(at, each(|d| _mm512_shuffle_epi8(levels, low(codes[d]))));
        sink.take(at + 1, each(|d| _mm512_shuffle_epi8(levels, high(codes[d]))));
        halves(head[0])
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn q5_0<S: Sink>(block: &RowStarts, sink: &mut S, at: usize) -> __m512 {
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
        sink.take(at, each(|d| code(d, low(codes[d]))));
        sink.take(at + 1, each(|d| code(4 + d, high(codes[d]))));
        halves(head[0])
    }
}

/// # Safety
/// Rows must point to blocks of this type.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn q8_0<S: Sink>(block: &RowStarts, sink: &mut S, at: usize) -> __m512 {
    // SAFETY: a block has 34 bytes.
    unsafe {
        let head = columns(block, 0);
        for half in 0..2 {
            let codes = columns(block, 2 + 16 * half);
            sink.take(at + half, each(|d| _mm512_xor_si512(codes[d], _mm512_set1_epi8(-128))));
        }
        halves(head[0])
    }
}

/// Q4_K, and Q5_K with its plane of fifth bits.
///
/// # Safety
/// As [`fill`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn k_blocks<S: Sink, const FIFTH: bool>(rows: &RowStarts, numbers: &mut Numbers<'_>, sink: &mut S) {
    let (bytes, codes_at) = if FIFTH { (176, 48) } else { (144, 16) };
    for block in 0..numbers.cols / 256 {
        let rows = rows.skip(block * bytes);
        // SAFETY: a block begins with two numbers of half precision and twelve bytes of scales and minimums, and goes on with
        // 128 bytes of codes after, in Q5_K, 32 of bits.
        unsafe {
            let [d, first, second, third] = columns(&rows, 0);
            let d_min = _mm512_sub_ps(_mm512_set1_ps(-0.0), halves(_mm512_srli_epi32::<16>(d)));
            let d = halves(d);
            // Four scales or minimums a double word.
            let bytes = |x: i32| _mm512_set1_epi32(x * 0x0101_0101);
            let six = |x| _mm512_and_si512(x, bytes(0x3f));
            let two = |x| _mm512_and_si512(_mm512_srli_epi32::<2>(x), bytes(0x30));
            let third_high = _mm512_and_si512(_mm512_srli_epi32::<4>(third), bytes(0x0f));
            let scales = [six(first), _mm512_or_si512(_mm512_and_si512(third, bytes(0x0f)), two(first))];
            let mins = [six(second), _mm512_or_si512(third_high, two(second))];
            for group in 0..8 {
                let (i, at) = (group / 4, group as u32 % 4);
                let number = |x: __m512i, d| _mm512_mul_ps(d, _mm512_cvtepi32_ps(byte(x, at)));
                numbers.scale(8 * block + group, number(scales[i], d));
                numbers.min(8 * block + group, number(mins[i], d_min));
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
                sink.take(at, a);
                sink.take(at + 2, b);
            }
        }
    }
}

/// # Safety
/// As [`fill`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn q6_k(rows: &RowStarts, numbers: &mut Numbers<'_>, sink: &mut impl Sink) {
    for block in 0..numbers.cols / 256 {
        let rows = rows.skip(block * 210);
        // SAFETY: a block has 210 bytes: 128 of low bits, 64 of high ones, 16 scales, and a number of half precision.
        unsafe {
            let raise = _mm512_set1_epi8(128u8.wrapping_sub(32) as i8);
            let (scales, tail) = (columns(&rows, 192), columns(&rows, 194));
            let d = halves(_mm512_srli_epi32::<16>(tail[3]));
            for group in 0..16 {
                let up = _mm512_sll_epi32(scales[group / 4], _mm_cvtsi32_si128(24 - 8 * (group as i32 % 4)));
                let scale = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_srai_epi32::<24>(up)));
                numbers.scale(16 * block + group, scale);
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
                    sink.take(16 * block + 8 * half + 2 * quarter + part, each(code));
                }
            }
        }
    }
}

const _: () = assert!(COLS.is_multiple_of(256), "a tile holds whole blocks");
