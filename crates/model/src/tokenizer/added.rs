//! Added tokens, found in a text before anything else is.

use tokenizers::{
    AddedVocabulary, NormalizerWrapper, OffsetReferential, PreTokenizedString,
    models::bpe::{BPE, Vocab},
    tokenizer::OffsetType,
};

use super::{
    Piece,
    parts::{AddedId, Wrong},
};

/// A set of added tokens under the ids that their file gives them.
pub(super) struct Added(AddedVocabulary);

impl Added {
    pub(super) fn new<'a>(
        tokens: impl Iterator<Item = &'a AddedId>,
        normalizer: Option<&NormalizerWrapper>,
    ) -> Result<Self, Wrong> {
        let tokens: Vec<&AddedId> = tokens.collect();
        // `AddedVocabulary` numbers tokens from the end of the model's vocabulary unless the model knows them, and so moves
        // those that stand behind a gap. This model knows them all, and nothing else.
        let ids: Vocab = tokens.iter().map(|added| (added.token.content.clone(), added.id)).collect();
        let build = || {
            let model = BPE::builder().vocab_and_merges(ids, Vec::new()).build()?;
            let mut vocabulary = AddedVocabulary::new();
            vocabulary.add_tokens(tokens.iter().map(|added| added.token.clone()), &model, normalizer)?;
            Ok::<_, tokenizers::Error>(vocabulary)
        };
        build().map(Self).map_err(|error| Wrong::new("added_tokens", "tokens that differ once normalised", error))
    }

    pub(super) fn extract_and_normalize(
        &self,
        normalizer: Option<&NormalizerWrapper>,
        text: &str,
    ) -> PreTokenizedString {
        self.0.extract_and_normalize(normalizer, text)
    }

    /// Cuts `text` at these tokens.
    pub(super) fn split<'a>(&self, text: &'a str) -> Vec<Piece<'a>> {
        self.extract_and_normalize(None, text)
            .get_splits(OffsetReferential::Original, OffsetType::Byte)
            .into_iter()
            .map(|(_, (start, end), tokens)| match tokens.as_deref() {
                Some([token, ..]) => Piece::Special(token.id, &text[start..end]),
                _ => Piece::Text(&text[start..end]),
            })
            .collect()
    }
}
