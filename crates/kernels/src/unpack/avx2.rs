//! Unpacking in AVX2, for AVX-512 machines too: blocks are 16 or 32 bytes wide. The compiler does not find these by itself;
//! each stands beside its plain form in the parent module and gives the same bits.

use std::arch::x86_64::*;

use super::{IQ4_LEVELS, each_block, each_kind};
use crate::WeightType;

/// Unpacks one row of a quantised type.
#[target_feature(enable = "avx2,fma,f16c")]
pub fn unpack_row(kind: WeightType, bytes: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
    each_kind!(kind; bytes, codes, scales, mins);
}

#[inline]
#[target_feature(enable = "avx2")]
fn load16(bytes: &[u8], at: usize) -> __m128i {
    let bytes: &[u8; 16] = bytes[at..at + 16].first_chunk().expect("sixteen bytes");
    // SAFETY: sixteen bytes, as the line above shows; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load32(bytes: &[u8], at: usize) -> __m256i {
    let bytes: &[u8; 32] = bytes[at..at + 32].first_chunk().expect("thirty-two bytes");
    // SAFETY: thirty-two bytes, as the line above shows; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store32(codes: &mut [u8], at: usize, value: __m256i) {
    let codes: &mut [u8; 32] = codes[at..at + 32].first_chunk_mut().expect("thirty-two bytes");
    // SAFETY: thirty-two bytes, as the line above shows; the store needs no alignment.
    unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), value) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store_f32(out: &mut [f32], at: usize, value: __m256) {
    let out: &mut [f32; 8] = out[at..at + 8].first_chunk_mut().expect("eight numbers");
    // SAFETY: eight numbers, as the line above shows; the store needs no alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn half_at(bytes: &[u8], at: usize) -> f32 {
    let bits = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
}

/// The low or high four bits of each byte.
#[inline]
#[target_feature(enable = "avx2")]
fn low(x: __m256i) -> __m256i {
    _mm256_and_si256(x, _mm256_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx2")]
fn high(x: __m256i) -> __m256i {
    low(_mm256_srli_epi16::<4>(x))
}

/// `(x << by) & mask` in each byte, to the right where `by` is negative; `mask` must drop what crosses from a neighbour.
#[inline]
#[target_feature(enable = "avx2")]
fn shift_and(x: __m256i, by: i32, mask: i8) -> __m256i {
    let shifted =
        if by >= 0 { _mm256_sll_epi16(x, _mm_cvtsi32_si128(by)) } else { _mm256_srl_epi16(x, _mm_cvtsi32_si128(-by)) };
    _mm256_and_si256(shifted, _mm256_set1_epi8(mask))
}

/// Sixteen bytes to thirty-two nibbles: the low ones first.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles(bytes: &[u8], at: usize) -> __m256i {
    let x = load16(bytes, at);
    low(_mm256_set_m128i(_mm_srli_epi16::<4>(x), x))
}

/// 16 in each byte whose bit of `bits` is set.
#[inline]
#[target_feature(enable = "avx2")]
fn fifth_bits(bytes: &[u8], at: usize) -> __m256i {
    let bits = i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let byte = _mm256_setr_epi8(
        0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3,
    );
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let spread = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), byte);
    let set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
    _mm256_and_si256(set, _mm256_set1_epi8(16))
}

/// Levels of IQ4 codes.
#[inline]
#[target_feature(enable = "avx2")]
fn levels(codes: __m256i) -> __m256i {
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load16(&IQ4_LEVELS, 0)), codes)
}

/// Eight bytes of `x`, from its lowest, as numbers times `scale`.
#[inline]
#[target_feature(enable = "avx2")]
fn scaled(x: __m128i, scale: f32) -> __m256 {
    _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)))
}

/// The same with signed bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn scaled_signed(x: __m128i, scale: f32) -> __m256 {
    _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn upper(x: __m128i) -> __m128i {
    _mm_srli_si128::<8>(x)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q4_0(b: &[u8; 18], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    (scale[0], min[0]) = (half_at(b, 0), 0.0);
    store32(codes, 0, nibbles(b, 2));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q4_1(b: &[u8; 20], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    (scale[0], min[0]) = (half_at(b, 0), half_at(b, 2));
    store32(codes, 0, nibbles(b, 4));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q5_0(b: &[u8; 22], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    (scale[0], min[0]) = (half_at(b, 0), 0.0);
    store32(codes, 0, _mm256_or_si256(nibbles(b, 6), fifth_bits(b, 2)));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q5_1(b: &[u8; 24], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    (scale[0], min[0]) = (half_at(b, 0), half_at(b, 2));
    store32(codes, 0, _mm256_or_si256(nibbles(b, 8), fifth_bits(b, 4)));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q8_0(b: &[u8; 34], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    (scale[0], min[0]) = (half_at(b, 0), 0.0);
    store32(codes, 0, _mm256_xor_si256(load32(b, 2), _mm256_set1_epi8(-128)));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn iq4_nl(b: &[u8; 18], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    (scale[0], min[0]) = (half_at(b, 0), 0.0);
    store32(codes, 0, levels(nibbles(b, 2)));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn iq4_xs(b: &[u8; 136], codes: &mut [u8; 256], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    let d = half_at(b, 0);
    let high = u16::from_le_bytes([b[2], b[3]]);
    *mins = [0.0; 8];
    for group in 0..8 {
        let low = (b[4 + group / 2] >> (4 * (group % 2))) & 15;
        let scale = i32::from(low) | (i32::from((high >> (2 * group)) & 3) << 4);
        scales[group] = d * (scale - 32) as f32;
        store32(codes, 32 * group, levels(nibbles(b, 8 + 16 * group)));
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q2_k(b: &[u8; 84], codes: &mut [u8; 256], scales: &mut [f32; 16], mins: &mut [f32; 16]) {
    let (d, d_min) = (half_at(b, 80), half_at(b, 82));
    let packed = load16(b, 0);
    let scale = _mm_and_si128(packed, _mm_set1_epi8(15));
    let min = _mm_and_si128(_mm_srli_epi16::<4>(packed), _mm_set1_epi8(15));
    store_f32(scales, 0, scaled(scale, d));
    store_f32(scales, 8, scaled(upper(scale), d));
    store_f32(mins, 0, scaled(min, -d_min));
    store_f32(mins, 8, scaled(upper(min), -d_min));
    for half in 0..2 {
        let x = load32(b, 16 + 32 * half);
        for quarter in 0..4 {
            store32(codes, 128 * half + 32 * quarter, shift_and(x, -2 * quarter as i32, 3));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q3_k(b: &[u8; 110], codes: &mut [u8; 256], scales: &mut [f32; 16], mins: &mut [f32; 16]) {
    let d = half_at(b, 108);
    let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let (low, mid, top) = (word(96), word(100), word(104));
    let join = |four: u32, two: u32| ((four & 0x0f0f_0f0f) | ((two & 0x0303_0303) << 4)) as i32;
    let packed =
        _mm_setr_epi32(join(low, top), join(mid, top >> 2), join(low >> 4, top >> 4), join(mid >> 4, top >> 6));
    let scale = _mm_sub_epi8(packed, _mm_set1_epi8(32));
    store_f32(scales, 0, scaled_signed(scale, d));
    store_f32(scales, 8, scaled_signed(upper(scale), d));
    *mins = [0.0; 16];
    let high = load32(b, 0);
    for half in 0..2 {
        let x = load32(b, 32 + 32 * half);
        for quarter in 0..4 {
            let third = shift_and(high, 2 - (4 * half + quarter) as i32, 4);
            let code = _mm256_or_si256(shift_and(x, -2 * quarter as i32, 3), third);
            store32(codes, 128 * half + 32 * quarter, code);
        }
    }
}

/// The eight 6-bit scales and minimums of `Q4_K` and `Q5_K`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn k_scales(b: &[u8], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    let word = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let (s, m, rest) = (word(4), word(8), word(12));
    let top = |x: u32| ((x >> 6) & 0x0303_0303) << 4;
    let packed = _mm_setr_epi32(
        (s & 0x3f3f_3f3f) as i32,
        ((rest & 0x0f0f_0f0f) | top(s)) as i32,
        (m & 0x3f3f_3f3f) as i32,
        (((rest >> 4) & 0x0f0f_0f0f) | top(m)) as i32,
    );
    store_f32(scales, 0, scaled(packed, half_at(b, 0)));
    store_f32(mins, 0, scaled(upper(packed), -half_at(b, 2)));
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q4_k(b: &[u8; 144], codes: &mut [u8; 256], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    k_scales(b, scales, mins);
    for pair in 0..4 {
        let x = load32(b, 16 + 32 * pair);
        store32(codes, 64 * pair, low(x));
        store32(codes, 64 * pair + 32, high(x));
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q5_k(b: &[u8; 176], codes: &mut [u8; 256], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    k_scales(b, scales, mins);
    let fifth = load32(b, 16);
    for pair in 0..4 {
        let x = load32(b, 48 + 32 * pair);
        let by = 4 - 2 * pair as i32;
        store32(codes, 64 * pair, _mm256_or_si256(low(x), shift_and(fifth, by, 16)));
        store32(codes, 64 * pair + 32, _mm256_or_si256(high(x), shift_and(fifth, by - 1, 16)));
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn q6_k(b: &[u8; 210], codes: &mut [u8; 256], scales: &mut [f32; 16], mins: &mut [f32; 16]) {
    let d = half_at(b, 208);
    let scale = load16(b, 192);
    store_f32(scales, 0, scaled_signed(scale, d));
    store_f32(scales, 8, scaled_signed(upper(scale), d));
    *mins = [0.0; 16];
    for half in 0..2 {
        let (x, y) = (load32(b, 64 * half), load32(b, 64 * half + 32));
        let top = load32(b, 128 + 32 * half);
        let at = 128 * half;
        store32(codes, at, _mm256_or_si256(low(x), shift_and(top, 4, 0x30)));
        store32(codes, at + 32, _mm256_or_si256(low(y), shift_and(top, 2, 0x30)));
        store32(codes, at + 64, _mm256_or_si256(high(x), shift_and(top, 0, 0x30)));
        store32(codes, at + 96, _mm256_or_si256(high(y), shift_and(top, -2, 0x30)));
    }
}
