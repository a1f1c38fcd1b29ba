//! Sums whose order never depends on threads.

use super::cut::{Cut, for_each};
use crate::{compute::Compute, isa::for_each_isa};

/// Lanes that sums run in side by side.
pub(super) const LANES: usize = 16;

/// Columns that one thread adds up at a time.
const COLS: usize = 256;

/// `out (+)= Σ` of `partials: (blocks, width)` over blocks, in order.
pub(super) fn add_partials(compute: &Compute, partials: &[f32], out: &mut [f32], accumulate: bool) {
    let width = out.len();
    for_each(compute, Cut::new(out, COLS), |index, out| {
        add_columns(compute.isa(), partials, width, index * COLS, out, accumulate);
    });
}

for_each_isa! {
    fn add_columns(partials: &[f32], width: usize, first: usize, out: &mut [f32], accumulate: bool) = add_columns_body
}

#[inline(always)]
fn add_columns_body(partials: &[f32], width: usize, first: usize, out: &mut [f32], accumulate: bool) {
    if !accumulate {
        out.fill(0.0);
    }
    for partial in partials.chunks_exact(width) {
        for (out, x) in out.iter_mut().zip(&partial[first..]) {
            *out += x;
        }
    }
}

/// `Σ a · b · c`.
#[inline(always)]
pub(super) fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest), (c, c_rest)) =
        (a.as_chunks::<LANES>(), b.as_chunks::<LANES>(), c.as_chunks::<LANES>());
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i] * c[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).zip(c_rest).map(|((a, b), c)| a * b * c).sum();
    total(lanes) + rest
}

/// The lanes, added as a tree.
#[inline(always)]
pub(super) fn total<T: Copy + std::ops::AddAssign>(mut lanes: [T; LANES]) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            let other = lanes[i + half];
            lanes[i] += other;
        }
        half /= 2;
    }
    lanes[0]
}
