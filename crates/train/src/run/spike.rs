//! When a loss is no longer believed.

use std::collections::VecDeque;

use crate::recipe::Spike;

/// Steps before anything is compared: the first losses fall fast and say little.
const LEAST: usize = 20;

/// The losses of the last steps.
#[derive(Debug)]
pub(super) struct Losses {
    last: VecDeque<f64>,
    window: usize,
}

impl Losses {
    /// None yet; the last `window` will be kept.
    pub(super) fn new(window: usize) -> Self {
        Self { last: VecDeque::new(), window }
    }

    pub(super) fn add(&mut self, loss: f64) {
        if self.last.len() == self.window {
            self.last.pop_front();
        }
        self.last.push_back(loss);
    }

    /// The most that the next loss may be; infinite while there are too few to say.
    pub(super) fn limit(&self, spike: &Spike) -> f64 {
        if !spike.on || self.last.len() < LEAST.min(self.window) {
            return f64::INFINITY;
        }
        let count = self.last.len() as f64;
        let mean = self.last.iter().sum::<f64>() / count;
        let deviation = (self.last.iter().map(|loss| (loss - mean).powi(2)).sum::<f64>() / count).sqrt();
        mean + (spike.deviations * deviation).max(spike.nats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_far_above_the_last_ones_is_a_spike_and_a_noisy_curve_is_none() {
        let spike = Spike { on: true, deviations: 8.0, nats: 1.0, window: 100 };
        let mut losses = Losses::new(spike.window);
        for step in 0..LEAST {
            assert_eq!(losses.limit(&spike), f64::INFINITY, "{step}");
            losses.add(3.0 + 0.01 * (step % 2) as f64);
        }
        assert!((losses.limit(&spike) - 4.005).abs() < 1e-9);
        assert_eq!(losses.limit(&Spike { on: false, ..spike }), f64::INFINITY);
        for step in 0..spike.window {
            losses.add(3.0 + (step % 2) as f64);
        }
        assert!((losses.limit(&spike) - 7.5).abs() < 1e-9, "{}", losses.limit(&spike));
        assert!((losses.limit(&Spike { deviations: 2.0, ..spike }) - 4.5).abs() < 1e-9);
    }
}
