//! How often each piece stands in a text of any length, in bounded memory.

use std::collections::HashMap;

use crate::order::mix;

/// Memory of a piece beside its bytes.
const PIECE_BYTES: usize = 64;

/// Pieces and their counts.
///
/// Where the table is full, rare pieces go: one that stands fewer than τ times stays with a probability of count / τ, and counts τ
/// then, so that what stays stands for what went and no count is off in the mean (threshold sampling; Duffield, Lund and Thorup
/// 2005). A piece's own bytes are the chance, so the same texts leave the same table.
#[derive(Debug)]
pub(super) struct Counts {
    pieces: HashMap<Vec<u8>, u64>,
    bytes: usize,
    most_bytes: usize,
    /// τ, a power of two.
    threshold: u64,
    /// How often room was made.
    round: u64,
}

impl Counts {
    /// A table that takes `most_bytes`.
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { pieces: HashMap::new(), bytes: 0, most_bytes, threshold: 1, round: 0 }
    }

    /// Adds the counts of other texts.
    pub(super) fn add(&mut self, others: HashMap<Vec<u8>, u64>) {
        for (piece, count) in others {
            let bytes = piece.len() + PIECE_BYTES;
            *self.pieces.entry(piece).or_insert_with(|| {
                self.bytes += bytes;
                0
            }) += count;
        }
    }

    /// Makes room, where the table is full. To be called at places that depend on the texts only.
    pub(super) fn bound(&mut self) {
        if self.bytes <= self.most_bytes {
            return;
        }
        // What came since the last time may be all that has to go.
        while self.bytes > self.most_bytes / 2 {
            self.round += 1;
            let (threshold, round) = (self.threshold, self.round);
            self.pieces.retain(|piece, count| {
                let stays = *count >= threshold || chance(piece, round) & (threshold - 1) < *count;
                *count = (*count).max(threshold);
                stays
            });
            self.bytes = self.pieces.keys().map(|piece| piece.len() + PIECE_BYTES).sum();
            if self.bytes > self.most_bytes / 2 {
                self.threshold = self.threshold.saturating_mul(2);
            }
        }
    }

    /// Pieces and counts, in the order of their bytes.
    pub(super) fn into_sorted(self) -> Vec<(Vec<u8>, u64)> {
        let mut all: Vec<_> = self.pieces.into_iter().collect();
        all.sort_unstable();
        all
    }
}

fn chance(piece: &[u8], round: u64) -> u64 {
    piece.iter().fold(mix(round), |hash, &byte| mix(hash ^ u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_table_keeps_what_is_frequent_and_the_sum_of_what_is_not() {
        let mut counts = Counts::new(400_000);
        let batch = |nth: u64| {
            let rare = (0..1000).map(move |one| (format!("rare {}", nth * 1000 + one).into_bytes(), 1));
            rare.chain([(b"often".to_vec(), 500)]).collect::<HashMap<_, _>>()
        };
        for nth in 0..100 {
            counts.add(batch(nth));
            counts.bound();
            assert!(counts.bytes <= 400_000);
        }
        let all = counts.into_sorted();
        let often = all.iter().find(|(piece, _)| piece == b"often").unwrap().1;
        let rare: u64 = all.iter().filter(|(piece, _)| piece != b"often").map(|(_, count)| count).sum();
        assert_eq!(often, 50_000);
        assert!(rare.abs_diff(100_000) < 10_000, "{rare}");
    }
}
