//! Quantised rows to integers under scales.
//!
//! Every quantised type is the same thing in another wrapping: groups of 16 or 32 weights, each
//! `scale · (code − offset) + min` with an unsigned 8-bit code. Unpacked once, a row serves both arithmetics and every
//! row of activations that wants it, so one product kernel ([`crate::tile`]) does for twelve types. Block layouts are ggml's.

#[cfg(target_arch = "x86_64")]
mod avx2;

use crate::{WeightType, float::f16_to_f32, isa::Isa};

/// Walks a row block by block: `BYTES` in, `LEN` codes and `GROUPS` scales and minimums out. A macro, since a function
/// that takes the block's as an argument calls it through a shim without the instruction set, and nothing is inlined.
macro_rules! each_block {
    ($block:ident: $bytes:literal => $len:literal, $groups:literal; $row:expr, $codes:expr, $scales:expr, $mins:expr) => {{
        let (row, _) = $row.as_chunks::<$bytes>();
        let (codes, _) = $codes.as_chunks_mut::<$len>();
        let (scales, _) = $scales.as_chunks_mut::<$groups>();
        let (mins, _) = $mins.as_chunks_mut::<$groups>();
        for (((bytes, codes), scales), mins) in row.iter().zip(codes).zip(scales).zip(mins) {
            $block(bytes, codes, scales, mins);
        }
    }};
}

/// Walks a row of any quantised type by the functions that are named as the types where it stands: the plain ones here, AVX2's there.
macro_rules! each_kind {
    ($kind:expr; $row:expr, $codes:expr, $scales:expr, $mins:expr) => {
        match $kind {
            WeightType::Q4_0 => each_block!(q4_0: 18 => 32, 1; $row, $codes, $scales, $mins),
            WeightType::Q4_1 => each_block!(q4_1: 20 => 32, 1; $row, $codes, $scales, $mins),
            WeightType::Q5_0 => each_block!(q5_0: 22 => 32, 1; $row, $codes, $scales, $mins),
            WeightType::Q5_1 => each_block!(q5_1: 24 => 32, 1; $row, $codes, $scales, $mins),
            WeightType::Q8_0 => each_block!(q8_0: 34 => 32, 1; $row, $codes, $scales, $mins),
            WeightType::Q2_K => each_block!(q2_k: 84 => 256, 16; $row, $codes, $scales, $mins),
            WeightType::Q3_K => each_block!(q3_k: 110 => 256, 16; $row, $codes, $scales, $mins),
            WeightType::Q4_K => each_block!(q4_k: 144 => 256, 8; $row, $codes, $scales, $mins),
            WeightType::Q5_K => each_block!(q5_k: 176 => 256, 8; $row, $codes, $scales, $mins),
            WeightType::Q6_K => each_block!(q6_k: 210 => 256, 16; $row, $codes, $scales, $mins),
            WeightType::IQ4_NL => each_block!(iq4_nl: 18 => 32, 1; $row, $codes, $scales, $mins),
            WeightType::IQ4_XS => each_block!(iq4_xs: 136 => 256, 8; $row, $codes, $scales, $mins),
            _ => unreachable!("float types have no codes, and packed ones no rows"),
        }
    };
}
#[cfg(target_arch = "x86_64")]
use {each_block, each_kind};

/// Levels of the IQ4 types, raised by 128.
pub const IQ4_LEVELS: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

impl WeightType {
    /// Weights that share a scale: 16 or 32. Quantised types only.
    pub const fn group_len(self) -> usize {
        match self {
            Self::Q2_K | Self::Q3_K | Self::Q6_K => 16,
            _ => 32,
        }
    }

    /// What is subtracted from a code before scaling.
    pub const fn code_offset(self) -> u8 {
        match self {
            Self::Q4_0 => 8,
            Self::Q5_0 => 16,
            Self::Q3_K => 4,
            Self::Q6_K => 32,
            Self::Q8_0 | Self::IQ4_NL | Self::IQ4_XS => 128,
            Self::Q3_D | Self::Q4_D | Self::Q5_D | Self::Q6_D | Self::Q8_D => 128,
            _ => 0,
        }
    }
}

/// Unpacks one row: `codes` in the row's order, one scale and one minimum a group.
pub fn unpack_row(isa: Isa, kind: WeightType, bytes: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
    match isa {
        // SAFETY: an `Isa` other than Portable only comes from `Isa::available`, which asked the processor for AVX2.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx2 => unsafe { avx2::unpack_row(kind, bytes, codes, scales, mins) },
        _ => unpack_row_plain(kind, bytes, codes, scales, mins),
    }
}

/// The plain reference.
fn unpack_row_plain(kind: WeightType, bytes: &[u8], codes: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
    each_kind!(kind; bytes, codes, scales, mins);
}

#[inline(always)]
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

/// 16 bytes to 32 nibbles: the low ones first.
#[inline(always)]
fn nibbles(bytes: &[u8], codes: &mut [u8; 32]) {
    for i in 0..16 {
        codes[i] = bytes[i] & 15;
        codes[i + 16] = bytes[i] >> 4;
    }
}

/// Sets bit 4 of each code from one bit of `high`.
#[inline(always)]
fn fifth_bits(high: &[u8], codes: &mut [u8; 32]) {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= (((high >> i) & 1) << 4) as u8;
    }
}

#[inline(always)]
fn q4_0(b: &[u8; 18], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    scale[0] = half_at(b, 0);
    min[0] = 0.0;
    nibbles(&b[2..18], codes);
}

#[inline(always)]
fn q4_1(b: &[u8; 20], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    scale[0] = half_at(b, 0);
    min[0] = half_at(b, 2);
    nibbles(&b[4..20], codes);
}

#[inline(always)]
fn q5_0(b: &[u8; 22], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    scale[0] = half_at(b, 0);
    min[0] = 0.0;
    nibbles(&b[6..22], codes);
    fifth_bits(&b[2..6], codes);
}

#[inline(always)]
fn q5_1(b: &[u8; 24], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    scale[0] = half_at(b, 0);
    min[0] = half_at(b, 2);
    nibbles(&b[8..24], codes);
    fifth_bits(&b[4..8], codes);
}

#[inline(always)]
fn q8_0(b: &[u8; 34], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    scale[0] = half_at(b, 0);
    min[0] = 0.0;
    for i in 0..32 {
        codes[i] = b[i + 2] ^ 0x80;
    }
}

#[inline(always)]
fn iq4_nl(b: &[u8; 18], codes: &mut [u8; 32], scale: &mut [f32; 1], min: &mut [f32; 1]) {
    scale[0] = half_at(b, 0);
    min[0] = 0.0;
    nibbles(&b[2..18], codes);
    for code in codes {
        *code = IQ4_LEVELS[usize::from(*code)];
    }
}

#[inline(always)]
fn iq4_xs(b: &[u8; 136], codes: &mut [u8; 256], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    let d = half_at(b, 0);
    let high = u16::from_le_bytes([b[2], b[3]]);
    *mins = [0.0; 8];
    for group in 0..8 {
        let low = (b[4 + group / 2] >> (4 * (group % 2))) & 15;
        let scale = i32::from(low) | (i32::from((high >> (2 * group)) & 3) << 4);
        scales[group] = d * (scale - 32) as f32;
        let bytes = &b[8 + 16 * group..8 + 16 * (group + 1)];
        for i in 0..16 {
            codes[32 * group + i] = IQ4_LEVELS[usize::from(bytes[i] & 15)];
            codes[32 * group + 16 + i] = IQ4_LEVELS[usize::from(bytes[i] >> 4)];
        }
    }
}

#[inline(always)]
fn q2_k(b: &[u8; 84], codes: &mut [u8; 256], scales: &mut [f32; 16], mins: &mut [f32; 16]) {
    let (d, d_min) = (half_at(b, 80), half_at(b, 82));
    for group in 0..16 {
        scales[group] = d * f32::from(b[group] & 15);
        mins[group] = -(d_min * f32::from(b[group] >> 4));
    }
    for half in 0..2 {
        let bytes = &b[16 + 32 * half..16 + 32 * (half + 1)];
        for quarter in 0..4 {
            for i in 0..32 {
                codes[128 * half + 32 * quarter + i] = (bytes[i] >> (2 * quarter)) & 3;
            }
        }
    }
}

#[inline(always)]
fn q3_k(b: &[u8; 110], codes: &mut [u8; 256], scales: &mut [f32; 16], mins: &mut [f32; 16]) {
    let d = half_at(b, 108);
    let packed = &b[96..108];
    *mins = [0.0; 16];
    for group in 0..16 {
        let low = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
        let high = (packed[8 + group % 4] >> (2 * (group / 4))) & 3;
        scales[group] = d * (i32::from(low | (high << 4)) - 32) as f32;
    }
    for half in 0..2 {
        let bytes = &b[32 + 32 * half..32 + 32 * (half + 1)];
        for quarter in 0..4 {
            let bit = 4 * half + quarter;
            for i in 0..32 {
                let high = (b[i] >> bit) & 1;
                codes[128 * half + 32 * quarter + i] = ((bytes[i] >> (2 * quarter)) & 3) | (high << 2);
            }
        }
    }
}

/// The eight 6-bit scales and minimums of `Q4_K` and `Q5_K`.
#[inline(always)]
fn k_scales(b: &[u8], d: f32, d_min: f32, scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    for group in 0..8 {
        let (scale, min) = if group < 4 {
            (b[group] & 63, b[group + 4] & 63)
        } else {
            ((b[group + 4] & 15) | ((b[group - 4] >> 6) << 4), (b[group + 4] >> 4) | ((b[group] >> 6) << 4))
        };
        scales[group] = d * f32::from(scale);
        mins[group] = -(d_min * f32::from(min));
    }
}

#[inline(always)]
fn q4_k(b: &[u8; 144], codes: &mut [u8; 256], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    k_scales(&b[4..16], half_at(b, 0), half_at(b, 2), scales, mins);
    for pair in 0..4 {
        let bytes = &b[16 + 32 * pair..16 + 32 * (pair + 1)];
        for i in 0..32 {
            codes[64 * pair + i] = bytes[i] & 15;
            codes[64 * pair + 32 + i] = bytes[i] >> 4;
        }
    }
}

#[inline(always)]
fn q5_k(b: &[u8; 176], codes: &mut [u8; 256], scales: &mut [f32; 8], mins: &mut [f32; 8]) {
    k_scales(&b[4..16], half_at(b, 0), half_at(b, 2), scales, mins);
    for pair in 0..4 {
        let bytes = &b[48 + 32 * pair..48 + 32 * (pair + 1)];
        for i in 0..32 {
            let high = b[16 + i] >> (2 * pair);
            codes[64 * pair + i] = (bytes[i] & 15) | ((high & 1) << 4);
            codes[64 * pair + 32 + i] = (bytes[i] >> 4) | ((high & 2) << 3);
        }
    }
}

#[inline(always)]
fn q6_k(b: &[u8; 210], codes: &mut [u8; 256], scales: &mut [f32; 16], mins: &mut [f32; 16]) {
    let d = half_at(b, 208);
    *mins = [0.0; 16];
    for group in 0..16 {
        scales[group] = d * f32::from(b[192 + group] as i8);
    }
    for half in 0..2 {
        let low = &b[64 * half..64 * (half + 1)];
        let high = &b[128 + 32 * half..128 + 32 * (half + 1)];
        let codes = &mut codes[128 * half..128 * (half + 1)];
        for i in 0..32 {
            codes[i] = (low[i] & 15) | ((high[i] & 3) << 4);
            codes[i + 32] = (low[i + 32] & 15) | (((high[i] >> 2) & 3) << 4);
            codes[i + 64] = (low[i] >> 4) | (((high[i] >> 4) & 3) << 4);
            codes[i + 96] = (low[i + 32] >> 4) | ((high[i] >> 6) << 4);
        }
    }
}
