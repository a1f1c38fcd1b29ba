//! The body of `POST /v1/chat/completions`.

use dots_model::{checkpoint::GenerationDefaults, template::Message};
use serde_json::{Map, Value};

use super::{
    fields::{Fields, wrong_type},
    generation::{Generation, bounded, refuse_entries},
};
use crate::error::{ApiError, quoted};

/// Most messages of a conversation.
const MAX_MESSAGES: usize = 65_536;
/// Most alternatives that a token's log-probabilities list.
const MAX_TOP_LOGPROBS: i64 = 20;

/// A chat request, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The conversation; not empty.
    pub messages: Vec<Message>,
    /// With `Some(n)`: each token's log-probability and the `n` best.
    pub logprobs: Option<usize>,
    /// All else.
    pub generation: Generation,
}

impl ChatRequest {
    /// Reads the body. `defaults` are the authors' settings, under the request's own.
    pub fn parse(body: &Map<String, Value>, defaults: &GenerationDefaults) -> Result<Self, ApiError> {
        let fields = Fields::new(body);
        let generation = Generation::parse(fields, defaults)?;
        refuse_what_comes_later(fields)?;
        Ok(Self { messages: messages(fields)?, logprobs: logprobs(fields)?, generation })
    }
}

fn logprobs(fields: Fields<'_>) -> Result<Option<usize>, ApiError> {
    let asked = fields.boolean("logprobs")?.unwrap_or(false);
    match fields.integer("top_logprobs", 0..=MAX_TOP_LOGPROBS)? {
        Some(1..) if !asked => Err(ApiError::invalid(
            "top_logprobs",
            "invalid_value",
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
        )),
        top => Ok(asked.then_some(top.unwrap_or(0) as usize)),
    }
}

/// Tools, formats and sounds: an answer that left them out would look like one that kept to them.
fn refuse_what_comes_later(fields: Fields<'_>) -> Result<(), ApiError> {
    refuse_entries(fields, "tools", "tool calling")?;
    refuse_entries(fields, "functions", "function calling")?;
    for choice in ["tool_choice", "function_call"] {
        match fields.get(choice) {
            // Without tools both mean the same.
            None => {}
            Some(Value::String(word)) if word == "none" || word == "auto" => {}
            Some(_) => return Err(ApiError::unsupported(choice, "tool calling")),
        }
    }
    if let Some(value) = fields.get("response_format") {
        let format = Fields::nested(value, "response_format.")?;
        match format.string("type")? {
            None => return Err(ApiError::missing("response_format.type")),
            Some("text") => {}
            Some(_) => return Err(ApiError::unsupported("response_format", "any format but 'text'")),
        }
    }
    if fields.get("audio").is_some() {
        return Err(ApiError::unsupported("audio", "audio"));
    }
    if let Some(modalities) = fields.array("modalities")?
        && modalities.iter().any(|modality| modality.as_str() != Some("text"))
    {
        return Err(ApiError::unsupported("modalities", "any modality but 'text'"));
    }
    Ok(())
}

fn messages(fields: Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let value = fields.required("messages")?;
    let items = value.as_array().ok_or_else(|| wrong_type("messages", "an array of objects", value))?;
    bounded("messages", items, MAX_MESSAGES)?
        .iter()
        .enumerate()
        .map(|(i, item)| message(Fields::nested(item, &format!("messages[{i}]."))?))
        .collect()
}

fn message(fields: Fields<'_>) -> Result<Message, ApiError> {
    let role = match fields.string("role")?.ok_or_else(|| ApiError::missing(&fields.param("role")))? {
        // OpenAI's newer name for what dots.llm1 knows as the system prompt.
        "developer" => "system",
        role @ ("system" | "user" | "assistant") => role,
        "tool" | "function" => return Err(ApiError::unsupported(&fields.param("role"), "a tool's message")),
        other => {
            return Err(ApiError::invalid(
                fields.param("role"),
                "invalid_value",
                format!(
                    "Invalid value: '{}'. Supported values are: 'system', 'developer', 'user', and 'assistant'.",
                    quoted(other)
                ),
            ));
        }
    };
    refuse_entries(fields, "tool_calls", "tool calling")?;
    let content = match fields.get("content") {
        Some(value) => content(value, &fields.param("content"))?,
        None if role == "assistant" => String::new(),
        None => return Err(ApiError::missing(&fields.param("content"))),
    };
    Ok(Message { role: role.to_owned(), content })
}

/// A text, or parts of type `text`, which are joined by line breaks as vLLM joins them.
fn content(value: &Value, param: &str) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let texts = parts.iter().enumerate().map(|(i, part)| text_part(part, &format!("{param}[{i}].")));
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        other => Err(wrong_type(param, "a string or an array of objects", other)),
    }
}

fn text_part(part: &Value, path: &str) -> Result<String, ApiError> {
    let fields = Fields::nested(part, path)?;
    match fields.string("type")? {
        Some("text") => {
            fields.string("text")?.map(str::to_owned).ok_or_else(|| ApiError::missing(&fields.param("text")))
        }
        Some(other) => Err(ApiError::invalid(
            fields.param("type"),
            "invalid_value",
            format!("Invalid value: '{}'. This model reads text: the supported value is 'text'.", quoted(other)),
        )),
        None => Err(ApiError::missing(&fields.param("type"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: Value) -> Result<ChatRequest, ApiError> {
        let Value::Object(object) = body else { panic!("an object") };
        ChatRequest::parse(&object, &GenerationDefaults::default())
    }

    fn hello(extra: Value) -> Value {
        let mut body = json!({"messages": [{"role": "user", "content": "hello"}]});
        for (key, value) in extra.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    }

    #[test]
    fn all_forms_of_content_are_read() {
        let parsed = parse(json!({"messages": [
            {"role": "developer", "content": "be brief", "name": "ops"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": []},
            {"role": "assistant"},
            {"role": "user", "content": ""},
        ]}))
        .unwrap();
        let said: Vec<_> = parsed.messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        assert_eq!(
            said,
            [("system", "be brief"), ("user", "a\nb"), ("assistant", ""), ("assistant", ""), ("user", "")]
        );
    }

    #[test]
    fn a_wrong_message_is_named_by_its_place() {
        let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
        let cases = [
            (json!({}), "messages"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": "hello"}), "messages"),
            (json!({"messages": ["hello"]}), "messages[0]"),
            (json!({"messages": [{"content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": 1, "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
            (json!({"messages": [{"role": "assistant", "tool_calls": [{}]}]}), "messages[0].tool_calls"),
            (user(json!(1)), "messages[0].content"),
            (user(json!({"type": "text", "text": "x"})), "messages[0].content"),
            (user(json!(["x"])), "messages[0].content[0]"),
            (user(json!([{"text": "x"}])), "messages[0].content[0].type"),
            (user(json!([{"type": "text"}])), "messages[0].content[0].text"),
            (user(json!([{"type": "image_url", "image_url": {"url": "x"}}])), "messages[0].content[0].type"),
        ];
        for (body, param) in cases {
            let error = parse(body.clone()).expect_err(&body.to_string());
            let (status, message, found, _) = error.parts();
            assert_eq!((status, found), (400, Some(param)), "{body}: {message}");
        }
    }

    #[test]
    fn what_comes_later_is_refused_by_name() {
        let tool = json!({"type": "function", "function": {"name": "f"}});
        let cases = [
            (json!({"tools": [tool]}), "tools"),
            (json!({"tools": {}}), "tools"),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"functions": [{}]}), "functions"),
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
            (json!({"response_format": {}}), "response_format.type"),
            (json!({"response_format": "json"}), "response_format"),
            (json!({"audio": {"voice": "x"}}), "audio"),
            (json!({"modalities": ["text", "audio"]}), "modalities"),
            (json!({"top_logprobs": 3}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
            (json!({"logprobs": 1}), "logprobs"),
        ];
        for (extra, param) in cases {
            let error = parse(hello(extra.clone())).expect_err(&extra.to_string());
            assert_eq!((error.parts().0, error.parts().2), (400, Some(param)), "{extra}");
        }
        let harmless = json!({
            "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"],
            "user": "u", "metadata": {"a": "b"}, "store": false, "parallel_tool_calls": true, "top_logprobs": 0,
        });
        assert_eq!(parse(hello(harmless)).unwrap(), parse(hello(json!({}))).unwrap());
    }

    #[test]
    fn logprobs_carry_how_many() {
        assert_eq!(parse(hello(json!({}))).unwrap().logprobs, None);
        assert_eq!(parse(hello(json!({"logprobs": false}))).unwrap().logprobs, None);
        assert_eq!(parse(hello(json!({"logprobs": true}))).unwrap().logprobs, Some(0));
        assert_eq!(parse(hello(json!({"logprobs": true, "top_logprobs": 20}))).unwrap().logprobs, Some(20));
    }
}
