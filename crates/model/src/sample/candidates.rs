//! Tokens in the order of their logits.

use std::cmp::Ordering;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub logit: f32,
    pub id: u32,
}

impl Candidate {
    pub fn best_first(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// The best candidate; none where every logit is NaN or negative infinity.
pub(super) fn best(logits: &[f32]) -> Option<Candidate> {
    let mut best = Candidate { logit: f32::NEG_INFINITY, id: 0 };
    for (id, &logit) in logits.iter().enumerate() {
        if logit > best.logit {
            best = Candidate { logit, id: id as u32 };
        }
    }
    (best.logit > f32::NEG_INFINITY).then_some(best)
}

/// Leaves the `count` best candidates in `candidates`, best first. One pass: what cannot be among the best any more is
/// turned away at the floor, and the rest is cut back to `count` each time it doubles.
pub(super) fn select_best(logits: &[f32], count: usize, candidates: &mut Vec<Candidate>) {
    fn cut(candidates: &mut Vec<Candidate>, count: usize) {
        if candidates.len() > count {
            candidates.select_nth_unstable_by(count - 1, Candidate::best_first);
            candidates.truncate(count);
        }
    }
    candidates.clear();
    if count == 0 {
        return;
    }
    let mut floor = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > floor {
            candidates.push(Candidate { logit: logit.min(f32::MAX) + 0.0, id: id as u32 });
            if candidates.len() / 2 == count {
                cut(candidates, count);
                floor = candidates[count - 1].logit;
            }
        }
    }
    cut(candidates, count);
    candidates.sort_unstable_by(Candidate::best_first);
}
