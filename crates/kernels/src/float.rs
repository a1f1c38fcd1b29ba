//! Scalar conversions and functions, written so that loops over them vectorise.

/// The half-precision number with bits `h`. Exact, subnormals, infinities and NaN included.
///
/// The method is that of Marat Dukhan's FP16 library: shift into place, then fix the exponent by a multiplication.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let w = u32::from(h) << 16;
    let sign = w & 0x8000_0000;
    let two_w = w.wrapping_add(w);
    let normal = f32::from_bits((two_w >> 4).wrapping_add(0xE0 << 23)) * f32::from_bits(0x0780_0000);
    let subnormal = f32::from_bits((two_w >> 17) | (126 << 23)) - 0.5;
    let magnitude = if two_w < (1 << 27) { subnormal.to_bits() } else { normal.to_bits() };
    f32::from_bits(sign | magnitude)
}

/// The bfloat16 number with bits `b`.
#[inline(always)]
pub fn bf16_to_f32(b: u16) -> f32 {
    f32::from_bits(u32::from(b) << 16)
}

/// The nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

/// The FP8 E4M3 number with bits `b`: finite up to ±448, NaN at 0x7f and 0xff.
#[inline(always)]
pub fn e4m3_to_f32(b: u8) -> f32 {
    // E4M3 is half precision with a smaller exponent: shifted into place it is 2^-8 of what it should be.
    let half = (u16::from(b & 0x80) << 8) | (u16::from(b & 0x7f) << 7);
    let value = f16_to_f32(half) * 256.0;
    if b & 0x7f == 0x7f { f32::NAN } else { value }
}

/// e^x to about 2 units in the last place, clamped to the range of normal numbers; e^-inf is 0 and NaN stays NaN.
///
/// Cody-Waite reduction and the polynomial of Cephes' `expf`.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 · 2^23 rounds to the nearest integer, which then stands in the low bits; subtracting it gives that integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let rounded = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4_f32;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    // From these bits, and not from `n as i32`, which is compiled to one number at a time.
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < -87.3 { 0.0 } else { p * power }
}

/// x · sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_converts_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let want = half::f16::from_bits(bits).to_f32_const();
            let got = f16_to_f32(bits);
            assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{bits:#06x}");
        }
    }

    #[test]
    fn bf16_rounds_as_the_half_crate_does() {
        for bits in (0..=u32::MAX).step_by(65_521) {
            let x = f32::from_bits(bits);
            let want = half::bf16::from_f32_const(x).to_bits();
            let got = f32_to_bf16(x);
            assert!(got == want || x.is_nan() && bf16_to_f32(got).is_nan(), "{x:e}: {got:#x} {want:#x}");
        }
    }

    #[test]
    fn e4m3_has_its_landmarks() {
        let cases =
            [(0x00, 0.0), (0x01, 2f32.powi(-9)), (0x07, 7.0 * 2f32.powi(-9)), (0x08, 2f32.powi(-6)), (0x38, 1.0)];
        for (bits, value) in cases {
            assert_eq!(e4m3_to_f32(bits), value);
            assert_eq!(e4m3_to_f32(bits | 0x80), -value);
        }
        assert_eq!(e4m3_to_f32(0x7e), 448.0);
        assert!(e4m3_to_f32(0x7f).is_nan() && e4m3_to_f32(0xff).is_nan());
    }

    #[test]
    fn exp_is_within_three_units_in_the_last_place() {
        for step in -87_000..88_000 {
            let x = step as f32 / 1000.0;
            let want = f64::from(x).exp();
            let error = (f64::from(exp(x)) - want).abs() / want;
            assert!(error < 3.0 * f64::from(f32::EPSILON), "exp({x}) is off by {error:e}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }
}
