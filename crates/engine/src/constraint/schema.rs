//! JSON schemas as `llguidance` is to read them.

use serde_json::{Value, json};

/// White space between two tokens of JSON. Bounded: a model that has lost its way writes line breaks until its tokens end.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,32}";

/// Formats that are enforced. JSON Schema has others, and users theirs; those say something about a value without
/// restricting it, which the standard calls an annotation.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// A schema with our settings, which are not the client's to choose, and without formats that nobody enforces.
pub(super) fn prepared(schema: &Value, white_space: bool) -> Value {
    let mut schema = schema.clone();
    drop_annotations(&mut schema);
    // `true` and `{}` mean the same.
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Value::Object(object) = &mut schema {
        object.insert(
            "x-guidance".to_owned(),
            match white_space {
                true => json!({"whitespace_pattern": WHITE_SPACE}),
                false => json!({"whitespace_flexible": false}),
            },
        );
    }
    schema
}

/// A schema of arguments, which are an object whatever it says.
pub(super) fn prepared_arguments(schema: &Value) -> Value {
    let mut schema = prepared(schema, true);
    if let Value::Object(object) = &mut schema
        && !object.contains_key("type")
    {
        object.insert("type".to_owned(), json!("object"));
    }
    schema
}

fn drop_annotations(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    if object.get("format").and_then(Value::as_str).is_some_and(|format| !FORMATS.contains(&format)) {
        object.remove("format");
    }
    for (key, value) in object.iter_mut() {
        match (key.as_str(), value) {
            // Values, whatever they look like.
            ("const" | "enum" | "default" | "examples" | "required", _) => {}
            (
                "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas",
                Value::Object(named),
            ) => {
                named.values_mut().for_each(drop_annotations);
            }
            (_, Value::Array(items)) => items.iter_mut().for_each(drop_annotations),
            (_, value) => drop_annotations(value),
        }
    }
}
