//! Which source each sequence of a phase comes from.
//!
//! At every moment each source has been taken as often as its share says, to within less than one sequence: the method of the largest
//! remainder at each prefix, in a way that never takes anything back. Source s of weight w among weights of the sum W has its k-th turn
//! between ⌊(k − 1) W / w⌋ and ⌈k W / w⌉, and whose turn must come first takes the next one (earliest deadline first, which keeps
//! all of them: Baruah, Cohen, Plaxton and Varvel 1996, "Proportionate progress").

/// Fewest sequences between two kept states, and most states.
const STRIDE: u64 = 64;
const MOST_STATES: u64 = 1 << 20;
/// Largest sum of weights: with 2⁶⁴ turns, products stay within 128 bits.
const MOST_WEIGHT: u128 = 1 << 62;

/// Shares of sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    /// Whole numbers without a common divisor.
    weights: Vec<u64>,
    /// Their sum, after which the pattern begins again.
    total: u64,
    /// Sequences between two kept states.
    stride: u64,
    /// `(states, sources)`: how often each source was taken before each of them.
    states: Vec<u64>,
}

impl Mixture {
    /// The pattern of `sequences` sequences for `weights`, which are at least zero and not all of them zero. Their decimal digits are
    /// taken as they are written: 0.7 is seven tenths.
    pub fn new(weights: &[f64], sequences: u64) -> Self {
        let weights = whole(weights);
        let total: u64 = weights.iter().sum();
        let needed = total.min(sequences.max(1));
        let stride = STRIDE.max(needed.div_ceil(MOST_STATES));
        let mut mixture = Self { weights, total, stride, states: Vec::new() };
        let mut turns = Turns::new(&mixture, &vec![0; mixture.weights.len()]);
        for index in 0..needed {
            if index.is_multiple_of(stride) {
                mixture.states.extend_from_slice(&turns.taken);
            }
            turns.next(&mixture, index);
        }
        mixture
    }

    /// The source of a phase's sequence `index`, and how many of the phase's sequences before it came from there.
    pub fn at(&self, index: u64) -> (usize, u64) {
        let (rounds, within) = (index / self.total, index % self.total);
        let mut turns = self.before(within);
        let source = turns.next(self, within);
        (source, rounds * self.weights[source] + turns.taken[source] - 1)
    }

    /// How many of a phase's first `sequences` come from `source`.
    pub fn taken(&self, source: usize, sequences: u64) -> u64 {
        let (rounds, within) = (sequences / self.total, sequences % self.total);
        rounds * self.weights[source] + self.before(within).taken[source]
    }

    /// The phase's sequence that is the `nth` of `source`; `None` where it is not among the first `sequences`.
    pub fn index_of(&self, source: usize, nth: u64, sequences: u64) -> Option<u64> {
        let (mut low, mut high) = (0, sequences);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.taken(source, middle + 1) > nth { high = middle } else { low = middle + 1 }
        }
        (low < sequences).then_some(low)
    }

    /// The state before sequence `within` of a pattern.
    fn before(&self, within: u64) -> Turns {
        let sources = self.weights.len();
        let state = (within / self.stride).min((self.states.len() / sources) as u64 - 1);
        let mut turns = Turns::new(self, &self.states[state as usize * sources..][..sources]);
        for index in state * self.stride..within {
            turns.next(self, index);
        }
        turns
    }
}

/// How far each source is.
struct Turns {
    taken: Vec<u64>,
    /// The first sequence that may be its next turn, and the one before which that must have come.
    windows: Vec<(u64, u64)>,
}

impl Turns {
    fn new(mixture: &Mixture, taken: &[u64]) -> Self {
        let windows = (0..taken.len()).map(|source| window(mixture, source, taken[source])).collect();
        Self { taken: taken.to_vec(), windows }
    }

    /// The source of sequence `index`.
    fn next(&mut self, mixture: &Mixture, index: u64) -> usize {
        let due = self.windows.iter().enumerate().filter(|(_, (from, _))| *from <= index);
        // There is always one: the shares of all turns that have begun sum to more than those that were taken.
        let source = due.min_by_key(|(_, (_, until))| *until).map_or(0, |(source, _)| source);
        self.taken[source] += 1;
        self.windows[source] = window(mixture, source, self.taken[source]);
        source
    }
}

fn window(mixture: &Mixture, source: usize, taken: u64) -> (u64, u64) {
    let (total, weight) = (u128::from(mixture.total), u128::from(mixture.weights[source]));
    if weight == 0 {
        return (u64::MAX, u64::MAX);
    }
    let fits = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
    (fits(u128::from(taken) * total / weight), fits(((u128::from(taken) + 1) * total).div_ceil(weight)))
}

/// Weights as whole numbers of the same shares. Digits past the eighteenth or so are rounded.
fn whole(weights: &[f64]) -> Vec<u64> {
    // The shortest text that reads to the same number is what was written.
    let digits: Vec<(u128, u32)> = weights
        .iter()
        .map(|weight| {
            let text = weight.to_string();
            let fraction = text.split_once('.').map_or(0, |(_, fraction)| fraction.len() as u32);
            (text.replace('.', "").parse().unwrap_or(u128::MAX >> 8), fraction)
        })
        .collect();
    let most = digits.iter().map(|(_, fraction)| *fraction).max().unwrap_or(0);
    let scaled = |drop: u32| {
        let one = |&(number, fraction): &(u128, u32)| {
            let missing = i64::from(most) - i64::from(fraction) - i64::from(drop);
            let power = 10u128.saturating_pow(missing.unsigned_abs().min(38) as u32);
            let scaled = if missing < 0 { (number + power / 2) / power } else { number.saturating_mul(power) };
            scaled.max(u128::from(number > 0))
        };
        digits.iter().map(one).collect::<Vec<u128>>()
    };
    let mut drop = 0;
    let mut whole = scaled(drop);
    while whole.iter().fold(0, |sum: u128, weight| sum.saturating_add(*weight)) > MOST_WEIGHT {
        drop += 1;
        whole = scaled(drop);
    }
    let divisor = whole.iter().fold(0, |a, b| common_divisor(a, *b)).max(1);
    whole.into_iter().map(|weight| (weight / divisor) as u64).collect()
}

fn common_divisor(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_has_the_shares_that_were_asked_for_to_within_a_sequence() {
        for weights in [
            vec![0.5, 0.5],
            vec![1.0, 2.0],
            vec![0.9, 0.1, 0.0],
            vec![1.0; 7],
            vec![0.37, 0.11, 0.29, 0.23],
            vec![0.9, 0.05, 0.02, 0.01, 0.01, 0.01],
            vec![0.3333333333333333, 0.6666666666666667],
            vec![1e-9, 1.0, 1e3],
            vec![1234.0, 17.5, 3.25],
        ] {
            let mixture = Mixture::new(&weights, 25_000);
            let total: f64 = weights.iter().sum();
            let mut taken = vec![0u64; weights.len()];
            // One after the other, as at() finds them by itself.
            let mut turns = Turns::new(&mixture, &taken);
            for index in 0..25_000u64 {
                if index.is_multiple_of(mixture.total) {
                    turns = Turns::new(&mixture, &vec![0; weights.len()]);
                }
                let source = turns.next(&mixture, index % mixture.total);
                if index % 97 == 0 {
                    assert_eq!(mixture.at(index), (source, taken[source]));
                    assert_eq!(mixture.index_of(source, taken[source], 25_000), Some(index));
                    (0..weights.len()).for_each(|source| assert_eq!(mixture.taken(source, index), taken[source]));
                }
                taken[source] += 1;
                for (source, &taken) in taken.iter().enumerate() {
                    let share = weights[source] / total * (index + 1) as f64;
                    assert!((taken as f64 - share).abs() < 1.0 + 1e-9, "{weights:?} {index}: {taken} {share}");
                }
            }
            let last = weights.len() - 1;
            assert_eq!(mixture.index_of(last, taken[last], 25_000), None);
        }
    }

    #[test]
    fn shares_are_the_digits_that_were_written() {
        assert_eq!(whole(&[0.7, 0.3]), [7, 3]);
        assert_eq!(whole(&[0.1, 0.2, 0.3]), [1, 2, 3]);
        assert_eq!(whole(&[2.0, 4.0]), [1, 2]);
        assert_eq!(whole(&[1e-9, 1e9]), [1, 1_000_000_000_000_000_000]);
        // Nothing drifts, however long a run is.
        let mixture = Mixture::new(&[0.7, 0.2, 0.1], 1 << 40);
        let sequences = 1_000_000_000_000_000;
        assert_eq!(
            [0, 1, 2].map(|source| mixture.taken(source, sequences)),
            [7, 2, 1].map(|tenths| sequences / 10 * tenths)
        );
    }
}
