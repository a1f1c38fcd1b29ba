//! Cross-entropy of rows of logits.

use super::{
    cut::{Cut, for_each},
    sum::{LANES, total},
};
use crate::{
    compute::Compute,
    float::{exp, f32_to_bf16},
    isa::for_each_isa,
};

/// Rows that one thread takes at a time: a row may be a whole vocabulary.
const ROWS: usize = 4;

/// `losses: (rows)` become the cross-entropy of each row in nats, and `logits: (rows, vocab)` their gradient times `scale`:
/// `scale · (softmax(logits) − target)`. `targets: (rows)`, each below `vocab`.
///
/// Where `rounded: (rows, vocab)` is not empty, it takes the gradient in bf16, and what is left in `logits` means nothing.
pub fn cross_entropy(
    compute: &Compute,
    logits: &mut [f32],
    vocab: usize,
    targets: &[u32],
    scale: f32,
    losses: &mut [f32],
    rounded: &mut [u16],
) {
    let rounded = Cut::of(rounded, ROWS * vocab, logits.len());
    let parts = (Cut::new(logits, ROWS * vocab), Cut::new(losses, ROWS), rounded);
    for_each(compute, parts, |index, (logits, losses, rounded)| {
        let rows = logits.chunks_exact_mut(vocab).zip(losses).zip(&targets[index * ROWS..]);
        for (i, ((logits, loss), target)) in rows.enumerate() {
            let rounded = if rounded.is_empty() { &mut [][..] } else { &mut rounded[i * vocab..][..vocab] };
            *loss = row(compute.isa(), logits, *target as usize, scale, rounded);
        }
    });
}

for_each_isa! {
    fn row(logits: &mut [f32], target: usize, scale: f32, rounded: &mut [u16]) -> f32 = row_body
}

#[inline(always)]
fn row_body(logits: &mut [f32], target: usize, scale: f32, rounded: &mut [u16]) -> f32 {
    let top = top(logits);
    let at_target = logits[target];
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = logits.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - top);
            lanes[i] += chunk[i];
        }
    }
    let mut sum = 0.0;
    for x in rest {
        *x = exp(*x - top);
        sum += *x;
    }
    sum += total(lanes);
    let factor = scale / sum;
    if rounded.is_empty() {
        for x in logits.iter_mut() {
            *x *= factor;
        }
        logits[target] -= scale;
    } else {
        for (rounded, x) in rounded.iter_mut().zip(&*logits) {
            *rounded = f32_to_bf16(x * factor);
        }
        rounded[target] = f32_to_bf16(logits[target] * factor - scale);
    }
    top + sum.ln() - at_target
}

#[inline(always)]
fn top(logits: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = lanes[i].max(chunk[i]);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        isa::Isa,
        train::check::{numbers, slopes},
    };

    #[test]
    fn the_backward_pass_is_the_slope_of_the_loss() {
        let (rows, vocab, scale) = (ROWS + 1, 37, 0.25);
        let logits: Vec<f32> = numbers(rows * vocab, 1).iter().map(|x| 5.0 * x).collect();
        let targets = [0, 36, 5, 5, 17];
        let loss = |row: usize, logits: &[f64]| -> f64 {
            let logits = &logits[row * vocab..][..vocab];
            logits.iter().map(|x| x.exp()).sum::<f64>().ln() - logits[targets[row] as usize]
        };
        let as_f64: Vec<f64> = logits.iter().map(|x| f64::from(*x)).collect();
        for isa in Isa::available() {
            let compute = Compute::with_isa(isa, 2, 0);
            let (mut d_logits, mut losses) = (logits.clone(), vec![0.0; rows]);
            let (mut again, mut rounded) = (logits.clone(), vec![0; rows * vocab]);
            cross_entropy(&compute, &mut again, vocab, &targets, scale, &mut losses, &mut rounded);
            let want = losses.clone();
            cross_entropy(&compute, &mut d_logits, vocab, &targets, scale, &mut losses, &mut []);
            assert_eq!(losses, want);
            assert!(rounded.iter().zip(&d_logits).all(|(rounded, d)| *rounded == f32_to_bf16(*d)));
            for (row, got) in losses.iter().enumerate() {
                assert!((f64::from(*got) - loss(row, &as_f64)).abs() < 1e-5);
            }
            let all = |inputs: &[Vec<f64>]| (0..rows).map(|row| loss(row, &inputs[0])).sum::<f64>() * f64::from(scale);
            slopes(&[&logits], all, &[&d_logits]);
        }
    }

    #[test]
    fn a_row_that_is_not_a_number_has_a_loss_that_is_none() {
        let compute = Compute::new(1, 0);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut logits = numbers(40, 1);
            logits[7] = bad;
            let mut loss = [0.0];
            cross_entropy(&compute, &mut logits, 40, &[3], 1.0, &mut loss, &mut []);
            assert!(loss[0].is_nan(), "{bad}: {loss:?}");
        }
    }
}
