//! Tools in the texts of a conversation, for templates that know none.
//!
//! Nothing is published for dots.llm1. The form is that of Hermes 2 Pro and Qwen 2.5, whose templates and whose many
//! fine-tunes made it the one that open models have seen most, and that vLLM and llama.cpp know as `hermes`: the tools as
//! JSON in the system prompt, calls as `<tool_call>` with JSON in the assistant's text, results as `<tool_response>` in the
//! user's turn.

use serde::Serialize;
use serde_json::{
    Value as Json, json,
    ser::{Formatter, Serializer},
};

use super::{Message, ToolCall};

/// What opens a call in an answer.
pub const CALL_OPEN: &str = "<tool_call>";
/// What closes it.
pub const CALL_CLOSE: &str = "</tool_call>";

/// Qwen 2.5's words around the tools.
const BEFORE_TOOLS: &str = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n\
    You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n";
const AFTER_TOOLS: &str = "</tools>\n\nFor each function call, return a json object with function name and arguments within \
    <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <args-json-object>}\n\
    </tool_call>";

/// Whether a template writes tools, calls and results itself, and in this form. A template of another form (Llama's,
/// Mistral's, Qwen3-Coder's) is given texts, since answers are read in one form only.
pub(super) fn are_known_to(source: &str) -> bool {
    ["tools", CALL_OPEN, "arguments", "tool_calls"].iter().all(|word| source.contains(word))
        && !source.contains("<function=")
}

/// The conversation with its tools, calls and results as texts.
pub(super) fn in_text(messages: &[Message], tools: &[Json]) -> Vec<Message> {
    let mut texts: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    let mut is_result = false;
    for message in messages {
        let was_result = std::mem::replace(&mut is_result, message.role == "tool");
        if message.role == "tool" {
            let response = format!("<tool_response>\n{}\n</tool_response>", message.content);
            // Results of parallel calls share one turn.
            match texts.last_mut().filter(|_| was_result) {
                Some(turn) => turn.content.extend(["\n", &response]),
                None => texts.push(Message::new("user", response)),
            }
        } else {
            let calls = message.tool_calls.iter().map(call);
            let content =
                (!message.content.is_empty() || message.tool_calls.is_empty()).then(|| message.content.clone());
            let content: Vec<String> = content.into_iter().chain(calls).collect();
            texts.push(Message::new(message.role.as_str(), content.join("\n")));
        }
    }
    if !tools.is_empty() {
        let preamble = preamble(tools);
        match texts.first_mut().filter(|first| first.role == "system") {
            Some(system) if system.content.is_empty() => system.content = preamble,
            Some(system) => system.content.extend(["\n\n", &preamble]),
            None => texts.insert(0, Message::new("system", preamble)),
        }
    }
    texts
}

fn preamble(tools: &[Json]) -> String {
    let mut text = BEFORE_TOOLS.to_owned();
    for tool in tools {
        text.extend([as_python(tool).as_str(), "\n"]);
    }
    text + AFTER_TOOLS
}

fn call(call: &ToolCall) -> String {
    let json = as_python(&json!({"name": call.name, "arguments": call.arguments}));
    format!("{CALL_OPEN}\n{json}\n{CALL_CLOSE}")
}

/// JSON on one line with a space after each comma and colon, as Python's `json.dumps` writes it and models have read it.
pub fn as_python(value: &Json) -> String {
    struct Python;
    impl Formatter for Python {
        fn begin_array_value<W: std::io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }
        fn begin_object_key<W: std::io::Write + ?Sized>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
            if first { Ok(()) } else { out.write_all(b", ") }
        }
        fn begin_object_value<W: std::io::Write + ?Sized>(&mut self, out: &mut W) -> std::io::Result<()> {
            out.write_all(b": ")
        }
    }
    let mut out = Vec::new();
    // Writing to memory cannot fail, and neither can a JSON value.
    let _ = value.serialize(&mut Serializer::with_formatter(&mut out, Python));
    String::from_utf8(out).unwrap_or_default()
}
