//! Where in a wide distribution a draw ends: found without sorting its candidates.

use super::{candidates::Candidate, filters::Scale};

/// Buckets of candidates, each of one range of probabilities.
const BUCKETS: usize = 4096;
/// Exponents below the best one's over which they spread; what is less likely shares the last.
const SPREAD: f32 = 32.0;

/// How much of the distribution lies how deep. A draw goes down the candidates, best first: whole buckets of them are passed
/// over, and only those of the one in which it ends are sorted. Two passes over the vocabulary, where sorting it takes
/// fifty.
#[derive(Debug, Default)]
pub(super) struct Depths {
    masses: Vec<f64>,
}

/// The logits that may be drawn.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    pub logits: &'a [f32],
    pub scale: Scale,
    pub min_p: f32,
}

impl Kept<'_> {
    /// The weight of a logit, where it is kept.
    pub fn weight(&self, logit: f32) -> Option<f32> {
        let weight = self.scale.weight(logit);
        (weight > 0.0 && weight >= self.min_p).then_some(weight)
    }

    /// In the order of the logits: equal ones share a bucket.
    fn bucket(&self, logit: f32) -> usize {
        let depth = -self.scale.exponent(logit) * (BUCKETS as f32 / SPREAD);
        // The least exponent is negative infinity.
        (depth as usize).min(BUCKETS - 1)
    }
}

impl Depths {
    /// Measures how deep the candidates lie.
    pub fn measure(&mut self, kept: Kept<'_>) {
        self.masses.clear();
        self.masses.resize(BUCKETS, 0.0);
        for &logit in kept.logits {
            if let Some(weight) = kept.weight(logit) {
                self.masses[kept.bucket(logit)] += f64::from(weight);
            }
        }
    }

    /// Goes down the candidates that were measured, best first, until the sum of their weights is enough: the last of them,
    /// and that sum. The least candidate where none is; `None` only where none is kept. `candidates` is scratch.
    pub fn descend(
        &self,
        kept: Kept<'_>,
        candidates: &mut Vec<Candidate>,
        is_enough: impl Fn(f64) -> bool,
    ) -> Option<(Candidate, f64)> {
        let (mut above, mut place) = (0.0, None);
        for (bucket, &mass) in self.masses.iter().enumerate().filter(|&(_, &mass)| mass > 0.0) {
            place = Some((bucket, above));
            if is_enough(above + mass) {
                break;
            }
            above += mass;
        }
        let (bucket, mut sum) = place?;
        candidates.clear();
        let ids = (0..).zip(kept.logits).filter(|&(_, &logit)| kept.bucket(logit) == bucket);
        candidates.extend(ids.map(|(id, &logit)| Candidate { logit, id }));
        candidates.sort_unstable_by(Candidate::best_first);
        let mut last = None;
        for &candidate in &*candidates {
            let Some(weight) = kept.weight(candidate.logit) else { break };
            sum += f64::from(weight);
            last = Some((candidate, sum));
            if is_enough(sum) {
                break;
            }
        }
        last
    }
}
