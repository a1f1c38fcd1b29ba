//! A step's sequences, dealt to data ranks and cut into micro-batches.

use std::ops::Range;

use crate::step::{MicroBatch, NO_TOKEN, StepError};

/// Sequences of one length, one after the other.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    sequence_tokens: usize,
    tokens: Vec<u32>,
    attend_from: Vec<u32>,
    targets: Vec<u32>,
}

impl Sequences {
    pub(super) fn count(&self) -> usize {
        self.tokens.len().checked_div(self.sequence_tokens).unwrap_or(0)
    }

    pub(super) fn sequence_tokens(&self) -> usize {
        self.sequence_tokens
    }

    /// Tokens of all, padding left out.
    pub(super) fn tokens(&self) -> u64 {
        self.tokens.iter().filter(|token| **token != NO_TOKEN).count() as u64
    }

    pub(super) fn clear(&mut self) {
        self.tokens.clear();
        self.attend_from.clear();
        self.targets.clear();
    }

    /// Adds the sequences of `batch`, which has been checked. Those of a step are of one length, or could not be dealt evenly.
    pub(super) fn push(&mut self, batch: &MicroBatch<'_>) -> Result<(), StepError> {
        if !self.tokens.is_empty() && batch.sequence_tokens != self.sequence_tokens {
            return Err(StepError::Batch {
                field: "sequence_tokens",
                expected: format!("{}, as in the step's micro-batches before", self.sequence_tokens),
                found: batch.sequence_tokens.to_string(),
            });
        }
        self.sequence_tokens = batch.sequence_tokens;
        self.tokens.extend_from_slice(batch.tokens);
        self.attend_from.extend_from_slice(batch.attend_from);
        self.targets.extend_from_slice(batch.targets);
        Ok(())
    }

    /// Some of them.
    pub(super) fn some(&self, which: &Range<usize>) -> MicroBatch<'_> {
        let at = which.start * self.sequence_tokens..which.end * self.sequence_tokens;
        MicroBatch {
            sequence_tokens: self.sequence_tokens,
            tokens: &self.tokens[at.clone()],
            attend_from: &self.attend_from[at.clone()],
            targets: &self.targets[at],
        }
    }
}

/// `count` sequences in consecutive shares to `ranks`, each cut into as many micro-batches as the others, of at most `most` sequences, and a
/// multiple of `multiple` micro-batches. Shares and micro-batches differ by a sequence at most, and may be empty: `[rank][micro-batch]`.
pub(super) fn deal(count: usize, ranks: usize, most: usize, multiple: usize) -> Vec<Vec<Range<usize>>> {
    let micro_batches = count.div_ceil(ranks).div_ceil(most).max(1).next_multiple_of(multiple);
    let part = |whole: &Range<usize>, index: usize, of: usize| {
        let at = |index: usize| whole.start + whole.len() * index / of;
        at(index)..at(index + 1)
    };
    let shares = (0..ranks).map(|rank| part(&(0..count), rank, ranks));
    shares.map(|share| (0..micro_batches).map(|index| part(&share, index, micro_batches)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_is_dealt_once_in_order_and_evenly() {
        for count in 1..20 {
            for (ranks, most, multiple) in [(1, 4, 1), (2, 1, 1), (3, 2, 2), (4, 3, 4), (5, 7, 1)] {
                let dealt = deal(count, ranks, most, multiple);
                assert_eq!(dealt.len(), ranks);
                assert!(
                    dealt.iter().all(|share| share.len() == dealt[0].len() && share.len().is_multiple_of(multiple))
                );
                let all: Vec<usize> = dealt.iter().flatten().cloned().flatten().collect();
                assert_eq!(all, (0..count).collect::<Vec<_>>());
                assert!(dealt.iter().flatten().all(|batch| batch.len() <= most), "{dealt:?}");
                let share = |batches: &Vec<Range<usize>>| batches.iter().map(Range::len).sum::<usize>();
                assert!(dealt.iter().all(|batches| share(batches).abs_diff(count / ranks) <= 1));
            }
        }
    }
}
