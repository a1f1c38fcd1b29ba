//! What both kinds of file come down to, and the checks that both need.

use std::{collections::HashMap, path::Path};

use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper,
    models::bpe::{BPE, Merges, Vocab},
};

use crate::Error;

/// Ids are below this. It is 27 times dots.llm1's vocabulary, and bounds the tables that are indexed by id.
pub(super) const MAX_ID: u32 = 1 << 22;

/// A tokenizer as its file describes it.
pub(super) struct Parts {
    /// The BPE's tokens in the byte-level alphabet, without the special ones.
    pub vocab: Vocab,
    pub merges: Merges,
    pub ignore_merges: bool,
    pub added: Vec<AddedId>,
    pub normalizer: Option<NormalizerWrapper>,
    pub pre_tokenizer: Option<PreTokenizerWrapper>,
    /// Ids before and after every text.
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
}

/// An added token and its id.
pub(super) struct AddedId {
    pub id: u32,
    pub token: AddedToken,
}

/// [`Error::Invalid`] before the file is known.
#[derive(Debug)]
pub(super) struct Wrong {
    field: String,
    expected: String,
    found: String,
}

impl Wrong {
    pub(super) fn new(field: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> Self {
        let mut found = found.to_string();
        // A hostile token can be as long as its file; a message cannot.
        if let Some((end, _)) = found.char_indices().nth(200) {
            found.truncate(end);
            found.push('…');
        }
        Self { field: field.into(), expected: expected.into(), found }
    }

    pub(super) fn at(self, path: &Path) -> Error {
        Error::invalid(path, self.field, self.expected, self.found)
    }
}

/// Checks that every id is within bounds and names one token, and takes special tokens out of the BPE's vocabulary, so that
/// no merge and no whole-word lookup can turn plain text into one.
pub(super) fn settle(vocab: &mut Vocab, added: &[AddedId]) -> Result<(), Wrong> {
    let mut owners: HashMap<u32, &str> = HashMap::with_capacity(vocab.len() + added.len());
    let in_vocab = vocab.iter().map(|(text, &id)| ("model.vocab", text.as_str(), id));
    let in_added = added.iter().map(|added| ("added_tokens", added.token.content.as_str(), added.id));
    for (field, text, id) in in_vocab.chain(in_added) {
        if id >= MAX_ID {
            return Err(Wrong::new(field, format!("ids below {MAX_ID}"), format!("{id} for {text:?}")));
        }
        if let Some(other) = owners.insert(id, text)
            && other != text
        {
            return Err(Wrong::new(field, "one token for each id", format!("{id} for {other:?} and {text:?}")));
        }
    }
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(added.len());
    for AddedId { id, token } in added {
        let text = token.content.as_str();
        let known = ids.insert(text, *id).or_else(|| vocab.get(text).copied());
        if let Some(other) = known.filter(|other| other != id) {
            return Err(Wrong::new("added_tokens", "one id for each token", format!("{other} and {id} for {text:?}")));
        }
    }
    for AddedId { token, .. } in added.iter().filter(|added| added.token.special) {
        vocab.remove(&token.content);
    }
    Ok(())
}

/// The BPE over a vocabulary that has been settled.
pub(super) fn build_bpe(vocab: Vocab, merges: Merges, ignore_merges: bool) -> Result<BPE, Wrong> {
    // The builder joins each merge in a buffer as long as the longest token, and panics where one is longer.
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    if let Some(nth) = merges.iter().position(|(left, right)| left.len() + right.len() > longest) {
        let (left, right) = &merges[nth];
        return Err(Wrong::new(
            format!("model.merges[{nth}]"),
            "two tokens that join into a third",
            format!("{left:?} and {right:?}"),
        ));
    }
    BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(ignore_merges)
        .build()
        .map_err(|error| Wrong::new("model.merges", "tokens of the vocabulary that is not special", error))
}
