//! The fields that say how tokens are chosen: OpenAI's, those that vLLM has beside them under vLLM's names, and those
//! that only llama.cpp's server has under its names.

use std::ops::RangeInclusive;

use dots_engine::{Dry, SamplingParams};
use dots_model::checkpoint::GenerationDefaults;
use serde_json::Value;

use super::fields::{Fields, long_array, number, wrong_type};
use crate::error::{ApiError, quoted};

/// Most entries of `logit_bias`. OpenAI takes 1,024.
const MAX_LOGIT_BIAS: usize = 1024;
/// Most entries of `bad_words`.
const MAX_BAD_WORDS: usize = 512;
/// Most bytes of one of them.
const MAX_BAD_WORD_BYTES: usize = 256;
/// Most entries of `dry_sequence_breakers`.
const MAX_DRY_BREAKERS: usize = 32;
/// Most bytes of one of them.
const MAX_DRY_BREAKER_BYTES: usize = 64;

/// Reads everything but texts. The authors' settings lie under the request's own, over OpenAI's.
pub fn sampling(fields: Fields<'_>, authors: &GenerationDefaults) -> Result<SamplingParams, ApiError> {
    let below = SamplingParams::from_authors(authors);
    let setting = |name, range: RangeInclusive<f64>, default: f32| -> Result<f32, ApiError> {
        Ok(fields.number(name, range)?.map_or(default, |value| value as f32))
    };
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?;
    Ok(SamplingParams {
        temperature: setting("temperature", 0.0..=2.0, below.temperature)?,
        // OpenAI allows 0, whose limit is the best token alone; the engine wants a positive mass.
        top_p: setting("top_p", 0.0..=1.0, below.top_p)?.max(f32::MIN_POSITIVE),
        // -1 is vLLM's way to keep all.
        top_k: top_k.map_or(below.top_k, |k| k.max(0) as usize),
        min_p: setting("min_p", 0.0..=1.0, below.min_p)?,
        typical_p: setting("typical_p", 0.0..=1.0, below.typical_p)?.max(f32::MIN_POSITIVE),
        xtc_probability: setting("xtc_probability", 0.0..=1.0, below.xtc_probability)?,
        xtc_threshold: setting("xtc_threshold", 0.0..=1.0, below.xtc_threshold)?,
        repetition_penalty: setting("repetition_penalty", 0.01..=100.0, below.repetition_penalty)?,
        presence_penalty: setting("presence_penalty", -2.0..=2.0, below.presence_penalty)?,
        frequency_penalty: setting("frequency_penalty", -2.0..=2.0, below.frequency_penalty)?,
        // OpenAI's seed is signed; the engine's key takes the same bits.
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
        logit_bias: logit_bias(fields)?,
        dry: dry(fields, below.dry)?,
        ..below
    })
}

fn dry(fields: Fields<'_>, default: Dry) -> Result<Dry, ApiError> {
    let multiplier = fields.number("dry_multiplier", 0.0..=100.0)?.map(|value| value as f32);
    let base = fields.number("dry_base", 1.0..=100.0)?.map(|value| value as f32);
    let allowed_length = fields.integer("dry_allowed_length", 0..=i64::from(i32::MAX))?;
    let last_n = fields.integer("dry_penalty_last_n", -1..=i64::from(i32::MAX))?;
    Ok(Dry {
        multiplier: multiplier.unwrap_or(default.multiplier),
        base: base.unwrap_or(default.base),
        allowed_length: allowed_length.map_or(default.allowed_length, |length| length as usize),
        // -1 is the whole context, as llama.cpp had it.
        penalty_last_n: last_n.map_or(default.penalty_last_n, |n| usize::try_from(n).unwrap_or(usize::MAX)),
        ..default
    })
}

/// Whether an id is one of the model's, the engine knows.
fn logit_bias(fields: Fields<'_>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(value) = fields.get("logit_bias") else { return Ok(Vec::new()) };
    let Value::Object(entries) = value else { return Err(wrong_type("logit_bias", "an object", value)) };
    if entries.len() > MAX_LOGIT_BIAS {
        return Err(ApiError::invalid(
            "logit_bias",
            "invalid_value",
            format!("'logit_bias': expected at most {MAX_LOGIT_BIAS} entries, found {}.", entries.len()),
        ));
    }
    let mut bias = entries
        .iter()
        .map(|(key, value)| {
            let id = key.parse::<u32>().map_err(|_| {
                ApiError::invalid(
                    "logit_bias",
                    "invalid_value",
                    format!("'logit_bias': expected token ids as keys, found '{}'.", quoted(key)),
                )
            })?;
            Ok((id, number(&format!("logit_bias.{key}"), value, -100.0..=100.0)? as f32))
        })
        .collect::<Result<Vec<_>, ApiError>>()?;
    // "7" and "07" are the same token: as with equal keys, the last one counts.
    bias.reverse();
    bias.sort_by_key(|&(id, _)| id);
    bias.dedup_by_key(|&mut (id, _)| id);
    Ok(bias)
}

/// Texts that sampling looks for in tokens.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SamplingTexts {
    /// Words that no answer may hold.
    pub bad_words: Vec<String>,
    /// What breaks a repetition for DRY; `None` is llama.cpp's choice.
    pub dry_breakers: Option<Vec<String>>,
}

impl SamplingTexts {
    /// Reads them.
    pub fn parse(fields: Fields<'_>) -> Result<Self, ApiError> {
        let bad_words = texts(fields, "bad_words", MAX_BAD_WORDS, MAX_BAD_WORD_BYTES)?.unwrap_or_default();
        // A word is looked for without its leading space, too.
        if let Some(i) = bad_words.iter().position(|word| word.trim_start().is_empty()) {
            return Err(ApiError::invalid(
                format!("bad_words[{i}]"),
                "invalid_value",
                format!("'bad_words[{i}]': expected a text with more than spaces."),
            ));
        }
        let dry_breakers = texts(fields, "dry_sequence_breakers", MAX_DRY_BREAKERS, MAX_DRY_BREAKER_BYTES)?;
        if let Some(i) = dry_breakers.iter().flatten().position(String::is_empty) {
            return Err(ApiError::invalid(
                format!("dry_sequence_breakers[{i}]"),
                "invalid_value",
                format!("'dry_sequence_breakers[{i}]': expected a text that is not empty."),
            ));
        }
        Ok(Self { bad_words, dry_breakers })
    }
}

fn texts(fields: Fields<'_>, name: &str, most: usize, most_bytes: usize) -> Result<Option<Vec<String>>, ApiError> {
    let Some(items) = fields.array(name)? else { return Ok(None) };
    if items.len() > most {
        return Err(long_array(name, most, items.len()));
    }
    let text = |(i, item): (usize, &Value)| {
        let param = format!("{name}[{i}]");
        let text = item.as_str().ok_or_else(|| wrong_type(&param, "a string", item))?;
        if text.len() > most_bytes {
            let message = format!("'{param}': expected a text of at most {most_bytes} bytes, found {}.", text.len());
            return Err(ApiError::invalid(param, "string_above_max_length", message));
        }
        Ok(text.to_owned())
    };
    items.iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
}
