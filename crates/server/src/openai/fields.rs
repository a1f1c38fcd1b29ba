//! Reading a JSON object field by field. What is wrong is said in OpenAI's words, with the field's name.
//!
//! `null` is the same as absent, as it is for OpenAI.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// An object of a request and where it lies in it.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// `""` or `messages[3].`.
    path: &'a str,
}

impl<'a> Fields<'a> {
    /// The fields of the whole request.
    pub fn new(object: &'a Map<String, Value>) -> Self {
        Self { object, path: "" }
    }

    /// The fields of `value`, which lies at `path` (that ends in a dot).
    pub fn nested(value: &'a Value, path: &'a str) -> Result<Self, ApiError> {
        match value {
            Value::Object(object) => Ok(Self { object, path }),
            other => Err(wrong_type(path.trim_end_matches('.'), "an object", other)),
        }
    }

    /// The field's name in the whole request.
    pub fn param(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// The value, unless it is absent or `null`.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// The value, which must be there.
    pub fn required(&self, name: &str) -> Result<&'a Value, ApiError> {
        self.get(name).ok_or_else(|| ApiError::missing(&self.param(name)))
    }

    /// `true` or `false`.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.get(name)
            .map(|value| value.as_bool().ok_or_else(|| wrong_type(&self.param(name), "a boolean", value)))
            .transpose()
    }

    /// A text.
    pub fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.get(name)
            .map(|value| value.as_str().ok_or_else(|| wrong_type(&self.param(name), "a string", value)))
            .transpose()
    }

    /// A list.
    pub fn array(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        self.get(name)
            .map(|value| {
                value.as_array().map(Vec::as_slice).ok_or_else(|| wrong_type(&self.param(name), "an array", value))
            })
            .transpose()
    }

    /// A whole number in `range`.
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let param = self.param(name);
        // A number that fits no i64 but is whole is out of any range here; one with a fraction is of the wrong type.
        if !value.is_i64() && !value.is_u64() {
            return Err(wrong_type(&param, "an integer", value));
        }
        match value.as_i64() {
            Some(number) if range.contains(&number) => Ok(Some(number)),
            Some(number) if number < *range.start() => {
                Err(below(&param, "integer", &range.start().to_string(), &number.to_string()))
            }
            _ => Err(above(&param, "integer", &range.end().to_string(), &value.to_string())),
        }
    }

    /// A number in `range`.
    pub fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        self.get(name).map(|value| number(&self.param(name), value, range)).transpose()
    }
}

/// `value` as a number in `range`.
pub fn number(param: &str, value: &Value, range: RangeInclusive<f64>) -> Result<f64, ApiError> {
    match value.as_f64() {
        None => Err(wrong_type(param, "a decimal", value)),
        Some(number) if range.contains(&number) => Ok(number),
        Some(number) if number < *range.start() => {
            Err(below(param, "decimal", &range.start().to_string(), &value.to_string()))
        }
        Some(_) => Err(above(param, "decimal", &range.end().to_string(), &value.to_string())),
    }
}

/// A value of the wrong type.
pub fn wrong_type(param: &str, expected: &str, found: &Value) -> ApiError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    ApiError::invalid(
        param,
        "invalid_type",
        format!("Invalid type for '{param}': expected {expected}, but got {found} instead."),
    )
}

fn below(param: &str, kind: &str, limit: &str, found: &str) -> ApiError {
    let code = if kind == "integer" { "integer_below_min_value" } else { "decimal_below_min_value" };
    ApiError::invalid(
        param,
        code,
        format!("Invalid '{param}': {kind} below minimum value. Expected a value >= {limit}, but got {found} instead."),
    )
}

fn above(param: &str, kind: &str, limit: &str, found: &str) -> ApiError {
    let code = if kind == "integer" { "integer_above_max_value" } else { "decimal_above_max_value" };
    ApiError::invalid(
        param,
        code,
        format!("Invalid '{param}': {kind} above maximum value. Expected a value <= {limit}, but got {found} instead."),
    )
}

/// A list that must hold between one and `limit` entries.
pub fn bounded<'a>(param: &str, items: &'a [Value], limit: usize) -> Result<&'a [Value], ApiError> {
    match items.len() {
        0 => Err(empty_array(param)),
        found if found > limit => Err(long_array(param, limit, found)),
        _ => Ok(items),
    }
}

/// A list that must hold something.
pub fn empty_array(param: &str) -> ApiError {
    ApiError::invalid(
        param,
        "empty_array",
        format!(
            "Invalid '{param}': empty array. Expected an array with minimum length 1, but got an empty array instead."
        ),
    )
}

/// A list that is too long.
pub fn long_array(param: &str, limit: usize, found: usize) -> ApiError {
    ApiError::invalid(
        param,
        "array_above_max_length",
        format!(
            "Invalid '{param}': array too long. Expected an array with maximum length {limit}, but got an array with \
             length {found} instead."
        ),
    )
}
