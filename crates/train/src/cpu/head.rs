//! The end of the model: final norm, head and cross-entropy, a few rows of logits at a time.

use dots_kernels::train::{
    Product, View,
    loss::cross_entropy,
    norm::{rms_norm_backward, rms_norm_forward},
    products,
};

use super::{
    buffers::{Scratch, head_rows},
    layer::{Pass, linear, through},
    parameters::Ends,
};
use crate::step::NO_TARGET;

/// What is learnt at the head.
pub(super) struct Learning<'a> {
    /// The final norm's and the head's are written or added.
    pub(super) gradients: Ends<&'a mut [f32]>,
    /// What a target's cross-entropy is multiplied with in the whole loss.
    pub(super) loss_scale: f32,
}

impl Pass<'_> {
    /// Sum of the targets' cross-entropies of `x: (rows, hidden)`, and how many targets there are. Where something is learnt,
    /// `scratch.d_x` becomes the gradient of `x`.
    pub(super) fn head(
        &self,
        weights: &Ends<&[f32]>,
        x: &[f32],
        targets: &[u32],
        scratch: &mut Scratch,
        learning: Option<Learning<'_>>,
    ) -> (f64, u64) {
        let (config, compute) = (self.config, self.compute);
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let head = &mut scratch.head;
        let mut n = 0;
        for (row, target) in targets.iter().enumerate().filter(|(_, target)| **target != NO_TARGET) {
            (head.rows[n], head.targets[n]) = (row as u32, *target);
            head.x[n * hidden..(n + 1) * hidden].copy_from_slice(&x[row * hidden..(row + 1) * hidden]);
            n += 1;
        }
        let rows_x = &head.x[..n * hidden];
        let scales = &mut head.scales[..n];
        let (normed, rounded) = scratch.normed.parts(n * hidden);
        rms_norm_forward(compute, rows_x, weights.final_norm, config.rms_norm_eps, scales, normed, rounded);
        let normed = scratch.normed.data(n * hidden);
        let table = View::new(weights.head, vocab, hidden);
        let d_normed = &mut scratch.d_normed[..n * hidden];
        let (mut gradients, loss_scale) = match learning {
            Some(learning) => (Some(learning.gradients), learning.loss_scale),
            None => (None, 1.0),
        };
        if let (0, false, Some(gradients)) = (n, self.accumulate, &mut gradients) {
            gradients.head.fill(0.0);
            gradients.final_norm.fill(0.0);
        }
        let tile = head_rows(config, x.len() / hidden);
        for start in (0..n).step_by(tile) {
            let rows = tile.min(n - start);
            let x = View::of(normed.slice(start * hidden..(start + rows) * hidden), rows, hidden);
            let (logits, rounded) = head.logits.parts(rows * vocab);
            products(compute, self.precision, &mut [linear(x, table, logits)]);
            let losses = &mut head.losses[start..start + rows];
            // Without gradients nobody takes them rounded.
            let rounded = if gradients.is_some() { rounded } else { &mut [] };
            cross_entropy(compute, logits, vocab, &head.targets[start..start + rows], loss_scale, losses, rounded);
            if let Some(gradients) = &mut gradients {
                let d_logits = head.logits.view(rows, vocab);
                let jobs = &mut [
                    through(d_logits, table, &mut d_normed[start * hidden..(start + rows) * hidden]),
                    Product {
                        a: d_logits.t(),
                        b: x,
                        out: &mut *gradients.head,
                        out_stride: hidden,
                        accumulate: self.accumulate || start > 0,
                    },
                ];
                products(compute, self.precision, jobs);
            }
        }
        if let Some(gradients) = gradients {
            let rows_d_x = &mut head.d_x[..n * hidden];
            rows_d_x.fill(0.0);
            let (norm, d_norm) = (weights.final_norm, gradients.final_norm);
            let partials = &mut scratch.partials;
            if n > 0 {
                let (rounded, accumulate) = (&mut [], self.accumulate);
                rms_norm_backward(
                    compute, rows_x, norm, scales, d_normed, rows_d_x, rounded, d_norm, accumulate, partials,
                );
            }
            let d_x = &mut scratch.d_x.exact[..x.len()];
            d_x.fill(0.0);
            for (row, from) in head.rows[..n].iter().zip(rows_d_x.chunks_exact(hidden)) {
                d_x[*row as usize * hidden..][..hidden].copy_from_slice(from);
            }
            scratch.d_x.round(compute, x.len());
        }
        (head.losses[..n].iter().map(|loss| f64::from(*loss)).sum(), n as u64)
    }
}
