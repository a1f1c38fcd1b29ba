//! What was said in a message: a text, or parts.

use serde_json::Value;

use super::fields::{Fields, wrong_type};
use crate::error::{ApiError, quoted};

/// A text, or parts of one of the `types`, which are joined by line breaks as vLLM joins them.
pub fn text(value: &Value, param: &str, types: &[&str]) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let texts = parts.iter().enumerate().map(|(i, part)| part_text(part, &format!("{param}[{i}]."), types));
            Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        other => Err(wrong_type(param, "a string or an array of objects", other)),
    }
}

fn part_text(part: &Value, path: &str, types: &[&str]) -> Result<String, ApiError> {
    let fields = Fields::nested(part, path)?;
    let param = fields.param("type");
    let found = fields.string("type")?.ok_or_else(|| ApiError::missing(&param))?;
    if !types.contains(&found) {
        let expected = types.join("' or '");
        let message =
            format!("'{param}': expected '{expected}', as this model reads text alone, found '{}'.", quoted(found));
        return Err(ApiError::invalid(param, "invalid_value", message));
    }
    fields.string("text")?.map(str::to_owned).ok_or_else(|| ApiError::missing(&fields.param("text")))
}
