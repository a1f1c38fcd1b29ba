//! The body of `POST /v1/completions`.

use dots_model::checkpoint::GenerationDefaults;
use serde_json::{Map, Value};

use super::{
    fields::{Fields, bounded, empty_array, wrong_type},
    generation::{AboutPrompt, Generation},
};
use crate::error::ApiError;

/// Most prompts of one request.
const MAX_PROMPTS: usize = 256;
/// Most alternatives that a token's log-probabilities list.
const MAX_LOGPROBS: i64 = 5;
/// What a request gets that sets no `max_tokens`.
pub const DEFAULT_MAX_TOKENS: usize = 16;

/// What is to be continued.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A text, its special tokens parsed.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
}

/// A completion request, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// What is to be continued; at least one.
    pub prompts: Vec<Prompt>,
    /// The answer begins with its prompt.
    pub echo: bool,
    /// With `Some(n)`: each token's log-probability and the `n` best; the prompt's too where the answer begins with it.
    pub logprobs: Option<usize>,
    /// What is asked about the prompt.
    pub about_prompt: AboutPrompt,
    /// All else.
    pub generation: Generation,
}

impl CompletionRequest {
    /// Reads the body. `defaults` are the authors' settings, under the request's own.
    pub fn parse(body: &Map<String, Value>, defaults: &GenerationDefaults) -> Result<Self, ApiError> {
        let fields = Fields::new(body);
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let logprobs = fields.integer("logprobs", 0..=MAX_LOGPROBS)?.map(|n| n as usize);
        let about_prompt = AboutPrompt::parse(fields)?;
        // Who asks about the prompt may want nothing else.
        let is_about_prompt = (echo && logprobs.is_some()) || about_prompt != AboutPrompt::default();
        let generation = Generation::parse_with(fields, defaults, if is_about_prompt { 0 } else { 1 })?;
        if fields.string("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::unsupported("suffix", "text after the completion"));
        }
        if let Some(best_of) = fields.integer("best_of", 1..=i64::MAX)? {
            match best_of.cmp(&(generation.n as i64)) {
                std::cmp::Ordering::Less => {
                    return Err(ApiError::invalid(
                        "best_of",
                        "invalid_value",
                        format!("'best_of': expected at least 'n' ({}), found {best_of}.", generation.n),
                    ));
                }
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => return Err(ApiError::unsupported("best_of", "'best_of' above 'n'")),
            }
        }
        Ok(Self { prompts: prompts(fields.required("prompt")?, "prompt")?, echo, logprobs, about_prompt, generation })
    }
}

/// A text, several, ids, or several lists of ids, from the field `param`.
pub fn prompts(value: &Value, param: &str) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str = "a string, or an array of strings, of token ids or of arrays of token ids";
    match value {
        Value::String(text) => Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(items) => match items.first() {
            None => Err(empty_array(param)),
            Some(Value::Number(_)) => Ok(vec![Prompt::Ids(ids(items, param)?)]),
            Some(Value::String(_)) => bounded(param, items, MAX_PROMPTS)?
                .iter()
                .enumerate()
                .map(|(i, item)| match item {
                    Value::String(text) => Ok(Prompt::Text(text.clone())),
                    other => Err(wrong_type(&format!("{param}[{i}]"), "a string", other)),
                })
                .collect(),
            Some(Value::Array(_)) => bounded(param, items, MAX_PROMPTS)?
                .iter()
                .enumerate()
                .map(|(i, item)| {
                    let param = format!("{param}[{i}]");
                    match item {
                        Value::Array(item) if item.is_empty() => Err(empty_array(&param)),
                        Value::Array(item) => Ok(Prompt::Ids(ids(item, &param)?)),
                        other => Err(wrong_type(&param, "an array of token ids", other)),
                    }
                })
                .collect(),
            Some(_) => Err(wrong_type(param, EXPECTED, value)),
        },
        other => Err(wrong_type(param, EXPECTED, other)),
    }
}

/// A list of token ids. Whether an id is one of the model's, the engine knows.
pub fn ids(items: &[Value], param: &str) -> Result<Vec<u32>, ApiError> {
    items
        .iter()
        .enumerate()
        .map(|(i, item)| {
            let id = item.as_u64().and_then(|id| u32::try_from(id).ok());
            match item {
                Value::Number(number) => id.ok_or_else(|| {
                    let param = format!("{param}[{i}]");
                    let message = format!("'{param}': expected a token id, found {number}.");
                    ApiError::invalid(param, "invalid_value", message)
                }),
                other => Err(wrong_type(&format!("{param}[{i}]"), "a token id", other)),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: Value) -> Result<CompletionRequest, ApiError> {
        let Value::Object(object) = body else { panic!("an object") };
        CompletionRequest::parse(&object, &GenerationDefaults::default())
    }

    #[test]
    fn all_forms_of_prompt_are_read() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        let cases = [
            (json!("a"), vec![text("a")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 511]), vec![Prompt::Ids(vec![1, 511])]),
            (json!([[1], [2, 3]]), vec![Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])]),
        ];
        for (prompt, expected) in cases {
            assert_eq!(parse(json!({"prompt": prompt})).unwrap().prompts, expected, "{prompt}");
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let cases = [
            (json!({}), "prompt"),
            (json!({"prompt": null}), "prompt"),
            (json!({"prompt": 1}), "prompt"),
            (json!({"prompt": {}}), "prompt"),
            (json!({"prompt": []}), "prompt"),
            (json!({"prompt": [null]}), "prompt"),
            (json!({"prompt": [[]]}), "prompt[0]"),
            (json!({"prompt": ["a", 1]}), "prompt[1]"),
            (json!({"prompt": [1, "a"]}), "prompt[1]"),
            (json!({"prompt": [[1], 2]}), "prompt[1]"),
            (json!({"prompt": [[1, -1]]}), "prompt[0][1]"),
            (json!({"prompt": [-1]}), "prompt[0]"),
            (json!({"prompt": [1.5]}), "prompt[0]"),
            (json!({"prompt": [4_294_967_297_u64]}), "prompt[0]"),
            (json!({"prompt": vec!["a"; 257]}), "prompt"),
            (json!({"prompt": "a", "logprobs": 6}), "logprobs"),
            (json!({"prompt": "a", "logprobs": true}), "logprobs"),
            (json!({"prompt": "a", "max_tokens": 0}), "max_tokens"),
            (json!({"prompt": "a", "max_tokens": 0, "echo": true}), "max_tokens"),
            (json!({"prompt": "a", "prompt_logprobs": 21}), "prompt_logprobs"),
            (json!({"prompt": "a", "prompt_logprobs": true}), "prompt_logprobs"),
            (json!({"prompt": "a", "prompt_logprobs": 1, "stream": true}), "prompt_logprobs"),
            (json!({"prompt": "a", "return_routing": 1}), "return_routing"),
            (json!({"prompt": "a", "echo": 1}), "echo"),
            (json!({"prompt": "a", "suffix": "b"}), "suffix"),
            (json!({"prompt": "a", "best_of": 2}), "best_of"),
            (json!({"prompt": "a", "n": 3, "best_of": 2}), "best_of"),
        ];
        for (body, param) in cases {
            let error = parse(body.clone()).expect_err(&body.to_string());
            let (status, message, found, _) = error.parts();
            assert_eq!((status, found), (400, Some(param)), "{body}: {message}");
        }
        assert!(parse(json!({"prompt": "a", "suffix": "", "n": 2, "best_of": 2, "echo": true})).unwrap().echo);
    }
}
