//! `tools` and `tool_choice` in Anthropic's shape, and the blocks of messages that call and answer.

use dots_model::template::ToolCall;
use serde_json::{Map, Value, json};

use crate::{
    error::{ApiError, quoted},
    openai::{
        fields::{Fields, wrong_type},
        tools::{Tools, check_name},
    },
};

/// What errors about a chat's tools are about here.
pub const NAMES: [(&str, &str); 4] = [
    ("].function.parameters", "].input_schema"),
    ("].function.", "]."),
    ("tool_choice.function.name", "tool_choice.name"),
    ("parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
];

/// The tools that an answer may call.
pub fn tools(fields: Fields<'_>) -> Result<Option<Tools>, ApiError> {
    let items = fields.array("tools")?.unwrap_or_default();
    let definitions = items.iter().enumerate().map(|(i, item)| definition(item, &format!("tools[{i}].")));
    let mut shared = Map::new();
    shared.insert("tools".to_owned(), definitions.collect::<Result<_, _>>()?);
    if let Some(value) = fields.get("tool_choice") {
        let choice = Fields::nested(value, "tool_choice.")?;
        let chosen = match choice.string("type")? {
            None => return Err(ApiError::missing("tool_choice.type")),
            Some("any") => json!("required"),
            Some("tool") => {
                let name = choice.string("name")?.ok_or_else(|| ApiError::missing("tool_choice.name"))?;
                json!({"type": "function", "function": {"name": name}})
            }
            Some(word @ ("auto" | "none")) => json!(word),
            Some(other) => {
                let message =
                    format!("'tool_choice.type': expected 'auto', 'any', 'tool' or 'none', found '{}'.", quoted(other));
                return Err(ApiError::invalid("tool_choice.type", "invalid_value", message));
            }
        };
        let parallel = !choice.boolean("disable_parallel_tool_use")?.unwrap_or(false);
        shared.insert("tool_choice".to_owned(), chosen);
        shared.insert("parallel_tool_calls".to_owned(), json!(parallel));
    }
    Tools::parse(Fields::new(&shared)).map_err(|error| error.renamed(&NAMES))
}

/// A tool as a chat would write it.
fn definition(item: &Value, path: &str) -> Result<Value, ApiError> {
    let tool = Fields::nested(item, path)?;
    match tool.string("type")? {
        None | Some("custom") => {}
        Some(_) => return Err(ApiError::unsupported(&tool.param("type"), "a tool of the server's own")),
    }
    let name = tool.string("name")?.ok_or_else(|| ApiError::missing(&tool.param("name")))?;
    let mut function = json!({"name": name, "parameters": tool.required("input_schema")?});
    if let Some(description) = tool.string("description")? {
        function["description"] = json!(description);
    }
    Ok(json!({"type": "function", "function": function}))
}

/// A block that calls.
pub fn tool_use(fields: Fields<'_>) -> Result<ToolCall, ApiError> {
    let text = |name: &str| fields.string(name)?.ok_or_else(|| ApiError::missing(&fields.param(name)));
    let (id, name) = (text("id")?.to_owned(), text("name")?.to_owned());
    check_name(&name, &fields.param("name"))?;
    match fields.required("input")? {
        Value::Object(arguments) => Ok(ToolCall { id, name, arguments: arguments.clone() }),
        other => Err(wrong_type(&fields.param("input"), "an object", other)),
    }
}
