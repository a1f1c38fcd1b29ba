//! JSON schemas as `llguidance` is to read them.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

/// White space between two tokens of JSON: a space, or a line's end and an indentation, which is what models write. Bounded,
/// since one that has lost its way writes white space until its tokens end.
const WHITE_SPACE: &str = r"\x20|\x0A(\x20{0,24}|\x09{0,8})";

/// Formats that are enforced. JSON Schema has others, and users theirs; those say something about a value without
/// restricting it, which the standard calls an annotation.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Significant digits of a `multipleOf`; llguidance counts remainders in 32 bits.
const MAX_STEP_DIGITS: usize = 8;

/// Most objects of JSON that stand in each other, references counted as what they lead to. llguidance recurses into each,
/// for which `compiler::STACK_BYTES` has room, and where one reference's schema is copied into the next the work grows by
/// the square.
pub(super) const MAX_LEVELS: usize = 3000;

/// Refuses what llguidance would compile into something else, or cannot compile within its stack.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    let levels = levels(schema);
    if levels > MAX_LEVELS {
        return Err(format!(
            "$ref: expected at most {MAX_LEVELS} levels of schemas, counting those that references lead into, found \
             {levels}; shorten the chain of references"
        ));
    }
    let mut wrong = Ok(());
    each_schema(schema, &mut |object| {
        if let Some(step) = object.get("multipleOf").map(Value::to_string) {
            let mantissa = step.split(['e', 'E']).next().unwrap_or_default().replace(['.', '-'], "");
            let digits = mantissa.trim_matches('0').len();
            if digits > MAX_STEP_DIGITS {
                wrong = Err(format!("multipleOf: expected at most {MAX_STEP_DIGITS} significant digits, found {step}"));
            }
        }
    });
    wrong
}

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

/// Keywords whose values are no schemas, whatever they look like.
fn is_data(key: &str) -> bool {
    matches!(key, "const" | "enum" | "default" | "examples" | "required")
}

/// Keywords that hold schemas by names of the author's.
fn is_named(key: &str) -> bool {
    matches!(key, "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas")
}

/// At most how deep llguidance recurses: it goes into each reference once, wherever that stands, and into what is nested
/// there. In which order does not matter to this sum, and no chain is longer.
pub(super) fn levels(schema: &Value) -> usize {
    let mut found = Nesting::default();
    let root = found.measure(schema);
    let behind = found.references.iter().filter_map(|reference| target(schema, reference));
    root + behind.map(|target| found.heights.get(&std::ptr::from_ref(target)).copied().unwrap_or(1)).sum::<usize>()
}

/// What a schema holds, at any depth.
#[derive(Default)]
struct Nesting<'a> {
    /// How many objects stand in each other, by the outermost value; only for objects and arrays.
    heights: HashMap<*const Value, usize>,
    /// Each as it is written: two names of one place are gone into twice.
    references: BTreeSet<&'a str>,
}

impl<'a> Nesting<'a> {
    fn measure(&mut self, value: &'a Value) -> usize {
        let height = match value {
            Value::Object(object) => {
                self.references.extend(object.get("$ref").and_then(Value::as_str));
                1 + object.values().map(|value| self.measure(value)).max().unwrap_or(0)
            }
            Value::Array(items) => items.iter().map(|item| self.measure(item)).max().unwrap_or(0),
            _ => return 0,
        };
        self.heights.insert(value, height);
        height
    }
}

/// Where a reference leads, as llguidance follows it: by the names as they stand, without `$anchor`, `$id` and escapes. It
/// refuses all others.
fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let path = reference.strip_prefix('#')?;
    if path.is_empty() || path == "/" {
        return Some(root);
    }
    path.strip_prefix('/')?.split('/').try_fold(root, |value, segment| match value {
        Value::Array(items) => items.get(segment.parse::<usize>().ok()?),
        value => value.get(segment),
    })
}

fn drop_annotations(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    if object.get("format").and_then(Value::as_str).is_some_and(|format| !FORMATS.contains(&format)) {
        object.remove("format");
    }
    for (key, value) in object.iter_mut().filter(|(key, _)| !is_data(key)) {
        match value {
            Value::Object(named) if is_named(key) => named.values_mut().for_each(drop_annotations),
            Value::Array(items) => items.iter_mut().for_each(drop_annotations),
            value => drop_annotations(value),
        }
    }
}

fn each_schema(schema: &Value, see: &mut dyn FnMut(&Map<String, Value>)) {
    let Value::Object(object) = schema else { return };
    see(object);
    for (key, value) in object.iter().filter(|(key, _)| !is_data(key)) {
        match value {
            Value::Object(named) if is_named(key) => named.values().for_each(|value| each_schema(value, see)),
            Value::Array(items) => items.iter().for_each(|item| each_schema(item, see)),
            value => each_schema(value, see),
        }
    }
}
