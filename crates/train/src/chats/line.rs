//! A chat as people write it down: OpenAI's `messages`.

use dots_model::template::{Message, ToolCall};
use serde_json::{Map, Value};

use crate::lines::{self, Wrong};

/// Most messages: each answer is rendered with all that came before it.
const MOST_MESSAGES: usize = 1000;

/// The messages and tools of the chat on a line, or what was expected and found. At least one message is an answer.
pub(super) fn chat(line: &[u8]) -> Result<(Vec<Message>, Vec<Value>), Wrong> {
    let mut object = lines::object(line)?;
    let Some(Value::Array(list)) = object.get_mut("messages").map(Value::take) else {
        return Err(("a chat, `messages` with a role and a content each".to_owned(), "no list `messages`".to_owned()));
    };
    if list.len() > MOST_MESSAGES {
        return Err((format!("at most {MOST_MESSAGES} messages"), list.len().to_string()));
    }
    let messages = (1..).zip(list).map(|(nth, message)| read(nth, message)).collect::<Result<Vec<_>, _>>()?;
    if !messages.iter().any(|message| message.role == "assistant") {
        return Err(("at least one answer, a message of the role `assistant`".to_owned(), "none".to_owned()));
    }
    let tools = match object.get_mut("tools").map(Value::take) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(tools)) => tools,
        Some(_) => return Err(("`tools` as a list".to_owned(), "another type".to_owned())),
    };
    Ok((messages, tools))
}

fn read(nth: usize, mut message: Value) -> Result<Message, Wrong> {
    let wrong = |field: &str, expected: &str| (format!("{expected} as `{field}` of message {nth}"), "none".to_owned());
    let mut text = |field: &str| match message.get_mut(field).map(Value::take) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    };
    let role = text("role").ok_or_else(|| wrong("role", "a text"))?;
    let content = text("content");
    let (tool_call_id, name) = (text("tool_call_id"), text("name"));
    let tool_calls = match message.get_mut("tool_calls").map(Value::take) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(calls)) => calls
            .into_iter()
            .map(|call| tool_call(call).ok_or_else(|| wrong("tool_calls", "calls with a name and arguments")))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(wrong("tool_calls", "a list")),
    };
    // Whoever calls a tool may say nothing.
    let content = content.or((!tool_calls.is_empty()).then(String::new)).ok_or_else(|| wrong("content", "a text"))?;
    Ok(Message { role, content, tool_calls, tool_call_id, name })
}

/// `{"id": …, "function": {"name": …, "arguments": …}}`, the arguments an object or its JSON as a text.
fn tool_call(mut call: Value) -> Option<ToolCall> {
    let id = call["id"].as_str().unwrap_or_default().to_owned();
    let mut function = call.get_mut("function").map(Value::take)?;
    let name = function["name"].as_str()?.to_owned();
    let arguments: Map<String, Value> = match function.get_mut("arguments").map(Value::take)? {
        Value::Object(arguments) => arguments,
        Value::String(text) => serde_json::from_str(&text).ok()?,
        _ => return None,
    };
    Some(ToolCall { id, name, arguments })
}
