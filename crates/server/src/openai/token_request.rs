//! The bodies of `POST /tokenize` and `POST /detokenize`, in vLLM's shapes.

use dots_model::template::Message;
use serde_json::{Map, Value};

use super::{
    chat_request::{ending, messages},
    completion_request::ids,
    fields::{Fields, long_array, wrong_type},
    tools::Tools,
};
use crate::{conversation::Ending, error::ApiError};

/// Longest text that is cut into tokens: its ids as JSON take about twelve times its size.
const MAX_TEXT_BYTES: usize = 1 << 20;
/// Most ids that are turned into text, of which each may stand for a few hundred bytes.
const MAX_IDS: usize = 1 << 18;

/// A text to cut into tokens, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeRequest {
    /// The name that the request calls the model by.
    pub model: Option<String>,
    /// What is cut.
    pub input: Input,
    /// Each token's text, too.
    pub return_token_strs: bool,
}

/// What is cut into tokens.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A text, its special tokens parsed.
    Text {
        /// The text.
        text: String,
        /// With the tokens that the tokenizer's own files put before and after a text.
        add_special_tokens: bool,
    },
    /// A conversation.
    Chat {
        /// Not empty.
        messages: Vec<Message>,
        /// What may be called in it.
        tools: Vec<Value>,
        /// What its prompt asks for.
        ending: Ending,
    },
}

impl TokenizeRequest {
    /// Reads the body.
    pub fn parse(body: &Map<String, Value>) -> Result<Self, ApiError> {
        let fields = Fields::new(body);
        Ok(Self {
            model: fields.string("model")?.map(str::to_owned),
            return_token_strs: fields.boolean("return_token_strs")?.unwrap_or(false),
            input: input(fields)?,
        })
    }
}

fn input(fields: Fields<'_>) -> Result<Input, ApiError> {
    let prompt = fields.string("prompt")?;
    // A text has no use for them, and a wrong one is wrong all the same.
    for name in ["add_generation_prompt", "continue_final_message"] {
        fields.boolean(name)?;
    }
    match (prompt, fields.get("messages")) {
        (None, None) => Err(ApiError::missing("prompt")),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "messages",
            "invalid_value",
            "'messages': expected either 'prompt' or 'messages', found both.",
        )),
        (Some(text), None) => {
            short_enough("prompt", text.len())?;
            let add_special_tokens = fields.boolean("add_special_tokens")?.unwrap_or(true);
            Ok(Input::Text { text: text.to_owned(), add_special_tokens })
        }
        (None, Some(_)) => {
            if fields.get("chat_template").is_some() {
                return Err(ApiError::unsupported("chat_template", "a template of the request's own"));
            }
            let tools = Tools::parse(fields)?.map_or_else(Vec::new, |tools| tools.definitions);
            let messages = messages(fields)?;
            short_enough("messages", messages.iter().map(|message| message.content.len()).sum())?;
            Ok(Input::Chat { ending: ending(fields, &messages)?, messages, tools })
        }
    }
}

fn short_enough(param: &str, bytes: usize) -> Result<(), ApiError> {
    if bytes <= MAX_TEXT_BYTES {
        return Ok(());
    }
    let message = format!("'{param}': expected at most {MAX_TEXT_BYTES} bytes of text, found {bytes}.");
    Err(ApiError::invalid(param, "string_above_max_length", message))
}

/// Ids to turn into text, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct DetokenizeRequest {
    /// The name that the request calls the model by.
    pub model: Option<String>,
    /// The ids, each below the vocabulary's size.
    pub tokens: Vec<u32>,
}

impl DetokenizeRequest {
    /// Reads the body.
    pub fn parse(body: &Map<String, Value>, vocab_size: usize) -> Result<Self, ApiError> {
        let fields = Fields::new(body);
        let value = fields.required("tokens")?;
        let items = value.as_array().ok_or_else(|| wrong_type("tokens", "an array of token ids", value))?;
        if items.len() > MAX_IDS {
            return Err(long_array("tokens", MAX_IDS, items.len()));
        }
        let tokens = ids(items, "tokens")?;
        if let Some((i, id)) = tokens.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
            let param = format!("tokens[{i}]");
            let message = format!("'{param}': expected a token id below {vocab_size}, found {id}.");
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
        Ok(Self { model: fields.string("model")?.map(str::to_owned), tokens })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(body: Value) -> Map<String, Value> {
        let Value::Object(object) = body else { panic!("an object") };
        object
    }

    fn chat(extra: Value) -> Value {
        let mut body = json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]});
        body.as_object_mut().unwrap().extend(object(extra));
        body
    }

    #[test]
    fn a_wrong_field_of_tokenize_is_named() {
        let cases = [
            (json!({}), "prompt"),
            (json!({"prompt": null}), "prompt"),
            (json!({"prompt": 1}), "prompt"),
            (json!({"prompt": ["a"]}), "prompt"),
            (json!({"prompt": "x".repeat(MAX_TEXT_BYTES + 1)}), "prompt"),
            (json!({"prompt": "a", "add_special_tokens": 1}), "add_special_tokens"),
            (json!({"prompt": "a", "return_token_strs": "yes"}), "return_token_strs"),
            (json!({"prompt": "a", "model": 1}), "model"),
            (chat(json!({"prompt": "a"})), "messages"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role"),
            (chat(json!({"chat_template": "x"})), "chat_template"),
            (chat(json!({"tools": {}})), "tools"),
            (chat(json!({"add_generation_prompt": 1})), "add_generation_prompt"),
            (chat(json!({"continue_final_message": 1})), "continue_final_message"),
            (chat(json!({"continue_final_message": true, "add_generation_prompt": true})), "continue_final_message"),
            (
                json!({"messages": [{"role": "user", "content": "x"}], "continue_final_message": true}),
                "continue_final_message",
            ),
        ];
        for (body, param) in cases {
            let error = TokenizeRequest::parse(&object(body)).expect_err(param);
            assert_eq!((error.parts().0, error.parts().2), (400, Some(param)), "{}", error.parts().1);
        }
    }

    #[test]
    fn a_wrong_field_of_detokenize_is_named() {
        let cases = [
            (json!({}), "tokens"),
            (json!({"tokens": "a"}), "tokens"),
            (json!({"tokens": vec![1; MAX_IDS + 1]}), "tokens"),
            (json!({"tokens": [1, -1]}), "tokens[1]"),
            (json!({"tokens": [1.5]}), "tokens[0]"),
            (json!({"tokens": ["a"]}), "tokens[0]"),
            (json!({"tokens": [7, 8]}), "tokens[1]"),
            (json!({"tokens": [1], "model": 1}), "model"),
        ];
        for (body, param) in cases {
            let error = DetokenizeRequest::parse(&object(body), 8).expect_err(param);
            assert_eq!((error.parts().0, error.parts().2), (400, Some(param)), "{}", error.parts().1);
        }
        assert!(DetokenizeRequest::parse(&object(json!({"tokens": []})), 8).unwrap().tokens.is_empty());
    }

    #[test]
    fn what_follows_a_conversation_is_the_requests_choice() {
        let ending = |extra| match TokenizeRequest::parse(&object(chat(extra))).unwrap().input {
            Input::Chat { ending, .. } => ending,
            Input::Text { .. } => panic!("a conversation"),
        };
        assert_eq!(ending(json!({})), Ending::Answer);
        assert_eq!(ending(json!({"add_generation_prompt": true})), Ending::Answer);
        assert_eq!(ending(json!({"add_generation_prompt": false})), Ending::Nothing);
        assert_eq!(ending(json!({"continue_final_message": true})), Ending::Continue);
        assert_eq!(ending(json!({"continue_final_message": true, "add_generation_prompt": false})), Ending::Continue);
    }
}
