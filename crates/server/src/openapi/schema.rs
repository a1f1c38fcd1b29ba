//! Schemas in few words. A request's fields may be null, which is as good as absent.

use serde_json::{Map, Value, json};

fn of_type(kind: &str, description: &str) -> Value {
    json!({"type": [kind, "null"], "description": description})
}

pub fn text(description: &str) -> Value {
    of_type("string", description)
}

pub fn flag(description: &str) -> Value {
    of_type("boolean", description)
}

pub fn number(least: f64, most: f64, description: &str) -> Value {
    let mut schema = of_type("number", description);
    schema["minimum"] = json!(least);
    schema["maximum"] = json!(most);
    schema
}

/// A whole number from `least` on.
pub fn count(least: i64, description: &str) -> Value {
    let mut schema = of_type("integer", description);
    schema["minimum"] = json!(least);
    schema["maximum"] = json!(i64::MAX);
    schema
}

pub fn integer(least: i64, most: i64, description: &str) -> Value {
    let mut schema = count(least, description);
    schema["maximum"] = json!(most);
    schema
}

pub fn choice(values: &[&str], description: &str) -> Value {
    let values = values.iter().map(|value| json!(value)).chain([Value::Null]);
    json!({"enum": values.collect::<Vec<_>>(), "description": description})
}

pub fn list(item: Value, most: usize, description: &str) -> Value {
    let mut schema = of_type("array", description);
    schema["items"] = item;
    schema["maxItems"] = json!(most);
    schema
}

pub fn any_object(description: &str) -> Value {
    of_type("object", description)
}

/// An object of a request.
pub fn object(required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "required": required, "properties": properties})
}

/// `properties`, and all of `more`.
pub fn with(mut properties: Value, more: Value) -> Value {
    if let (Value::Object(properties), Value::Object(more)) = (&mut properties, more) {
        properties.extend(more);
    }
    properties
}

/// An object of an answer: all of its fields are there.
pub fn answer(properties: Value) -> Value {
    let required: Vec<_> = properties.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default();
    json!({"type": "object", "required": required, "properties": properties})
}

/// A value of an answer that is always this one.
pub fn always(value: &str) -> Value {
    json!({"const": value})
}

/// A value of an answer.
pub fn a(kind: &str) -> Value {
    json!({"type": kind})
}

/// A value of an answer that may be null.
pub fn maybe(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

/// A list of an answer.
pub fn many(item: Value) -> Value {
    json!({"type": "array", "items": item})
}

/// Fields by name, for what has names that cannot be known before.
pub fn by_name(value: Value) -> Value {
    json!({"type": "object", "additionalProperties": value})
}

pub fn error() -> Value {
    let body = answer(json!({
        "message": a("string"),
        "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
        "param": maybe("string"),
        "code": maybe("string"),
    }));
    answer(json!({"error": body}))
}

pub fn anthropic_error() -> Value {
    let body = answer(json!({"type": a("string"), "message": a("string")}));
    answer(json!({"type": always("error"), "error": body, "request_id": a("string")}))
}

/// The names of a schema's properties.
pub fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema["properties"].as_object()
}
