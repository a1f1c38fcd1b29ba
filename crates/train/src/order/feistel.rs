//! A permutation of any number of things, without a table.

/// Rounds: with four a Feistel network over random functions cannot be told from a random permutation (Luby and Rackoff, 1988).
const ROUNDS: u64 = 4;

/// A permutation of `0..size` that its key decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permutation {
    size: u64,
    /// Bits of a half.
    half: u32,
    key: u64,
}

impl Permutation {
    /// The permutation of `0..size` of that key.
    pub fn new(size: u64, key: u64) -> Self {
        // Both halves are equally wide: the network permutes the next power of four, at most four times `size`.
        let bits = u64::BITS - size.saturating_sub(1).leading_zeros();
        Self { size, half: bits.div_ceil(2).max(1), key }
    }

    /// Where `index`, below the size, goes.
    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.size);
        let mut at = index;
        // Cycle walking: what lands outside is permuted on until it is inside, which keeps it a permutation of what is inside.
        loop {
            at = self.network(at);
            if at < self.size {
                return at;
            }
        }
    }

    /// What goes to `at`, below the size.
    pub fn index_of(&self, at: u64) -> u64 {
        debug_assert!(at < self.size);
        let mut index = at;
        loop {
            index = self.network_back(index);
            if index < self.size {
                return index;
            }
        }
    }

    fn network_back(&self, at: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (at >> self.half, at & mask);
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ (mix(left ^ mix(self.key.wrapping_add(round))) & mask), left);
        }
        left << self.half | right
    }

    fn network(&self, index: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (index >> self.half, index & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (mix(right ^ mix(self.key.wrapping_add(round))) & mask));
        }
        left << self.half | right
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_goes_somewhere_and_nothing_twice() {
        for size in (1..=70).chain([255, 256, 257, 1000, 65_537]) {
            for key in [0, 7] {
                let permutation = Permutation::new(size, key);
                let mut seen = vec![false; size as usize];
                for index in 0..size {
                    let at = permutation.at(index) as usize;
                    assert!(!std::mem::replace(&mut seen[at], true), "{size} {key}: {at} twice");
                    assert_eq!(permutation.index_of(at as u64), index);
                }
            }
        }
    }

    #[test]
    fn keys_give_orders_that_have_little_in_common_with_each_other_or_with_none() {
        let [a, b] = [1, 2].map(|key| Permutation::new(10_000, key));
        let same = |f: &dyn Fn(u64) -> u64| (0..10_000).filter(|&index| f(index) == a.at(index)).count();
        // One is expected by chance.
        assert!(same(&|index| b.at(index)) < 10 && same(&|index| index) < 10);
        let neighbours = (1..10_000).filter(|&index| a.at(index).abs_diff(a.at(index - 1)) == 1).count();
        assert!(neighbours < 12, "{neighbours}");
    }
}
