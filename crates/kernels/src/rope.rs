//! Rotary position embedding in the NeoX form.

/// Cosines and sines of every position up to a length, computed in f64 and rounded once.
#[derive(Debug)]
pub struct RopeTable {
    /// `(positions, head_dim / 2)` of (cos, sin).
    angles: Vec<(f32, f32)>,
    half: usize,
}

impl RopeTable {
    /// A table for `positions` positions of heads of `head_dim` (even) with base `theta`.
    pub fn new(positions: usize, head_dim: usize, theta: f64) -> Self {
        let half = head_dim / 2;
        let frequencies: Vec<f64> = (0..half).map(|i| theta.powf(-(2.0 * i as f64) / head_dim as f64)).collect();
        // Taken at once: a vector that grows would hold twice what was planned.
        let mut angles = Vec::with_capacity(positions * half);
        angles.extend((0..positions).flat_map(|position| {
            frequencies.iter().map(move |frequency| {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                (cos as f32, sin as f32)
            })
        }));
        Self { angles, half }
    }

    /// Bytes that a table takes; `usize::MAX` where that is more.
    pub fn bytes(positions: usize, head_dim: usize) -> usize {
        positions.saturating_mul(head_dim / 2).saturating_mul(8)
    }

    /// `(head_dim / 2)` pairs of cosine and sine.
    pub fn at(&self, position: usize) -> &[(f32, f32)] {
        &self.angles[position * self.half..(position + 1) * self.half]
    }

    /// Rotates `head: (head_dim)` to `position`: halves are pairs.
    pub fn rotate(&self, position: usize, head: &mut [f32]) {
        let (low, high) = head.split_at_mut(self.half);
        for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(self.at(position)) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rotated_as_pairs() {
        let table = RopeTable::new(4, 4, 100.0);
        let mut head = [1.0, 2.0, 3.0, 4.0];
        table.rotate(3, &mut head);
        let (s0, c0) = 3f64.sin_cos();
        let (s1, c1) = 0.3f64.sin_cos();
        let want = [c0 - 3.0 * s0, 2.0 * c1 - 4.0 * s1, 3.0 * c0 + s0, 4.0 * c1 + 2.0 * s1];
        for (got, want) in head.iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-6);
        }
    }
}
