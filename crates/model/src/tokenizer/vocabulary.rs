//! A tokenizer as a table, for those who write it down in another form.

use serde_json::{Value, json};
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, normalizers::NFC};

use super::{bytes, gguf, parts::Parts};
use crate::{Error, checkpoint::TokenizerSource};

/// GGUF's numbers for kinds of tokens.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// All tokens and merges of a tokenizer.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// Text of each id: in the byte-level alphabet, or an added token as it is written. Ids without a token are `[PADn]`.
    pub tokens: Vec<String>,
    /// Kind of each id, as GGUF counts them: 1 normal, 3 control, 4 user-defined, 5 unused.
    pub types: Vec<i32>,
    /// Pairs of tokens that join, the first first.
    pub merges: Vec<(String, String)>,
    /// Ids before every text: the BOS token, where the files ask for one.
    pub prefix: Vec<u32>,
    /// Ids after every text.
    pub suffix: Vec<u32>,
    /// Added tokens and their ids, as `tokenizer.json` has them.
    added: Vec<Value>,
    ignore_merges: bool,
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
}

impl Vocabulary {
    /// The tokens that a checkpoint's files name. Fails as [`super::Tokenizer::new`] does.
    pub fn new(source: &TokenizerSource) -> Result<Self, Error> {
        let (TokenizerSource::HuggingFace { path, .. } | TokenizerSource::Gguf { path, .. }) = source;
        Self::from_parts(super::read(source)?).map_err(|error| {
            Error::invalid(path, "added_tokens", "tokens that can be written as JSON", error.to_string())
        })
    }

    /// The byte that each of the first 256 ids of a [`Vocabulary::byte_level`] stands for.
    pub fn bytes() -> Vec<u8> {
        bytes::alphabet().map(|(_, byte)| byte).collect()
    }

    /// A byte-level BPE that normalises and cuts as dots.llm1's does. `tokens` are the bytes of each id, those of
    /// [`Vocabulary::bytes`] first; `merges` are pairs of ids, the first first; the special tokens follow behind all of them.
    pub fn byte_level(tokens: &[Vec<u8>], merges: &[(u32, u32)], special: &[&str]) -> Result<Self, Error> {
        let mut letters = ['\0'; 256];
        bytes::alphabet().for_each(|(letter, byte)| letters[usize::from(byte)] = letter);
        let in_letters = |token: &Vec<u8>| token.iter().map(|&byte| letters[usize::from(byte)]).collect::<String>();
        let mut all: Vec<String> = tokens.iter().map(in_letters).collect();
        let merges =
            merges.iter().map(|&(left, right)| (all[left as usize].clone(), all[right as usize].clone())).collect();
        let mut added = Vec::new();
        for (id, text) in (tokens.len()..).zip(special) {
            let mut value = json!(AddedToken::from(*text, true).normalized(false));
            value["id"] = json!(id);
            added.push(value);
            all.push((*text).to_owned());
        }
        let mut types = vec![NORMAL; tokens.len()];
        types.resize(all.len(), CONTROL);
        Ok(Self {
            tokens: all,
            types,
            merges,
            prefix: Vec::new(),
            suffix: Vec::new(),
            added,
            ignore_merges: false,
            normalizer: Some(NormalizerWrapper::NFC(NFC)),
            pre_tokenizer: Some(gguf::qwen2().map_err(|wrong| wrong.at("pre-tokenizer".as_ref()))?),
        })
    }

    fn from_parts(parts: Parts) -> serde_json::Result<Self> {
        let ids = parts.vocab.values().copied().chain(parts.added.iter().map(|added| added.id));
        let count = ids.max().map_or(0, |id| id as usize + 1);
        let mut tokens: Vec<String> = (0..count).map(|id| format!("[PAD{id}]")).collect();
        let mut types = vec![UNUSED; count];
        for (text, id) in parts.vocab {
            tokens[id as usize] = text;
            types[id as usize] = NORMAL;
        }
        let mut added = Vec::new();
        for one in parts.added {
            let id = one.id as usize;
            types[id] = if one.token.special { CONTROL } else { USER_DEFINED };
            let mut value = serde_json::to_value(&one.token)?;
            value["id"] = json!(one.id);
            added.push(value);
            tokens[id] = one.token.content;
        }
        added.sort_by_key(|value| value["id"].as_u64());
        Ok(Self {
            tokens,
            types,
            merges: parts.merges,
            prefix: parts.prefix,
            suffix: parts.suffix,
            added,
            ignore_merges: parts.ignore_merges,
            normalizer: parts.normalizer,
            pre_tokenizer: parts.pre_tokenizer,
        })
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.types.get(id as usize) == Some(&CONTROL)
    }

    /// Whether text is cut as `pre = qwen2` in a GGUF says, the only way that a GGUF of a dots.llm1 can name.
    pub fn cuts_as_qwen2(&self) -> bool {
        let same = gguf::qwen2().ok().and_then(|qwen2| serde_json::to_value(qwen2).ok());
        same.is_some() && self.pre_tokenizer.as_ref().and_then(|mine| serde_json::to_value(mine).ok()) == same
    }

    /// `tokenizer.json` of the `tokenizers` library. What stands before and after every text is not in it.
    pub fn to_json(&self) -> Value {
        let normal = self.tokens.iter().zip(&self.types).enumerate().filter(|(_, (_, kind))| **kind == NORMAL);
        let vocab: serde_json::Map<String, Value> = normal.map(|(id, (token, _))| (token.clone(), json!(id))).collect();
        let merges: Vec<Value> = self.merges.iter().map(|(left, right)| json!([left, right])).collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added,
            "normalizer": self.normalizer,
            "pre_tokenizer": self.pre_tokenizer,
            "post_processor": null,
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": self.ignore_merges,
                "vocab": vocab,
                "merges": merges,
            },
        })
    }
}
