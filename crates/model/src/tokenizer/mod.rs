//! Text to token ids and back.
//!
//! A dots.llm1 reads byte-level BPE: text is normalised (NFC), cut by a regular expression, spelt in the byte-level
//! alphabet and merged. Added tokens stand beside that vocabulary: *special* ones steer the model and can be read as
//! plain text instead ([`Specials::AsText`]); the others are part of the text's own alphabet and always match.
//!
//! The files come from strangers, so only the parts that such a tokenizer is made of are accepted, and everything that
//! `tokenizers` would index, allocate or slice by is checked before it gets there.

mod added;
mod bytes;
mod gguf;
mod json;
mod parts;
mod pieces;
mod stream;
mod vocabulary;

use std::collections::HashMap;

use tokenizers::{
    Model as _, NormalizerWrapper, PreTokenizer as _, PreTokenizerWrapper, models::bpe::BPE, tokenizer::OffsetType,
};

use self::{added::Added, bytes::TokenBytes, parts::Parts};
use crate::{Error, checkpoint::TokenizerSource};

pub use self::{pieces::Pieces, stream::Detokenizer, vocabulary::Vocabulary};

/// What special tokens written in a text mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// They are parsed into their ids, as in `/v1/completions`.
    Parse,
    /// They are text like any other, as in what a user says.
    AsText,
}

/// A stretch of text as [`Tokenizer::split_specials`] cuts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// A special token, and the text that it takes, white space around it included where the token strips that.
    Special(u32, &'a str),
    /// Text between special tokens.
    Text(&'a str),
}

/// The tokenizer of one checkpoint.
pub struct Tokenizer {
    model: BPE,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    /// Every added token.
    all: Added,
    /// The added tokens that are not special.
    ordinary: Added,
    /// The special tokens alone, matched before normalisation as [`Tokenizer::split_specials`] needs it.
    special: Added,
    added_ids: HashMap<String, u32>,
    bytes: TokenBytes,
    /// Ids that the files put before and after every text.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("added", &self.added_ids.len())
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// The parts that a checkpoint's files describe.
fn read(source: &TokenizerSource) -> Result<Parts, Error> {
    match source {
        TokenizerSource::HuggingFace { path, tokenizer, config } => {
            json::read(path, tokenizer, config.as_ref()).map_err(|wrong| wrong.at(path))
        }
        TokenizerSource::Gguf { path, pre, tokens, types, merges, bos } => {
            gguf::read(pre, tokens, types, merges, *bos).map_err(|wrong| wrong.at(path))
        }
    }
}

impl Tokenizer {
    /// Builds the tokenizer that a checkpoint describes. Fails with [`Error::Invalid`] where its files name something
    /// that a byte-level BPE does not have, or contradict themselves.
    pub fn new(source: &TokenizerSource) -> Result<Self, Error> {
        let parts = read(source)?;
        let (TokenizerSource::HuggingFace { path, .. } | TokenizerSource::Gguf { path, .. }) = source;
        Self::from_parts(parts).map_err(|wrong| wrong.at(path))
    }

    fn from_parts(parts: Parts) -> Result<Self, parts::Wrong> {
        let bytes = TokenBytes::new(&parts.vocab, &parts.added);
        let added_ids = parts.added.iter().map(|added| (added.token.content.clone(), added.id)).collect();
        let normalizer = parts.normalizer.as_ref();
        let all = Added::new(parts.added.iter(), normalizer)?;
        let ordinary = Added::new(parts.added.iter().filter(|added| !added.token.special), normalizer)?;
        let special = Added::new(parts.added.iter().filter(|added| added.token.special), None)?;
        let model = parts::build_bpe(parts.vocab, parts.merges, parts.ignore_merges)?;
        Ok(Self {
            model,
            normalizer: parts.normalizer,
            pre_tokenizer: parts.pre_tokenizer,
            all,
            ordinary,
            special,
            added_ids,
            bytes,
            prefix: parts.prefix,
            suffix: parts.suffix,
        })
    }

    /// Ids of `text`, with the BOS token only where the tokenizer's own files ask for one.
    pub fn encode(&self, text: &str, specials: Specials) -> Vec<u32> {
        let mut ids = self.prefix.clone();
        self.encode_into(text, specials, &mut ids);
        ids.extend_from_slice(&self.suffix);
        ids
    }

    /// Appends the ids of `text` and nothing else, as where it stands inside another.
    pub fn encode_into(&self, text: &str, specials: Specials, ids: &mut Vec<u32>) {
        let added = match specials {
            Specials::Parse => &self.all,
            Specials::AsText => &self.ordinary,
        };
        let mut split = added.extract_and_normalize(self.normalizer.as_ref(), text);
        // Neither step can fail: byte-level cutting is total, and a BPE without an unknown token skips what it lacks.
        // Were one to fail after all, the text would be lost, never the process.
        if let Some(pre_tokenizer) = &self.pre_tokenizer
            && let Err(error) = pre_tokenizer.pre_tokenize(&mut split)
        {
            tracing::error!(%error, "pre-tokenizer");
            return;
        }
        let encoding = split
            .tokenize(|piece| self.model.tokenize(piece.get()))
            .and_then(|()| split.into_encoding(None, 0, OffsetType::None));
        match encoding {
            Ok(encoding) => ids.extend_from_slice(encoding.get_ids()),
            Err(error) => tracing::error!(%error, "tokenizer"),
        }
    }

    /// Cuts `text` at its special tokens.
    pub(crate) fn split_specials<'a>(&self, text: &'a str) -> Vec<Piece<'a>> {
        self.special.split(text)
    }

    /// The texts of all special tokens.
    pub(crate) fn special_texts(&self) -> impl Iterator<Item = &str> {
        self.added_ids.iter().filter(|(_, id)| self.is_special(**id)).map(|(text, _)| text.as_str())
    }

    /// Text of `ids`, special tokens left out; ids without a token decode to nothing. Bytes that are no UTF-8 become
    /// U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut bytes = Vec::new();
        for &id in ids.iter().filter(|id| !self.is_special(**id)) {
            bytes.extend_from_slice(self.token_bytes(id));
        }
        // The copy that `into_owned` makes is spared in the usual case, where the bytes are a string already.
        String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// The bytes that `id` stands for: empty for an id without a token, the token's own text for a special one.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id)
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.bytes.is_special(id)
    }

    /// Id of a token by its exact text: an added token as it is written (`<|response|>`), any other in the byte-level
    /// alphabet (`Ġthe`).
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.added_ids.get(token).copied().or_else(|| self.model.token_to_id(token))
    }

    /// Ids that exist: one more than the largest.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// A decoder for one stream of this tokenizer's ids.
    pub fn stream(&self) -> Detokenizer {
        Detokenizer::default()
    }
}
