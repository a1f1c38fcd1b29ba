//! The fields that chats and plain completions share: how many answers, how long, how sampled, how sent.

use dots_engine::SamplingParams;
use dots_model::checkpoint::GenerationDefaults;
use serde_json::Value;

use super::fields::{Fields, empty_array, long_array, number, wrong_type};
use crate::error::{ApiError, quoted};

/// Most answers to one prompt.
pub const MAX_N: i64 = 16;
/// Most stop texts. OpenAI takes 4.
const MAX_STOP: usize = 16;
/// Most entries of `logit_bias`. OpenAI takes 1,024.
const MAX_LOGIT_BIAS: usize = 1024;

/// How a stream is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamOptions {
    /// A last chunk counts the tokens, and all others say `"usage": null`.
    pub include_usage: bool,
}

/// The shared fields, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The name that the request calls the model by.
    pub model: Option<String>,
    /// Answers to each prompt.
    pub n: usize,
    /// How tokens are chosen, for the first answer; the `i`th takes its seed plus `i`.
    pub sampling: SamplingParams,
    /// `max_completion_tokens`, or `max_tokens`.
    pub max_tokens: Option<usize>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// `None` sends the answer whole.
    pub stream: Option<StreamOptions>,
}

impl Generation {
    /// Reads the shared fields. `defaults` are the authors' settings: under the request's own, over OpenAI's.
    pub fn parse(fields: Fields<'_>, defaults: &GenerationDefaults) -> Result<Self, ApiError> {
        let max_completion_tokens = fields.integer("max_completion_tokens", 1..=i64::MAX)?;
        let max_tokens = fields.integer("max_tokens", 1..=i64::MAX)?;
        Ok(Self {
            model: fields.string("model")?.map(str::to_owned),
            n: fields.integer("n", 1..=MAX_N)?.unwrap_or(1) as usize,
            sampling: sampling(fields, defaults)?,
            max_tokens: max_completion_tokens.or(max_tokens).map(|tokens| tokens as usize),
            stop: stop(fields)?,
            stream: stream(fields)?,
        })
    }

    /// Settings of the `i`th answer to a prompt. Without a seed each draws its own.
    pub fn sampling_of(&self, i: usize) -> SamplingParams {
        let mut sampling = self.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(i as u64));
        sampling
    }
}

fn sampling(fields: Fields<'_>, defaults: &GenerationDefaults) -> Result<SamplingParams, ApiError> {
    let openai = SamplingParams::default();
    let greedy = if defaults.do_sample == Some(false) { Some(0.0) } else { None };
    let setting = |name, range, default: f32| -> Result<f32, ApiError> {
        Ok(fields.number(name, range)?.map_or(default, |value| value as f32))
    };
    let top_k = fields.integer("top_k", -1..=i64::from(u32::MAX))?;
    Ok(SamplingParams {
        temperature: setting("temperature", 0.0..=2.0, greedy.or(defaults.temperature).unwrap_or(openai.temperature))?,
        // OpenAI allows 0, whose limit is the best token alone; the engine wants a positive mass.
        top_p: setting("top_p", 0.0..=1.0, defaults.top_p.unwrap_or(openai.top_p))?.max(f32::MIN_POSITIVE),
        // -1 is vLLM's way to keep all.
        top_k: top_k.map_or(defaults.top_k.unwrap_or(openai.top_k), |k| k.max(0) as usize),
        min_p: setting("min_p", 0.0..=1.0, defaults.min_p.unwrap_or(openai.min_p))?,
        repetition_penalty: setting(
            "repetition_penalty",
            0.01..=100.0,
            defaults.repetition_penalty.unwrap_or(openai.repetition_penalty),
        )?,
        presence_penalty: setting("presence_penalty", -2.0..=2.0, openai.presence_penalty)?,
        frequency_penalty: setting("frequency_penalty", -2.0..=2.0, openai.frequency_penalty)?,
        // OpenAI's seed is signed; the engine's key takes the same bits.
        seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(|seed| seed as u64),
        logit_bias: logit_bias(fields)?,
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

fn stop(fields: Fields<'_>) -> Result<Vec<String>, ApiError> {
    let texts = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(items)) if items.len() > MAX_STOP => return Err(long_array("stop", MAX_STOP, items.len())),
        Some(Value::Array(items)) => items
            .iter()
            .enumerate()
            .map(|(i, item)| {
                item.as_str().map(str::to_owned).ok_or_else(|| wrong_type(&format!("stop[{i}]"), "a string", item))
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", other)),
    };
    if texts.iter().any(String::is_empty) {
        return Err(ApiError::invalid("stop", "invalid_value", "'stop': expected texts that are not empty."));
    }
    Ok(texts)
}

fn stream(fields: Fields<'_>) -> Result<Option<StreamOptions>, ApiError> {
    let streamed = fields.boolean("stream")?.unwrap_or(false);
    let options = match fields.get("stream_options") {
        None => StreamOptions::default(),
        Some(_) if !streamed => {
            return Err(ApiError::invalid(
                "stream_options",
                "invalid_value",
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            ));
        }
        Some(value) => {
            let options = Fields::nested(value, "stream_options.")?;
            StreamOptions { include_usage: options.boolean("include_usage")?.unwrap_or(false) }
        }
    };
    Ok(streamed.then_some(options))
}

/// Refuses a list that is not empty, for what is not built yet.
pub fn refuse_entries(fields: Fields<'_>, name: &str, what: &str) -> Result<(), ApiError> {
    match fields.array(name)? {
        Some([_, ..]) => Err(ApiError::unsupported(&fields.param(name), what)),
        _ => Ok(()),
    }
}

/// A list that must hold between one and `limit` entries.
pub fn bounded<'a>(param: &str, items: &'a [Value], limit: usize) -> Result<&'a [Value], ApiError> {
    match items.len() {
        0 => Err(empty_array(param)),
        found if found > limit => Err(long_array(param, limit, found)),
        _ => Ok(items),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse_with(defaults: &GenerationDefaults, body: Value) -> Result<Generation, ApiError> {
        let Value::Object(object) = body else { panic!("an object") };
        Generation::parse(Fields::new(&object), defaults)
    }

    fn parse(body: Value) -> Result<Generation, ApiError> {
        parse_with(&GenerationDefaults::default(), body)
    }

    #[test]
    fn each_field_out_of_its_range_is_named() {
        let cases = [
            (json!({"temperature": 2.1}), "temperature", "decimal_above_max_value"),
            (json!({"temperature": -0.1}), "temperature", "decimal_below_min_value"),
            (json!({"temperature": "1"}), "temperature", "invalid_type"),
            (json!({"temperature": 1e300}), "temperature", "decimal_above_max_value"),
            (json!({"top_p": 1.5}), "top_p", "decimal_above_max_value"),
            (json!({"top_k": -2}), "top_k", "integer_below_min_value"),
            (json!({"top_k": 1.5}), "top_k", "invalid_type"),
            (json!({"min_p": 2}), "min_p", "decimal_above_max_value"),
            (json!({"repetition_penalty": 0}), "repetition_penalty", "decimal_below_min_value"),
            (json!({"presence_penalty": -3}), "presence_penalty", "decimal_below_min_value"),
            (json!({"frequency_penalty": []}), "frequency_penalty", "invalid_type"),
            (json!({"n": 0}), "n", "integer_below_min_value"),
            (json!({"n": 17}), "n", "integer_above_max_value"),
            (json!({"n": true}), "n", "invalid_type"),
            (json!({"seed": 0.5}), "seed", "invalid_type"),
            (json!({"seed": u64::MAX}), "seed", "integer_above_max_value"),
            (json!({"max_tokens": 0}), "max_tokens", "integer_below_min_value"),
            (json!({"max_tokens": "many"}), "max_tokens", "invalid_type"),
            (json!({"max_completion_tokens": -1}), "max_completion_tokens", "integer_below_min_value"),
            (json!({"stop": 7}), "stop", "invalid_type"),
            (json!({"stop": ""}), "stop", "invalid_value"),
            (json!({"stop": ["a", 1]}), "stop[1]", "invalid_type"),
            (json!({"stop": vec!["a"; 17]}), "stop", "array_above_max_length"),
            (json!({"logit_bias": []}), "logit_bias", "invalid_type"),
            (json!({"logit_bias": {"x": 1}}), "logit_bias", "invalid_value"),
            (json!({"logit_bias": {"4294967296": 1}}), "logit_bias", "invalid_value"),
            (json!({"logit_bias": {"5": 101}}), "logit_bias.5", "decimal_above_max_value"),
            (json!({"logit_bias": {"5": null}}), "logit_bias.5", "invalid_type"),
            (json!({"model": 1}), "model", "invalid_type"),
            (json!({"stream": "yes"}), "stream", "invalid_type"),
            (json!({"stream_options": {}}), "stream_options", "invalid_value"),
            (json!({"stream": true, "stream_options": 1}), "stream_options", "invalid_type"),
            (
                json!({"stream": true, "stream_options": {"include_usage": 1}}),
                "stream_options.include_usage",
                "invalid_type",
            ),
        ];
        for (body, param, code) in cases {
            let error = parse(body.clone()).expect_err(&body.to_string());
            let (status, message, found_param, found_code) = error.parts();
            assert_eq!((status, found_param, found_code), (400, Some(param), Some(code)), "{body}: {message}");
        }
    }

    #[test]
    fn null_and_unknown_fields_change_nothing() {
        let plain = parse(json!({})).unwrap();
        let nulls = json!({
            "model": null, "n": null, "temperature": null, "top_p": null, "top_k": null, "min_p": null, "seed": null,
            "stop": null, "logit_bias": null, "stream": null, "stream_options": null, "max_tokens": null,
            "presence_penalty": null, "frequency_penalty": null, "repetition_penalty": null, "user": "u", "x": [1],
        });
        assert_eq!(parse(nulls).unwrap(), plain);
        assert_eq!(plain.sampling, SamplingParams::default());
        assert_eq!((plain.n, plain.max_tokens, plain.stream), (1, None, None));
    }

    #[test]
    fn the_request_is_over_the_authors_and_the_authors_over_openai() {
        let authors = GenerationDefaults { temperature: Some(0.7), top_p: Some(0.8), ..Default::default() };
        let parsed = parse_with(&authors, json!({"temperature": 0.2})).unwrap().sampling;
        assert_eq!((parsed.temperature, parsed.top_p, parsed.top_k), (0.2, 0.8, 0));
        let greedy = GenerationDefaults { do_sample: Some(false), ..authors };
        assert_eq!(parse_with(&greedy, json!({})).unwrap().sampling.temperature, 0.0);
        assert_eq!(parse_with(&greedy, json!({"temperature": 1})).unwrap().sampling.temperature, 1.0);
    }

    #[test]
    fn each_answer_has_its_own_seed() {
        let parsed = parse(json!({"seed": -1, "n": 3})).unwrap();
        let seeds: Vec<_> = (0..3).map(|i| parsed.sampling_of(i).seed).collect();
        assert_eq!(seeds, [Some(u64::MAX), Some(0), Some(1)]);
        assert_eq!(parse(json!({"n": 2})).unwrap().sampling_of(1).seed, None);
    }

    #[test]
    fn settings_arrive_as_the_engine_wants_them() {
        let parsed = parse(json!({
            "top_p": 0, "top_k": -1, "logit_bias": {"7": -100, "3": 1.5, "07": 2}, "stop": "END",
            "max_tokens": 5, "max_completion_tokens": 9, "stream": true, "stream_options": {"include_usage": true},
        }))
        .unwrap();
        assert!(parsed.sampling.top_p > 0.0);
        assert_eq!(parsed.sampling.top_k, 0);
        assert_eq!(parsed.sampling.logit_bias, [(3, 1.5), (7, 2.0)]);
        assert_eq!(parsed.stop, ["END"]);
        assert_eq!(parsed.max_tokens, Some(9));
        assert_eq!(parsed.stream, Some(StreamOptions { include_usage: true }));
    }
}
