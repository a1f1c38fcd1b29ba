//! Learning rates over a phase.

use std::f64::consts::PI;

use crate::recipe::{Rate, Shape};

/// The share of the rate that a step of the warm-up has; `None` after it. The first step learns already, the last of the warm-up
/// with the whole rate.
pub fn warming(warmup_steps: u64, step_in_phase: u64) -> Option<f64> {
    (step_in_phase < warmup_steps).then(|| (step_in_phase + 1) as f64 / warmup_steps as f64)
}

impl Rate {
    /// The rate where `share` of the phase lies behind (0 to 1): `from` at 0, `to` at 1, so that one phase goes on where the one before
    /// would have ended.
    pub fn at(&self, share: f64) -> f64 {
        let Self { from, to, shape } = *self;
        match shape {
            Shape::Constant => from,
            Shape::Linear => from + (to - from) * share,
            Shape::Cosine => to + (from - to) * (1.0 + (PI * share).cos()) / 2.0,
            Shape::Exponential => from * (to / from).powf(share),
            // Hägele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training durations".
            Shape::Sqrt => from + (to - from) * share.sqrt(),
        }
    }
}
