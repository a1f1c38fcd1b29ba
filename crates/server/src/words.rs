//! The texts of a request's sampling settings, as the tokens that the engine knows.

use std::sync::Arc;

use dots_engine::{Breakers, DEFAULT_BREAKERS};
use dots_model::tokenizer::Specials;

use crate::{backend::Backend, openai::Generation};

/// The words of a request's choices, who share them.
pub struct Words {
    /// Sequences that no answer may hold.
    pub bad_words: Arc<[Vec<u32>]>,
    /// What breaks a repetition; `None` where DRY is off.
    pub breakers: Option<Arc<Breakers>>,
}

impl Words {
    /// Those of one request.
    pub fn of(generation: &Generation, backend: &dyn Backend) -> Self {
        let breakers = generation.sampling.dry.is_on().then(|| {
            let chosen = generation.texts.dry_breakers.clone();
            backend.dry_breakers(chosen.unwrap_or_else(|| DEFAULT_BREAKERS.map(str::to_owned).to_vec())).into()
        });
        Self { bad_words: bad_words(&generation.texts.bad_words, backend).into(), breakers }
    }
}

/// The token sequences of words, by vLLM's rule (`SamplingParams.update_from_tokenizer`): each word without its leading
/// space; and with one, where that only makes its first token another, as in the middle of a text.
fn bad_words(words: &[String], backend: &dyn Backend) -> Vec<Vec<u32>> {
    let mut sequences: Vec<Vec<u32>> = Vec::new();
    for word in words.iter().map(|word| word.trim_start()) {
        let bare = backend.encode_piece(word, Specials::Parse);
        let spaced = backend.encode_piece(&format!(" {word}"), Specials::Parse);
        let is_other = spaced.len() == bare.len() && spaced.first() != bare.first();
        sequences.push(bare);
        sequences.extend(is_other.then_some(spaced));
    }
    sequences.sort_unstable();
    sequences.dedup();
    sequences
}
