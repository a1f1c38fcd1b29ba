//! Texts that no repetition reaches across, for DRY.

use std::{collections::VecDeque, fmt, sync::Arc};

use aho_corasick::{
    Anchored,
    automaton::{Automaton, StateID},
    nfa::contiguous::NFA,
};
use dots_model::tokenizer::Tokenizer;

/// What breaks repetitions where nobody says otherwise, as in llama.cpp.
pub const DEFAULT_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

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
/// it a pass over the vocabulary for each; in the tokens' text all are found at once, byte by byte.
#[derive(Clone)]
pub struct Breakers {
    texts: Vec<String>,
    /// `None` finds none.
    finder: Option<Arc<NFA>>,
    longest_bytes: usize,
    vocabulary: Arc<dyn TokenBytes>,
}

impl Breakers {
    /// Breakers of these texts; empty ones are none.
    pub fn new(texts: impl IntoIterator<Item = impl Into<String>>, vocabulary: Arc<dyn TokenBytes>) -> Self {
        let texts: Vec<String> = texts.into_iter().map(Into::into).filter(|text| !text.is_empty()).collect();
        // A text that ends in another needs no looking for: where it stands, the other begins later and ends there, too.
        // So at most one ends at any byte.
        let needless =
            |text: &String| texts.iter().any(|other| other.len() < text.len() && text.ends_with(other.as_str()));
        let mut looked_for: Vec<&String> = texts.iter().filter(|text| !needless(text)).collect();
        looked_for.sort_unstable();
        looked_for.dedup();
        let longest_bytes = looked_for.iter().map(|text| text.len()).max().unwrap_or(0);
        // It refuses only what has more states than fit 31 bits, which are less than the texts' bytes.
        let finder = (!texts.is_empty()).then(|| Arc::new(NFA::new(looked_for).expect("texts of less than 2 GiB")));
        Self { texts, finder, longest_bytes, vocabulary }
    }

    /// Whether token `id` has a breaker in it.
    pub(crate) fn are_in(&self, id: u32) -> bool {
        let Some(finder) = self.finder.as_deref() else { return false };
        let mut state = start(finder);
        self.vocabulary.token_bytes(id).iter().any(|&byte| {
            state = finder.next_state(Anchored::No, state, byte);
            finder.is_match(state)
        })
    }
}

fn start(finder: &NFA) -> StateID {
    finder.start_state(Anchored::No).expect("this kind of automaton has an unanchored start")
}

/// Where the last breaker stands in the tokens of one sequence. Each token is read once, when it comes, so that a step's
/// work does not grow with the text; what it says is a function of the tokens alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastBreaker {
    /// Tokens before this one have been read or can no longer matter.
    read_tokens: usize,
    read_bytes: usize,
    /// What of a breaker the bytes so far end with; `None` at the beginning.
    state: Option<StateID>,
    /// The tokens that a breaker which ends next may begin in, with the byte that each begins at. Those without bytes are not
    /// among them.
    near: VecDeque<(usize, usize)>,
    /// The last token that a breaker begins in, and the one that the longest of its breakers ends in.
    found: Option<(usize, usize)>,
}

impl LastBreaker {
    /// How many of `tokens` follow the breaker that begins last in `tokens[from..]`, or of those that begin in one token the
    /// one that ends last; all from `from` on where there is none.
    ///
    /// From call to call `tokens` only grows and `from` only rises; fewer tokens are read anew.
    pub fn tokens_since(&mut self, breakers: &Breakers, tokens: &[u32], from: usize) -> usize {
        if tokens.len() < self.read_tokens || self.read_tokens < from {
            *self = Self { read_tokens: from, ..Self::default() };
        }
        if let Some(finder) = breakers.finder.as_deref() {
            for (index, &id) in tokens.iter().enumerate().skip(self.read_tokens) {
                self.read(finder, breakers.longest_bytes, index, breakers.vocabulary.token_bytes(id));
            }
        }
        self.read_tokens = tokens.len();
        match self.found {
            Some((begin, end)) if begin >= from => tokens.len() - 1 - end,
            _ => tokens.len() - from,
        }
    }

    fn read(&mut self, finder: &NFA, longest_bytes: usize, index: usize, word: &[u8]) {
        if word.is_empty() {
            return;
        }
        // Of the tokens before, one may begin a breaker that ends here where it has one of the last `longest_bytes - 1`.
        let needed = (self.read_bytes + 1).saturating_sub(longest_bytes);
        while self.near.get(1).is_some_and(|&(_, next)| next <= needed) {
            self.near.pop_front();
        }
        self.near.push_back((index, self.read_bytes));
        let mut state = self.state.unwrap_or_else(|| start(finder));
        for &byte in word {
            state = finder.next_state(Anchored::No, state, byte);
            self.read_bytes += 1;
            if finder.is_match(state) {
                let begin = self.read_bytes - finder.pattern_len(finder.match_pattern(state, 0));
                let after = self.near.partition_point(|&(_, first)| first <= begin);
                let token = self.near[after - 1].0;
                if self.found.is_none_or(|(last, _)| last <= token) {
                    self.found = Some((token, index));
                }
            }
        }
        self.state = Some(state);
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
        LastBreaker::default().tokens_since(breakers, tokens, 0)
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
            before in 0usize..20,
            window in 1usize..40,
            chunk in 2usize..6,
        ) {
            let breakers = Breakers::new(texts.clone(), Arc::new(Words(&WORDS)));
            prop_assert_eq!(since(&breakers, &tokens), since_naively(&texts, &tokens));
            let far = [vec![6; before], tokens].concat();
            prop_assert_eq!(since(&breakers, &far), since_naively(&texts, &far));
            // A token at a time, and some at once; then after fewer than before.
            for step in [1, chunk] {
                let mut last = LastBreaker::default();
                for end in (0..far.len()).step_by(step).chain([far.len(), far.len() / 2, far.len()]) {
                    let from = end.saturating_sub(window);
                    let found = last.tokens_since(&breakers, &far[..end], from);
                    prop_assert_eq!(found, since_naively(&texts, &far[from..end]), "{} of {:?}", end, &far);
                }
            }
            for id in 0..8 {
                let word = WORDS.get(id).copied().unwrap_or_default();
                prop_assert_eq!(breakers.are_in(id as u32), texts.iter().any(|text| word.contains(text.as_str())));
            }
        }
    }
}
