//! The end of a step: the gradient's norm, clipping, AdamW, and the balancing biases.

use std::{ops::Range, sync::Mutex};

use dots_kernels::{
    Compute,
    train::adamw::{AdamW, adamw, squares},
};

use super::{
    Optimizer,
    parameters::{Parameter, Parameters, STRETCH},
};
use crate::step::StepError;

/// Sum of the squares of all gradients that are owned and not frozen. One that is not finite is an error.
pub(super) fn gradient_squares(compute: &Compute, parameters: &Parameters) -> Result<f64, StepError> {
    let mut total = 0.0;
    for parameter in &parameters.table {
        for (part, _) in Parameters::owned_of(&parameters.owned, &parameter.learning()) {
            let gradients = &parameters.gradients[part];
            total += tensor_squares(compute, gradients);
            if !total.is_finite() {
                return Err(not_finite("gradient", &parameter.name, gradients));
            }
        }
    }
    Ok(total)
}

/// The first tensor of `numbers` with one that is not finite: its index, and the error.
pub(super) fn find_not_finite(what: &'static str, table: &[Parameter], numbers: &[f32]) -> Option<(usize, StepError)> {
    let broken = |parameter: &Parameter| numbers[parameter.range()].iter().any(|x| !x.is_finite());
    let index = table.iter().position(broken)?;
    Some((index, not_finite(what, &table[index].name, &numbers[table[index].range()])))
}

fn not_finite(what: &'static str, tensor: &str, numbers: &[f32]) -> StepError {
    let value = numbers.iter().copied().find(|x| !x.is_finite()).unwrap_or(f32::NAN);
    StepError::NotFinite { what, tensor: tensor.to_owned(), value: value.into() }
}

fn tensor_squares(compute: &Compute, numbers: &[f32]) -> f64 {
    // A small tensor is not worth waking anybody.
    if numbers.len() <= STRETCH {
        return squares(compute.isa(), numbers);
    }
    stretches(compute, numbers.len(), |range| squares(compute.isa(), &numbers[range]))
}

/// Adds up what `body` says of each stretch, in order.
fn stretches(compute: &Compute, len: usize, body: impl Fn(Range<usize>) -> f64 + Sync) -> f64 {
    /// Stretches in flight: their sums stand on the stack.
    const AT_ONCE: usize = 256;
    let mut total = 0.0;
    for first in (0..len).step_by(AT_ONCE * STRETCH) {
        let mut sums = [0.0f64; AT_ONCE];
        let count = (len - first).div_ceil(STRETCH).min(AT_ONCE);
        compute.for_each(&mut sums[..count], |index, sum| {
            let start = first + index * STRETCH;
            *sum = body(start..(start + STRETCH).min(len));
        });
        total += sums[..count].iter().sum::<f64>();
    }
    total
}

/// Updates every weight that is owned and not frozen; returns the sum of the squares of all that are owned.
pub(super) fn update(
    compute: &Compute,
    optimizer: &Optimizer,
    parameters: &mut Parameters,
    learning_rate: f64,
    gradient_norm: f64,
) -> f64 {
    parameters.updates += 1;
    let Parameters { table, weights, gradients, owned, first, second, updates, .. } = parameters;
    // Past this both corrections are one.
    let t = i32::try_from(*updates).unwrap_or(i32::MAX);
    let Optimizer { beta1, beta2, epsilon, weight_decay, clip } = *optimizer;
    let mut total = 0.0;
    for parameter in &*table {
        let learning = parameter.learning();
        for (part, _) in Parameters::owned_of(owned, &(parameter.start..learning.start)) {
            total += tensor_squares(compute, &weights[part]);
        }
        let step = AdamW {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            epsilon: epsilon as f32,
            keep: if parameter.decays() { (1.0 - learning_rate * weight_decay) as f32 } else { 1.0 },
            rate: (learning_rate / (1.0 - beta1.powi(t))) as f32,
            root_scale: (1.0 - beta2.powi(t)).sqrt().recip() as f32,
            gradient_scale: (clip / (gradient_norm + 1e-6)).min(1.0) as f32,
        };
        for (part, at) in Parameters::owned_of(owned, &learning) {
            let moments = at..at + part.len();
            let (weights, gradients) = (&mut weights[part.clone()], &gradients[part]);
            let (first, second) = (&mut first[moments.clone()], &mut second[moments]);
            total += update_tensor(compute, &step, weights, gradients, first, second);
        }
    }
    total
}

fn update_tensor(
    compute: &Compute,
    step: &AdamW,
    weights: &mut [f32],
    gradients: &[f32],
    first: &mut [f32],
    second: &mut [f32],
) -> f64 {
    if weights.len() <= STRETCH {
        return adamw(compute.isa(), step, gradients, weights, first, second);
    }
    // Each stretch of the four is locked by the one thread that updates it.
    let stretch = |(weights, first, second)| Mutex::new((weights, first, second));
    let parts: Vec<_> = weights
        .chunks_mut(STRETCH)
        .zip(first.chunks_mut(STRETCH))
        .zip(second.chunks_mut(STRETCH))
        .map(|((weights, first), second)| stretch((weights, first, second)))
        .collect();
    stretches(compute, gradients.len(), |range| {
        let mut part = parts[range.start / STRETCH].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (weights, first, second) = &mut *part;
        adamw(compute.isa(), step, &gradients[range], weights, first, second)
    })
}

/// Moves the biases of a layer's experts `balanced` towards their mean load (Wang et al., 2024).
pub(super) fn balance(biases: &mut [f32], loads: &[u64], balanced: Range<usize>, rate: f64) {
    let loads = &loads[balanced.clone()];
    let total: u64 = loads.iter().sum();
    for (bias, load) in biases[balanced].iter_mut().zip(loads) {
        // mean − load has the sign of total − experts · load, in whole numbers.
        *bias += match (load * loads.len() as u64).cmp(&total) {
            std::cmp::Ordering::Less => rate as f32,
            std::cmp::Ordering::Equal => 0.0,
            std::cmp::Ordering::Greater => -rate as f32,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_move_by_the_sign_of_what_is_missing_and_new_experts_wait() {
        let mut biases = [0.0; 4];
        balance(&mut biases, &[1, 2, 3, 100], 0..3, 0.5);
        assert_eq!(biases, [0.5, 0.0, -0.5, 0.0]);
        balance(&mut biases, &[1, 2, 3, 100], 0..4, 0.5);
        assert_eq!(biases, [1.0, 0.5, 0.0, -0.5]);
        balance(&mut biases, &[1, 2, 3, 100], 2..4, 0.5);
        assert_eq!(biases, [1.0, 0.5, 0.5, -1.0]);
        balance(&mut biases, &[1, 2, 3, 100], 4..4, 0.5);
        assert_eq!(biases, [1.0, 0.5, 0.5, -1.0], "nobody is balanced");
    }
}
