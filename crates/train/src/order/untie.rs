//! Documents tied in knots, so that a model learns to follow one over long distances: after "Untie the Knots" (Tian et al. 2024).
//!
//! The paper cuts documents into chunks and shuffles those of one sequence, so that what belongs together lies apart. What follows is ours:
//! chunks are cut at random places, the chunks of a document keep their order, there are no markers around them, and the last token of
//! a chunk predicts the next token of its document, wherever that lies. So every token of a document is predicted once, as without
//! knots, and what predicts it may attend to all that came before it.

use std::collections::BTreeSet;

use super::{Piece, mix};

/// Cuts each of a sequence's pieces into `chunks`, fewer where it has fewer tokens, and shuffles them; `key` is the chance.
pub(super) fn tie(pieces: &[Piece], chunks: usize, key: u64) -> Vec<Piece> {
    let mut state = key;
    let mut below = |bound: u64| {
        state = mix(state);
        state % bound.max(1)
    };
    let mut cut: Vec<std::vec::IntoIter<Piece>> = Vec::new();
    let mut turns = Vec::new();
    for (nth, piece) in pieces.iter().enumerate() {
        let count = (chunks as u64).min(piece.tokens).max(1);
        // Distinct places from 1 on, each as likely as any other (Floyd's algorithm).
        let mut ends = BTreeSet::from([piece.tokens]);
        for last in piece.tokens - count + 1..piece.tokens {
            let place = 1 + below(last);
            ends.insert(if ends.contains(&place) { last } else { place });
        }
        let starts = [0].into_iter().chain(ends.iter().copied());
        let parts = starts.zip(ends.iter().copied()).map(|(start, end)| Piece {
            offset: piece.offset + start,
            tokens: end - start,
            goes_on: piece.goes_on || end < piece.tokens,
            ..*piece
        });
        cut.push(parts.collect::<Vec<_>>().into_iter());
        turns.extend(std::iter::repeat_n(nth, ends.len()));
    }
    // Whose turn it is, shuffled (Fisher and Yates).
    for last in (1..turns.len()).rev() {
        turns.swap(last, below(last as u64 + 1) as usize);
    }
    turns.into_iter().filter_map(|nth| cut[nth].next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(document: usize, offset: u64, tokens: u64, goes_on: bool) -> Piece {
        Piece { source: 0, epoch: 0, shard: 0, document, offset, tokens, goes_on }
    }

    #[test]
    fn chunks_keep_every_token_and_the_order_of_their_document() {
        let pieces = [piece(4, 10, 30, true), piece(2, 0, 3, false), piece(7, 0, 50, false)];
        let mut orders = BTreeSet::new();
        for key in 0..200 {
            let tied = tie(&pieces, 5, key);
            assert_eq!(tied, tie(&pieces, 5, key));
            assert_eq!(tied.len(), 5 + 3 + 5);
            for whole in &pieces {
                let mut next = whole.offset;
                let chunks: Vec<&Piece> = tied.iter().filter(|chunk| chunk.document == whole.document).collect();
                for chunk in &chunks {
                    assert!(chunk.offset == next && chunk.tokens > 0);
                    next += chunk.tokens;
                    let last = next == whole.offset + whole.tokens;
                    assert_eq!(chunk.goes_on, if last { whole.goes_on } else { true });
                }
                assert_eq!(next, whole.offset + whole.tokens);
            }
            orders.insert(tied.iter().map(|chunk| chunk.document).collect::<Vec<_>>());
        }
        assert!(orders.len() > 190, "{}", orders.len());
    }
}
