//! The body of `POST /v1/score`: how likely the model finds given continuations.

use dots_model::template::Message;
use serde_json::{Map, Value};

use super::{
    chat_request::messages,
    completion_request::{Prompt, prompts},
    fields::{Fields, empty_array, wrong_type},
};
use crate::error::ApiError;

/// What continuations follow.
#[derive(Debug, Clone, PartialEq)]
pub enum Context {
    /// A text or ids.
    Prompt(Prompt),
    /// A conversation, which asks for an answer.
    Chat(Vec<Message>),
}

/// A request for scores, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreRequest {
    /// The name that the request calls the model by.
    pub model: Option<String>,
    /// What the continuations follow.
    pub context: Context,
    /// At least one, none empty.
    pub continuations: Vec<Prompt>,
}

impl ScoreRequest {
    /// Reads the body.
    pub fn parse(body: &Map<String, Value>) -> Result<Self, ApiError> {
        let fields = Fields::new(body);
        Ok(Self {
            model: fields.string("model")?.map(str::to_owned),
            context: context(fields)?,
            continuations: continuations(fields.required("continuations")?)?,
        })
    }
}

fn context(fields: Fields<'_>) -> Result<Context, ApiError> {
    match (fields.get("prompt"), fields.get("messages")) {
        (None, None) => Err(ApiError::missing("prompt")),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "messages",
            "invalid_value",
            "'messages': expected either 'prompt' or 'messages', found both.",
        )),
        (None, Some(_)) => Ok(Context::Chat(messages(fields)?)),
        (Some(value), None) => {
            const EXPECTED: &str = "a string or an array of token ids";
            let is_one = match value {
                Value::Array(items) => items.first().is_none_or(Value::is_number),
                other => other.is_string(),
            };
            if !is_one {
                return Err(wrong_type("prompt", EXPECTED, value));
            }
            match prompts(value, "prompt")?.pop() {
                Some(Prompt::Text(text)) if text.is_empty() => Err(empty("prompt")),
                Some(prompt) => Ok(Context::Prompt(prompt)),
                None => Err(empty_array("prompt")),
            }
        }
    }
}

fn continuations(value: &Value) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str = "an array of strings or of arrays of token ids";
    let is_list = value.as_array().is_some_and(|items| !items.first().is_some_and(Value::is_number));
    if !is_list {
        return Err(wrong_type("continuations", EXPECTED, value));
    }
    let continuations = prompts(value, "continuations")?;
    match continuations.iter().position(|continuation| *continuation == Prompt::Text(String::new())) {
        Some(i) => Err(empty(&format!("continuations[{i}]"))),
        None => Ok(continuations),
    }
}

fn empty(param: &str) -> ApiError {
    ApiError::invalid(param, "invalid_value", format!("'{param}': expected a text that is not empty, found ''."))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: Value) -> Result<ScoreRequest, ApiError> {
        ScoreRequest::parse(body.as_object().unwrap())
    }

    #[test]
    fn all_forms_are_read() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        let parsed = parse(json!({"prompt": "a", "continuations": ["b", "c"], "model": "m"})).unwrap();
        assert_eq!((parsed.context, parsed.continuations), (Context::Prompt(text("a")), vec![text("b"), text("c")]));
        let parsed = parse(json!({"prompt": [1, 2], "continuations": [[3]]})).unwrap();
        assert_eq!(parsed.context, Context::Prompt(Prompt::Ids(vec![1, 2])));
        assert_eq!(parsed.continuations, [Prompt::Ids(vec![3])]);
        let chat = json!({"messages": [{"role": "user", "content": "a"}], "continuations": ["b"]});
        assert_eq!(parse(chat).unwrap().context, Context::Chat(vec![Message::new("user", "a")]));
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (body, param) in [
            (json!({"continuations": ["b"]}), "prompt"),
            (json!({"prompt": "a"}), "continuations"),
            (json!({"prompt": "a", "messages": [], "continuations": ["b"]}), "messages"),
            (json!({"messages": [], "continuations": ["b"]}), "messages"),
            (json!({"prompt": "", "continuations": ["b"]}), "prompt"),
            (json!({"prompt": [], "continuations": ["b"]}), "prompt"),
            (json!({"prompt": ["a"], "continuations": ["b"]}), "prompt"),
            (json!({"prompt": 1, "continuations": ["b"]}), "prompt"),
            (json!({"prompt": [-1], "continuations": ["b"]}), "prompt[0]"),
            (json!({"prompt": "a", "continuations": "b"}), "continuations"),
            (json!({"prompt": "a", "continuations": []}), "continuations"),
            (json!({"prompt": "a", "continuations": [1]}), "continuations"),
            (json!({"prompt": "a", "continuations": ["b", 1]}), "continuations[1]"),
            (json!({"prompt": "a", "continuations": ["b", ""]}), "continuations[1]"),
            (json!({"prompt": "a", "continuations": [[]]}), "continuations[0]"),
            (json!({"prompt": "a", "continuations": vec!["b"; 257]}), "continuations"),
            (json!({"prompt": "a", "continuations": ["b"], "model": 1}), "model"),
        ] {
            let error = parse(body.clone()).expect_err(&body.to_string());
            assert_eq!((error.parts().0, error.parts().2), (400, Some(param)), "{body}: {}", error.parts().1);
        }
    }
}
