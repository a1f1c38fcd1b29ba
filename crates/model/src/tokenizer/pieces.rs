//! Text as a dots.llm1's tokenizer cuts it before it merges, for whoever trains one.

use tokenizers::{PreTokenizedString, PreTokenizer as _, pre_tokenizers::split::Split};

use super::gguf;
use crate::Error;

/// NFC, and the cut of Qwen2's tokenizer, which is dots.llm1's.
#[derive(Debug)]
pub struct Pieces {
    split: Split,
}

impl Pieces {
    /// Fails where the regular expression does not compile, which would be a bug here.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { split: gguf::qwen2_split().map_err(|wrong| wrong.at("pre-tokenizer".as_ref()))? })
    }

    /// Gives each piece of `text` to `take`, in order. Merges never reach over the end of one. Takes some twenty times the text's
    /// memory, so long texts are better given in parts.
    pub fn each(&self, text: &str, take: &mut dyn FnMut(&str)) {
        let mut cut = PreTokenizedString::from(text);
        let done = cut
            .normalize(|text| {
                text.nfc();
                Ok(())
            })
            .and_then(|()| self.split.pre_tokenize(&mut cut));
        // The expression may give up on a text that is made to make it; such a text is left out, never the process.
        if let Err(error) = done {
            tracing::warn!(%error, "a text was not cut");
            return;
        }
        for (piece, ..) in cut.get_splits(tokenizers::OffsetReferential::Normalized, tokenizers::OffsetType::None) {
            take(piece);
        }
    }
}
