//! Texts that no repetition reaches across, for DRY.

use std::{fmt, sync::Arc};

use dots_model::tokenizer::Tokenizer;

/// What breaks repetitions where nobody says otherwise, as in llama.cpp.
pub const DEFAULT_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// How many tokens back the last breaker is looked for at first, and then: nearly always there is one near.
const WIDTHS: [usize; 3] = [64, 1024, usize::MAX];

/// The bytes that ids stand for.
pub trait TokenBytes: Send + Sync {
    /// Empty for an id without a token.
    fn token_bytes(&self, id: u32) -> &[u8];
}

impl TokenBytes for Tokenizer {
    fn token_bytes(&self, id: u32) -> &[u8] {
        self.token_bytes(id)
    }
}

/// Texts that no repetition reaches across, wherever they stand in the tokens' own text: inside one token, or over several.
///
/// llama.cpp looks for the sequences of tokens that a text can be part of (`get_overlapping_token_sequences`), which takes
/// it a pass over the vocabulary for each; in the text of the last tokens they are found without one.
#[derive(Clone)]
pub struct Breakers {
    texts: Vec<String>,
    /// Whether a text begins with this byte.
    is_first: [bool; 256],
    vocabulary: Arc<dyn TokenBytes>,
}

impl Breakers {
    /// Breakers of these texts; empty ones are none.
    pub fn new(texts: impl IntoIterator<Item = impl Into<String>>, vocabulary: Arc<dyn TokenBytes>) -> Self {
        let texts: Vec<String> = texts.into_iter().map(Into::into).filter(|text| !text.is_empty()).collect();
        let mut is_first = [false; 256];
        for text in &texts {
            is_first[usize::from(text.as_bytes()[0])] = true;
        }
        Self { texts, is_first, vocabulary }
    }

    /// How many tokens follow the breaker that begins last in `tokens`, or of those that begin in one token the one that
    /// ends last; all of them where there is none. `text` is scratch memory.
    pub(crate) fn tokens_since_last(&self, tokens: &[u32], text: &mut Vec<u8>) -> usize {
        if self.texts.is_empty() {
            return tokens.len();
        }
        for width in WIDTHS {
            let looked_at = &tokens[tokens.len().saturating_sub(width)..];
            if let Some(since) = self.tokens_since_last_of(looked_at, text) {
                return since;
            }
            if looked_at.len() == tokens.len() {
                break;
            }
        }
        tokens.len()
    }

    fn tokens_since_last_of(&self, tokens: &[u32], text: &mut Vec<u8>) -> Option<usize> {
        text.clear();
        tokens.iter().for_each(|&id| text.extend_from_slice(self.vocabulary.token_bytes(id)));
        let mut start = text.len();
        for (since, &id) in tokens.iter().rev().enumerate() {
            let end = start;
            start -= self.vocabulary.token_bytes(id).len();
            if let Some(breaker_end) = (start..end).filter_map(|start| self.end_from(text, start)).max() {
                // What begins behind the breaker's end.
                let (mut tokens_after, mut end) = (since, end);
                while end < breaker_end {
                    end += self.vocabulary.token_bytes(tokens[tokens.len() - tokens_after]).len();
                    tokens_after -= 1;
                }
                return Some(tokens_after);
            }
        }
        None
    }

    /// Where the longest breaker that begins at `start` ends.
    fn end_from(&self, text: &[u8], start: usize) -> Option<usize> {
        if !self.is_first[usize::from(text[start])] {
            return None;
        }
        let found = self.texts.iter().filter(|breaker| text[start..].starts_with(breaker.as_bytes()));
        found.map(|breaker| start + breaker.len()).max()
    }

    /// Whether token `id` has a breaker in it.
    pub(crate) fn are_in(&self, id: u32) -> bool {
        let word = self.vocabulary.token_bytes(id);
        (0..word.len()).any(|start| self.end_from(word, start).is_some())
    }
}

impl fmt::Debug for Breakers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.texts).finish()
    }
}

impl PartialEq for Breakers {
    fn eq(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use dots_model::{Checkpoint, tokenizer::Specials};
    use proptest::prelude::*;

    use super::*;

    /// Ids of a few words; all others have no bytes.
    pub struct Words(pub &'static [&'static str]);

    impl TokenBytes for Words {
        fn token_bytes(&self, id: u32) -> &[u8] {
            self.0.get(id as usize).copied().unwrap_or_default().as_bytes()
        }
    }

    fn since(breakers: &Breakers, tokens: &[u32]) -> usize {
        breakers.tokens_since_last(tokens, &mut Vec::new())
    }

    #[test]
    fn a_breaker_is_found_however_its_text_is_cut_into_tokens() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/goldens/hf");
        let tokenizer = Tokenizer::new(Checkpoint::open(&golden).unwrap().tokenizer.as_ref().unwrap()).unwrap();
        let tokenizer = Arc::new(tokenizer);
        let breakers = Breakers::new(["\n", "User:", "中"], tokenizer.clone());
        let mut after = Vec::new();
        tokenizer.encode_into("free of it", Specials::AsText, &mut after);
        for text in ["a\n", "a.\n", "a\n\n\n", "User:", "superUser:", " User:", "x中", "a\nUser:", "User:\n"] {
            let mut tokens = Vec::new();
            tokenizer.encode_into(text, Specials::AsText, &mut tokens);
            tokens.extend(&after);
            assert_eq!(since(&breakers, &tokens), after.len(), "{text:?}");
            // The same far from it.
            tokens.extend(after.iter().cycle().take(2000));
            assert_eq!(since(&breakers, &tokens), after.len() + 2000, "{text:?}");
        }
        for text in ["User", "ser:", "a"] {
            let mut tokens = Vec::new();
            tokenizer.encode_into(text, Specials::AsText, &mut tokens);
            tokens.extend(&after);
            assert_eq!(since(&breakers, &tokens), tokens.len(), "{text:?}");
        }
    }

    const WORDS: [&str; 7] = ["a", "b", "ab", "ba", "aab", "", "c"];

    /// By the definition: the last token in which a breaker begins, and of those the one that ends last.
    fn since_naively(texts: &[String], tokens: &[u32]) -> usize {
        let text_of = |tokens: &[u32]| -> String { tokens.iter().map(|&id| WORDS[id as usize]).collect() };
        for (first, &id) in tokens.iter().enumerate().rev() {
            let text = text_of(&tokens[first..]);
            let begins = 0..WORDS[id as usize].len();
            let places = begins.flat_map(|begin| texts.iter().map(move |breaker| (begin, breaker)));
            let found = places.filter(|&(begin, breaker)| text[begin..].starts_with(breaker.as_str()));
            if let Some(end) = found.map(|(begin, breaker)| begin + breaker.len()).max() {
                let last = (first..tokens.len()).find(|&last| text_of(&tokens[first..=last]).len() >= end).unwrap();
                return tokens.len() - 1 - last;
            }
        }
        tokens.len()
    }

    proptest! {
        #[test]
        fn the_last_breaker_is_that_of_the_definition(
            texts in prop::collection::vec("[abc]{1,4}", 0..4),
            tokens in prop::collection::vec(0u32..7, 0..12),
            before in 0usize..200,
        ) {
            let breakers = Breakers::new(texts.clone(), Arc::new(Words(&WORDS)));
            prop_assert_eq!(since(&breakers, &tokens), since_naively(&texts, &tokens));
            let far = [vec![6; before], tokens].concat();
            prop_assert_eq!(since(&breakers, &far), since_naively(&texts, &far));
            for id in 0..8 {
                let word = WORDS.get(id).copied().unwrap_or_default();
                prop_assert_eq!(breakers.are_in(id as u32), texts.iter().any(|text| word.contains(text.as_str())));
            }
        }
    }
}
