//! RMSNorm.

use crate::isa::for_each_isa;

for_each_isa! {
    /// `out = x · rsqrt(mean(x²) + eps) · weight`, all of one length.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_body
}

#[inline(always)]
fn rms_norm_body(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = inverse_rms(x, eps);
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

for_each_isa! {
    /// [`rms_norm`] in place.
    pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) = rms_norm_in_place_body
}

#[inline(always)]
fn rms_norm_in_place_body(x: &mut [f32], weight: &[f32], eps: f32) {
    let scale = inverse_rms(x, eps);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

#[inline(always)]
pub(crate) fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for i in 0..16 {
            lanes[i] += chunk[i] * chunk[i];
        }
    }
    let rest: f32 = rest.iter().map(|x| x * x).sum();
    let total = lanes.iter().sum::<f32>() + rest;
    1.0 / (total / x.len() as f32 + eps).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn epsilon_is_added_to_the_mean_of_squares() {
        for isa in Isa::available() {
            let x: Vec<f32> = (0..37).map(|i| (i as f32 - 18.0) * 1e-3).collect();
            let weight: Vec<f32> = (0..37).map(|i| 1.0 + i as f32 / 10.0).collect();
            let mean = x.iter().map(|x| f64::from(x * x)).sum::<f64>() / 37.0;
            let mut out = vec![0.0; 37];
            rms_norm(isa, &x, &weight, 1e-5, &mut out);
            for i in 0..37 {
                let want = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                assert!((f64::from(out[i]) - want).abs() < 1e-5, "{isa:?} {i}: {} {want}", out[i]);
            }
            let mut in_place = x.clone();
            rms_norm_in_place(isa, &mut in_place, &weight, 1e-5);
            assert_eq!(in_place, out);
        }
    }
}
