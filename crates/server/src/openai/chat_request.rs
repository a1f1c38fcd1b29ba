//! The body of `POST /v1/chat/completions`.

use dots_model::{
    checkpoint::GenerationDefaults,
    template::{Message, ToolCall},
};
use serde_json::{Map, Value};

use super::{
    fields::{Fields, bounded, wrong_type},
    generation::{AboutPrompt, Generation, refuse_entries},
    structured::Structure,
    texts::text,
    tools::{MAX_TOOLS, Tools, check_name},
};
use crate::{
    conversation::Ending,
    error::{ApiError, quoted},
};

/// Most messages of a conversation.
const MAX_MESSAGES: usize = 65_536;
/// Most alternatives that a token's log-probabilities list.
const MAX_TOP_LOGPROBS: i64 = 20;

/// A chat request, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The conversation; not empty.
    pub messages: Vec<Message>,
    /// What the answer may call.
    pub tools: Option<Tools>,
    /// What the prompt asks for after it.
    pub ending: Ending,
    /// With `Some(n)`: each token's log-probability and the `n` best.
    pub logprobs: Option<usize>,
    /// What is asked about the prompt.
    pub about_prompt: AboutPrompt,
    /// All else.
    pub generation: Generation,
}

impl ChatRequest {
    /// Reads the body. `defaults` are the authors' settings, under the request's own.
    pub fn parse(body: &Map<String, Value>, defaults: &GenerationDefaults) -> Result<Self, ApiError> {
        let fields = Fields::new(body);
        let generation = Generation::parse(fields, defaults)?;
        refuse_what_comes_later(fields)?;
        let tools = Tools::parse(fields)?;
        let messages = messages(fields)?;
        Ok(Self {
            ending: ending(fields, &messages)?,
            messages,
            tools,
            logprobs: logprobs(fields)?,
            about_prompt: AboutPrompt::parse(fields)?,
            generation,
        })
    }

    /// Takes the form that the answer must have: that of its tools and of its text.
    pub fn take_structure(&mut self) -> Result<Option<Structure>, ApiError> {
        let structure = self.generation.structure.take();
        match &self.tools {
            Some(tools) => tools.structure(structure).map(Some),
            None => Ok(structure),
        }
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

/// What the prompt asks for after the last message, in vLLM's fields.
pub fn ending(fields: Fields<'_>, messages: &[Message]) -> Result<Ending, ApiError> {
    let continues = fields.boolean("continue_final_message")?.unwrap_or(false);
    let answers = fields.boolean("add_generation_prompt")?;
    match (continues, answers) {
        (true, Some(true)) => Err(ApiError::invalid(
            "continue_final_message",
            "invalid_value",
            "'continue_final_message': expected false where 'add_generation_prompt' is true, found true.",
        )),
        (true, _) if messages.last().is_some_and(|message| message.role != "assistant") => Err(ApiError::invalid(
            "continue_final_message",
            "invalid_value",
            "'continue_final_message': expected a last message of role 'assistant', found another.",
        )),
        (true, _) => Ok(Ending::Continue),
        (false, Some(false)) => Ok(Ending::Nothing),
        (false, _) => Ok(Ending::Answer),
    }
}

/// Sounds, and what tools were called before: an answer that left them out would look like one that kept to them.
fn refuse_what_comes_later(fields: Fields<'_>) -> Result<(), ApiError> {
    refuse_entries(fields, "functions", "function calling under its old name ('tools' has it)")?;
    match fields.get("function_call") {
        // Without functions both mean the same.
        None => {}
        Some(Value::String(word)) if word == "none" || word == "auto" => {}
        Some(_) => return Err(ApiError::unsupported("function_call", "function calling under its old name")),
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

/// The conversation in `messages`.
pub fn messages(fields: Fields<'_>) -> Result<Vec<Message>, ApiError> {
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
        role @ ("system" | "user" | "assistant" | "tool") => role,
        "function" => return Err(ApiError::unsupported(&fields.param("role"), "a function's message ('tool' has it)")),
        other => {
            return Err(ApiError::invalid(
                fields.param("role"),
                "invalid_value",
                format!(
                    "Invalid value: '{}'. Supported values are: 'system', 'developer', 'user', 'assistant', and \
                     'tool'.",
                    quoted(other)
                ),
            ));
        }
    };
    let content = match fields.get("content") {
        Some(value) => text(value, &fields.param("content"), &["text"])?,
        None if role == "assistant" => String::new(),
        None => return Err(ApiError::missing(&fields.param("content"))),
    };
    let mut message = Message::new(role, content);
    match role {
        "assistant" => message.tool_calls = tool_calls(fields)?,
        "tool" => {
            let id = fields.string("tool_call_id")?.ok_or_else(|| ApiError::missing(&fields.param("tool_call_id")))?;
            message.tool_call_id = Some(id.to_owned());
            message.name = fields.string("name")?.map(str::to_owned);
        }
        _ => {}
    }
    Ok(message)
}

/// The calls of an assistant's message.
fn tool_calls(fields: Fields<'_>) -> Result<Vec<ToolCall>, ApiError> {
    let items = fields.array("tool_calls")?.unwrap_or_default();
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let param = fields.param("tool_calls");
    let items = bounded(&param, items, MAX_TOOLS)?.iter().enumerate();
    items.map(|(i, item)| tool_call(Fields::nested(item, &format!("{param}[{i}]."))?)).collect()
}

fn tool_call(fields: Fields<'_>) -> Result<ToolCall, ApiError> {
    if let Some(other) = fields.string("type")?
        && other != "function"
    {
        return Err(ApiError::unsupported(&fields.param("type"), "any call but a function's"));
    }
    let id = fields.string("id")?.ok_or_else(|| ApiError::missing(&fields.param("id")))?;
    let path = fields.param("function.");
    let function = Fields::nested(fields.required("function")?, &path)?;
    let name = function.string("name")?.ok_or_else(|| ApiError::missing(&function.param("name")))?;
    check_name(name, &function.param("name"))?;
    let param = function.param("arguments");
    let text = function.string("arguments")?.ok_or_else(|| ApiError::missing(&param))?;
    Ok(ToolCall { id: id.to_owned(), name: name.to_owned(), arguments: arguments(text, &param)? })
}

/// A call's arguments, of a text that is an object's JSON or empty.
pub fn arguments(text: &str, param: &str) -> Result<Map<String, Value>, ApiError> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    let wrong = |error| format!("'{param}': expected the text of a JSON object: {error}.");
    serde_json::from_str(text).map_err(|error| ApiError::invalid(param, "invalid_value", wrong(error)))
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
        let called = |call: Value| json!({"messages": [{"role": "assistant", "tool_calls": [call]}]});
        let cases = [
            (json!({}), "messages"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": "hello"}), "messages"),
            (json!({"messages": ["hello"]}), "messages[0]"),
            (json!({"messages": [{"content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": 1, "content": "x"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "function", "content": "x", "name": "f"}]}), "messages[0].role"),
            (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].tool_call_id"),
            (json!({"messages": [{"role": "tool", "content": "x", "tool_call_id": 1}]}), "messages[0].tool_call_id"),
            (json!({"messages": [{"role": "tool", "tool_call_id": "1"}]}), "messages[0].content"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
            (json!({"messages": [{"role": "assistant", "tool_calls": {}}]}), "messages[0].tool_calls"),
            (called(json!("f")), "messages[0].tool_calls[0]"),
            (called(json!({})), "messages[0].tool_calls[0].id"),
            (called(json!({"id": "1", "type": "custom"})), "messages[0].tool_calls[0].type"),
            (called(json!({"id": "1"})), "messages[0].tool_calls[0].function"),
            (called(json!({"id": "1", "function": {}})), "messages[0].tool_calls[0].function.name"),
            (called(json!({"id": "1", "function": {"name": "f g"}})), "messages[0].tool_calls[0].function.name"),
            (called(json!({"id": "1", "function": {"name": "f"}})), "messages[0].tool_calls[0].function.arguments"),
            (
                called(json!({"id": "1", "function": {"name": "f", "arguments": "{"}})),
                "messages[0].tool_calls[0].function.arguments",
            ),
            (
                called(json!({"id": "1", "function": {"name": "f", "arguments": "[]"}})),
                "messages[0].tool_calls[0].function.arguments",
            ),
            (
                called(json!({"id": "1", "function": {"name": "f", "arguments": {}}})),
                "messages[0].tool_calls[0].function.arguments",
            ),
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
        let cases = [
            (json!({"functions": [{}]}), "functions"),
            (json!({"function_call": {"name": "f"}}), "function_call"),
            (json!({"audio": {"voice": "x"}}), "audio"),
            (json!({"modalities": ["text", "audio"]}), "modalities"),
            (json!({"top_logprobs": 3}), "top_logprobs"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
            (json!({"logprobs": 1}), "logprobs"),
            (json!({"prompt_logprobs": 21}), "prompt_logprobs"),
            (json!({"prompt_logprobs": 1, "stream": true}), "prompt_logprobs"),
            (json!({"return_routing": 1}), "return_routing"),
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
    fn calls_and_their_results_are_read() {
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
        let parsed = parse(json!({"messages": [
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "7"},
        ]}))
        .unwrap();
        let arguments = json!({"a": 1}).as_object().unwrap().clone();
        let call = ToolCall { id: "call_1".into(), name: "f".into(), arguments };
        let expected = [
            Message { tool_calls: vec![call], ..Message::new("assistant", "") },
            Message { tool_call_id: Some("call_1".into()), ..Message::new("tool", "7") },
        ];
        assert_eq!(parsed.messages, expected);
    }

    #[test]
    fn logprobs_carry_how_many() {
        assert_eq!(parse(hello(json!({}))).unwrap().logprobs, None);
        assert_eq!(parse(hello(json!({"logprobs": false}))).unwrap().logprobs, None);
        assert_eq!(parse(hello(json!({"logprobs": true}))).unwrap().logprobs, Some(0));
        assert_eq!(parse(hello(json!({"logprobs": true, "top_logprobs": 20}))).unwrap().logprobs, Some(20));
    }
}
