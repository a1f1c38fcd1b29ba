//! RMSNorm of rows. What products take of them is also written in bf16, to `rounded`, unless that is empty.

use super::{
    BLOCK_ROWS,
    cut::{Cut, for_each},
    gemm::round,
    sum::{add_partials, dot3},
};
use crate::{compute::Compute, isa::for_each_isa, norm::inverse_rms};

/// `out = x · scale · weight` with `scale = rsqrt(mean(x²) + eps)` of each row.
///
/// `x, out: (rows, width)`; `weight: (width)`; `scales: (rows)`, kept for [`rms_norm_backward`].
pub fn rms_norm_forward(
    compute: &Compute,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    scales: &mut [f32],
    out: &mut [f32],
    rounded: &mut [u16],
) {
    let block = BLOCK_ROWS * weight.len();
    let parts = (Cut::new(scales, BLOCK_ROWS), Cut::new(out, block), Cut::of(rounded, block, x.len()));
    for_each(compute, parts, |index, (scales, out, rounded)| {
        rows_forward(compute.isa(), &x[index * block..][..out.len()], weight, eps, scales, out);
        round(compute.isa(), out, rounded);
    });
}

/// `sum = x + delta`, and [`rms_norm_forward`] of it, in one pass over memory. All but `scales` and `weight`: `(rows, width)`.
#[allow(clippy::too_many_arguments, reason = "operands and results of one operation, each of another shape")]
pub fn add_rms_norm_forward(
    compute: &Compute,
    x: &[f32],
    delta: &[f32],
    weight: &[f32],
    eps: f32,
    sum: &mut [f32],
    scales: &mut [f32],
    out: &mut [f32],
    rounded: &mut [u16],
) {
    let block = BLOCK_ROWS * weight.len();
    let rounded = Cut::of(rounded, block, x.len());
    let parts = (Cut::new(sum, block), Cut::new(scales, BLOCK_ROWS), Cut::new(out, block), rounded);
    for_each(compute, parts, |index, (sum, scales, out, rounded)| {
        let at = index * block..index * block + sum.len();
        add_rows(compute.isa(), &x[at.clone()], &delta[at], sum);
        rows_forward(compute.isa(), sum, weight, eps, scales, out);
        round(compute.isa(), out, rounded);
    });
}

/// [`rms_norm_forward`] once more, from the scales that it kept: the same bits.
pub fn rms_norm_again(
    compute: &Compute,
    x: &[f32],
    weight: &[f32],
    scales: &[f32],
    out: &mut [f32],
    rounded: &mut [u16],
) {
    let block = BLOCK_ROWS * weight.len();
    for_each(compute, (Cut::new(out, block), Cut::of(rounded, block, x.len())), |index, (out, rounded)| {
        let scales = &scales[index * BLOCK_ROWS..][..out.len() / weight.len()];
        rows_again(compute.isa(), &x[index * block..][..out.len()], weight, scales, out);
        round(compute.isa(), out, rounded);
    });
}

/// Adds to `dx: (rows, width)` what [`rms_norm_forward`] leaves of `d_out`, and writes or, where `accumulate`, adds the
/// gradient of the weight to `d_weight: (width)`. `partials` holds `width` numbers for each [`BLOCK_ROWS`] rows begun.
#[allow(clippy::too_many_arguments, reason = "operands, results and scratch of one operation, each of another shape")]
pub fn rms_norm_backward(
    compute: &Compute,
    x: &[f32],
    weight: &[f32],
    scales: &[f32],
    d_out: &[f32],
    dx: &mut [f32],
    rounded: &mut [u16],
    d_weight: &mut [f32],
    accumulate: bool,
    partials: &mut [f32],
) {
    let width = weight.len();
    let block = BLOCK_ROWS * width;
    let partials = &mut partials[..scales.len().div_ceil(BLOCK_ROWS) * width];
    let parts = (Cut::new(dx, block), Cut::of(rounded, block, x.len()), Cut::new(partials, width));
    for_each(compute, parts, |index, (dx, rounded, partial)| {
        let at = index * block..index * block + dx.len();
        let scales = &scales[index * BLOCK_ROWS..][..dx.len() / width];
        partial.fill(0.0);
        rows_backward(compute.isa(), &x[at.clone()], weight, scales, &d_out[at], dx, partial);
        round(compute.isa(), dx, rounded);
    });
    add_partials(compute, partials, d_weight, accumulate);
}

for_each_isa! {
    fn rows_forward(x: &[f32], weight: &[f32], eps: f32, scales: &mut [f32], out: &mut [f32]) = rows_forward_body
}

#[inline(always)]
fn rows_forward_body(x: &[f32], weight: &[f32], eps: f32, scales: &mut [f32], out: &mut [f32]) {
    let width = weight.len();
    for ((x, out), scale) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(scales) {
        *scale = inverse_rms(x, eps);
        scaled(x, *scale, weight, out);
    }
}

for_each_isa! {
    fn rows_again(x: &[f32], weight: &[f32], scales: &[f32], out: &mut [f32]) = rows_again_body
}

#[inline(always)]
fn rows_again_body(x: &[f32], weight: &[f32], scales: &[f32], out: &mut [f32]) {
    let width = weight.len();
    for ((x, out), scale) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(scales) {
        scaled(x, *scale, weight, out);
    }
}

#[inline(always)]
fn scaled(x: &[f32], scale: f32, weight: &[f32], out: &mut [f32]) {
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * scale * weight;
    }
}

for_each_isa! {
    fn rows_backward(
        x: &[f32], weight: &[f32], scales: &[f32], d_out: &[f32], dx: &mut [f32], d_weight: &mut [f32],
    ) = rows_backward_body
}

#[inline(always)]
fn rows_backward_body(x: &[f32], weight: &[f32], scales: &[f32], d_out: &[f32], dx: &mut [f32], d_weight: &mut [f32]) {
    let width = weight.len();
    let rows = x.chunks_exact(width).zip(d_out.chunks_exact(width)).zip(dx.chunks_exact_mut(width));
    for (((x, d_out), dx), scale) in rows.zip(scales) {
        let along = dot3(x, d_out, weight) * scale * scale * scale / width as f32;
        let d_weight = &mut d_weight[..width];
        for i in 0..width {
            dx[i] += scale * weight[i] * d_out[i] - along * x[i];
            d_weight[i] += d_out[i] * x[i] * scale;
        }
    }
}

for_each_isa! {
    fn add_rows(x: &[f32], delta: &[f32], sum: &mut [f32]) = add_rows_body
}

#[inline(always)]
fn add_rows_body(x: &[f32], delta: &[f32], sum: &mut [f32]) {
    for ((sum, x), delta) in sum.iter_mut().zip(x).zip(delta) {
        *sum = x + delta;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        float::f32_to_bf16,
        isa::Isa,
        train::check::{numbers, slopes},
    };

    #[test]
    fn the_backward_pass_is_the_slope_of_the_forward_pass() {
        // More rows than a block, and a width that no vector divides.
        let (rows, width, eps) = (BLOCK_ROWS + 3, 19, 1e-5);
        let (x, weight, d_out) = (numbers(rows * width, 1), numbers(width, 2), numbers(rows * width, 3));
        for isa in Isa::available() {
            let compute = Compute::with_isa(isa, 2, 0);
            let (mut scales, mut out) = (vec![0.0; rows], vec![0.0; rows * width]);
            let mut rounded = vec![0; rows * width];
            rms_norm_forward(&compute, &x, &weight, eps, &mut scales, &mut out, &mut rounded);
            assert!(rounded.iter().zip(&out).all(|(rounded, out)| *rounded == f32_to_bf16(*out)));
            let mut again = vec![0.0; rows * width];
            rms_norm_again(&compute, &x, &weight, &scales, &mut again, &mut []);
            assert_eq!(again, out);

            let (mut dx, mut d_weight) = (vec![1.0; rows * width], vec![2.0; width]);
            let mut partials = vec![0.0; 2 * width];
            let mut rounded = vec![0; rows * width];
            let (to, norm) = (&mut dx, &mut d_weight);
            rms_norm_backward(&compute, &x, &weight, &scales, &d_out, to, &mut rounded, norm, true, &mut partials);
            assert!(rounded.iter().zip(&dx).all(|(rounded, dx)| *rounded == f32_to_bf16(*dx)));
            dx.iter_mut().for_each(|d| *d -= 1.0);
            d_weight.iter_mut().for_each(|d| *d -= 2.0);

            let loss = |x: &[f64], weight: &[f64]| -> f64 {
                let row = |row: usize| {
                    let x = &x[row * width..][..width];
                    let mean = x.iter().map(|x| x * x).sum::<f64>() / width as f64;
                    let scale = 1.0 / (mean + f64::from(eps)).sqrt();
                    (0..width).map(|i| x[i] * scale * weight[i] * f64::from(d_out[row * width + i])).sum::<f64>()
                };
                (0..rows).map(row).sum()
            };
            slopes(&[&x, &weight], |inputs| loss(&inputs[0], &inputs[1]), &[&dx, &d_weight]);
        }
    }

    #[test]
    fn a_sum_and_its_norm_in_one_pass_are_those_of_two() {
        let (rows, width) = (BLOCK_ROWS + 1, 24);
        let (x, delta, weight) = (numbers(rows * width, 1), numbers(rows * width, 2), numbers(width, 3));
        let compute = Compute::new(2, 0);
        let (mut sum, mut scales, mut out) = (vec![0.0; rows * width], vec![0.0; rows], vec![0.0; rows * width]);
        add_rms_norm_forward(&compute, &x, &delta, &weight, 1e-5, &mut sum, &mut scales, &mut out, &mut []);
        let want: Vec<f32> = x.iter().zip(&delta).map(|(x, delta)| x + delta).collect();
        assert_eq!(sum, want);
        let (mut want_scales, mut want_out) = (vec![0.0; rows], vec![0.0; rows * width]);
        rms_norm_forward(&compute, &want, &weight, 1e-5, &mut want_scales, &mut want_out, &mut []);
        assert_eq!((scales, out), (want_scales, want_out));
    }
}
