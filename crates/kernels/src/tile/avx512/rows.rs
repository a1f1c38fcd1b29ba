//! A few rows of activations with sixteen rows of ggml's types, read where they lie.
//!
//! Tiles interleave rows so that a lane is a row, which for a few rows of activations takes longer than the products. Here a
//! register holds sixty-four codes of one row as its blocks have them, and meets the activations of the same columns, which stay in
//! registers for all rows. Only the sums are brought to a row a lane, four rows at a time: packed to sixteen bits they are
//! added up by the very multiplication that shifts them. They are exact integers, so the bits are those of [`super::multiply_add`].

use std::arch::{asm, x86_64::*};

use super::{
    super::ROWS,
    fill::{KNumbers, RowStarts, byte_times, columns, high, k_numbers, low},
    table,
};
use crate::{WeightType, activations::QuantisedGroup, prefetch::Ask, unpack::IQ4_LEVELS};

/// How a type lays its codes.
trait Codes {
    /// What is taken off a code.
    const OFFSET: u8;
    /// Sums of eight products of a code, less its offset, fit in sixteen bits.
    const NARROW: bool;
    /// Bytes of a block.
    const BYTES: usize;
    /// Which groups of 32 columns the halves of each vector hold.
    const ORDER: [[usize; 2]; 2] = [[0, 1], [2, 3]];

    /// `64 · V` columns of one row: of blocks of 256, half `half` of the one at `block`; of blocks of 32, those from `block` on.
    ///
    /// # Safety
    /// The processor must have AVX-512 with VNNI; there must be as many columns.
    unsafe fn vectors<const V: usize>(block: *const u8, half: usize) -> [__m512i; V];
}

struct Q4_0;
struct Iq4Nl;
struct Q5_0;
struct Q8_0;
struct Q4K;
struct Q5K;
struct Q6K;

/// Sixty-four bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(at: *const u8) -> __m512i {
    // SAFETY: the caller's promise; the load needs no alignment.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

/// Thirty-two bytes, twice.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn twice(at: *const u8) -> __m512i {
    // SAFETY: the caller's promise; the load needs no alignment.
    _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(at.cast()) })
}

/// The nibbles of sixteen bytes at `first` and of sixteen at `second`: the low ones before the high ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn nibbles(first: *const u8, second: *const u8) -> __m512i {
    // SAFETY: the caller's promise; loads need no alignment.
    let (first, second) = unsafe { (_mm_loadu_si128(first.cast()), _mm_loadu_si128(second.cast())) };
    let both = _mm512_mask_broadcast_i32x4(_mm512_broadcast_i32x4(first), 0xff00, second);
    low(_mm512_mask_srli_epi16::<4>(both, 0xff00_ff00, both))
}

impl Codes for Q4_0 {
    const OFFSET: u8 = 8;
    const NARROW: bool = true;
    const BYTES: usize = 18;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn vectors<const V: usize>(block: *const u8, _: usize) -> [__m512i; V] {
        let mut out = [_mm512_setzero_si512(); V];
        for (v, out) in out.iter_mut().enumerate() {
            // SAFETY: two blocks of 18 bytes each; nibbles stand behind a number of half precision.
            *out = unsafe { nibbles(block.add(36 * v + 2), block.add(36 * v + 20)) };
        }
        out
    }
}

impl Codes for Iq4Nl {
    const OFFSET: u8 = 128;
    const NARROW: bool = false;
    const BYTES: usize = 18;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn vectors<const V: usize>(block: *const u8, half: usize) -> [__m512i; V] {
        // SAFETY: blocks are as those of Q4_0.
        let mut out = unsafe { Q4_0::vectors::<V>(block, half) };
        out.iter_mut().for_each(|out| *out = _mm512_shuffle_epi8(table(&IQ4_LEVELS), *out));
        out
    }
}

impl Codes for Q5_0 {
    const OFFSET: u8 = 16;
    const NARROW: bool = true;
    const BYTES: usize = 22;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn vectors<const V: usize>(block: *const u8, _: usize) -> [__m512i; V] {
        let mut out = [_mm512_setzero_si512(); V];
        for (v, out) in out.iter_mut().enumerate() {
            // SAFETY: two blocks of 22 bytes each: a number of half precision, thirty-two fifth bits, nibbles.
            unsafe {
                let (first, second) = (block.add(44 * v), block.add(44 * v + 22));
                let bits = |block: *const u8| u64::from(block.add(2).cast::<u32>().read_unaligned());
                let fifth = bits(first) | bits(second) << 32;
                let four = nibbles(first.add(6), second.add(6));
                *out = _mm512_mask_add_epi8(four, fifth, four, _mm512_set1_epi8(16));
            }
        }
        out
    }
}

impl Codes for Q8_0 {
    const OFFSET: u8 = 128;
    const NARROW: bool = false;
    const BYTES: usize = 34;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn vectors<const V: usize>(block: *const u8, _: usize) -> [__m512i; V] {
        let mut out = [_mm512_setzero_si512(); V];
        for (v, out) in out.iter_mut().enumerate() {
            // SAFETY: two blocks of 34 bytes each: a number of half precision, thirty-two codes; loads need no alignment.
            let codes = unsafe {
                let first = _mm256_loadu_si256(block.add(68 * v + 2).cast());
                let second = _mm256_loadu_si256(block.add(68 * v + 36).cast());
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
            };
            *out = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
        }
        out
    }
}

impl Codes for Q4K {
    const OFFSET: u8 = 0;
    const NARROW: bool = true;
    const BYTES: usize = 144;
    const ORDER: [[usize; 2]; 2] = [[0, 2], [1, 3]];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn vectors<const V: usize>(block: *const u8, half: usize) -> [__m512i; V] {
        // SAFETY: 128 bytes of nibbles stand behind sixteen of scales.
        let codes = unsafe { load(block.add(16 + 64 * half)) };
        let mut out = [low(codes); V];
        out[1] = high(codes);
        out
    }
}

impl Codes for Q5K {
    const OFFSET: u8 = 0;
    const NARROW: bool = true;
    const BYTES: usize = 176;
    const ORDER: [[usize; 2]; 2] = [[0, 2], [1, 3]];

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn vectors<const V: usize>(block: *const u8, half: usize) -> [__m512i; V] {
        // SAFETY: sixteen bytes of scales, 32 of fifth bits, 128 of nibbles.
        let (bits, codes) = unsafe { (twice(block.add(16)), load(block.add(48 + 64 * half))) };
        // Bits 4 · half and the next are those of the lower halves of both vectors, the two after that those of the upper ones.
        let bits = _mm512_srl_epi16(bits, _mm_cvtsi32_si128(4 * half as i32));
        let bits = _mm512_mask_srli_epi16::<2>(bits, 0xffff_0000, bits);
        let sixteen = _mm512_set1_epi8(16);
        let mut out = [_mm512_ternarylogic_epi32::<0xF8>(low(codes), _mm512_slli_epi16::<4>(bits), sixteen); V];
        out[1] = _mm512_ternarylogic_epi32::<0xF8>(high(codes), _mm512_slli_epi16::<3>(bits), sixteen);
        out
    }
}

impl Codes for Q6K {
    const OFFSET: u8 = 32;
    const NARROW: bool = true;
    const BYTES: usize = 210;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn vectors<const V: usize>(block: *const u8, half: usize) -> [__m512i; V] {
        // SAFETY: 128 bytes of low bits, 64 of high ones.
        let (codes, bits) = unsafe { (load(block.add(64 * half)), twice(block.add(128 + 32 * half))) };
        // Pairs of bits of the four groups, to bits 4 and 5 of each.
        let upper = _mm512_mask_srli_epi16::<2>(bits, 0xffff_0000, bits);
        let pair = _mm512_set1_epi8(0x30);
        let mut out = [_mm512_ternarylogic_epi32::<0xF8>(low(codes), _mm512_slli_epi16::<4>(upper), pair); V];
        out[1] = _mm512_ternarylogic_epi32::<0xF8>(high(codes), upper, pair);
        out
    }
}

/// Sixty-four activations, as one vector of weights meets them.
#[derive(Clone, Copy)]
struct Operand {
    codes: __m512i,
    /// For each lane, what its sums begin with: the products of the offset, taken off.
    start: __m512i,
    /// For each sixteen four lanes: `2^exponent` in both halves of each where sums are narrow, else the exponent.
    steps: __m512i,
}

impl Operand {
    /// # Safety
    /// The processor must have AVX-512 with VNNI; `x` must point to the groups named.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
    unsafe fn new<C: Codes>(x: *const QuantisedGroup, groups: [usize; 2]) -> Self {
        // SAFETY: the caller's promise; loads need no alignment, and the two exponents lie side by side.
        unsafe {
            let group = |i: usize| x.add(groups[i]);
            let codes = |i| _mm256_loadu_si256((&raw const (*group(i)).codes).cast());
            let exponents = |i| _mm_loadl_epi64((&raw const (*group(i)).exponents).cast());
            let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(codes(0)), codes(1));
            let exponents = _mm512_mask_broadcastq_epi64(_mm512_broadcastq_epi64(exponents(0)), 0xf0, exponents(1));
            let fours = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 8, 8, 8, 8, 9, 9, 9, 9);
            let exponents = _mm512_permutexvar_epi32(fours, exponents);
            let zero = _mm512_setzero_si512();
            Self {
                codes,
                start: match C::OFFSET {
                    0 => zero,
                    offset => _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(offset as i8), codes)),
                },
                steps: if C::NARROW { shift(_mm512_set1_epi32(0x0001_0001), exponents) } else { exponents },
            }
        }
    }
}

/// `x · 2^count`, lane by lane, for counts below 32; why by hand, says [`super::shifted`].
///
/// # Safety
/// The processor must have AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn shift(x: __m512i, count: __m512i) -> __m512i {
    let out;
    // SAFETY: the caller's promise; registers only.
    unsafe {
        asm!(
            "vpsllvd {out}, {x}, {count}",
            out = lateout(zmm_reg) out,
            x = in(zmm_reg) x,
            count = in(zmm_reg) count,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    out
}

/// Shifted sums of sixteen products for each row of activations, vector and four rows of weights: a lane of 128 bits is a sixteen of
/// the vector, a lane of 32 in it one of the four rows. Asks four times for what is `following`.
///
/// # Safety
/// The processor must have AVX-512 with VNNI; as [`Codes::vectors`] for each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn fours<C: Codes, const M: usize, const V: usize>(
    rows: &RowStarts,
    half: usize,
    x: &[[Operand; V]; M],
    following: &mut Following,
) -> [[[__m512i; 4]; V]; M] {
    let ones = _mm512_set1_epi16(1);
    let mut out = [[[_mm512_setzero_si512(); 4]; V]; M];
    for four in 0..4 {
        following.ask();
        // SAFETY: the caller's promise.
        let w = unsafe {
            let row = |i: usize| C::vectors::<V>(rows.row(4 * four + i), half);
            [row(0), row(1), row(2), row(3)]
        };
        for m in 0..M {
            for v in 0..V {
                let x = &x[m][v];
                let dots = |i: usize| _mm512_dpbusd_epi32(x.start, w[i][v], x.codes);
                out[m][v][four] = if C::NARROW {
                    let two = |i: usize| _mm512_madd_epi16(_mm512_packs_epi32(dots(i), dots(i + 1)), ones);
                    _mm512_madd_epi16(_mm512_packs_epi32(two(0), two(2)), x.steps)
                } else {
                    let two = |i: usize| {
                        let (a, b) = (dots(i), dots(i + 1));
                        _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b))
                    };
                    let (a, b) = (two(0), two(2));
                    // SAFETY: the processor has the instruction.
                    unsafe {
                        shift(_mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)), x.steps)
                    }
                };
            }
        }
    }
    out
}

/// The sums of each of a vector's sixteens, a row a lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn sixteens([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (even, odd) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
    let (even_high, odd_high) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(even, even_high),
        _mm512_shuffle_i32x4::<0x88>(odd, odd_high),
        _mm512_shuffle_i32x4::<0xdd>(even, even_high),
        _mm512_shuffle_i32x4::<0xdd>(odd, odd_high),
    ]
}

/// The sums of each of a vector's two groups of 32, a row a lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn groups([a, b, c, d]: [__m512i; 4]) -> [__m512i; 2] {
    let both = |a, b| _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
    let (first, last) = (both(a, b), both(c, d));
    [_mm512_shuffle_i32x4::<0x88>(first, last), _mm512_shuffle_i32x4::<0xdd>(first, last)]
}

/// What follows sixteen rows in memory, asked for in [`fours`]' steps while these are multiplied: as many bytes, each of them twice, a
/// quarter of a panel apart, as what finds all of a core's requests under way is dropped.
struct Following([Ask; 2]);

impl Following {
    fn of(rows: &RowStarts, steps: usize) -> Self {
        let (next, bytes) = rows.ahead();
        Self([next, next.wrapping_add(bytes / 4)].map(|start| Ask::new(start, bytes, steps)))
    }

    #[inline(always)]
    fn ask(&mut self) {
        self.0.iter_mut().for_each(Ask::ask);
    }
}

/// `(M, ROWS)` products of sixteen rows of `cols` weights of `kind` with rows of activations. `None` for a type or a width that is
/// not here.
///
/// # Safety
/// The processor must have these instructions; each of `rows` must point to `cols` weights of `kind`, each of `x` to as many
/// activations.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
pub unsafe fn multiply_rows<const M: usize>(
    kind: WeightType,
    rows: &RowStarts,
    cols: usize,
    x: [*const QuantisedGroup; M],
) -> Option<[[f32; ROWS]; M]> {
    // SAFETY: as the caller promises.
    let sums = unsafe {
        match kind {
            _ if !cols.is_multiple_of(64) => return None,
            WeightType::Q4_0 => blocks_of_32::<Q4_0, M>(rows, cols, x),
            WeightType::Q5_0 => blocks_of_32::<Q5_0, M>(rows, cols, x),
            WeightType::Q8_0 => blocks_of_32::<Q8_0, M>(rows, cols, x),
            WeightType::IQ4_NL => blocks_of_32::<Iq4Nl, M>(rows, cols, x),
            WeightType::Q4_K => blocks_with_min::<Q4K, M>(rows, cols, x),
            WeightType::Q5_K => blocks_with_min::<Q5K, M>(rows, cols, x),
            WeightType::Q6_K => blocks_of_sixteens::<Q6K, M>(rows, cols, x),
            _ => return None,
        }
    };
    let mut out = [[0.0; ROWS]; M];
    for (out, sums) in out.iter_mut().zip(sums) {
        // SAFETY: sixteen numbers; the store needs no alignment.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums) };
    }
    Some(out)
}

/// Operands for each row of activations from `x[m]` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c")]
unsafe fn operands<C: Codes, const M: usize, const V: usize>(x: [*const QuantisedGroup; M]) -> [[Operand; V]; M] {
    let zero = _mm512_setzero_si512();
    let mut out = [[Operand { codes: zero, start: zero, steps: zero }; V]; M];
    for m in 0..M {
        for v in 0..V {
            // SAFETY: the caller's promise.
            out[m][v] = unsafe { Operand::new::<C>(x[m], C::ORDER[v]) };
        }
    }
    out
}

/// # Safety
/// As [`multiply_rows`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
unsafe fn blocks_of_32<C: Codes, const M: usize>(
    rows: &RowStarts,
    cols: usize,
    x: [*const QuantisedGroup; M],
) -> [__m512; M] {
    let mut sums = [_mm512_setzero_ps(); M];
    let mut following = Following::of(rows, 4 * cols.div_ceil(128));
    let mut group = 0;
    // SAFETY: as the caller promises.
    unsafe {
        while group + 4 <= cols / 32 {
            add_groups_of_32::<C, M, 2>(
                &rows.skip(group * C::BYTES),
                x.map(|x| x.add(group)),
                &mut sums,
                &mut following,
            );
            group += 4;
        }
        if group < cols / 32 {
            add_groups_of_32::<C, M, 1>(
                &rows.skip(group * C::BYTES),
                x.map(|x| x.add(group)),
                &mut sums,
                &mut following,
            );
        }
    }
    sums
}

/// Adds the products of `64 · V` columns.
///
/// # Safety
/// As [`multiply_rows`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
unsafe fn add_groups_of_32<C: Codes, const M: usize, const V: usize>(
    rows: &RowStarts,
    x: [*const QuantisedGroup; M],
    sums: &mut [__m512; M],
    following: &mut Following,
) {
    // SAFETY: as the caller promises; a block begins with its scale, of half precision.
    unsafe {
        let mut scales = [[[0u16; ROWS]; 2]; V];
        for row in 0..ROWS {
            for (i, scales) in scales.as_flattened_mut().iter_mut().enumerate() {
                scales[row] = rows.row(row).add(i * C::BYTES).cast::<u16>().read_unaligned();
            }
        }
        let dots = fours::<C, M, V>(rows, 0, &operands::<C, M, V>(x), following);
        for v in 0..V {
            let scale = |i: usize| _mm512_cvtph_ps(_mm256_loadu_si256(scales[v][i].as_ptr().cast()));
            let scales = [scale(0), scale(1)];
            for m in 0..M {
                let mut block = _mm512_setzero_ps();
                for (dots, scales) in groups(dots[m][v]).into_iter().zip(scales) {
                    block = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scales, block);
                }
                sums[m] = _mm512_fmadd_ps(block, _mm512_set1_ps((*x[m].add(2 * v)).scale), sums[m]);
            }
        }
    }
}

/// # Safety
/// As [`multiply_rows`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
unsafe fn blocks_with_min<C: Codes, const M: usize>(
    rows: &RowStarts,
    cols: usize,
    x: [*const QuantisedGroup; M],
) -> [__m512; M] {
    let mut sums = [_mm512_setzero_ps(); M];
    let mut following = Following::of(rows, 8 * cols / 256);
    for block in 0..cols / 256 {
        let rows = rows.skip(block * C::BYTES);
        // SAFETY: as the caller promises.
        unsafe {
            let KNumbers { d, d_min, scales, mins } = k_numbers(&rows);
            for half in 0..2 {
                let x = x.map(|x| x.add(8 * block + 4 * half));
                let dots = fours::<C, M, 2>(&rows, half, &operands::<C, M, 2>(x), &mut following);
                for m in 0..M {
                    let ([first, third], [second, fourth]) = (groups(dots[m][0]), groups(dots[m][1]));
                    for (pair, dots) in [[first, second], [third, fourth]].into_iter().enumerate() {
                        let mut of_block = _mm512_setzero_ps();
                        for (i, dots) in dots.into_iter().enumerate() {
                            let group = 2 * pair + i;
                            let scale = byte_times(scales[half], group, d);
                            let min = byte_times(mins[half], group, d_min);
                            let x_sum = _mm512_set1_ps((*x[m].add(group)).sum_of_32);
                            of_block = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, of_block);
                            of_block = _mm512_fmadd_ps(min, x_sum, of_block);
                        }
                        sums[m] = _mm512_fmadd_ps(of_block, _mm512_set1_ps((*x[m].add(2 * pair)).scale), sums[m]);
                    }
                }
            }
        }
    }
    sums
}

/// # Safety
/// As [`multiply_rows`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")]
unsafe fn blocks_of_sixteens<C: Codes, const M: usize>(
    rows: &RowStarts,
    cols: usize,
    x: [*const QuantisedGroup; M],
) -> [__m512; M] {
    let mut sums = [_mm512_setzero_ps(); M];
    let mut following = Following::of(rows, 8 * cols / 256);
    for block in 0..cols / 256 {
        let rows = rows.skip(block * C::BYTES);
        // SAFETY: as the caller promises; sixteen scales and a number of half precision stand behind 192 bytes of codes.
        unsafe {
            let mut of_rows = [0u16; ROWS];
            for (row, d) in of_rows.iter_mut().enumerate() {
                *d = rows.row(row).add(208).cast::<u16>().read_unaligned();
            }
            let scales = columns(&rows, 192);
            for half in 0..2 {
                let x = x.map(|x| x.add(8 * block + 4 * half));
                let dots = fours::<C, M, 2>(&rows, half, &operands::<C, M, 2>(x), &mut following);
                let d = _mm512_cvtph_ps(_mm256_loadu_si256(of_rows.as_ptr().cast()));
                for v in 0..2 {
                    for m in 0..M {
                        let mut of_block = _mm512_setzero_ps();
                        for (i, dots) in sixteens(dots[m][v]).into_iter().enumerate() {
                            let scale = byte_times(scales[2 * half + v], i, d);
                            of_block = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots), scale, of_block);
                        }
                        sums[m] = _mm512_fmadd_ps(of_block, _mm512_set1_ps((*x[m].add(2 * v)).scale), sums[m]);
                    }
                }
            }
        }
    }
    sums
}
