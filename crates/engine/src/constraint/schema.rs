//! JSON schemas as `llguidance` is to read them.

use std::collections::HashMap;

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

/// Most names of properties in a schema. An object costs llguidance the square of its names, and the names of several come
/// together where it merges them.
const MAX_NAMES: usize = 4000;

/// Most names in an object whose properties are counted, which costs it their cube.
const MAX_COUNTED_NAMES: usize = 150;

/// Most values of JSON behind all references together, each time that one stands somewhere: llguidance copies what it merges.
const MAX_REFERRED: usize = 4_000_000;

/// There are no more; llguidance compiles a type as often as it is listed.
const MAX_TYPES: usize = 7;

/// Refuses what llguidance would compile into something else, or not within its stack or in bounded time: it counts
/// schemas, and not what is in them.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    let contents = Contents::of(schema);
    let at_most = |field: &str, most: usize, what: &str, found: usize| match found <= most {
        true => Ok(()),
        false => Err(format!("{field}: expected at most {most} {what}, found {found}; simplify the schema")),
    };
    let levels = "levels of schemas, each reference counted once with what is nested behind it";
    at_most("$ref", MAX_LEVELS, levels, contents.levels(schema))?;
    at_most("type", MAX_TYPES, "types", contents.types)?;
    let counted = "names of properties in an object that has 'minProperties' or 'maxProperties' (in the whole schema, where \
                   'allOf', 'patternProperties' or keywords beside '$ref', 'anyOf' or 'oneOf' merge objects)";
    at_most("minProperties", MAX_COUNTED_NAMES, counted, contents.counted_names())?;
    let all = "names in the whole schema, those in 'required' and in objects that are constants included";
    at_most("properties", MAX_NAMES, all, contents.names)?;
    at_most("$ref", MAX_REFERRED, "values of JSON behind all references together", contents.referred(schema))?;

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

/// What a schema holds, at any depth and under any key: a reference can lead to each of its values.
#[derive(Default)]
pub(super) struct Contents<'a> {
    sizes: HashMap<*const Value, Size>,
    /// How often each stands somewhere, as it is written: two names of one place are gone into twice.
    references: HashMap<&'a str, usize>,
    /// Of properties, required ones and constants.
    names: usize,
    /// The most in one object that has `minProperties` or `maxProperties`, if there is one.
    counted: Option<usize>,
    /// Whether objects are merged.
    merges: bool,
    /// The most in one list.
    types: usize,
}

/// Of an object or an array.
#[derive(Clone, Copy)]
struct Size {
    /// How many objects stand in each other.
    height: usize,
    /// How many values there are.
    values: usize,
}

impl<'a> Contents<'a> {
    pub(super) fn of(schema: &'a Value) -> Self {
        let mut contents = Self::default();
        contents.read(schema, false);
        contents
    }

    /// At most how deep llguidance recurses: it goes into each reference once, wherever that stands, and into what is nested
    /// there. In which order does not matter to this sum, and no chain is longer.
    pub(super) fn levels(&self, root: &Value) -> usize {
        self.size(root).height + self.references.keys().map(|name| self.behind(root, name).height).sum::<usize>()
    }

    fn referred(&self, root: &Value) -> usize {
        self.references.iter().map(|(name, &times)| times.saturating_mul(self.behind(root, name).values)).sum()
    }

    /// Names that can come together in an object whose properties are counted.
    fn counted_names(&self) -> usize {
        match self.counted {
            Some(_) if self.merges => self.names,
            counted => counted.unwrap_or(0),
        }
    }

    fn behind(&self, root: &Value, reference: &str) -> Size {
        target(root, reference).map_or(Size { height: 0, values: 0 }, |value| self.size(value))
    }

    fn size(&self, value: &Value) -> Size {
        self.sizes.get(&std::ptr::from_ref(value)).copied().unwrap_or(Size { height: 1, values: 1 })
    }

    fn read(&mut self, value: &'a Value, is_constant: bool) -> Size {
        let size = match value {
            Value::Object(object) => {
                self.note(object, is_constant);
                let constant = |key: &str| is_constant || matches!(key, "const" | "enum");
                let inner = joined(object.iter().map(|(key, value)| self.read(value, constant(key))));
                Size { height: inner.height + 1, ..inner }
            }
            Value::Array(items) => joined(items.iter().map(|item| self.read(item, is_constant))),
            _ => return Size { height: 0, values: 1 },
        };
        self.sizes.insert(value, size);
        size
    }

    fn note(&mut self, object: &'a Map<String, Value>, is_constant: bool) {
        if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
            *self.references.entry(reference).or_default() += 1;
        }
        let properties = object.get("properties").and_then(Value::as_object);
        let required = object.get("required").and_then(Value::as_array).into_iter().flatten();
        let is_new =
            |name: &&Value| !name.as_str().is_some_and(|name| properties.is_some_and(|p| p.contains_key(name)));
        let names = properties.map_or(0, Map::len) + required.filter(is_new).count();
        self.names += if is_constant { object.len() } else { names };
        if object.contains_key("minProperties") || object.contains_key("maxProperties") {
            self.counted = self.counted.max(Some(names));
        }
        self.merges |= merges(object);
        self.types = self.types.max(object.get("type").and_then(Value::as_array).map_or(0, Vec::len));
    }
}

fn joined(parts: impl Iterator<Item = Size>) -> Size {
    parts.fold(Size { height: 0, values: 1 }, |all, part| Size {
        height: all.height.max(part.height),
        values: all.values + part.values,
    })
}

/// Whether a schema is merged with another, or the schemas of its properties with those of patterns.
fn merges(object: &Map<String, Value>) -> bool {
    let refers = |key: &str| matches!(key, "$ref" | "anyOf" | "oneOf");
    let says_nothing = |key: &str| {
        matches!(
            key,
            "title" | "description" | "default" | "examples" | "$comment" | "$schema" | "$id" | "$defs" | "definitions"
        )
    };
    object.contains_key("allOf")
        || object.contains_key("patternProperties")
        || object.keys().any(|key| refers(key)) && object.keys().filter(|key| !says_nothing(key)).count() > 1
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
