//! The grammar of an answer that may call tools.
//!
//! A call is `<tool_call>`, a line of JSON whose outer shape is fixed as models were trained on it
//! (`{"name": "f", "arguments": {...}}`), and `</tool_call>`. What follows a first call can only be another.

use dots_model::template::tools::{CALL_CLOSE, CALL_OPEN};
use serde_json::Value;

use super::schema;

/// Calls that an answer may or must make.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCalls {
    /// What may be called; not empty.
    pub functions: Vec<Function>,
    /// How often.
    pub rule: CallRule,
    /// Whether several calls may follow each other.
    pub parallel: bool,
}

/// A function and what it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Of letters, digits, `_` and `-`.
    pub name: String,
    /// The schema of its arguments.
    pub parameters: Value,
}

/// Whether there must be a call.
#[derive(Debug, Clone, PartialEq)]
pub enum CallRule {
    /// The answer is calls.
    Required,
    /// The answer is a text, after which calls may come.
    Auto(FreeText),
}

/// What an answer that calls nothing looks like.
#[derive(Debug, Clone, PartialEq)]
pub enum FreeText {
    /// Anything.
    Any,
    /// JSON of a schema.
    Json(Value),
}

impl ToolCalls {
    /// Every schema in it.
    pub(super) fn schemas(&self) -> impl Iterator<Item = &Value> {
        let text = match &self.rule {
            CallRule::Auto(FreeText::Json(schema)) => Some(schema),
            CallRule::Auto(FreeText::Any) | CallRule::Required => None,
        };
        self.functions.iter().map(|function| &function.parameters).chain(text)
    }

    pub(super) fn to_lark(&self) -> String {
        let open = lark_string(CALL_OPEN);
        let more = if self.parallel { format!(" (\"\\n\" {open} call)*") } else { String::new() };
        let mut lark = match &self.rule {
            CallRule::Required => format!("start: {open} call{more}\n"),
            // The shortest text that ends in the tag, so that the tag cannot be passed by.
            CallRule::Auto(FreeText::Any) => {
                format!("start: TEXT | opened call{more}\nTEXT: /(.|\\n)*/\nopened[lazy]: TEXT {open}\n")
            }
            CallRule::Auto(FreeText::Json(schema)) => {
                format!("start: json | {open} call{more}\njson: %json {}\n", schema::prepared(schema, true))
            }
        };
        let alternatives: Vec<String> = (0..self.functions.len()).map(|i| format!("call_{i}")).collect();
        lark += &format!("call: {}\n", alternatives.join(" | "));
        for (i, Function { name, parameters }) in self.functions.iter().enumerate() {
            let before = lark_string(&format!("\n{{\"name\": \"{name}\", \"arguments\": "));
            let after = lark_string(&format!("}}\n{CALL_CLOSE}"));
            lark += &format!("call_{i}: {before} %json {} {after}\n", schema::prepared_arguments(parameters));
        }
        lark
    }
}

/// A text as Lark writes it: JSON's string, in which DEL must be escaped, too.
pub(super) fn lark_string(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
