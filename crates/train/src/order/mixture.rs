//! Which source each sequence of a phase comes from.

/// Sequences after which the pattern of sources begins again; shares are kept to one part in as many.
const PERIOD: usize = 10_000;

/// Shares of sources as a pattern. At every prefix each source has been taken as often as its rounded share says, to within one sequence
/// for two sources and two for many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    /// The source of each sequence of a period.
    pattern: Vec<u32>,
    /// `(PERIOD + 1, sources)`: how often each was taken before each.
    before: Vec<u32>,
    sources: usize,
}

impl Mixture {
    /// A pattern for `weights`, which are at least zero and not all of them zero. Their shares become whole parts of a period by the
    /// method of the largest remainder.
    pub fn new(weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let quotas: Vec<f64> = weights.iter().map(|weight| weight / total * PERIOD as f64).collect();
        let mut counts: Vec<u32> = quotas.iter().map(|quota| quota.floor() as u32).collect();
        let mut by_remainder: Vec<usize> = (0..weights.len()).filter(|&source| weights[source] > 0.0).collect();
        by_remainder.sort_by(|&a, &b| quotas[b].fract().total_cmp(&quotas[a].fract()).then(a.cmp(&b)));
        let missing = PERIOD as u32 - counts.iter().sum::<u32>();
        by_remainder.iter().cycle().take(missing as usize).for_each(|&source| counts[source] += 1);

        let sources = weights.len();
        let mut taken = vec![0u32; sources];
        let (mut pattern, mut before) = (Vec::with_capacity(PERIOD), Vec::with_capacity((PERIOD + 1) * sources));
        for index in 0..PERIOD as i64 {
            before.extend_from_slice(&taken);
            // Whoever is furthest behind its share, in whole parts so that no rounding decides.
            let behind =
                |source: usize| i64::from(counts[source]) * (index + 1) - i64::from(taken[source]) * PERIOD as i64;
            let next = (0..sources)
                .filter(|&source| taken[source] < counts[source])
                .max_by_key(|&source| (behind(source), std::cmp::Reverse(source)))
                .expect("the counts sum to a period");
            taken[next] += 1;
            pattern.push(next as u32);
        }
        before.extend_from_slice(&taken);
        Self { pattern, before, sources }
    }

    /// The source of a phase's sequence `index`, and how many of the phase's sequences before it came from there.
    pub fn at(&self, index: u64) -> (usize, u64) {
        let source = self.pattern[(index % PERIOD as u64) as usize] as usize;
        (source, self.taken(source, index))
    }

    /// How many of a phase's first `sequences` come from `source`.
    pub fn taken(&self, source: usize, sequences: u64) -> u64 {
        let of = |index: usize| u64::from(self.before[index * self.sources + source]);
        sequences / PERIOD as u64 * of(PERIOD) + of((sequences % PERIOD as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_has_the_shares_that_were_asked_for() {
        for weights in [vec![0.5, 0.5], vec![1.0, 2.0], vec![0.9, 0.1, 0.0], vec![1.0; 7], vec![0.37, 0.11, 0.29, 0.23]]
        {
            let mixture = Mixture::new(&weights);
            let total: f64 = weights.iter().sum();
            let most = if weights.len() == 2 { 1.0 } else { 2.0 };
            let mut taken = vec![0u64; weights.len()];
            for index in 0..25_000u64 {
                let (source, before) = mixture.at(index);
                assert_eq!(before, taken[source]);
                taken[source] += 1;
                for (source, &taken) in taken.iter().enumerate() {
                    let share = weights[source] / total * (index + 1) as f64;
                    let rounding = (index + 1) as f64 / PERIOD as f64;
                    assert!((taken as f64 - share).abs() < most + rounding, "{weights:?} {index}: {taken} {share}");
                    assert_eq!(mixture.taken(source, index + 1), taken);
                }
            }
        }
    }
}
