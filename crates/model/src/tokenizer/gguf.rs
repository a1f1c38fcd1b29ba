//! A tokenizer from GGUF metadata.

use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    models::bpe::Vocab,
    normalizers::NFC,
    pre_tokenizers::{
        byte_level::ByteLevel,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use super::parts::{AddedId, Parts, Wrong, settle};

/// How Qwen2, and dots.llm1 after it, cuts text (`tokenizer.json` of Qwen/Qwen2-7B).
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The parts that the metadata names. GGUF records no normalisation; `pre` stands for it too.
pub(super) fn read(
    pre: &str,
    tokens: &[String],
    types: &[i32],
    merges: &[String],
    bos: Option<u32>,
) -> Result<Parts, Wrong> {
    if pre != "qwen2" {
        return Err(Wrong::new("tokenizer.ggml.pre", "`qwen2`, as dots.llm1 uses it", format!("`{pre}`")));
    }
    if !types.is_empty() && types.len() != tokens.len() {
        return Err(Wrong::new("tokenizer.ggml.token_type", format!("{} types", tokens.len()), types.len()));
    }
    let mut vocab = Vocab::default();
    let mut added = Vec::new();
    for (id, text) in tokens.iter().enumerate() {
        let kind = types.get(id).copied().unwrap_or(1);
        // More tokens than a `u32` counts end as an id beyond the bound, which `settle` refuses.
        let id = u32::try_from(id).unwrap_or(u32::MAX);
        match kind {
            // 1 is normal; 6, a byte, does not occur in a byte-level vocabulary, where a byte is a token like any other.
            1 | 6 => {
                if let Some(other) = vocab.insert(text.clone(), id) {
                    let found = format!("{text:?} as {other} and {id}");
                    return Err(Wrong::new("tokenizer.ggml.tokens", "each token once", found));
                }
            }
            // 2 is the unknown token, which steers the model no less than a control token does.
            2..=4 => {
                let token = AddedToken::from(text.clone(), kind != 4).normalized(false);
                added.push(AddedId { id, token });
            }
            5 => {}
            _ => return Err(Wrong::new(format!("tokenizer.ggml.token_type[{id}]"), "1 to 6", kind)),
        }
    }
    settle(&mut vocab, &added)?;
    let merges = merges
        .iter()
        .enumerate()
        .map(|(nth, merge)| match merge.split_once(' ') {
            Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
                Ok((left.to_owned(), right.to_owned()))
            }
            _ => Err(Wrong::new(
                format!("tokenizer.ggml.merges[{nth}]"),
                "two tokens with a space between",
                format!("{merge:?}"),
            )),
        })
        .collect::<Result<_, _>>()?;
    if let Some(bos) = bos.filter(|&bos| bos as usize >= tokens.len()) {
        return Err(Wrong::new("tokenizer.ggml.bos_token_id", format!("an id below {}", tokens.len()), bos));
    }
    Ok(Parts {
        vocab,
        merges,
        ignore_merges: false,
        added,
        normalizer: Some(NormalizerWrapper::NFC(NFC)),
        pre_tokenizer: Some(qwen2()?),
        prefix: bos.into_iter().collect(),
        suffix: Vec::new(),
    })
}

/// The pre-tokenizer that `qwen2` names.
pub(super) fn qwen2() -> Result<PreTokenizerWrapper, Wrong> {
    let byte_level = ByteLevel::new(false, true, false);
    Ok(PreTokenizerWrapper::Sequence(Sequence::new(vec![qwen2_split()?.into(), byte_level.into()])))
}

/// Its cut, before bytes become letters.
pub(super) fn qwen2_split() -> Result<Split, Wrong> {
    Split::new(SplitPattern::Regex(QWEN2_SPLIT.into()), SplitDelimiterBehavior::Isolated, false)
        .map_err(|error| Wrong::new("tokenizer.ggml.pre", "a regular expression", error))
}
