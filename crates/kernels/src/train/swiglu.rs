//! SwiGLU of rows, each weighted where experts are combined.

use super::{
    BLOCK_ROWS, DataMut,
    cut::{Cut, for_each},
    number::Number,
    sum::{LANES, total},
};
use crate::{compute::Compute, float::exp, isa::for_each_isa};

/// `out = weight · silu(gate) · up`.
///
/// `gate_up: (rows, 2 · width)`, gate first; `weights: (rows)` or none, which is 1 throughout; `out: (rows, width)`.
pub fn swiglu_forward(compute: &Compute, gate_up: &[f32], weights: Option<&[f32]>, width: usize, out: DataMut<'_>) {
    match out {
        DataMut::F32(out) => forward(compute, gate_up, weights, width, out),
        DataMut::Bf16(out) => forward(compute, gate_up, weights, width, out),
    }
}

fn forward<N: Number>(compute: &Compute, gate_up: &[f32], weights: Option<&[f32]>, width: usize, out: &mut [N]) {
    for_each(compute, Cut::new(out, BLOCK_ROWS * width), |index, out| {
        for (row, out) in out.chunks_exact_mut(width).enumerate() {
            let row = index * BLOCK_ROWS + row;
            let weight = weights.map_or(1.0, |weights| weights[row]);
            row_forward(compute.isa(), &gate_up[row * 2 * width..][..2 * width], weight, out);
        }
    });
}

/// The gradients of [`swiglu_forward`]: of `gate_up`, and of the weights where there are some: `(weights, their gradient)`. `out` becomes
/// once more what the forward pass gave, since the product after it wants it for its own gradient.
///
/// Panics unless `d_gate_up` and `out` are of one type.
pub fn swiglu_backward(
    compute: &Compute,
    gate_up: &[f32],
    weights: Option<(&[f32], &mut [f32])>,
    width: usize,
    d_out: &[f32],
    d_gate_up: DataMut<'_>,
    out: DataMut<'_>,
) {
    match (d_gate_up, out) {
        (DataMut::F32(d_gate_up), DataMut::F32(out)) => {
            backward(compute, gate_up, weights, width, d_out, d_gate_up, out);
        }
        (DataMut::Bf16(d_gate_up), DataMut::Bf16(out)) => {
            backward(compute, gate_up, weights, width, d_out, d_gate_up, out);
        }
        _ => panic!("a gradient and a result of two types"),
    }
}

fn backward<N: Number>(
    compute: &Compute,
    gate_up: &[f32],
    weights: Option<(&[f32], &mut [f32])>,
    width: usize,
    d_out: &[f32],
    d_gate_up: &mut [N],
    out: &mut [N],
) {
    let rows = d_out.len() / width;
    let (weights, d_weights) = match weights {
        Some((weights, d_weights)) => (Some(weights), d_weights),
        None => (None, &mut [][..]),
    };
    let parts = (
        Cut::new(d_gate_up, BLOCK_ROWS * 2 * width),
        Cut::new(out, BLOCK_ROWS * width),
        Cut::of(d_weights, BLOCK_ROWS, rows),
    );
    for_each(compute, parts, |index, (d_gate_up, out, d_weights)| {
        let pairs = d_gate_up.chunks_exact_mut(2 * width).zip(out.chunks_exact_mut(width));
        for (i, (d_gate_up, out)) in pairs.enumerate() {
            let row = index * BLOCK_ROWS + i;
            let weight = weights.map_or(1.0, |weights| weights[row]);
            let (gate_up, d_out) = (&gate_up[row * 2 * width..][..2 * width], &d_out[row * width..][..width]);
            let d_weight = row_backward(compute.isa(), gate_up, weight, d_out, d_gate_up, out);
            if let Some(out) = d_weights.get_mut(i) {
                *out = d_weight;
            }
        }
    });
}

for_each_isa! {
    fn row_forward<N: Number>(gate_up: &[f32], weight: f32, out: &mut [N]) = row_forward_body
}

#[inline(always)]
fn row_forward_body<N: Number>(gate_up: &[f32], weight: f32, out: &mut [N]) {
    let (gate, up) = gate_up.split_at(out.len());
    let ((gate, gate_rest), (up, up_rest)) = (gate.as_chunks::<LANES>(), up.as_chunks::<LANES>());
    let (out, out_rest) = out.as_chunks_mut::<LANES>();
    for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
        for i in 0..LANES {
            out[i] = N::of(activated(gate[i], up[i]).1 * weight);
        }
    }
    for ((out, gate), up) in out_rest.iter_mut().zip(gate_rest).zip(up_rest) {
        *out = N::of(activated(*gate, *up).1 * weight);
    }
}

for_each_isa! {
    fn row_backward<N: Number>(
        gate_up: &[f32], weight: f32, d_out: &[f32], d_gate_up: &mut [N], out: &mut [N],
    ) -> f32 = row_backward_body
}

#[inline(always)]
fn row_backward_body<N: Number>(
    gate_up: &[f32],
    weight: f32,
    d_out: &[f32],
    d_gate_up: &mut [N],
    out: &mut [N],
) -> f32 {
    let (gate, up) = gate_up.split_at(d_out.len());
    let (d_gate, d_up) = d_gate_up.split_at_mut(d_out.len());
    let mut lanes = [0.0f32; LANES];
    let ((gate, gate_rest), (up, up_rest)) = (gate.as_chunks::<LANES>(), up.as_chunks::<LANES>());
    let (d_out, d_out_rest) = d_out.as_chunks::<LANES>();
    let ((d_gate, d_gate_rest), (d_up, d_up_rest)) = (d_gate.as_chunks_mut::<LANES>(), d_up.as_chunks_mut::<LANES>());
    let (out, out_rest) = out.as_chunks_mut::<LANES>();
    let chunks = gate.iter().zip(up).zip(d_out).zip(d_gate.iter_mut().zip(d_up).zip(out));
    for (((gate, up), d_out), ((d_gate, d_up), out)) in chunks {
        for i in 0..LANES {
            let numbers = number_backward(gate[i], up[i], weight, d_out[i]);
            (d_gate[i], d_up[i], out[i]) = (N::of(numbers.0), N::of(numbers.1), N::of(numbers.2));
            lanes[i] += numbers.3;
        }
    }
    let mut rest = 0.0;
    for i in 0..d_out_rest.len() {
        let numbers = number_backward(gate_rest[i], up_rest[i], weight, d_out_rest[i]);
        (d_gate_rest[i], d_up_rest[i], out_rest[i]) = (N::of(numbers.0), N::of(numbers.1), N::of(numbers.2));
        rest += numbers.3;
    }
    total(lanes) + rest
}

/// The gradients of one number's gate and up, its result, and its share of the weight's gradient.
#[inline(always)]
fn number_backward(gate: f32, up: f32, weight: f32, d_out: f32) -> (f32, f32, f32, f32) {
    let (sigmoid, product) = activated(gate, up);
    let d = d_out * weight;
    let silu = gate * sigmoid;
    (d * up * (sigmoid + silu * (1.0 - sigmoid)), d * silu, product * weight, d_out * product)
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
        float::f32_to_bf16,
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
            swiglu_forward(&compute, &gate_up, Some(&weights), width, DataMut::F32(&mut forward));
            let (mut d_gate_up, mut d_weights, mut out) = (gate_up.clone(), vec![0.0; rows], d_out.clone());
            let both = Some((&weights[..], &mut d_weights[..]));
            let results = (DataMut::F32(&mut d_gate_up), DataMut::F32(&mut out));
            swiglu_backward(&compute, &gate_up, both, width, &d_out, results.0, results.1);
            assert_eq!(out, forward);

            // Rounded, the same numbers.
            let halves = |x: &[f32]| x.iter().map(|x| f32_to_bf16(*x)).collect::<Vec<u16>>();
            let mut rounded = vec![0; out.len()];
            swiglu_forward(&compute, &gate_up, Some(&weights), width, DataMut::Bf16(&mut rounded));
            assert_eq!(rounded, halves(&out));
            let (mut again, mut d_rounded) = (vec![0.0; rows], vec![0; gate_up.len()]);
            let both = Some((&weights[..], &mut again[..]));
            let results = (DataMut::Bf16(&mut d_rounded), DataMut::Bf16(&mut rounded));
            swiglu_backward(&compute, &gate_up, both, width, &d_out, results.0, results.1);
            assert_eq!((again, d_rounded, rounded), (d_weights.clone(), halves(&d_gate_up), halves(&out)));

            slopes(&[&gate_up, &weights], |inputs| loss(&inputs[0], &inputs[1]), &[&d_gate_up, &d_weights]);

            // Without weights, as with weights of one.
            swiglu_forward(&compute, &gate_up, None, width, DataMut::F32(&mut forward));
            let (mut d_gate_up, mut out) = (gate_up.clone(), d_out.clone());
            let results = (DataMut::F32(&mut d_gate_up), DataMut::F32(&mut out));
            swiglu_backward(&compute, &gate_up, None, width, &d_out, results.0, results.1);
            assert_eq!(out, forward);
            slopes(&[&gate_up], |inputs| loss(&inputs[0], &vec![1.0; rows]), &[&d_gate_up]);
        }
    }
}
