//! Random numbers that depend on a seed, on what they are for, and on a request's number, and on nothing else: another rate
//! asks the same questions, and another number of requests begins with the same ones.

/// What numbers are drawn for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    Lengths = 1,
    Words = 2,
    Arrivals = 3,
    SharedPrefix = 4,
}

/// SplitMix64 (Steele, Lea and Flood, 2014), begun at a hash of its key.
#[derive(Debug, Clone)]
pub struct Random(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// The numbers of one request, or of the whole run where `index` is 0 for everyone.
    pub fn new(seed: u64, purpose: Purpose, index: u64) -> Self {
        let key = [seed, purpose as u64, index];
        Self(key.into_iter().fold(0, |state, part| mixed(state.wrapping_add(STEP) ^ mixed(part.wrapping_add(STEP)))))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mixed(self.0)
    }

    /// From 0 up to, and without, 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A whole number from `least` to `most`, both possible.
    pub fn between(&mut self, least: usize, most: usize) -> usize {
        let choices = (most - least) as u128 + 1;
        least + ((u128::from(self.next()) * choices) >> 64) as usize
    }

    /// Exponential with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Normal with mean 0 and variance 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(draw: impl FnMut() -> f64) -> (f64, f64) {
        let drawn: Vec<f64> = std::iter::repeat_with(draw).take(100_000).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        (mean, drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / drawn.len() as f64)
    }

    #[test]
    fn normal_and_exponential_numbers_have_their_moments() {
        let mut random = Random::new(7, Purpose::Lengths, 0);
        let (mean, variance) = moments(|| random.normal());
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
        let (mean, variance) = moments(|| random.exponential());
        assert!((mean - 1.0).abs() < 0.02 && (variance - 1.0).abs() < 0.06, "{mean} {variance}");
    }

    #[test]
    fn every_part_of_the_key_gives_other_numbers() {
        let firsts: std::collections::HashSet<u64> =
            [(1, Purpose::Words, 0), (2, Purpose::Words, 0), (1, Purpose::Lengths, 0), (1, Purpose::Words, 1)]
                .map(|(seed, purpose, index)| Random::new(seed, purpose, index).next())
                .into();
        assert_eq!(firsts.len(), 4);
    }

    #[test]
    fn both_ends_of_a_range_are_drawn() {
        let mut random = Random::new(0, Purpose::Words, 0);
        let drawn: std::collections::HashSet<usize> = (0..200).map(|_| random.between(3, 5)).collect();
        assert_eq!(drawn, [3, 4, 5].into());
    }
}
