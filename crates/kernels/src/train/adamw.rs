//! AdamW (Loshchilov and Hutter, 2017), and the norm that gradients are clipped by.

use super::sum::{LANES, total};
use crate::isa::for_each_isa;

/// What one update does to every number of a tensor.
#[derive(Debug, Clone, Copy)]
pub struct AdamW {
    /// How much of the gradients' mean is kept (β₁).
    pub beta1: f32,
    /// How much of their squares' mean is kept (β₂).
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// What the weight is multiplied with first: 1 − learning rate · weight decay.
    pub keep: f32,
    /// Learning rate / (1 − β₁ᵗ).
    pub rate: f32,
    /// 1 / √(1 − β₂ᵗ).
    pub root_scale: f32,
    /// Factor on the gradient: what clipping leaves of it.
    pub gradient_scale: f32,
}

for_each_isa! {
    /// Updates a stretch of one tensor, and returns the sum of the new weights' squares. All slices are of one length.
    pub fn adamw(adamw: &AdamW, gradient: &[f32], weight: &mut [f32], first: &mut [f32], second: &mut [f32]) -> f64 = adamw_body
}

#[inline(always)]
fn adamw_body(adamw: &AdamW, gradient: &[f32], weight: &mut [f32], first: &mut [f32], second: &mut [f32]) -> f64 {
    let AdamW { beta1, beta2, epsilon, keep, rate, root_scale, gradient_scale } = *adamw;
    for (((weight, gradient), first), second) in weight.iter_mut().zip(gradient).zip(first).zip(second) {
        let gradient = gradient * gradient_scale;
        *first = beta1 * *first + (1.0 - beta1) * gradient;
        *second = beta2 * *second + (1.0 - beta2) * (gradient * gradient);
        *weight = keep * *weight - rate * *first / (second.sqrt() * root_scale + epsilon);
    }
    squares_body(weight)
}

for_each_isa! {
    /// The sum of squares, in f64: no finite gradient overflows it.
    pub fn squares(x: &[f32]) -> f64 = squares_body
}

#[inline(always)]
fn squares_body(x: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            let x = f64::from(chunk[i]);
            lanes[i] += x * x;
        }
    }
    total(lanes) + rest.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{isa::Isa, train::check::numbers};

    #[test]
    fn three_updates_are_those_of_the_paper() {
        let len = 37;
        let (lr, decay, beta1, beta2, eps) = (1e-2, 0.1, 0.9, 0.95, 1e-8);
        for isa in Isa::available() {
            let mut weight = numbers(len, 1);
            let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
            let mut want: Vec<f64> = weight.iter().map(|x| f64::from(*x)).collect();
            let (mut m, mut v) = (vec![0.0f64; len], vec![0.0f64; len]);
            for t in 1..=3 {
                let gradient = numbers(len, 10 + t as u64);
                let step = AdamW {
                    beta1: beta1 as f32,
                    beta2: beta2 as f32,
                    epsilon: eps as f32,
                    keep: (1.0 - lr * decay) as f32,
                    rate: (lr / (1.0 - f64::powi(beta1, t))) as f32,
                    root_scale: (1.0 - f64::powi(beta2, t)).sqrt().recip() as f32,
                    gradient_scale: 0.5,
                };
                let got = adamw(isa, &step, &gradient, &mut weight, &mut first, &mut second);
                for i in 0..len {
                    let g = 0.5 * f64::from(gradient[i]);
                    m[i] = beta1 * m[i] + (1.0 - beta1) * g;
                    v[i] = beta2 * v[i] + (1.0 - beta2) * g * g;
                    want[i] -= lr * decay * want[i];
                    let corrected = v[i] / (1.0 - f64::powi(beta2, t));
                    want[i] -= lr * m[i] / (1.0 - f64::powi(beta1, t)) / (corrected.sqrt() + eps);
                    assert!(
                        (f64::from(weight[i]) - want[i]).abs() < 1e-6,
                        "{isa:?} {t} {i}: {} {}",
                        weight[i],
                        want[i]
                    );
                }
                assert!((got - want.iter().map(|x| x * x).sum::<f64>()).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn squares_do_not_overflow_where_numbers_do_not() {
        for isa in Isa::available() {
            assert_eq!(squares(isa, &[1e30; 33]), 33.0 * f64::from(1e30f32).powi(2));
            assert!(squares(isa, &[f32::NAN; 1]).is_nan());
        }
    }
}
