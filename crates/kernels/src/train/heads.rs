//! What stands between the product with `q`, `k` and `v` and attention: the norms of heads, and RoPE.

use std::ops::Range;

use super::{
    BLOCK_ROWS, DataMut,
    attention::MAX_HEAD_DIM,
    cut::{Cut, for_each},
    number::{Number, copy},
    sum::{LANES, add_partials, dot3},
};
use crate::{RopeTable, compute::Compute, isa::for_each_isa, norm::inverse_rms};

/// What shapes all heads of a layer.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Positions of a sequence: row `i` is at position `i % sequence_tokens`.
    pub sequence_tokens: usize,
    /// Rotations of at least so many positions.
    pub rope: &'a RopeTable,
    /// Epsilon of the norms.
    pub eps: f32,
    /// `(head_dim)`: weight of the norm of each query head.
    pub q_norm: &'a [f32],
    /// `(head_dim)`: weight of the norm of each key head.
    pub k_norm: &'a [f32],
}

impl Heads<'_> {
    fn q_width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn kv_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Width of a row of `q`, `k` and `v` together.
    pub fn width(&self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
}

/// `q = rope(norm(qkv's first part))`, `k` the same of its second, `v` its third as it is.
///
/// `qkv: (rows, heads + 2 · kv_heads, head_dim)`; `q: (rows, heads, head_dim)`; `k, v: (rows, kv_heads, head_dim)`.
///
/// Panics unless `q`, `k` and `v` are of one type.
pub fn heads_forward(compute: &Compute, heads: &Heads<'_>, qkv: &[f32], out: [DataMut<'_>; 3]) {
    match out {
        [DataMut::F32(q), DataMut::F32(k), DataMut::F32(v)] => forward(compute, heads, qkv, [q, k, v]),
        [DataMut::Bf16(q), DataMut::Bf16(k), DataMut::Bf16(v)] => forward(compute, heads, qkv, [q, k, v]),
        _ => panic!("queries, keys and values of two types"),
    }
}

fn forward<N: Number>(compute: &Compute, heads: &Heads<'_>, qkv: &[f32], [q, k, v]: [&mut [N]; 3]) {
    let (width, q_width, kv_width) = (heads.width(), heads.q_width(), heads.kv_width());
    let parts =
        (Cut::new(q, BLOCK_ROWS * q_width), Cut::new(k, BLOCK_ROWS * kv_width), Cut::new(v, BLOCK_ROWS * kv_width));
    for_each(compute, parts, |index, (q, k, v)| {
        let rows = q.chunks_exact_mut(q_width).zip(k.chunks_exact_mut(kv_width)).zip(v.chunks_exact_mut(kv_width));
        for (row, ((q, k), v)) in rows.enumerate() {
            let row = index * BLOCK_ROWS + row;
            let angles = heads.rope.at(row % heads.sequence_tokens);
            let (from_q, rest) = qkv[row * width..][..width].split_at(q_width);
            let (from_k, from_v) = rest.split_at(kv_width);
            row_forward(compute.isa(), from_q, heads.q_norm, heads.eps, angles, q);
            row_forward(compute.isa(), from_k, heads.k_norm, heads.eps, angles, k);
            copy(compute.isa(), from_v, v);
        }
    });
}

/// The gradient of `qkv`, written over `d_qkv`, and of both norms' weights, written or, where `accumulate`, added.
/// `partials` holds `2 · head_dim` numbers for each [`BLOCK_ROWS`] rows begun, and `d_norms: (2, head_dim)` are those of `q_norm`
/// and `k_norm`.
#[allow(clippy::too_many_arguments, reason = "operands, results and scratch of one operation, each of another shape")]
pub fn heads_backward(
    compute: &Compute,
    heads: &Heads<'_>,
    qkv: &[f32],
    dq: &[f32],
    dk: &[f32],
    dv: &[f32],
    d_qkv: DataMut<'_>,
    d_norms: &mut [f32],
    accumulate: bool,
    partials: &mut [f32],
) {
    match d_qkv {
        DataMut::F32(d_qkv) => backward(compute, heads, qkv, [dq, dk, dv], d_qkv, d_norms, accumulate, partials),
        DataMut::Bf16(d_qkv) => backward(compute, heads, qkv, [dq, dk, dv], d_qkv, d_norms, accumulate, partials),
    }
}

#[allow(clippy::too_many_arguments, reason = "as `heads_backward`, for one type")]
fn backward<N: Number>(
    compute: &Compute,
    heads: &Heads<'_>,
    qkv: &[f32],
    [dq, dk, dv]: [&[f32]; 3],
    d_qkv: &mut [N],
    d_norms: &mut [f32],
    accumulate: bool,
    partials: &mut [f32],
) {
    assert!(heads.head_dim <= MAX_HEAD_DIM, "heads of {} numbers", heads.head_dim);
    let (width, q_width, kv_width) = (heads.width(), heads.q_width(), heads.kv_width());
    let partials = &mut partials[..(d_qkv.len() / width).div_ceil(BLOCK_ROWS) * 2 * heads.head_dim];
    let parts = (Cut::new(d_qkv, BLOCK_ROWS * width), Cut::new(partials, 2 * heads.head_dim));
    for_each(compute, parts, |index, (d_qkv, partial)| {
        partial.fill(0.0);
        let (d_q_norm, d_k_norm) = partial.split_at_mut(heads.head_dim);
        for (row, d_qkv) in d_qkv.chunks_exact_mut(width).enumerate() {
            let row = index * BLOCK_ROWS + row;
            let angles = heads.rope.at(row % heads.sequence_tokens);
            let (from_q, rest) = qkv[row * width..][..width].split_at(q_width);
            let from_k = &rest[..kv_width];
            let (to_q, rest) = d_qkv.split_at_mut(q_width);
            let (to_k, to_v) = rest.split_at_mut(kv_width);
            let (dq, dk) = (&dq[row * q_width..][..q_width], &dk[row * kv_width..][..kv_width]);
            row_backward(compute.isa(), from_q, heads.q_norm, heads.eps, angles, dq, to_q, d_q_norm);
            row_backward(compute.isa(), from_k, heads.k_norm, heads.eps, angles, dk, to_k, d_k_norm);
            copy(compute.isa(), &dv[row * kv_width..][..kv_width], to_v);
        }
    });
    add_partials(compute, partials, d_norms, accumulate);
}

for_each_isa! {
    fn row_forward<N: Number>(
        x: &[f32], weight: &[f32], eps: f32, angles: &[(f32, f32)], out: &mut [N],
    ) = row_forward_body
}

#[inline(always)]
fn row_forward_body<N: Number>(x: &[f32], weight: &[f32], eps: f32, angles: &[(f32, f32)], out: &mut [N]) {
    let half = angles.len();
    let (blocks, rest) = angles.as_chunks::<LANES>();
    for (x, out) in x.chunks_exact(2 * half).zip(out.chunks_exact_mut(2 * half)) {
        let scale = inverse_rms(x, eps);
        let (x, weight, out) = (x.split_at(half), weight.split_at(half), out.split_at_mut(half));
        for (block, angles) in blocks.iter().enumerate() {
            turn(block * LANES, angles, scale, x, weight, (&mut *out.0, &mut *out.1));
        }
        turn(half - rest.len(), rest, scale, x, weight, out);
    }
}

/// Norms and turns the numbers from `at` on of both halves of a head, one for each of `angles`. Where how many is a constant, as for whole
/// blocks of [`LANES`], the compiler needs no loop for what is left over.
#[inline(always)]
fn turn<N: Number>(
    at: usize,
    angles: &[(f32, f32)],
    scale: f32,
    x: (&[f32], &[f32]),
    weight: (&[f32], &[f32]),
    out: (&mut [N], &mut [N]),
) {
    let n = angles.len();
    let (low, high) = (&x.0[at..][..n], &x.1[at..][..n]);
    let (weight_low, weight_high) = (&weight.0[at..][..n], &weight.1[at..][..n]);
    let (out_low, out_high) = (&mut out.0[at..][..n], &mut out.1[at..][..n]);
    for i in 0..n {
        let (a, b) = (low[i] * scale * weight_low[i], high[i] * scale * weight_high[i]);
        let (cos, sin) = angles[i];
        out_low[i] = N::of(a * cos - b * sin);
        out_high[i] = N::of(b * cos + a * sin);
    }
}

for_each_isa! {
    fn row_backward<N: Number>(
        x: &[f32], weight: &[f32], eps: f32, angles: &[(f32, f32)], d_out: &[f32], dx: &mut [N], d_weight: &mut [f32],
    ) = row_backward_body
}

#[inline(always)]
fn row_backward_body<N: Number>(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    angles: &[(f32, f32)],
    d_out: &[f32],
    dx: &mut [N],
    d_weight: &mut [f32],
) {
    let half = angles.len();
    let width = 2 * half;
    let (blocks, rest) = angles.as_chunks::<LANES>();
    let mut turned = [0.0; MAX_HEAD_DIM];
    let turned = &mut turned[..width];
    for ((x, d_out), dx) in x.chunks_exact(width).zip(d_out.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
        // The rotation back, then the norm.
        let (d_out, back) = (d_out.split_at(half), turned.split_at_mut(half));
        for (block, angles) in blocks.iter().enumerate() {
            turn_back(block * LANES, angles, d_out, (&mut *back.0, &mut *back.1));
        }
        turn_back(half - rest.len(), rest, d_out, back);
        let scale = inverse_rms(x, eps);
        let along = dot3(x, turned, weight) * scale * scale * scale / width as f32;
        let whole = width - width % LANES;
        for at in (0..whole).step_by(LANES) {
            norm_back(at..at + LANES, x, weight, turned, scale, along, dx, d_weight);
        }
        norm_back(whole..width, x, weight, turned, scale, along, dx, d_weight);
    }
}

/// Turns `d_out` back, from `at` on, one number of each half for each of `angles`.
#[inline(always)]
fn turn_back(at: usize, angles: &[(f32, f32)], d_out: (&[f32], &[f32]), dx: (&mut [f32], &mut [f32])) {
    let n = angles.len();
    let (d_low, d_high) = (&d_out.0[at..][..n], &d_out.1[at..][..n]);
    let (dx_low, dx_high) = (&mut dx.0[at..][..n], &mut dx.1[at..][..n]);
    for i in 0..n {
        let (cos, sin) = angles[i];
        dx_low[i] = d_low[i] * cos + d_high[i] * sin;
        dx_high[i] = d_high[i] * cos - d_low[i] * sin;
    }
}

/// Back through the norm of a head, for the numbers in `range`: `d_out` is the gradient of what it gave, before the weight.
#[allow(clippy::too_many_arguments, reason = "the inner half of `row_backward`")]
#[inline(always)]
fn norm_back<N: Number>(
    range: Range<usize>,
    x: &[f32],
    weight: &[f32],
    d_out: &[f32],
    scale: f32,
    along: f32,
    dx: &mut [N],
    d_weight: &mut [f32],
) {
    let n = range.len();
    let (x, weight, d_out) = (&x[range.clone()], &weight[range.clone()], &d_out[range.clone()]);
    let (dx, d_weight) = (&mut dx[range.clone()], &mut d_weight[range]);
    for i in 0..n {
        d_weight[i] += d_out[i] * x[i] * scale;
        dx[i] = N::of(scale * weight[i] * d_out[i] - along * x[i]);
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
        let (rows, head_dim, sequence_tokens, eps) = (BLOCK_ROWS + 2, 6, 5, 1e-5);
        let rope = RopeTable::new(sequence_tokens, head_dim, 100.0);
        let (q_norm, k_norm) = (numbers(head_dim, 1), numbers(head_dim, 2));
        let heads = Heads {
            heads: 2,
            kv_heads: 1,
            head_dim,
            sequence_tokens,
            rope: &rope,
            eps,
            q_norm: &q_norm,
            k_norm: &k_norm,
        };
        let (width, q_width) = (heads.width(), heads.q_width());
        let qkv = numbers(rows * width, 3);
        let (dq, dk, dv) = (numbers(rows * q_width, 4), numbers(rows * head_dim, 5), numbers(rows * head_dim, 6));
        for isa in Isa::available() {
            let compute = Compute::with_isa(isa, 2, 0);
            let mut d_qkv = vec![7.0; rows * width];
            let (mut d_norms, mut partials) = (vec![7.0; 2 * head_dim], vec![0.0; 4 * head_dim]);
            let mut rounded = vec![0; d_qkv.len()];
            let to = DataMut::Bf16(&mut rounded);
            heads_backward(&compute, &heads, &qkv, &dq, &dk, &dv, to, &mut d_norms, false, &mut partials);
            let to = DataMut::F32(&mut d_qkv);
            heads_backward(&compute, &heads, &qkv, &dq, &dk, &dv, to, &mut d_norms, false, &mut partials);
            assert!(rounded.iter().zip(&d_qkv).all(|(rounded, d)| *rounded == f32_to_bf16(*d)));

            // The forward pass of the kernel itself is held to the same f64 pass that the slopes are taken of.
            let (mut q, mut k, mut v) = (vec![0.0; dq.len()], vec![0.0; dk.len()], vec![0.0; dv.len()]);
            let mut halves = [&q, &k, &v].map(|x| vec![0; x.len()]);
            heads_forward(&compute, &heads, &qkv, halves.each_mut().map(|x| DataMut::Bf16(x)));
            heads_forward(&compute, &heads, &qkv, [&mut q, &mut k, &mut v].map(|x| DataMut::F32(x)));
            let rounded = |x: &[f32]| x.iter().map(|x| f32_to_bf16(*x)).collect::<Vec<u16>>();
            assert_eq!(halves, [rounded(&q), rounded(&k), rounded(&v)]);
            let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let got = product(&q, &dq) + product(&k, &dk) + product(&v, &dv);

            let head = |x: &[f64], weight: &[f64], row: usize, d: &[f32]| -> f64 {
                let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / head_dim as f64 + f64::from(eps)).sqrt();
                let half = head_dim / 2;
                (0..half)
                    .map(|i| {
                        let (a, b) = (x[i] * scale * weight[i], x[i + half] * scale * weight[i + half]);
                        let angle = (row % sequence_tokens) as f64 * 100f64.powf(-(2.0 * i as f64) / head_dim as f64);
                        let (sin, cos) = angle.sin_cos();
                        (a * cos - b * sin) * f64::from(d[i]) + (b * cos + a * sin) * f64::from(d[i + half])
                    })
                    .sum()
            };
            let loss = |inputs: &[Vec<f64>]| -> f64 {
                let (q_norm, k_norm) = inputs[1].split_at(head_dim);
                (0..rows)
                    .map(|row| {
                        let x: Vec<&[f64]> = inputs[0][row * width..][..width].chunks(head_dim).collect();
                        head(x[0], q_norm, row, &dq[row * q_width..])
                            + head(x[1], q_norm, row, &dq[row * q_width + head_dim..])
                            + head(x[2], k_norm, row, &dk[row * head_dim..])
                            + (0..head_dim).map(|i| x[3][i] * f64::from(dv[row * head_dim + i])).sum::<f64>()
                    })
                    .sum()
            };
            let norms = [&q_norm[..], &k_norm].concat();
            let to_f64 = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
            assert!((got - loss(&[to_f64(&qkv), to_f64(&norms)])).abs() < 1e-3);
            slopes(&[&qkv, &norms], loss, &[&d_qkv, &d_norms]);
        }
    }
}
