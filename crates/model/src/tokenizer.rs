//! Text to token ids and back.

use crate::{Error, checkpoint::TokenizerSource};

/// What special tokens written in a text mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// They are parsed into their ids, as in `/v1/completions`.
    Parse,
    /// They are text like any other, as in what a user says.
    AsText,
}

/// The tokenizer of one checkpoint.
#[derive(Debug)]
pub struct Tokenizer;

impl Tokenizer {
    /// Builds the tokenizer that a checkpoint describes.
    pub fn new(_source: &TokenizerSource) -> Result<Self, Error> {
        todo!()
    }

    /// Ids of `text`, with the BOS token only where the tokenizer's own files ask for one.
    pub fn encode(&self, _text: &str, _specials: Specials) -> Vec<u32> {
        todo!()
    }

    /// Text of `ids`, special tokens left out; ids without a token decode to nothing.
    pub fn decode(&self, _ids: &[u32]) -> String {
        todo!()
    }

    /// The bytes that `id` stands for: empty for an id without a token, the token's own text for a special one.
    pub fn token_bytes(&self, _id: u32) -> &[u8] {
        todo!()
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, _id: u32) -> bool {
        todo!()
    }

    /// Id of a token by its exact text (`<|response|>`).
    pub fn token_id(&self, _token: &str) -> Option<u32> {
        todo!()
    }

    /// Ids that exist: one more than the largest.
    pub fn vocab_size(&self) -> usize {
        todo!()
    }
}

/// Decodes a stream of ids and never splits a character: bytes that end inside one wait for the rest.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {}

impl Detokenizer {
    /// The text that `id` completes, empty while a character is unfinished. Special tokens give nothing.
    pub fn push(&mut self, _tokenizer: &Tokenizer, _id: u32) -> String {
        todo!()
    }

    /// What still waits, unfinished bytes as U+FFFD.
    pub fn finish(&mut self) -> String {
        todo!()
    }
}
