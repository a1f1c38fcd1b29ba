//! Which pairs of tokens to merge: byte pair encoding (Sennrich et al. 2016).
//!
//! The pair that stands most often in the pieces becomes a token, again and again; of pairs that stand equally often the one of the
//! smallest ids. Counts are kept up to date where a merge changed something, and a heap finds the largest. The trainer of the
//! `tokenizers` library does the same with counts of 32 bits, which wrap on large corpora, and says nothing meanwhile.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

/// Longest token, in bytes: lines of dashes and what is copied from page to page are no words.
const MAX_TOKEN_BYTES: usize = 64;
/// A pair that stands once teaches nothing.
const LEAST_COUNT: u64 = 2;

type Pair = (u32, u32);

/// What was learnt.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Merges {
    /// Bytes of each id, those of one byte first.
    pub tokens: Vec<Vec<u8>>,
    /// The ids that join, the first first. Two pairs may make the same token.
    pub pairs: Vec<Pair>,
}

/// Learns until there are `vocab_size` tokens, or no pair stands twice. `bytes` are those of the first 256 ids; `pieces` and how often
/// each stands. `tell` is told how many tokens there are.
pub(super) fn learn(
    bytes: &[u8],
    pieces: impl Iterator<Item = (Vec<u8>, u64)>,
    vocab_size: usize,
    tell: &mut dyn FnMut(usize),
) -> Merges {
    let mut id_of = [0; 256];
    (0..).zip(bytes).for_each(|(id, &byte)| id_of[usize::from(byte)] = id);
    let mut words: Vec<Word> = pieces
        .map(|(piece, count)| Word { ids: piece.iter().map(|&byte| id_of[usize::from(byte)]).collect(), count })
        .collect();
    let mut tokens: Vec<Vec<u8>> = bytes.iter().map(|&byte| vec![byte]).collect();
    let mut known: HashMap<Vec<u8>, u32> = tokens.iter().cloned().zip(0..).collect();
    let mut pairs = Pairs::default();
    for (nth, word) in words.iter().enumerate() {
        word.ids.windows(2).for_each(|pair| pairs.add((pair[0], pair[1]), word.count, nth as u32));
    }
    pairs.risen = Vec::new();
    pairs.queue = pairs.found.iter().map(|(&pair, found)| (found.count, Reverse(pair))).collect();

    let mut learnt = Vec::new();
    while tokens.len() < vocab_size {
        let Some(pair) = pairs.most() else { break };
        let token = [&tokens[pair.0 as usize][..], &tokens[pair.1 as usize]].concat();
        let mut places = pairs.take(pair);
        if token.len() > MAX_TOKEN_BYTES {
            continue;
        }
        let id = *known.entry(token).or_insert_with_key(|token| {
            tokens.push(token.clone());
            (tokens.len() - 1) as u32
        });
        learnt.push(pair);
        places.sort_unstable();
        places.dedup();
        for place in places {
            words[place as usize].merge(pair, id, place, &mut pairs);
        }
        pairs.announce();
        tell(tokens.len());
    }
    Merges { tokens, pairs: learnt }
}

/// A piece as ids.
struct Word {
    ids: Vec<u32>,
    count: u64,
}

impl Word {
    /// Replaces `pair` by `id`, from left to right, and counts what its neighbours pair with now.
    fn merge(&mut self, pair: Pair, id: u32, place: u32, pairs: &mut Pairs) {
        let (mut to, mut at) = (0, 0);
        while at < self.ids.len() {
            if at + 1 == self.ids.len() || (self.ids[at], self.ids[at + 1]) != pair {
                self.ids[to] = self.ids[at];
                (to, at) = (to + 1, at + 1);
                continue;
            }
            if let Some(&before) = to.checked_sub(1).and_then(|before| self.ids.get(before)) {
                pairs.remove((before, pair.0), self.count);
                pairs.add((before, id), self.count, place);
            }
            if let Some(&after) = self.ids.get(at + 2) {
                pairs.remove((pair.1, after), self.count);
                pairs.add((id, after), self.count, place);
            }
            self.ids[to] = id;
            (to, at) = (to + 1, at + 2);
        }
        self.ids.truncate(to);
    }
}

#[derive(Default)]
struct Found {
    count: u64,
    /// Words in which it stands, or stood.
    places: Vec<u32>,
}

#[derive(Default)]
struct Pairs {
    found: HashMap<Pair, Found>,
    /// Counts as they were when they last rose; where one has sunk since, it is found out when its turn comes.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
    /// Pairs whose count may have risen.
    risen: Vec<Pair>,
}

impl Pairs {
    fn add(&mut self, pair: Pair, count: u64, place: u32) {
        let found = self.found.entry(pair).or_default();
        found.count += count;
        self.risen.push(pair);
        if found.places.last() != Some(&place) {
            found.places.push(place);
        }
    }

    /// Pairs that were taken are counted no longer.
    fn remove(&mut self, pair: Pair, count: u64) {
        if let Some(found) = self.found.get_mut(&pair) {
            found.count = found.count.saturating_sub(count);
        }
    }

    /// Puts what has risen into the queue.
    fn announce(&mut self) {
        self.risen.sort_unstable();
        self.risen.dedup();
        for pair in self.risen.drain(..) {
            if let Some(found) = self.found.get(&pair) {
                self.queue.push((found.count, Reverse(pair)));
            }
        }
    }

    /// The pair that stands most often.
    fn most(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            let now = self.found.get(&pair).map_or(0, |found| found.count);
            if now == count && count >= LEAST_COUNT {
                return Some(pair);
            }
            // Where it has risen, a later entry says so.
            if (LEAST_COUNT..count).contains(&now) {
                self.queue.push((now, Reverse(pair)));
            }
        }
        None
    }

    fn take(&mut self, pair: Pair) -> Vec<u32> {
        self.found.remove(&pair).map_or_else(Vec::new, |found| found.places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts everything anew for each merge.
    fn plain(bytes: &[u8], pieces: &[(Vec<u8>, u64)], vocab_size: usize) -> Merges {
        let id_of = |byte: u8| bytes.iter().position(|&other| other == byte).unwrap() as u32;
        let mut tokens: Vec<Vec<u8>> = bytes.iter().map(|&byte| vec![byte]).collect();
        let mut words: Vec<(Vec<u32>, u64)> =
            pieces.iter().map(|(piece, count)| (piece.iter().map(|&byte| id_of(byte)).collect(), *count)).collect();
        let mut pairs = Vec::new();
        while tokens.len() < vocab_size {
            let mut counts: HashMap<Pair, u64> = HashMap::new();
            for (ids, count) in &words {
                ids.windows(2).for_each(|both| *counts.entry((both[0], both[1])).or_default() += count);
            }
            let most = counts.into_iter().max_by_key(|&(pair, count)| (count, Reverse(pair)));
            let Some((pair, _)) = most.filter(|&(_, count)| count >= LEAST_COUNT) else { break };
            let token = [&tokens[pair.0 as usize][..], &tokens[pair.1 as usize]].concat();
            let id = tokens.iter().position(|other| *other == token).unwrap_or_else(|| {
                tokens.push(token);
                tokens.len() - 1
            });
            pairs.push(pair);
            for (ids, _) in &mut words {
                let mut at = 0;
                while at + 1 < ids.len() {
                    if (ids[at], ids[at + 1]) == pair {
                        ids.splice(at..at + 2, [id as u32]);
                    }
                    at += 1;
                }
            }
        }
        Merges { tokens, pairs }
    }

    #[test]
    fn the_merges_are_those_of_counting_everything_anew() {
        let bytes: Vec<u8> = (0..=255).rev().collect();
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for letters in [2, 3, 9] {
            let pieces: Vec<(Vec<u8>, u64)> = (0..60)
                .map(|_| ((0..1 + random(12)).map(|_| b'a' + random(letters) as u8).collect(), 1 + random(5)))
                .collect();
            let mut told = Vec::new();
            let found = learn(&bytes, pieces.iter().cloned(), 500, &mut |tokens| told.push(tokens));
            let want = plain(&bytes, &pieces, 500);
            assert!(want.pairs.len() > 40 && found == want, "{letters}");
            assert_eq!(told.last(), Some(&found.tokens.len()));
        }
    }

    #[test]
    fn counts_do_not_wrap_and_tokens_end() {
        let bytes: Vec<u8> = (0..=255).collect();
        let pieces = [(b"ab".to_vec(), 3 << 32), (b"cd".to_vec(), 1 << 32 | 7), (vec![b'-'; 1000], 1)];
        let found = learn(&bytes, pieces.into_iter(), 10_000, &mut |_| {});
        assert_eq!(found.tokens[256..258], [b"ab".to_vec(), b"cd".to_vec()]);
        assert_eq!(found.tokens.iter().map(Vec::len).max(), Some(MAX_TOKEN_BYTES));
    }
}
