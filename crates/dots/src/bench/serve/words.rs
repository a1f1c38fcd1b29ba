//! Prompts of as many tokens as were asked for, made of English words.

use super::random::{Purpose, Random};

/// Common words: most vocabularies have each, with the space before it, as one token.
const WORDS: &str = "\
the of and to in is that for it was on are as with his they at be this have from or one had by but not what all were when we \
there can an your which their said if do will each about how up out them then she many some so these would other into has more \
her two like him see time could no make than first been its who now people my made over did down only way find use may water \
long little very after words called just where most know get through back much before go good new write our used me man too any \
day same right look think also around another came come work three word must because does part even place well such here take \
why things help put years different away again off went old number great tell men say small every found still between name \
should home big give air line set own under read last never us left end along while might next sound below saw something thought \
both few those always looked show large often together asked house world going want school important until form food keep \
children feet land side without boy once animals life enough took four head above kind began almost live page got earth need far \
hand high year mother light country father let night picture being study second soon story since white ever paper hard near \
sentence better best across during today however sure knew try told young sun thing whole hear example heard several change \
answer room sea against top turned learn point city play toward five himself usually money seen car morning body family later \
turn move face door cut done group true half red fish plants living black eat short run book gave order open ground cold really \
table remember tree course front American space inside ago sad early learned brought close nothing though idea lived became add \
become grow draw yet less wind behind cannot letter among able dog shown mean English rest perhaps certain six feel fire ready \
green built special ran full town complete oh person hot anything hold state list stood hundred ten fast felt kept notice strong";

/// What a word with the space before it takes where nobody counts: one token in the vocabularies of today.
const GUESSED: f64 = 1.0;
/// Most questions to a tokenizer: where a vocabulary has few of the words whole, their mean does.
const MOST_QUESTIONS: usize = 120;
/// As many words say as much as all do, and a prompt of fewer would repeat itself.
const ENOUGH_WORDS: usize = 64;

/// Makes prompts.
#[derive(Debug, Clone)]
pub struct Prompts {
    words: Vec<&'static str>,
    /// Of each word, with the space before it; on average where they differ.
    tokens_per_word: f64,
    /// How that is known.
    pub counted: Counted,
}

/// How the tokens of a prompt are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// The server's `/tokenize` says that every word is one.
    OneTokenWords,
    /// The server's `/tokenize` counted all words together.
    OnAverage,
    /// The server's `usage` of two prompts says what a word takes.
    ByUsage,
    /// Nobody counted.
    Guessed,
}

impl Counted {
    /// As people read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneTokenWords => "words of one token each, by the server's /tokenize",
            Self::OnAverage => "words of a known mean of tokens, by the server's /tokenize",
            Self::ByUsage => "words of a known mean of tokens, by the usage of two prompts",
            Self::Guessed => "guessed, a token a word",
        }
    }
}

impl Prompts {
    /// Prompts by guess.
    pub fn guessed() -> Self {
        Self { words: WORDS.split_whitespace().collect(), tokens_per_word: GUESSED, counted: Counted::Guessed }
    }

    /// Prompts by a tokenizer, which counts the tokens of a text, or `None` where there is none.
    pub async fn learn(mut count: impl AsyncFnMut(&str) -> Option<usize>) -> Self {
        let mut all: Vec<&'static str> = WORDS.split_whitespace().collect();
        let mut questions = 0;
        // Tokens of these words, without what stands before every text.
        let mut tokens_of = async |words: &[&str]| {
            questions += 1;
            if questions > MOST_QUESTIONS { None } else { count(&format!(" {}", words.join(" "))).await }
        };
        let (Some(one), Some(two)) = (tokens_of(&all[..1]).await, tokens_of(&[all[0]; 2]).await) else {
            return Self::guessed();
        };
        let before = (2 * one).saturating_sub(two);
        let Some(whole) = tokens_of(&all).await else { return Self::guessed() };
        let tokens_per_word = (whole.saturating_sub(before) as f64 / all.len() as f64).max(0.1);

        // Halves with other tokens than words are halved again, down to the words at fault. The list may repeat itself.
        all.sort_unstable();
        all.dedup();
        let mut whole_words = Vec::new();
        let mut parts = vec![all.as_slice()];
        while let Some(part) = parts.pop() {
            let Some(tokens) = tokens_of(part).await else { break };
            if tokens.saturating_sub(before) == part.len() {
                whole_words.extend_from_slice(part);
            } else if part.len() > 1 {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
        }
        if whole_words.len() >= ENOUGH_WORDS {
            Self { words: whole_words, tokens_per_word: 1.0, counted: Counted::OneTokenWords }
        } else {
            Self { words: all, tokens_per_word, counted: Counted::OnAverage }
        }
    }

    /// Prompts by the `usage` of two short ones, for a server without a tokenizer to ask: `count` gives the tokens of a prompt.
    pub async fn learn_from_usage(mut count: impl AsyncFnMut(&str) -> Option<usize>) -> Self {
        let all = Self::guessed();
        // From the common words to the rare, few enough for the shortest context.
        let some: Vec<&str> = all.words.iter().step_by(all.words.len() / ENOUGH_WORDS).copied().collect();
        let (Some(one), Some(whole)) = (count(some[0]).await, count(&some.join(" ")).await) else { return all };
        // What a template or the tokenizer puts around the text is in both.
        let tokens_per_word = whole.saturating_sub(one) as f64 / (some.len() - 1) as f64;
        Self { tokens_per_word: tokens_per_word.max(0.1), counted: Counted::ByUsage, ..all }
    }

    /// The prompt of request `index`.
    pub fn prompt(&self, seed: u64, index: usize, tokens: usize) -> String {
        self.text(Random::new(seed, Purpose::Words, index as u64), tokens)
    }

    /// What all prompts begin with.
    pub fn shared_prefix(&self, seed: u64, tokens: usize) -> String {
        self.text(Random::new(seed, Purpose::SharedPrefix, 0), tokens)
    }

    fn text(&self, mut random: Random, tokens: usize) -> String {
        let words = if tokens == 0 { 0 } else { ((tokens as f64 / self.tokens_per_word).round() as usize).max(1) };
        let mut text = String::with_capacity(6 * words);
        for word in 0..words {
            if word > 0 {
                text.push(' ');
            }
            text.push_str(self.words[random.between(0, self.words.len() - 1)]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime;

    fn learned(count: impl Fn(&str) -> Option<usize>) -> Prompts {
        let runtime = runtime::waiting().unwrap();
        runtime.block_on(Prompts::learn(async |text: &str| count(text)))
    }

    /// A vocabulary in which words with an `x` or a `w` are two tokens, and one stands before every text.
    fn some_words_are_two(text: &str) -> Option<usize> {
        Some(1 + text.split_whitespace().map(|word| if word.contains(['x', 'z']) { 2 } else { 1 }).sum::<usize>())
    }

    #[test]
    fn words_of_one_token_are_found_and_prompts_have_the_length_asked_for() {
        let prompts = learned(some_words_are_two);
        assert_eq!(prompts.counted, Counted::OneTokenWords);
        assert!(prompts.words.len() > 300, "{}", prompts.words.len());
        for tokens in [1, 7, 500] {
            assert_eq!(some_words_are_two(&prompts.prompt(1, 0, tokens)), Some(1 + tokens));
        }
    }

    #[test]
    fn a_vocabulary_without_the_words_is_met_on_average() {
        let letters = |text: &str| Some(text.len());
        let prompts = learned(letters);
        assert_eq!(prompts.counted, Counted::OnAverage);
        let tokens = letters(&prompts.prompt(1, 0, 5_000)).unwrap() as f64;
        assert!((tokens / 5_000.0 - 1.0).abs() < 0.06, "{tokens}");
    }

    #[test]
    fn without_a_tokenizer_two_prompts_say_what_a_word_takes() {
        // Four tokens of a template, and a token for every three bytes.
        let count = |text: &str| Some(4 + text.len() / 3);
        let runtime = runtime::waiting().unwrap();
        let prompts = runtime.block_on(Prompts::learn_from_usage(async |text: &str| count(text)));
        assert_eq!(prompts.counted, Counted::ByUsage);
        let tokens = count(&prompts.prompt(1, 0, 5_000)).unwrap() as f64;
        assert!((tokens / 5_000.0 - 1.0).abs() < 0.1, "{tokens}");
    }

    #[test]
    fn without_any_count_a_word_is_a_token() {
        let prompts = learned(|_| None);
        assert_eq!(prompts.counted, Counted::Guessed);
        assert_eq!(prompts.prompt(1, 0, 100).split(' ').count(), 100);
    }

    #[test]
    fn a_request_asks_the_same_whenever_and_each_something_else() {
        let prompts = Prompts::guessed();
        assert_eq!(prompts.prompt(1, 3, 50), prompts.prompt(1, 3, 50));
        assert_ne!(prompts.prompt(1, 3, 50), prompts.prompt(1, 4, 50));
        assert_ne!(prompts.prompt(1, 3, 50), prompts.prompt(2, 3, 50));
        assert_eq!(prompts.shared_prefix(1, 0), "");
    }
}
