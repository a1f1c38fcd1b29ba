//! Rounding to 8 bits in AVX-512: the operations of the reference in its order, for four blocks at once. In vectors of one number a
//! sixteen, lane `4 · block + sixteen`, so that what the sixteens of a block have in common stays in 128 bits.

use std::arch::x86_64::*;

use super::{BLOCK, BLOCK_GROUPS, GROUP, MOST, QuantisedGroup, ROUND, ROUNDED, SIXTEENS};

/// Blocks at once.
const BLOCKS: usize = 4;

/// Rounds one row into as many groups as it fills.
///
/// # Safety
/// The processor must have these instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn quantise_row(x: &[f32], out: &mut [QuantisedGroup]) {
    let (whole, rest) = x.as_chunks();
    let (outs, out) = out.split_at_mut(whole.len() * BLOCKS * BLOCK_GROUPS);
    for (x, out) in whole.iter().zip(outs.as_chunks_mut().0) {
        quantise_blocks(x, out);
    }
    if !rest.is_empty() {
        let mut padded = [0.0; BLOCKS * BLOCK];
        padded[..rest.len()].copy_from_slice(rest);
        let mut groups = [QuantisedGroup::ZERO; BLOCKS * BLOCK_GROUPS];
        quantise_blocks(&padded, &mut groups);
        let count = rest.len().div_ceil(32);
        out[..count].copy_from_slice(&groups[..count]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn quantise_blocks(x: &[f32; BLOCKS * BLOCK], out: &mut [QuantisedGroup; BLOCKS * BLOCK_GROUPS]) {
    // SAFETY: sixteen numbers; the load needs no alignment.
    let sixteen = |i: usize| unsafe { _mm512_loadu_ps(x[GROUP * i..GROUP * (i + 1)].as_ptr()) };
    let mut largest = [0i32; BLOCKS * SIXTEENS];
    for (i, largest) in largest.iter_mut().enumerate() {
        // As integers, of which what is no number has the largest.
        let magnitudes = _mm512_and_si512(_mm512_castps_si512(sixteen(i)), _mm512_set1_epi32(i32::MAX));
        *largest = _mm512_reduce_max_epi32(magnitudes);
    }
    // SAFETY: sixteen numbers; the load needs no alignment.
    let Steps { scales, exponents, inverses } = Steps::of(unsafe { _mm512_loadu_si512(largest.as_ptr().cast()) });

    let inverses: [f32; BLOCKS * SIXTEENS] = {
        let mut out = [0.0; BLOCKS * SIXTEENS];
        // SAFETY: sixteen numbers; the store needs no alignment.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), inverses) };
        out
    };
    let mut sums = [_mm512_setzero_si512(); BLOCKS];
    for (block, sums) in sums.iter_mut().enumerate() {
        let mut codes = [_mm_setzero_si128(); SIXTEENS];
        for (i, codes) in codes.iter_mut().enumerate() {
            let i = SIXTEENS * block + i;
            let rounded = _mm512_add_ps(_mm512_mul_ps(sixteen(i), _mm512_set1_ps(inverses[i])), _mm512_set1_ps(ROUND));
            *codes = _mm512_cvtepi32_epi8(_mm512_castps_si512(rounded));
        }
        let first = _mm256_set_m128i(codes[1], codes[0]);
        let second = _mm256_set_m128i(codes[3], codes[2]);
        for (group, codes) in out[BLOCK_GROUPS * block..].iter_mut().zip([first, second]) {
            // SAFETY: 32 codes; the store needs no alignment.
            unsafe { _mm256_storeu_si256((&raw mut group.codes).cast(), codes) };
        }
        let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second);
        *sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
    }
    // Each holds the sums of four codes of one block, those of a sixteen in 128 bits.
    let [a, b, c, d] = sums;
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let totals = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let transposed = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let totals = _mm512_permutexvar_epi32(transposed, totals);

    let offsets = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32::<7>(totals));
    let sums_of_16 = _mm512_cvtepi32_ps(_mm512_sllv_epi32(totals, exponents));
    let sums_of_32 = _mm512_add_ps(sums_of_16, _mm512_permute_ps::<0b10_11_00_01>(sums_of_16));
    let sums_and_scales = _mm512_mask_blend_ps(0xaaaa, sums_of_32, scales);
    // Two numbers of a group are 64 bits of each of the four; 128 bits of `even` and `odd` are half of what a group has behind its codes.
    let (sums_of_16, last) = (_mm512_castps_si512(sums_of_16), _mm512_castps_si512(sums_and_scales));
    let even = [_mm512_unpacklo_epi64(exponents, offsets), _mm512_unpacklo_epi64(sums_of_16, last)];
    let odd = [_mm512_unpackhi_epi64(exponents, offsets), _mm512_unpackhi_epi64(sums_of_16, last)];
    for (block, groups) in out.as_chunks_mut::<BLOCK_GROUPS>().0.iter_mut().enumerate() {
        for (group, halves) in groups.iter_mut().zip([even, odd]) {
            let place = (&raw mut group.exponents).cast::<__m128i>();
            for (i, half) in halves.into_iter().enumerate() {
                // SAFETY: `QuantisedGroup` is `repr(C)` and has 32 bytes from its exponents on; the store needs no alignment.
                unsafe { _mm_storeu_si128(place.add(i), quarter(half, block)) };
            }
        }
    }
}

/// 128 bits of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarter(x: __m512i, index: usize) -> __m128i {
    match index {
        0 => _mm512_castsi512_si128(x),
        1 => _mm512_extracti32x4_epi32::<1>(x),
        2 => _mm512_extracti32x4_epi32::<2>(x),
        _ => _mm512_extracti32x4_epi32::<3>(x),
    }
}

/// [`super::Steps`] of four blocks.
struct Steps {
    scales: __m512,
    exponents: __m512i,
    inverses: __m512,
}

impl Steps {
    /// The steps for sixteens whose largest magnitudes have these bits.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn of(largest: __m512i) -> Self {
        let number = |x: i32| _mm512_set1_epi32(x);
        let power = |exponents| _mm512_castsi512_ps(_mm512_slli_epi32::<23>(exponents));
        let mantissa = |fractions| _mm512_castsi512_ps(_mm512_or_si512(fractions, number(127 << 23)));
        let exponents = _mm512_srli_epi32::<23>(largest);
        let fractions = _mm512_and_si512(largest, number(0x007f_ffff));
        let top = most_of_four(exponents);

        let below = _mm512_slli_epi32::<1>(_mm512_sub_epi32(exponents, top));
        let squares = power(_mm512_max_epi32(_mm512_add_epi32(number(127), below), number(0)));
        let mut costs = _mm512_setzero_ps();
        for (fraction, square) in of_four(fractions).into_iter().zip(of_four(_mm512_castps_si512(squares))) {
            let square = _mm512_castsi512_ps(square);
            let larger = _mm512_cmpgt_epi32_mask(fraction, fractions);
            let cost = _mm512_mask_mul_ps(square, larger, square, _mm512_set1_ps(4.0));
            costs = _mm512_add_ps(costs, cost);
        }
        let costs = _mm512_mul_ps(_mm512_mul_ps(costs, mantissa(fractions)), mantissa(fractions));
        let (mut least_cost, mut chosen) = (_mm512_set1_ps(f32::INFINITY), number(0));
        for (fraction, cost) in of_four(fractions).into_iter().zip(of_four(_mm512_castps_si512(costs))) {
            let cost = _mm512_castsi512_ps(cost);
            let better = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(cost, least_cost);
            least_cost = _mm512_mask_mov_ps(least_cost, better, cost);
            chosen = _mm512_mask_mov_epi32(chosen, better, fraction);
        }

        let larger = _mm512_cmpgt_epi32_mask(fractions, chosen);
        let powers = _mm512_mask_add_epi32(exponents, larger, exponents, number(1));
        let least = _mm512_sub_epi32(most_of_four(powers), number(MOST));
        let scales = _mm512_mul_ps(_mm512_div_ps(mantissa(chosen), _mm512_set1_ps(127.0)), power(least));
        let reached = _mm512_sub_epi32(number(254), _mm512_max_epi32(powers, least));
        let inverses = _mm512_mul_ps(_mm512_div_ps(_mm512_set1_ps(127.0), mantissa(chosen)), power(reached));
        let exponents = _mm512_max_epi32(_mm512_sub_epi32(powers, least), number(0));

        let too_much = _mm512_cmpgt_epi32_mask(top, number(*ROUNDED.end()));
        let rounded = _mm512_cmpge_epi32_mask(top, number(*ROUNDED.start())) & !too_much;
        Self {
            scales: _mm512_mask_mov_ps(_mm512_maskz_mov_ps(rounded, scales), too_much, _mm512_set1_ps(f32::INFINITY)),
            exponents: _mm512_maskz_mov_epi32(rounded, exponents),
            inverses: _mm512_maskz_mov_ps(rounded, inverses),
        }
    }
}

/// The largest of each four lanes, in all of them.
#[inline]
#[target_feature(enable = "avx512f")]
fn most_of_four(x: __m512i) -> __m512i {
    let x = _mm512_max_epi32(x, _mm512_shuffle_epi32::<0b01_00_11_10>(x));
    _mm512_max_epi32(x, _mm512_shuffle_epi32::<0b10_11_00_01>(x))
}

/// The first of each four lanes in all of them, the second, and so on.
#[inline]
#[target_feature(enable = "avx512f")]
fn of_four(x: __m512i) -> [__m512i; SIXTEENS] {
    [
        _mm512_shuffle_epi32::<0b00_00_00_00>(x),
        _mm512_shuffle_epi32::<0b01_01_01_01>(x),
        _mm512_shuffle_epi32::<0b10_10_10_10>(x),
        _mm512_shuffle_epi32::<0b11_11_11_11>(x),
    ]
}
