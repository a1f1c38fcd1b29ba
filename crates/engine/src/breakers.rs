//! Texts that no repetition reaches across, for DRY.

use dots_model::tokenizer::{Specials, Tokenizer};

/// What breaks repetitions where nobody says otherwise, as in llama.cpp.
pub const DEFAULT_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// Most tokens of a breaker that are looked at after its first, as in llama.cpp.
const MAX_TAIL_TOKENS: usize = 20;

/// Texts that no repetition reaches across, as the sequences of tokens that they can be part of.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Breakers {
    /// Sorted, each once, none empty.
    sequences: Vec<Vec<u32>>,
    /// One bit an id, least significant first: which ids a sequence begins with.
    heads: Vec<u64>,
}

impl Breakers {
    /// Breakers of these tokens. Empty sequences are none.
    pub fn new(mut sequences: Vec<Vec<u32>>) -> Self {
        sequences.retain(|sequence| !sequence.is_empty());
        sequences.sort_unstable();
        sequences.dedup();
        let words = sequences.last().map_or(0, |last| last[0] as usize / 64 + 1);
        let mut heads = vec![0; words];
        for sequence in &sequences {
            heads[sequence[0] as usize / 64] |= 1 << (sequence[0] % 64);
        }
        Self { sequences, heads }
    }

    /// Every way in which one of `texts` can stand in tokens, as llama.cpp finds them (`get_overlapping_token_sequences`):
    /// a token that holds the text, or one whose end is the text's beginning, followed by the tokens of its rest.
    ///
    /// It looks at the whole vocabulary.
    pub fn of_texts<'a>(texts: impl IntoIterator<Item = &'a str>, tokenizer: &Tokenizer) -> Self {
        let mut sequences = Vec::new();
        for text in texts.into_iter().filter(|text| !text.is_empty()) {
            for id in 0..tokenizer.vocab_size() as u32 {
                sequences_from(id, tokenizer.token_bytes(id), text, tokenizer, &mut sequences);
            }
        }
        Self::new(sequences)
    }

    /// How many tokens follow the last breaker in `tokens`; all of them where there is none.
    pub(crate) fn tokens_since_last(&self, tokens: &[u32]) -> usize {
        (0..tokens.len())
            .rev()
            .filter(|&start| self.has_head(tokens[start]))
            .find_map(|start| Some(tokens.len() - start - self.longest_at(&tokens[start..])?))
            .unwrap_or(tokens.len())
    }

    fn has_head(&self, id: u32) -> bool {
        self.heads.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1)
    }

    pub(crate) fn has_single(&self, id: u32) -> bool {
        self.has_head(id) && self.longest_at(&[id]).is_some()
    }

    /// Tokens of the longest sequence that `tokens` begin with.
    fn longest_at(&self, tokens: &[u32]) -> Option<usize> {
        let mut longest = None;
        // Those that begin with the first `depth` tokens, and are longer.
        let mut possible = self.sequences.as_slice();
        for (depth, &token) in tokens.iter().enumerate() {
            possible = &possible[possible.partition_point(|sequence| sequence[depth] < token)..];
            possible = &possible[..possible.partition_point(|sequence| sequence[depth] == token)];
            if possible.first().is_some_and(|first| first.len() == depth + 1) {
                longest = Some(depth + 1);
                possible = &possible[1..];
            }
            if possible.is_empty() {
                break;
            }
        }
        longest
    }
}

/// Appends the sequences that begin with token `id`, whose bytes are `word`, and hold `text`.
fn sequences_from(id: u32, word: &[u8], text: &str, tokenizer: &Tokenizer, sequences: &mut Vec<Vec<u32>>) {
    let bytes = text.as_bytes();
    if word.windows(bytes.len()).any(|window| window == bytes) {
        sequences.push(vec![id]);
        return;
    }
    let nearest = word.len().saturating_sub(bytes.len() - 1);
    for start in (nearest..word.len()).filter(|&start| bytes.starts_with(&word[start..])) {
        // A rest that begins inside a character is no text, and no tokenizer gives it tokens.
        if let Some(rest) = text.get(word.len() - start..) {
            let mut sequence = vec![id];
            tokenizer.encode_into(rest, Specials::AsText, &mut sequence);
            sequence.truncate(1 + MAX_TAIL_TOKENS);
            sequences.push(sequence);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use dots_model::Checkpoint;

    use super::*;

    #[test]
    fn the_last_breaker_counts_and_of_two_that_begin_there_the_longer() {
        let breakers = Breakers::new(vec![vec![5], vec![7, 8], vec![7, 8, 9], vec![], vec![5]]);
        let since = |tokens: &[u32]| breakers.tokens_since_last(tokens);
        assert_eq!(since(&[]), 0);
        assert_eq!(since(&[1, 2, 3]), 3);
        assert_eq!(since(&[1, 5, 3, 5, 2]), 1);
        assert_eq!(since(&[5, 7, 2]), 2, "only a part of one follows");
        assert_eq!(since(&[5, 7, 8, 2, 2]), 2);
        assert_eq!(since(&[5, 7, 8, 9, 2, 2]), 2);
        assert_eq!(since(&[7, 8, 9]), 0);
        assert_eq!(since(&[7, 7]), 2);
        assert!(breakers.has_single(5) && !breakers.has_single(7) && !breakers.has_single(u32::MAX));
        assert_eq!(Breakers::default().tokens_since_last(&[1, 2]), 2);
    }

    fn tokenizer() -> Tokenizer {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens/hf");
        Tokenizer::new(Checkpoint::open(&golden).unwrap().tokenizer.as_ref().unwrap()).unwrap()
    }

    #[test]
    fn a_breaker_is_found_however_its_text_is_cut_into_tokens() {
        let tokenizer = tokenizer();
        let breakers = Breakers::of_texts(["\n", "User:"], &tokenizer);
        let since = |text: &str, after: &str| {
            let mut tokens = Vec::new();
            tokenizer.encode_into(text, Specials::AsText, &mut tokens);
            let before = tokens.len();
            tokenizer.encode_into(after, Specials::AsText, &mut tokens);
            (breakers.tokens_since_last(&tokens), tokens.len() - before)
        };
        for text in ["a\n", "a.\n", "a\n\n\n", "User:", "superUser:", " User:"] {
            let (found, expected) = since(text, "free of it");
            assert_eq!(found, expected, "{text:?}");
        }
        let (found, after) = since("User", "free of it");
        assert!(found > after, "half of one is none");
    }
}
