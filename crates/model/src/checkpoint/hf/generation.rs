//! `generation_config.json`.

use serde_json::Value;

use super::{
    super::{
        Folder, GenerationDefaults,
        json::{self, Object},
    },
    JSON_LIMIT_BYTES,
};
use crate::Error;

const FILE: &str = "generation_config.json";

/// The authors' settings. Where `generation_config.json` names no end of turn, `config.json` does.
pub(super) fn read(folder: &Folder<'_>, config: &Object<'_>, vocab_size: usize) -> Result<GenerationDefaults, Error> {
    let fallback = token_ids(config, vocab_size)?;
    let Some(value) = folder.read_json(FILE, JSON_LIMIT_BYTES)? else {
        return Ok(GenerationDefaults { eos_token_ids: fallback.unwrap_or_default(), ..Default::default() });
    };
    let path = folder.file(FILE);
    let json = Object::new(&path, &value)?;
    Ok(GenerationDefaults {
        eos_token_ids: token_ids(&json, vocab_size)?.or(fallback).unwrap_or_default(),
        temperature: number(&json, "temperature", 0.0, f32::MAX)?,
        top_p: number(&json, "top_p", 0.0, 1.0)?,
        top_k: json.optional_usize("top_k")?,
        min_p: number(&json, "min_p", 0.0, 1.0)?,
        repetition_penalty: number(&json, "repetition_penalty", f32::MIN_POSITIVE, f32::MAX)?,
        do_sample: json.optional_bool("do_sample")?,
    })
}

fn number(json: &Object<'_>, key: &str, least: f32, most: f32) -> Result<Option<f32>, Error> {
    let Some(value) = json.optional_f64(key)? else { return Ok(None) };
    let value = value as f32;
    if (least..=most).contains(&value) {
        return Ok(Some(value));
    }
    let expected = if most == 1.0 { "a number from 0 to 1" } else { "a number not below 0" };
    Err(json.wrong(key, expected))
}

/// `eos_token_id`, one id or a list of them, each id once.
fn token_ids(json: &Object<'_>, vocab_size: usize) -> Result<Option<Vec<u32>>, Error> {
    const KEY: &str = "eos_token_id";
    let Some(value) = json.get(KEY) else { return Ok(None) };
    let values = match value {
        Value::Array(values) => values.as_slice(),
        one => std::slice::from_ref(one),
    };
    let mut ids = Vec::new();
    for value in values {
        match value.as_u64() {
            Some(id) if id < vocab_size as u64 => {
                let id = id as u32; // a vocabulary has at most 2^24 ids
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
            _ => {
                let expected = format!("token ids below vocab_size {vocab_size}");
                return Err(Error::invalid(json.path(), KEY, expected, json::describe(value)));
            }
        }
    }
    Ok(Some(ids))
}
