//! `tools` and `tool_choice` as the Responses API writes them, and the items of an input that call and answer.

use dots_model::template::{Message, ToolCall};
use serde_json::{Map, Value, json};

use super::{input::content, repeated::Repeated};
use crate::{
    error::{ApiError, quoted},
    openai::{
        chat_request::arguments,
        fields::{Fields, bounded},
        tools::{MAX_TOOLS, Tools, check_name},
    },
};

/// What errors about a chat's tools are about here.
pub const NAMES: [(&str, &str); 3] =
    [("].function.", "]."), ("tool_choice.function.name", "tool_choice.name"), ("'response_format'", "'text.format'")];

/// The tools of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseTools {
    /// What the answer may call; none where the request chose to call none.
    pub callable: Option<Tools>,
    /// Every tool, for the answer to repeat.
    pub definitions: Repeated,
    /// `tool_choice`, for the answer to repeat.
    pub choice: Repeated,
}

impl ResponseTools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`.
    pub fn parse(fields: Fields<'_>) -> Result<Self, ApiError> {
        let items = match fields.array("tools")?.unwrap_or_default() {
            [] => &[],
            items => bounded("tools", items, MAX_TOOLS)?,
        };
        let paths = (0..items.len()).map(|i| format!("tools[{i}]."));
        let both = items.iter().zip(paths).map(|(item, path)| definition(Fields::nested(item, &path)?));
        let (definitions, chats): (Vec<_>, Vec<_>) = both.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let mut shared = Map::from_iter([("tools".to_owned(), Value::Array(chats))]);
        let choice = fields.get("tool_choice").cloned();
        if let Some(choice) = &choice {
            shared.insert("tool_choice".to_owned(), chats_choice(choice)?);
        }
        if let Some(parallel) = fields.get("parallel_tool_calls") {
            shared.insert("parallel_tool_calls".to_owned(), parallel.clone());
        }
        let callable = Tools::parse(Fields::new(&shared)).map_err(|error| error.renamed(&NAMES))?;
        let choice = Repeated::new(&choice.unwrap_or_else(|| json!("auto")));
        Ok(Self { callable, definitions: Repeated::new(&Value::Array(definitions)), choice })
    }
}

/// A tool as the answer repeats it, and as a chat would write it. What is wrong within is said of the chat's.
fn definition(tool: Fields<'_>) -> Result<(Value, Value), ApiError> {
    let param = tool.param("type");
    match tool.string("type")?.ok_or_else(|| ApiError::missing(&param))? {
        "function" => {}
        other => {
            let what = format!("a tool of type '{}' ('function' is)", quoted(other));
            return Err(ApiError::unsupported(&param, &what));
        }
    }
    let mut function = Map::new();
    for name in ["name", "description", "parameters", "strict"] {
        if let Some(value) = tool.get(name) {
            function.insert(name.to_owned(), value.clone());
        }
    }
    let repeated = json!({
        "type": "function",
        "name": function.get("name"),
        "description": function.get("description"),
        "parameters": function.get("parameters"),
        // Every schema is kept to.
        "strict": function.get("strict").unwrap_or(&json!(true)),
    });
    Ok((repeated, json!({"type": "function", "function": function})))
}

fn chats_choice(choice: &Value) -> Result<Value, ApiError> {
    let Value::Object(object) = choice else { return Ok(choice.clone()) };
    if object.get("type").is_none_or(|kind| kind != "function") {
        return Ok(choice.clone());
    }
    let name = Fields::nested(choice, "tool_choice.")?.required("name")?;
    Ok(json!({"type": "function", "function": {"name": name}}))
}

/// An item that calls.
pub fn function_call(item: Fields<'_>) -> Result<ToolCall, ApiError> {
    let text = |name: &str| item.string(name)?.ok_or_else(|| ApiError::missing(&item.param(name)));
    let (id, name) = (text("call_id")?.to_owned(), text("name")?.to_owned());
    check_name(&name, &item.param("name"))?;
    Ok(ToolCall { id, name, arguments: arguments(text("arguments")?, &item.param("arguments"))? })
}

/// An item that answers a call.
pub fn function_call_output(item: Fields<'_>) -> Result<Message, ApiError> {
    let id = item.string("call_id")?.ok_or_else(|| ApiError::missing(&item.param("call_id")))?;
    let output = content(item.required("output")?, &item.param("output"))?;
    Ok(Message { tool_call_id: Some(id.to_owned()), ..Message::new("tool", output) })
}

/// Refuses a result of what was not called. What was said `before` was checked when it was said, and what was called there
/// may since have been left out.
pub fn check_results(before: &[Message], input: &[Message]) -> Result<(), ApiError> {
    let mut called: std::collections::HashSet<_> =
        before.iter().flat_map(|message| &message.tool_calls).map(|call| call.id.as_str()).collect();
    for message in input {
        called.extend(message.tool_calls.iter().map(|call| call.id.as_str()));
        if let Some(id) = message.tool_call_id.as_deref().filter(|id| !called.contains(id)) {
            let message = format!("No tool call found for function call output with call_id '{}'.", quoted(id));
            return Err(ApiError::invalid("input", "invalid_value", message));
        }
    }
    Ok(())
}
