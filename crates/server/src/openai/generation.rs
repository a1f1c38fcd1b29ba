//! The fields that chats and plain completions share: how many answers, how long, how sampled, how sent.

use dots_engine::SamplingParams;
use dots_model::checkpoint::GenerationDefaults;
use serde_json::Value;

use super::{
    fields::{Fields, long_array, wrong_type},
    sampling::{SamplingTexts, sampling},
    scheduling::Scheduling,
    structured::Structure,
};
use crate::error::ApiError;

/// Most answers to one prompt.
pub const MAX_N: i64 = 16;
/// Most stop texts. OpenAI takes 4.
pub const MAX_STOP: usize = 16;
/// Most alternatives that the log-probabilities of a prompt's token list.
const MAX_PROMPT_LOGPROBS: i64 = 20;
/// Most log-probabilities of prompts' tokens in one answer, and of answers' tokens, alternatives counted: some 150 MB of JSON,
/// and three prompts of the longest context with all alternatives.
const MAX_LISTED: usize = 1 << 21;
/// Most experts in one answer: some 120 MB of JSON, and two choices of dots.llm1's longest context.
const MAX_EXPERTS: usize = 1 << 25;
/// Most entries of `stop_token_ids`.
const MAX_STOP_TOKEN_IDS: usize = 256;

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
    /// Texts that sampling looks for, still to become tokens.
    pub texts: SamplingTexts,
    /// `max_completion_tokens`, or `max_tokens`.
    pub max_tokens: Option<usize>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Ids that end an answer, beside the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Go on past the model's own.
    pub ignore_eos: bool,
    /// Tokens before which nothing ends an answer.
    pub min_tokens: usize,
    /// What ended an answer belongs to it: `include_stop_str_in_output`.
    pub include_stop: bool,
    /// An answer holds the text of special tokens: `skip_special_tokens` is false.
    pub show_special_tokens: bool,
    /// What the answer must look like.
    pub structure: Option<Structure>,
    /// How the request stands among others.
    pub scheduling: Scheduling,
    /// `None` sends the answer whole.
    pub stream: Option<StreamOptions>,
}

impl Generation {
    /// Reads the shared fields. `defaults` are the authors' settings: under the request's own, over OpenAI's.
    pub fn parse(fields: Fields<'_>, defaults: &GenerationDefaults) -> Result<Self, ApiError> {
        Self::parse_with(fields, defaults, 1)
    }

    /// The same, where as few as `least` tokens may be asked for.
    pub fn parse_with(fields: Fields<'_>, defaults: &GenerationDefaults, least: i64) -> Result<Self, ApiError> {
        let max_completion_tokens = fields.integer("max_completion_tokens", least..=i64::MAX)?;
        let max_tokens = fields.integer("max_tokens", least..=i64::MAX)?;
        // Not used, and of its type all the same.
        fields.string("user")?;
        Ok(Self {
            model: fields.string("model")?.map(str::to_owned),
            n: fields.integer("n", 1..=MAX_N)?.unwrap_or(1) as usize,
            sampling: sampling(fields, defaults)?,
            texts: SamplingTexts::parse(fields)?,
            max_tokens: max_completion_tokens.or(max_tokens).map(|tokens| tokens as usize),
            stop: stop(fields)?,
            stop_token_ids: stop_token_ids(fields)?,
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            scheduling: Scheduling::parse(fields)?,
            min_tokens: fields.integer("min_tokens", 0..=i64::from(u32::MAX))?.unwrap_or(0) as usize,
            include_stop: fields.boolean("include_stop_str_in_output")?.unwrap_or(false),
            show_special_tokens: !fields.boolean("skip_special_tokens")?.unwrap_or(true),
            structure: Structure::parse(fields)?,
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

/// What chats and completions may ask about the prompt and about the way through the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AboutPrompt {
    /// With `Some(n)`: the log-probability of each of the prompt's tokens and the `n` best in its place.
    pub logprobs: Option<usize>,
    /// Which experts each token took.
    pub routing: bool,
}

impl AboutPrompt {
    /// Reads `prompt_logprobs`, which is vLLM's, and `return_routing`.
    pub fn parse(fields: Fields<'_>) -> Result<Self, ApiError> {
        let logprobs = fields.integer("prompt_logprobs", 0..=MAX_PROMPT_LOGPROBS)?.map(|n| n as usize);
        if logprobs.is_some() && fields.boolean("stream")? == Some(true) {
            return Err(ApiError::unsupported("prompt_logprobs", "'prompt_logprobs' with 'stream'"));
        }
        Ok(Self { logprobs, routing: fields.boolean("return_routing")?.unwrap_or(false) })
    }

    /// Refuses lists of log-probabilities too long for one answer, which shows those of `prompt_tokens` tokens `copies` times
    /// over. `param`: the field that asked for them.
    pub fn check_listed(&self, prompt_tokens: usize, copies: usize, param: &str) -> Result<(), ApiError> {
        let Some(alternatives) = self.logprobs else { return Ok(()) };
        let listed = prompt_tokens.saturating_mul(alternatives + 1).saturating_mul(copies);
        if listed <= MAX_LISTED {
            return Ok(());
        }
        Err(ApiError::invalid(
            param,
            "invalid_value",
            format!(
                "'{param}': expected an answer with at most {MAX_LISTED} log-probabilities of prompts' tokens, found {listed}: \
                 {prompt_tokens} tokens with {alternatives} alternatives each, {copies} times. Ask about fewer prompts in \
                 one request, for fewer alternatives, or with a smaller 'n'."
            ),
        ))
    }
}

/// Refuses log-probabilities of `answer_tokens` tokens of all choices together, where they are too many for one answer.
pub fn check_answers_listed(alternatives: usize, answer_tokens: usize, param: &str) -> Result<(), ApiError> {
    let listed = answer_tokens.saturating_mul(alternatives + 1);
    let what = format!(
        "log-probabilities of answers' tokens, found {listed}: up to {answer_tokens} tokens with {alternatives} alternatives each"
    );
    within(listed, MAX_LISTED, &what, param)
}

/// Refuses the experts of `tokens` tokens of all choices together, prompts counted with each, where they are too many for one
/// answer.
pub fn check_routing(tokens: usize, experts_per_token: usize) -> Result<(), ApiError> {
    let listed = tokens.saturating_mul(experts_per_token);
    let what =
        format!("experts, found {listed}: up to {tokens} tokens of prompts and answers with {experts_per_token} each");
    within(listed, MAX_EXPERTS, &what, "return_routing")
}

fn within(found: usize, most: usize, what: &str, param: &str) -> Result<(), ApiError> {
    if found <= most {
        return Ok(());
    }
    let message = format!(
        "'{param}': expected an answer with at most {most} {what}. Ask for fewer tokens ('max_tokens'), for a smaller 'n', or \
         about fewer prompts in one request."
    );
    Err(ApiError::invalid(param, "invalid_value", message))
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

/// Whether an id is one of the model's, the engine knows.
fn stop_token_ids(fields: Fields<'_>) -> Result<Vec<u32>, ApiError> {
    let items = fields.array("stop_token_ids")?.unwrap_or_default();
    if items.len() > MAX_STOP_TOKEN_IDS {
        return Err(long_array("stop_token_ids", MAX_STOP_TOKEN_IDS, items.len()));
    }
    let id = |(i, item): (usize, &Value)| {
        let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| wrong_type(&format!("stop_token_ids[{i}]"), "a token id", item))
    };
    items.iter().enumerate().map(id).collect()
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

/// Refuses a list that is not empty, of what this server does not do.
pub fn refuse_entries(fields: Fields<'_>, name: &str, what: &str) -> Result<(), ApiError> {
    match fields.array(name)? {
        Some([_, ..]) => Err(ApiError::unsupported(&fields.param(name), what)),
        _ => Ok(()),
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
            (json!({"typical_p": -1}), "typical_p", "decimal_below_min_value"),
            (json!({"typical_p": 1.5}), "typical_p", "decimal_above_max_value"),
            (json!({"xtc_probability": 2}), "xtc_probability", "decimal_above_max_value"),
            (json!({"xtc_threshold": "0.1"}), "xtc_threshold", "invalid_type"),
            (json!({"dry_multiplier": -0.5}), "dry_multiplier", "decimal_below_min_value"),
            (json!({"dry_multiplier": 1e300}), "dry_multiplier", "decimal_above_max_value"),
            (json!({"dry_base": 0.9}), "dry_base", "decimal_below_min_value"),
            (json!({"dry_allowed_length": -1}), "dry_allowed_length", "integer_below_min_value"),
            (json!({"dry_penalty_last_n": -2}), "dry_penalty_last_n", "integer_below_min_value"),
            (json!({"dry_penalty_last_n": 0.5}), "dry_penalty_last_n", "invalid_type"),
            (json!({"dry_sequence_breakers": "\n"}), "dry_sequence_breakers", "invalid_type"),
            (json!({"dry_sequence_breakers": ["a", 7]}), "dry_sequence_breakers[1]", "invalid_type"),
            (json!({"dry_sequence_breakers": [""]}), "dry_sequence_breakers[0]", "invalid_value"),
            (json!({"dry_sequence_breakers": ["x".repeat(65)]}), "dry_sequence_breakers[0]", "string_above_max_length"),
            (json!({"dry_sequence_breakers": vec!["a"; 33]}), "dry_sequence_breakers", "array_above_max_length"),
            (json!({"bad_words": "word"}), "bad_words", "invalid_type"),
            (json!({"bad_words": ["a", null]}), "bad_words[1]", "invalid_type"),
            (json!({"bad_words": ["a", " \n"]}), "bad_words[1]", "invalid_value"),
            (json!({"bad_words": ["x".repeat(257)]}), "bad_words[0]", "string_above_max_length"),
            (json!({"bad_words": vec!["a"; 513]}), "bad_words", "array_above_max_length"),
            (json!({"stop_token_ids": 5}), "stop_token_ids", "invalid_type"),
            (json!({"stop_token_ids": [1, -1]}), "stop_token_ids[1]", "invalid_type"),
            (json!({"stop_token_ids": [4_294_967_296_u64]}), "stop_token_ids[0]", "invalid_type"),
            (json!({"stop_token_ids": vec![1; 257]}), "stop_token_ids", "array_above_max_length"),
            (json!({"min_tokens": -1}), "min_tokens", "integer_below_min_value"),
            (json!({"min_tokens": 1.5}), "min_tokens", "invalid_type"),
            (json!({"ignore_eos": 1}), "ignore_eos", "invalid_type"),
            (json!({"include_stop_str_in_output": "yes"}), "include_stop_str_in_output", "invalid_type"),
            (json!({"skip_special_tokens": 0}), "skip_special_tokens", "invalid_type"),
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
            (json!({"user": 1}), "user", "invalid_type"),
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
            "presence_penalty": null, "frequency_penalty": null, "repetition_penalty": null, "typical_p": null,
            "xtc_probability": null, "xtc_threshold": null, "dry_multiplier": null, "dry_base": null,
            "dry_allowed_length": null, "dry_penalty_last_n": null, "dry_sequence_breakers": null, "bad_words": null,
            "stop_token_ids": null, "min_tokens": null, "ignore_eos": null, "include_stop_str_in_output": null,
            "skip_special_tokens": null, "user": "u", "x": [1],
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
        assert!(!parsed.ignore_eos && !parsed.include_stop && !parsed.show_special_tokens);
        assert_eq!(parsed.max_tokens, Some(9));
        assert_eq!(parsed.stream, Some(StreamOptions { include_usage: true }));
    }

    #[test]
    fn the_fields_of_vllm_and_llama_cpp_arrive_too() {
        let parsed = parse(json!({
            "typical_p": 0, "xtc_probability": 0.5, "xtc_threshold": 0.2, "dry_multiplier": 0.8, "dry_base": 2,
            "dry_allowed_length": 3, "dry_penalty_last_n": -1, "dry_sequence_breakers": [], "bad_words": ["no"],
            "stop_token_ids": [7, 9], "min_tokens": 4, "ignore_eos": true, "include_stop_str_in_output": true,
            "skip_special_tokens": false,
        }))
        .unwrap();
        let SamplingParams { typical_p, xtc_probability, xtc_threshold, dry, .. } = parsed.sampling;
        assert_eq!((typical_p, xtc_probability, xtc_threshold), (f32::MIN_POSITIVE, 0.5, 0.2));
        assert_eq!((dry.multiplier, dry.base, dry.allowed_length, dry.penalty_last_n), (0.8, 2.0, 3, usize::MAX));
        assert_eq!(parsed.texts.dry_breakers, Some(vec![]));
        assert_eq!(parsed.texts.bad_words, ["no"]);
        assert_eq!((parsed.stop_token_ids.as_slice(), parsed.min_tokens), ([7, 9].as_slice(), 4));
        assert!(parsed.ignore_eos && parsed.include_stop && parsed.show_special_tokens);
    }
}
