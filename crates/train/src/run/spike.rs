//! When a loss is no longer believed.

use std::collections::VecDeque;

/// Steps that a loss is compared with.
pub(super) const WINDOW: usize = 100;
/// Steps before anything is compared: the first losses fall fast and say little.
const LEAST: usize = 20;
/// A spike is this many deviations above the mean of the window …
pub(super) const DEVIATIONS: f64 = 8.0;
/// … and at least this much above it, in nats: on a flat curve deviations are tiny.
pub(super) const LEAST_NATS: f64 = 1.0;

/// The losses of the last steps.
#[derive(Debug, Default)]
pub(super) struct Losses(VecDeque<f64>);

impl Losses {
    pub(super) fn add(&mut self, loss: f64) {
        if self.0.len() == WINDOW {
            self.0.pop_front();
        }
        self.0.push_back(loss);
    }

    /// The most that the next loss may be; infinite while there are too few to say.
    pub(super) fn limit(&self) -> f64 {
        if self.0.len() < LEAST {
            return f64::INFINITY;
        }
        let count = self.0.len() as f64;
        let mean = self.0.iter().sum::<f64>() / count;
        let deviation = (self.0.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / count).sqrt();
        mean + (DEVIATIONS * deviation).max(LEAST_NATS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_far_above_the_last_ones_is_a_spike_and_a_noisy_curve_is_none() {
        let mut losses = Losses::default();
        for step in 0..LEAST {
            assert_eq!(losses.limit(), f64::INFINITY, "{step}");
            losses.add(3.0 + 0.01 * (step % 2) as f64);
        }
        assert!((losses.limit() - 4.005).abs() < 1e-9);
        for step in 0..WINDOW {
            losses.add(3.0 + (step % 2) as f64);
        }
        assert!((losses.limit() - 7.5).abs() < 1e-9, "{}", losses.limit());
    }
}
