//! Whatever the model, an answer that ended by itself parses and keeps to its schema.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const MAX_TOKENS: u64 = 600;

/// Answers of `seeds` models to one schema, each held to it; how many ended by themselves.
fn check(schema: &Value, constraint: &Constraint, seeds: std::ops::Range<u64>) -> usize {
    let validator = jsonschema::options().should_validate_formats(true).build(schema).unwrap();
    let answers = seeds.filter_map(|seed| babble(constraint, seed, MAX_TOKENS));
    answers
        .map(|text| match serde_json::from_str::<Value>(&text) {
            Ok(answer) => {
                // llguidance knows leap seconds; that they come before midnight only, it does not.
                let is_leap_second = |error: &String| error.contains("time\"") && text.contains(":60");
                let errors = validator.iter_errors(&answer).map(|error| error.to_string());
                let errors: Vec<String> = errors.filter(|error| !is_leap_second(error)).collect();
                assert!(errors.is_empty(), "{errors:?} in {text} of {schema}");
            }
            // JSON has no largest number; serde's has.
            Err(error) if error.to_string().starts_with("number out of range") => {}
            Err(error) => panic!("{error} in {text} of {schema}"),
        })
        .count()
}

#[test]
fn answers_keep_to_schemas_written_by_hand() {
    let schemas: Vec<Value> = serde_json::from_str(include_str!("schemas.json")).unwrap();
    let mut ended = 0;
    for schema in &schemas {
        let constraint = compile(&super::schema(schema.clone())).unwrap_or_else(|error| panic!("{error}: {schema}"));
        let of_this = check(schema, &constraint, 0..6);
        assert!(of_this > 0, "no answer ended: {schema}");
        ended += of_this;
    }
    assert!(schemas.len() >= 120 && ended > schemas.len() * 5, "{ended} answers of {} schemas", schemas.len());
}

fn text() -> impl Strategy<Value = String> {
    let characters = "abcxyz09 _-.\"\\/\n\t{}[]:,éж中🎉\u{7f}\u{1}<".chars().collect::<Vec<char>>();
    prop::collection::vec(prop::sample::select(characters), 0..6)
        .prop_map(|characters| characters.into_iter().collect())
}

fn constant() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-1000i64..1000).prop_map(Value::from),
        (-1000i32..1000).prop_map(|number| json!(f64::from(number) / 8.0)),
        text().prop_map(Value::from),
        prop::collection::vec(text(), 0..3).prop_map(Value::from),
    ]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec!["null", "boolean", "integer", "number", "string"]).prop_map(|name| json!({"type": name})),
        constant().prop_map(|value| json!({"const": value})),
        prop::collection::vec(constant(), 1..4).prop_map(|values| json!({"enum": values})),
        (-500i64..500, 0i64..300).prop_map(|(least, width)| json!({"type": "integer", "minimum": least, "maximum": least + width})),
        (-400i32..400, 1i32..900).prop_map(|(least, width)| {
            json!({"type": "number", "minimum": f64::from(least) / 8.0, "exclusiveMaximum": f64::from(least + width) / 8.0})
        }),
        (1i64..50).prop_map(|step| json!({"type": "integer", "multipleOf": step, "minimum": 0, "maximum": 1_000_000})),
        (0u64..4, 0u64..5).prop_map(|(least, more)| json!({"type": "string", "minLength": least, "maxLength": least + more})),
        prop::sample::select(vec!["^[a-z]{2,5}$", "^\\d+(\\.\\d)?$", "x", "^(ab|cd)*e?$", "^[^a-z]{1,3}$", "[0-9]$"])
            .prop_map(|pattern| json!({"type": "string", "pattern": pattern})),
        prop::sample::select(vec!["date", "ipv4", "uuid", "hostname", "whatever"])
            .prop_map(|format| json!({"type": "string", "format": format})),
    ]
}

fn any_schema() -> impl Strategy<Value = Value> {
    leaf()
        .prop_recursive(4, 24, 4, |inner| {
            let properties = prop::collection::btree_map(text(), (inner.clone(), any::<bool>()), 0..4);
            let object =
                (properties, prop::option::of(inner.clone()), any::<bool>()).prop_map(|(properties, more, is_open)| {
                    let required: Vec<&String> =
                        properties.iter().filter(|(_, (_, is_required))| *is_required).map(|(key, _)| key).collect();
                    let shapes: serde_json::Map<String, Value> =
                        properties.iter().map(|(key, (shape, _))| (key.clone(), shape.clone())).collect();
                    let more = if is_open { more.unwrap_or(Value::Bool(true)) } else { Value::Bool(false) };
                    json!({"type": "object", "properties": shapes, "required": required, "additionalProperties": more})
                });
            prop_oneof![
                3 => object,
                2 => (inner.clone(), 0u64..3, 0u64..3).prop_map(|(items, least, more)| {
                    json!({"type": "array", "items": items, "minItems": least, "maxItems": least + more})
                }),
                1 => (prop::collection::vec(inner.clone(), 1..4), any::<bool>()).prop_map(|(items, is_open)| {
                    let least = items.len();
                    let rest = if is_open { json!({"type": "boolean"}) } else { json!(false) };
                    json!({"type": "array", "prefixItems": items, "items": rest, "minItems": least})
                }),
                2 => prop::collection::vec(inner.clone(), 1..4).prop_map(|options| json!({"anyOf": options})),
                1 => (inner.clone(), inner).prop_map(|(shape, other)| json!({
                    "$defs": {"a": shape, "b": other},
                    "type": "array",
                    "prefixItems": [{"$ref": "#/$defs/a"}, {"anyOf": [{"$ref": "#/$defs/b"}, {"$ref": "#/$defs/a"}]}],
                })),
            ]
        })
        // A reference is to the whole schema's root; only the outermost definitions are where it looks.
        .prop_map(
            |schema| if schema.to_string().matches("$defs").count() > 3 { json!({"type": "object"}) } else { schema },
        )
}

#[test]
fn answers_keep_to_schemas_made_at_random() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut compiled, mut ended) = (0, 0);
    for _ in 0..300 {
        let schema = any_schema().new_tree(&mut runner).unwrap().current();
        // A reference inside another schema leads nowhere, and some unions cannot be satisfied.
        let Ok(constraint) = compile(&super::schema(schema.clone())) else { continue };
        compiled += 1;
        ended += check(&schema, &constraint, 0..3);
    }
    assert!(compiled >= 250 && ended >= compiled * 2, "{compiled} schemas compiled, {ended} answers ended");
}
