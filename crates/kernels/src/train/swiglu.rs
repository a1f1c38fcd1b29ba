//! SwiGLU of rows, each weighted where experts are combined.

use super::{
    BLOCK_ROWS,
    cut::{Cut, for_each},
    sum::{LANES, total},
};
use crate::{compute::Compute, float::exp, isa::for_each_isa};

/// `out = weight · silu(gate) · up`.
///
/// `gate_up: (rows, 2 · width)`, gate first; `weights: (rows)` or none, which is 1 throughout; `out: (rows, width)`.
pub fn swiglu_forward(compute: &Compute, gate_up: &[f32], weights: Option<&[f32]>, width: usize, out: &mut [f32]) {
    for_each(compute, Cut::new(out, BLOCK_ROWS * width), |index, out| {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let row = index * BLOCK_ROWS + row;
            let weight = weights.map_or(1.0, |weights| weights[row]);
            row_forward(compute.isa(), &gate_up[row * 2 * width..][..2 * width], weight, out);
        }
    });
}

/// The gradients of [`swiglu_forward`], each in the place of what it is the gradient of: `gate_up` becomes its gradient, `d_out`
/// becomes once more what the forward pass gave (the product after it wants it for its own gradient), and `d_weights: (rows)`
/// is written where there are weights.
pub fn swiglu_backward(
    compute: &Compute,
    gate_up: &mut [f32],
    weights: Option<(&[f32], &mut [f32])>,
    width: usize,
    d_out: &mut [f32],
) {
    let rows = d_out.len() / width;
    let (weights, d_weights) = match weights {
        Some((weights, d_weights)) => (Some(weights), d_weights),
        None => (None, &mut [][..]),
    };
    let parts = (Cut::new(gate_up, BLOCK_ROWS * 2 * width), Cut::new(d_out, BLOCK_ROWS * width));
    let each = |index: usize, gate_up: &mut [f32], d_out: &mut [f32], d_weights: &mut [f32]| {
        let pairs = gate_up.chunks_exact_mut(2 * width).zip(d_out.chunks_exact_mut(width));
        for (row, (gate_up, d_out)) in pairs.enumerate() {
            let weight = weights.map_or(1.0, |weights| weights[index * BLOCK_ROWS + row]);
            let d_weight = row_backward(compute.isa(), gate_up, weight, d_out);
            if let Some(out) = d_weights.get_mut(row) {
                *out = d_weight;
            }
        }
    };
    if weights.is_some() {
        let parts = (parts.0, parts.1, Cut::new(&mut d_weights[..rows], BLOCK_ROWS));
        for_each(compute, parts, |index, (gate_up, d_out, d_weights)| each(index, gate_up, d_out, d_weights));
    } else {
        for_each(compute, parts, |index, (gate_up, d_out)| each(index, gate_up, d_out, &mut []));
    }
}

for_each_isa! {
    fn row_forward(gate_up: &[f32], weight: f32, out: &mut [f32]) = row_forward_body
}

#[inline(always)]
fn row_forward_body(gate_up: &[f32], weight: f32, out: &mut [f32]) {
    let (gate, up) = gate_up.split_at(out.len());
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        *out = activated(*gate, *up).1 * weight;
    }
}

for_each_isa! {
    fn row_backward(gate_up: &mut [f32], weight: f32, d_out: &mut [f32]) -> f32 = row_backward_body
}

#[inline(always)]
fn row_backward_body(gate_up: &mut [f32], weight: f32, d_out: &mut [f32]) -> f32 {
    let (gate, up) = gate_up.split_at_mut(d_out.len());
    let mut lanes = [0.0f32; LANES];
    let ((gate, gate_rest), (up, up_rest)) = (gate.as_chunks_mut::<LANES>(), up.as_chunks_mut::<LANES>());
    let (d_out, d_out_rest) = d_out.as_chunks_mut::<LANES>();
    for ((gate, up), d_out) in gate.iter_mut().zip(up).zip(d_out) {
        for i in 0..LANES {
            lanes[i] += number_backward(&mut gate[i], &mut up[i], weight, &mut d_out[i]);
        }
    }
    let mut rest = 0.0;
    for ((gate, up), d_out) in gate_rest.iter_mut().zip(up_rest).zip(d_out_rest) {
        rest += number_backward(gate, up, weight, d_out);
    }
    total(lanes) + rest
}

/// One number of a row; returns its share of the weight's gradient.
#[inline(always)]
fn number_backward(gate: &mut f32, up: &mut f32, weight: f32, d_out: &mut f32) -> f32 {
    let (sigmoid, product) = activated(*gate, *up);
    let d_weight = *d_out * product;
    let d = *d_out * weight;
    let silu = *gate * sigmoid;
    let d_gate = d * *up * (sigmoid + silu * (1.0 - sigmoid));
    *up = d * silu;
    *gate = d_gate;
    *d_out = product * weight;
    d_weight
}

/// `(sigmoid(gate), silu(gate) · up)`.
#[inline(always)]
fn activated(gate: f32, up: f32) -> (f32, f32) {
    let sigmoid = 1.0 / (1.0 + exp(-gate));
    (sigmoid, gate * sigmoid * up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        isa::Isa,
        train::check::{numbers, slopes},
    };

    #[test]
    fn the_backward_pass_is_the_slope_of_the_forward_pass() {
        let (rows, width) = (BLOCK_ROWS + 5, 21);
        let (gate_up, weights, d_out) = (numbers(rows * 2 * width, 1), numbers(rows, 2), numbers(rows * width, 3));
        let loss = |gate_up: &[f64], weights: &[f64]| -> f64 {
            let row = |row: usize| {
                let (gate, up) = gate_up[row * 2 * width..][..2 * width].split_at(width);
                let number = |i: usize| gate[i] / (1.0 + (-gate[i]).exp()) * up[i] * f64::from(d_out[row * width + i]);
                (0..width).map(number).sum::<f64>() * weights[row]
            };
            (0..rows).map(row).sum()
        };
        for isa in Isa::available() {
            let compute = Compute::with_isa(isa, 2, 0);
            let mut forward = vec![0.0; rows * width];
            swiglu_forward(&compute, &gate_up, Some(&weights), width, &mut forward);
            let (mut d_gate_up, mut d_weights, mut out) = (gate_up.clone(), vec![0.0; rows], d_out.clone());
            swiglu_backward(&compute, &mut d_gate_up, Some((&weights, &mut d_weights)), width, &mut out);
            assert_eq!(out, forward);
            slopes(&[&gate_up, &weights], |inputs| loss(&inputs[0], &inputs[1]), &[&d_gate_up, &d_weights]);

            // Without weights, as with weights of one.
            swiglu_forward(&compute, &gate_up, None, width, &mut forward);
            let (mut d_gate_up, mut out) = (gate_up.clone(), d_out.clone());
            swiglu_backward(&compute, &mut d_gate_up, None, width, &mut out);
            assert_eq!(out, forward);
            slopes(&[&gate_up], |inputs| loss(&inputs[0], &vec![1.0; rows]), &[&d_gate_up]);
        }
    }
}
