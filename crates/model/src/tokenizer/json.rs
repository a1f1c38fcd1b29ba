//! A tokenizer from `tokenizer.json` and `tokenizer_config.json`.

use std::{collections::HashMap, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};
use serde_json::Value;
use tokenizers::{
    AddedToken, NormalizerWrapper, PreTokenizerWrapper,
    models::bpe::{Merges, Vocab},
    normalizers::NFC,
};

use super::parts::{AddedId, Parts, Wrong, settle};

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedEntry>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    #[serde(default)]
    decoder: Value,
    model: ModelEntry,
}

#[derive(Deserialize)]
struct AddedEntry {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Deserialize)]
struct ModelEntry {
    #[serde(rename = "type", default)]
    kind: Value,
    #[serde(default)]
    dropout: Value,
    #[serde(default)]
    unk_token: Value,
    #[serde(default)]
    continuing_subword_prefix: Value,
    #[serde(default)]
    end_of_word_suffix: Value,
    #[serde(default)]
    byte_fallback: Value,
    #[serde(default)]
    ignore_merges: Option<bool>,
    vocab: Vocab,
    merges: Vec<Merge>,
}

/// A merge as either generation of the file has it: `"a b"` or `["a", "b"]`.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Merge;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a merge of two tokens")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                match text.split_once(' ') {
                    Some((left, right)) if !right.contains(' ') => Ok(Merge(left.to_owned(), right.to_owned())),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Merge, A::Error> {
                let missing = |nth| serde::de::Error::invalid_length(nth, &"two tokens");
                let left = pair.next_element()?.ok_or_else(|| missing(0))?;
                let right = pair.next_element()?.ok_or_else(|| missing(1))?;
                match pair.next_element::<String>()? {
                    None => Ok(Merge(left, right)),
                    Some(_) => Err(missing(3)),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The parts that the files name. `path` is only for messages.
pub(super) fn read(path: &Path, tokenizer: &str, config: Option<&Value>) -> Result<Parts, Wrong> {
    let file: File = serde_json::from_str(tokenizer)
        .map_err(|error| Wrong::new("tokenizer.json", "a byte-level BPE of the `tokenizers` library", error))?;
    let Plain { mut vocab, merges, ignore_merges } = byte_level_bpe(file.model)?;
    if !mentions_byte_level(&file.decoder) && !mentions_byte_level(&file.pre_tokenizer) {
        return Err(Wrong::new("decoder", "ByteLevel", shown(&file.decoder)));
    }
    let mut added: Vec<AddedId> =
        file.added_tokens.into_iter().map(|AddedEntry { id, token }| AddedId { id, token }).collect();
    if let Some(config) = config {
        merge_config(config, &mut added, &vocab)?;
    }
    settle(&mut vocab, &added)?;
    // A file may have hundreds of thousands of either, so both are looked up.
    let added_ids: HashMap<&str, u32> = added.iter().rev().map(|added| (&*added.token.content, added.id)).collect();
    let id_of = |text: &str| added_ids.get(text).or_else(|| vocab.get(text)).copied();
    let (mut prefix, suffix) = template_processing(&file.post_processor, &id_of)?;
    let wants_bos = config.is_some_and(|config| config["add_bos_token"] == Value::Bool(true));
    if let Some(bos) = config.and_then(|config| token_text(&config["bos_token"])).filter(|_| wants_bos) {
        let id = id_of(bos).ok_or_else(|| Wrong::new("bos_token", "a token that exists", format!("{bos:?}")))?;
        if !prefix.contains(&id) {
            prefix.insert(0, id);
        }
    }
    tracing::debug!(path = %path.display(), tokens = vocab.len(), added = added.len(), "tokenizer");
    Ok(Parts {
        vocab,
        merges,
        ignore_merges,
        added,
        normalizer: normalizer(&file.normalizer)?,
        pre_tokenizer: pre_tokenizer(&file.pre_tokenizer)?,
        prefix,
        suffix,
    })
}

/// What is left of the model's entry once it is known to be plain.
struct Plain {
    vocab: Vocab,
    merges: Merges,
    ignore_merges: bool,
}

fn byte_level_bpe(model: ModelEntry) -> Result<Plain, Wrong> {
    if !matches!(model.kind.as_str(), Some("BPE")) && !model.kind.is_null() {
        return Err(Wrong::new("model.type", "BPE", shown(&model.kind)));
    }
    let absent = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    };
    for (name, value) in [
        ("dropout", &model.dropout),
        ("unk_token", &model.unk_token),
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
        ("byte_fallback", &model.byte_fallback),
    ] {
        if !absent(value) {
            return Err(Wrong::new(format!("model.{name}"), "nothing, as in a byte-level BPE", shown(value)));
        }
    }
    Ok(Plain {
        vocab: model.vocab,
        merges: model.merges.into_iter().map(|Merge(left, right)| (left, right)).collect(),
        ignore_merges: model.ignore_merges.unwrap_or(false),
    })
}

fn shown(value: &Value) -> String {
    value.get("type").map_or_else(|| value.to_string(), Value::to_string)
}

/// A token's text in `tokenizer_config.json`: itself, or an object's `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// Takes over what transformers takes over from `tokenizer_config.json`: tokens of `added_tokens_decoder` that
/// `tokenizer.json` lacks, and that every token with a role of its own is special.
fn merge_config(config: &Value, added: &mut Vec<AddedId>, vocab: &Vocab) -> Result<(), Wrong> {
    let mut places: HashMap<String, usize> =
        added.iter().enumerate().rev().map(|(place, known)| (known.token.content.clone(), place)).collect();
    let add = |added: &mut Vec<AddedId>, places: &mut HashMap<String, usize>, new: AddedId| {
        places.insert(new.token.content.clone(), added.len());
        added.push(new);
    };
    let decoder = config["added_tokens_decoder"].as_object();
    for (id, entry) in decoder.into_iter().flatten() {
        let wrong = |found: String| Wrong::new("added_tokens_decoder", "ids with their tokens", found);
        let parsed: u32 = id.parse().map_err(|_| wrong(format!("{id:?}")))?;
        let token: AddedToken = serde_json::from_value(entry.clone()).map_err(|error| wrong(error.to_string()))?;
        match places.get(&token.content) {
            Some(&place) => added[place].token.special |= token.special,
            None => add(added, &mut places, AddedId { id: parsed, token }),
        }
    }
    let named = ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"];
    let named = named.iter().filter_map(|name| token_text(&config[*name]));
    let more = config["additional_special_tokens"].as_array().into_iter().flatten().filter_map(token_text);
    for text in named.chain(more) {
        match (places.get(text), vocab.get(text)) {
            (Some(&place), _) => added[place].token.special = true,
            (None, Some(&id)) => add(added, &mut places, AddedId { id, token: AddedToken::from(text, true) }),
            (None, None) => {}
        }
    }
    Ok(())
}

fn normalizer(value: &Value) -> Result<Option<NormalizerWrapper>, Wrong> {
    let nfc = |value: &Value| value["type"] == "NFC";
    match value["normalizers"].as_array() {
        _ if value.is_null() => Ok(None),
        _ if nfc(value) => Ok(Some(NormalizerWrapper::NFC(NFC))),
        Some(several) if value["type"] == "Sequence" && several.iter().all(nfc) => {
            Ok((!several.is_empty()).then_some(NormalizerWrapper::NFC(NFC)))
        }
        _ => Err(Wrong::new("normalizer", "NFC or null", shown(value))),
    }
}

fn pre_tokenizer(value: &Value) -> Result<Option<PreTokenizerWrapper>, Wrong> {
    if value.is_null() {
        return Ok(None);
    }
    let steps = if value["type"] == "Sequence" { value["pretokenizers"].as_array() } else { None };
    for step in steps.map_or(std::slice::from_ref(value), Vec::as_slice) {
        if !matches!(step["type"].as_str(), Some("Split" | "ByteLevel" | "Digits")) {
            return Err(Wrong::new("pre_tokenizer", "Split, Digits and ByteLevel", shown(step)));
        }
    }
    serde_json::from_value(value.clone())
        .map(Some)
        .map_err(|error| Wrong::new("pre_tokenizer", "what the `tokenizers` library writes", error))
}

fn mentions_byte_level(value: &Value) -> bool {
    let steps = value["decoders"].as_array().or_else(|| value["pretokenizers"].as_array());
    value["type"] == "ByteLevel" || steps.into_iter().flatten().any(|step| step["type"] == "ByteLevel")
}

/// The ids that a post-processor puts before and after one text.
fn template_processing(value: &Value, id_of: &dyn Fn(&str) -> Option<u32>) -> Result<(Vec<u32>, Vec<u32>), Wrong> {
    let (mut prefix, mut suffix) = (Vec::new(), Vec::new());
    let steps = value["processors"].as_array().filter(|_| value["type"] == "Sequence");
    for step in steps.map_or(std::slice::from_ref(value), Vec::as_slice) {
        match step["type"].as_str() {
            None if step.is_null() => {}
            Some("ByteLevel") => {}
            Some("TemplateProcessing") => {
                let mut text_seen = false;
                for piece in step["single"].as_array().into_iter().flatten() {
                    if let Some(token) = piece["SpecialToken"]["id"].as_str() {
                        let id = id_of(token).ok_or_else(|| {
                            Wrong::new("post_processor.single", "tokens that exist", format!("{token:?}"))
                        })?;
                        if text_seen { suffix.push(id) } else { prefix.push(id) }
                    } else {
                        text_seen = true;
                    }
                }
            }
            _ => return Err(Wrong::new("post_processor", "TemplateProcessing, ByteLevel or null", shown(step))),
        }
    }
    Ok((prefix, suffix))
}
