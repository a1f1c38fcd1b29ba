//! The texts of a request's sampling settings, as the tokens that the engine knows.

use std::sync::{Arc, Mutex, PoisonError};

use dots_engine::{Breakers, DEFAULT_BREAKERS, Dry};
use dots_model::tokenizer::Specials;

use crate::{backend::Backend, openai::Generation};

/// Sets of breakers that are kept. Applications send the same one with every request.
const KEPT_BREAKERS: usize = 16;

/// The words of a request's choices, who share them.
pub struct Words {
    /// Sequences that no answer may hold.
    pub bad_words: Arc<[Vec<u32>]>,
    /// What breaks a repetition.
    pub breakers: Arc<Breakers>,
}

impl Words {
    /// Those of one request. Breakers are only looked for where DRY is on.
    pub fn of(generation: &Generation, backend: &dyn Backend, kept: &KeptBreakers) -> Self {
        let breakers = if generation.sampling.dry.is_on() {
            let chosen = generation.texts.dry_breakers.clone();
            kept.get(chosen.unwrap_or_else(|| DEFAULT_BREAKERS.map(str::to_owned).to_vec()), backend)
        } else {
            Dry::default().breakers
        };
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

/// Breakers that were asked for last: finding their tokens takes a look at the whole vocabulary.
#[derive(Default)]
pub struct KeptBreakers(Mutex<Vec<(Vec<String>, Arc<Breakers>)>>);

impl KeptBreakers {
    fn get(&self, texts: Vec<String>, backend: &dyn Backend) -> Arc<Breakers> {
        let take = |kept: &mut Vec<(Vec<String>, Arc<Breakers>)>| {
            let place = kept.iter().position(|(known, _)| *known == texts)?;
            Some(kept.remove(place).1)
        };
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = take(&mut lock());
        let breakers = found.unwrap_or_else(|| Arc::new(backend.dry_breakers(&texts)));
        let mut kept = lock();
        // Another request may have put it there meanwhile.
        take(&mut kept);
        kept.insert(0, (texts, Arc::clone(&breakers)));
        kept.truncate(KEPT_BREAKERS);
        breakers
    }
}
