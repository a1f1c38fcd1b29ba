//! What a template is given: who said what, and which tools there are.

use minijinja::Value;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::TemplateError;
use crate::tokenizer::{Piece, Tokenizer};

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or `tool`; templates decide what else they know.
    pub role: String,
    /// What was said.
    pub content: String,
    /// An assistant's calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// The tool that speaks, where the message says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A call that an assistant made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// By which the tool's message names it.
    pub id: String,
    /// The function.
    pub name: String,
    /// Its arguments.
    pub arguments: Map<String, Json>,
}

impl Message {
    /// What `role` said.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }
}

/// Everything that is rendered.
#[derive(Debug, Clone, Default)]
pub(super) struct Conversation {
    pub(super) messages: Vec<Message>,
    pub(super) tools: Vec<Json>,
}

/// Whether `text` is of letters, digits, `_` and `-` alone. Templates compare such texts (roles, types), and no special token
/// is spelt so.
pub(super) fn is_word(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

impl Conversation {
    /// Refuses keys of JSON, which every rendering keeps as they are, that hold a special token.
    pub(super) fn check_keys(&self, tokenizer: &Tokenizer) -> Result<(), TemplateError> {
        let check = &|key: &str| match tokenizer.split_specials(key).into_iter().find(is_special) {
            Some(Piece::Special(_, token)) => {
                Err(TemplateError(format!("a tool's key holds the special token {token}")))
            }
            _ => Ok(()),
        };
        let arguments = self.messages.iter().flat_map(|message| &message.tool_calls).map(|call| &call.arguments);
        arguments.into_iter().try_for_each(|arguments| check_object(arguments, check))?;
        self.tools.iter().try_for_each(|tool| check_json(tool, check))
    }

    /// The same conversation with each text that people wrote changed.
    pub(super) fn map_texts(&self, change: &dyn Fn(&str) -> String) -> Self {
        let words_kept = |text: &str| if is_word(text) { text.to_owned() } else { change(text) };
        let messages = self.messages.iter().map(|message| Message {
            role: message.role.clone(),
            content: change(&message.content),
            tool_calls: message
                .tool_calls
                .iter()
                .map(|call| ToolCall {
                    id: words_kept(&call.id),
                    name: words_kept(&call.name),
                    arguments: map_object(&call.arguments, &words_kept),
                })
                .collect(),
            tool_call_id: message.tool_call_id.as_deref().map(words_kept),
            name: message.name.as_deref().map(words_kept),
        });
        Self {
            messages: messages.collect(),
            tools: self.tools.iter().map(|tool| map_json(tool, &words_kept)).collect(),
        }
    }

    /// Shows `see` each text that people wrote.
    pub(super) fn each_text(&self, see: &mut dyn FnMut(&str)) {
        for message in &self.messages {
            see(&message.content);
            for call in &message.tool_calls {
                see(&call.id);
                see(&call.name);
                call.arguments.values().for_each(|value| each_json(value, see));
            }
            message.tool_call_id.iter().chain(&message.name).for_each(|text| see(text));
        }
        self.tools.iter().for_each(|tool| each_json(tool, see));
    }

    /// `messages` as templates know them; what a message lacks is undefined in it.
    pub(super) fn messages_value(&self) -> Value {
        let messages = self.messages.iter().map(|message| {
            let mut fields = json!({"role": message.role, "content": message.content});
            if !message.tool_calls.is_empty() {
                // The arguments as an object, since templates write them with `tojson`; vLLM passes them so.
                let call = |call: &ToolCall| {
                    let function = json!({"name": call.name, "arguments": call.arguments});
                    json!({"id": call.id, "type": "function", "function": function})
                };
                fields["tool_calls"] = message.tool_calls.iter().map(call).collect();
            }
            for (key, text) in [("tool_call_id", &message.tool_call_id), ("name", &message.name)] {
                if let Some(text) = text {
                    fields[key] = text.as_str().into();
                }
            }
            value_of(&fields)
        });
        messages.collect()
    }

    /// `tools`, none where there are none.
    pub(super) fn tools_value(&self) -> Value {
        if self.tools.is_empty() { Value::from(()) } else { self.tools.iter().map(value_of).collect() }
    }
}

fn is_special(piece: &Piece<'_>) -> bool {
    matches!(piece, Piece::Special(..))
}

// The depth of requests' JSON is bounded by the parser.

fn check_json(value: &Json, check: &dyn Fn(&str) -> Result<(), TemplateError>) -> Result<(), TemplateError> {
    match value {
        Json::Object(object) => check_object(object, check),
        Json::Array(items) => items.iter().try_for_each(|item| check_json(item, check)),
        _ => Ok(()),
    }
}

fn check_object(
    object: &Map<String, Json>,
    check: &dyn Fn(&str) -> Result<(), TemplateError>,
) -> Result<(), TemplateError> {
    object.iter().try_for_each(|(key, value)| check(key).and_then(|()| check_json(value, check)))
}

fn map_json(value: &Json, change: &dyn Fn(&str) -> String) -> Json {
    match value {
        Json::String(text) => Json::String(change(text)),
        Json::Array(items) => items.iter().map(|item| map_json(item, change)).collect(),
        Json::Object(object) => Json::Object(map_object(object, change)),
        other => other.clone(),
    }
}

fn map_object(object: &Map<String, Json>, change: &dyn Fn(&str) -> String) -> Map<String, Json> {
    object.iter().map(|(key, value)| (key.clone(), map_json(value, change))).collect()
}

fn value_of(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(whole)) => Value::from(whole),
            (None, None) => Value::from(number.as_f64()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(value_of).collect(),
        Json::Object(object) => Value::from_pairs(object.iter().map(|(key, value)| (key.as_str(), value_of(value)))),
    }
}

fn each_json(value: &Json, see: &mut dyn FnMut(&str)) {
    match value {
        Json::String(text) => see(text),
        Json::Array(items) => items.iter().for_each(|item| each_json(item, see)),
        Json::Object(object) => object.iter().for_each(|(key, value)| {
            see(key);
            each_json(value, see);
        }),
        _ => {}
    }
}
