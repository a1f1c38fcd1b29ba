//! What the metadata of a `dots1` GGUF says of the model.

use std::{collections::HashMap, path::Path};

use super::container::Value;
use crate::{
    Config, Error,
    checkpoint::{GenerationDefaults, TokenizerSource},
};

/// `expert_gating_func` of sigmoid.
const SIGMOID: u64 = 2;

/// Tokens that end a turn of any dots.llm1, whatever a file names as its one end: files that name only one of them, or the
/// wrong one, are where "won't stop generating" comes from.
const END_TOKENS: [&str; 2] = ["<|endofresponse|>", "<|endoftext|>"];

/// The metadata of one file, each value's type checked as it is read.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'a> {
    path: &'a Path,
    values: &'a HashMap<&'a str, Value<'a>>,
}

impl<'a> Metadata<'a> {
    /// Metadata that `path` holds.
    pub(super) fn new(path: &'a Path, values: &'a HashMap<&'a str, Value<'a>>) -> Self {
        Self { path, values }
    }

    /// An error about `key`: what it has, or that it has nothing.
    pub(super) fn wrong(&self, key: &str, expected: &str) -> Error {
        let found = self.values.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
        Error::invalid(self.path, key, expected, found)
    }

    fn optional<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        match self.values.get(key) {
            None => Ok(None),
            Some(value) => read(*value).map(Some).ok_or_else(|| self.wrong(key, expected)),
        }
    }

    /// A whole number.
    pub(super) fn optional_u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.optional(key, "a whole number", |value| match value {
            Value::Unsigned(value) => Some(value),
            Value::Signed(value) => u64::try_from(value).ok(),
            _ => None,
        })
    }

    /// A text.
    pub(super) fn optional_str(&self, key: &str) -> Result<Option<&'a str>, Error> {
        self.optional(key, "a string", |value| match value {
            Value::String(text) => Some(text),
            _ => None,
        })
    }

    fn optional_bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.optional(key, "true or false", |value| match value {
            Value::Bool(value) => Some(value),
            _ => None,
        })
    }

    fn optional_f64(&self, key: &str) -> Result<Option<f64>, Error> {
        self.optional(key, "a number", |value| match value {
            Value::Float(value) => Some(value),
            _ => None,
        })
    }

    fn usize(&self, key: &str) -> Result<usize, Error> {
        let value = self.optional_u64(key)?.and_then(|value| usize::try_from(value).ok());
        value.ok_or_else(|| self.wrong(key, "a whole number"))
    }

    fn f64(&self, key: &str) -> Result<f64, Error> {
        self.optional_f64(key)?.ok_or_else(|| self.wrong(key, "a number"))
    }

    fn strings(&self, key: &str) -> Result<Option<Vec<String>>, Error> {
        self.optional(key, "an array of strings", |value| match value {
            Value::Array(array) => Some(array.strings()?.map(str::to_owned).collect()),
            _ => None,
        })
    }

    /// The model's shape. Refuses what would need other arithmetic than a dots.llm1's.
    pub(super) fn config(&self) -> Result<Config, Error> {
        if self.optional_str("general.architecture")? != Some("dots1") {
            return Err(self.wrong("general.architecture", "\"dots1\""));
        }
        self.check_arithmetic()?;
        let hidden_size = self.usize("dots1.embedding_length")?;
        let num_attention_heads = self.usize("dots1.attention.head_count")?;
        let head_dim = self.head_dim(hidden_size, num_attention_heads)?;
        let vocab_size = match self.values.get("dots1.vocab_size") {
            None => self.strings("tokenizer.ggml.tokens")?.map(|tokens| tokens.len()),
            Some(_) => Some(self.usize("dots1.vocab_size")?),
        };
        let config = Config {
            vocab_size: vocab_size.ok_or_else(|| self.wrong("dots1.vocab_size", "a whole number"))?,
            hidden_size,
            intermediate_size: self.usize("dots1.feed_forward_length")?,
            moe_intermediate_size: self.usize("dots1.expert_feed_forward_length")?,
            num_hidden_layers: self.usize("dots1.block_count")?,
            first_k_dense_replace: self.usize("dots1.leading_dense_block_count")?,
            num_attention_heads,
            num_key_value_heads: self.usize("dots1.attention.head_count_kv")?,
            head_dim,
            n_routed_experts: self.usize("dots1.expert_count")?,
            n_shared_experts: self.usize("dots1.expert_shared_count")?,
            num_experts_per_tok: self.usize("dots1.expert_used_count")?,
            norm_topk_prob: self
                .optional_bool("dots1.expert_weights_norm")?
                .ok_or_else(|| self.wrong("dots1.expert_weights_norm", "true or false"))?,
            routed_scaling_factor: self.f64("dots1.expert_weights_scale")? as f32,
            rms_norm_eps: self.f64("dots1.attention.layer_norm_rms_epsilon")? as f32,
            rope_theta: self.f64("dots1.rope.freq_base")?,
            max_position_embeddings: self.usize("dots1.context_length")?,
        };
        config.validate(self.path)?;
        if let Some(dimensions) = self.optional_u64("dots1.rope.dimension_count")?
            && dimensions != head_dim as u64
        {
            return Err(self.wrong("dots1.rope.dimension_count", &format!("{head_dim}, the whole head")));
        }
        Ok(config)
    }

    fn head_dim(&self, hidden_size: usize, heads: usize) -> Result<usize, Error> {
        let (key, value) = ("dots1.attention.key_length", "dots1.attention.value_length");
        let head_dim = match self.optional_u64(key)? {
            Some(_) => self.usize(key)?,
            None => match hidden_size.checked_div(heads) {
                Some(head_dim) if head_dim * heads == hidden_size => head_dim,
                _ => return Err(self.wrong(key, "a whole number, as embedding_length is no multiple of the heads")),
            },
        };
        if self.optional_u64(value)?.is_some_and(|length| length != head_dim as u64) {
            return Err(self.wrong(value, &format!("{head_dim}, the length of the keys")));
        }
        Ok(head_dim)
    }

    fn check_arithmetic(&self) -> Result<(), Error> {
        let gating = "dots1.expert_gating_func";
        if self.optional_u64(gating)? != Some(SIGMOID) {
            return Err(self.wrong(gating, "2, sigmoid"));
        }
        for key in ["dots1.expert_group_count", "dots1.expert_group_used_count"] {
            if self.optional_u64(key)?.is_some_and(|count| count > 1) {
                return Err(self.wrong(key, "1"));
            }
        }
        if self.optional_u64("dots1.attention.sliding_window")?.is_some_and(|window| window > 0) {
            return Err(self.wrong("dots1.attention.sliding_window", "0 or nothing"));
        }
        if self.optional_str("dots1.rope.scaling.type")?.is_some_and(|kind| kind != "none") {
            return Err(self.wrong("dots1.rope.scaling.type", "\"none\" or nothing"));
        }
        Ok(())
    }

    /// The tokenizer, where the file has one.
    pub(super) fn tokenizer(&self, vocab_size: usize) -> Result<Option<TokenizerSource>, Error> {
        let Some(tokens) = self.strings("tokenizer.ggml.tokens")? else { return Ok(None) };
        if tokens.len() > vocab_size {
            return Err(self.wrong("tokenizer.ggml.tokens", &format!("at most vocab_size {vocab_size}")));
        }
        if self.optional_str("tokenizer.ggml.model")? != Some("gpt2") {
            return Err(self.wrong("tokenizer.ggml.model", "\"gpt2\", byte-level BPE"));
        }
        let pre = self.optional_str("tokenizer.ggml.pre")?;
        let pre = pre.ok_or_else(|| self.wrong("tokenizer.ggml.pre", "a string"))?.to_owned();
        let types = self.token_types(tokens.len())?;
        let merges = self.strings("tokenizer.ggml.merges")?;
        let merges = merges.ok_or_else(|| self.wrong("tokenizer.ggml.merges", "an array of strings"))?;
        // Older files lack the key of the BOS token and readers took 11, a comma: without being asked, none is added.
        let bos = match self.optional_bool("tokenizer.ggml.add_bos_token")? {
            Some(true) => self.token_id("tokenizer.ggml.bos_token_id", vocab_size)?,
            _ => None,
        };
        Ok(Some(TokenizerSource::Gguf { path: self.path.to_owned(), pre, tokens, types, merges, bos }))
    }

    fn token_types(&self, tokens: usize) -> Result<Vec<i32>, Error> {
        let (key, expected) = ("tokenizer.ggml.token_type", format!("{tokens} whole numbers, one a token"));
        let types: Option<Vec<i32>> = self.optional(key, &expected, |value| match value {
            Value::Array(array) => array.integers()?.map(|kind| i32::try_from(kind).ok()).collect(),
            _ => None,
        })?;
        types.filter(|types| types.len() == tokens).ok_or_else(|| self.wrong(key, &expected))
    }

    fn token_id(&self, key: &str, vocab_size: usize) -> Result<Option<u32>, Error> {
        match self.optional_u64(key)? {
            None => Ok(None),
            Some(id) if id < vocab_size as u64 => Ok(Some(id as u32)), // a vocabulary has at most 2^24 ids
            Some(_) => Err(self.wrong(key, &format!("a token id below vocab_size {vocab_size}"))),
        }
    }

    /// Ids that end a turn, and the sampling settings that llama.cpp writes under `general.sampling`.
    pub(super) fn generation(
        &self,
        vocab_size: usize,
        tokenizer: Option<&TokenizerSource>,
    ) -> Result<GenerationDefaults, Error> {
        let mut ids = Vec::new();
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
            ids.extend(self.token_id(key, vocab_size)?);
        }
        if let Some(TokenizerSource::Gguf { tokens, .. }) = tokenizer {
            for end in END_TOKENS {
                ids.extend(tokens.iter().position(|token| token == end).map(|id| id as u32));
            }
        }
        let mut eos_token_ids = Vec::new();
        for id in ids {
            if !eos_token_ids.contains(&id) {
                eos_token_ids.push(id);
            }
        }
        let top_k = self.optional_u64("general.sampling.top_k")?;
        Ok(GenerationDefaults {
            eos_token_ids,
            temperature: self.sampling("general.sampling.temp", 0.0, f32::MAX)?,
            top_p: self.sampling("general.sampling.top_p", 0.0, 1.0)?,
            top_k: top_k.map(|top_k| usize::try_from(top_k).unwrap_or(usize::MAX)),
            min_p: self.sampling("general.sampling.min_p", 0.0, 1.0)?,
            repetition_penalty: self.sampling("general.sampling.penalty_repeat", f32::MIN_POSITIVE, f32::MAX)?,
            do_sample: None,
        })
    }

    fn sampling(&self, key: &str, least: f32, most: f32) -> Result<Option<f32>, Error> {
        match self.optional_f64(key)?.map(|value| value as f32) {
            Some(value) if !(least..=most).contains(&value) => {
                Err(self.wrong(key, if most == 1.0 { "a number from 0 to 1" } else { "a number not below 0" }))
            }
            value => Ok(value),
        }
    }
}
