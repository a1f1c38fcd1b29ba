//! Ids to text as they come.

use super::Tokenizer;

/// Decodes a stream of ids and never splits a character: bytes that end inside one wait for the rest.
///
/// What all calls return, joined, is what [`Tokenizer::decode`] returns for all ids at once. It owns nothing but the bytes
/// that wait, three at most, so that a sequence can keep it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detokenizer {
    waiting: Vec<u8>,
    has_special_tokens: bool,
}

impl Detokenizer {
    /// One in which special tokens have their text.
    pub fn with_special_tokens() -> Self {
        Self { has_special_tokens: true, ..Self::default() }
    }

    /// The text that `id` completes, empty while a character is unfinished. Special tokens give nothing, unless asked for.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if tokenizer.is_special(id) && !self.has_special_tokens {
            return String::new();
        }
        self.waiting.extend_from_slice(tokenizer.token_bytes(id));
        let mut text = String::new();
        let mut rest = self.waiting.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.waiting.clear();
                    return text;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(broken) = error.error_len() else {
                        self.waiting = after.to_vec();
                        return text;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[broken..];
                }
            }
        }
    }

    /// What still waits, an unfinished character as U+FFFD. The decoder is as new afterwards.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.waiting)).into_owned()
    }
}
