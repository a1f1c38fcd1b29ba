//! Forms that are made to take long: each ends within its bounds.

use std::time::{Duration, Instant};

use serde_json::{Map, json};

use super::*;
use crate::constraint::{
    MAX_SOURCE_BYTES,
    compiler::STACK_BYTES,
    gbnf::to_lark as gbnf_to_lark,
    schema::{Contents, MAX_LEVELS, check},
};

/// `d0`, which holds `d1` twice, which holds `d2` twice, and so on.
fn doubling(depth: usize, hold: impl Fn(Value) -> Value) -> Value {
    let defs = (0..depth).map(|i| (format!("d{i}"), hold(json!({"$ref": format!("#/$defs/d{}", i + 1)}))));
    let defs: Map<String, Value> = defs.chain([(format!("d{depth}"), json!({"type": "object"}))]).collect();
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

fn product(factors: usize) -> Value {
    let option = |key: String| json!({"properties": {key.clone(): {"const": 1}}, "required": [key]});
    let factor = |i: usize| json!({"anyOf": [option(format!("a{i}")), option(format!("b{i}"))]});
    json!({"type": "object", "allOf": (0..factors).map(factor).collect::<Value>()})
}

fn properties(count: usize) -> Map<String, Value> {
    (0..count).map(|i| (format!("^[a-z]*{i}[a-z]*$"), json!({"type": "null"}))).collect()
}

#[test]
fn hostile_forms_stay_within_their_bounds() {
    let grammar = |source: &str| ConstraintSpec::Grammar(source.to_owned());
    let regex = |source: &str| ConstraintSpec::Regex(source.to_owned());
    let wide: Vec<String> = (1..500).map(|i| format!("/[a-z]{{1,{i}}}/")).collect();
    let forms = [
        schema(product(8)),
        schema(product(12)),
        schema(product(30)),
        schema(doubling(40, |next| json!({"type": "array", "prefixItems": [next, next]}))),
        schema(doubling(40, |next| json!({"allOf": [next, next]}))),
        schema(json!({"type": "object", "patternProperties": properties(80), "additionalProperties": false})),
        schema(json!({"type": "object", "properties": properties(2000)})),
        schema(json!({"type": "object", "required": properties(3000).keys().collect::<Vec<_>>()})),
        schema(json!({"type": "array", "items": {"type": "integer"}, "minItems": 100_000, "maxItems": 2_000_000_000})),
        schema(json!({"type": "string", "minLength": 100_000, "maxLength": 200_000})),
        schema(json!({"enum": (0..20_000).map(|i| format!("value {i}")).collect::<Vec<_>>()})),
        regex("(x+x+)+y"),
        regex("a{1000}{1000}{1000}"),
        regex(r"\p{L}{1,5000}\p{N}{1,5000}[^\p{L}]{3,9000}"),
        regex("((((((a{1,99}){1,99}){1,99}){1,99}){1,99}){1,99}){1,99}b"),
        regex("[ab]*a[ab]{300}"),
        grammar("start: A\nA: /.*a.{40}/ & /.*b.{41}/ & ~/.*c.{42}/ & /(..)*/ & /(...)*/ & /(.....)*/ & /(.......)*/"),
        grammar("start: s\ns: s s s | s s | /[a-z]/ | /[a-z]+/ | \"\""),
        grammar(&format!("start: s*\ns: {}", wide.join(" | "))),
        grammar("start: x\nx: /[a-z]/ x | /[a-z]/"),
        grammar("start: (((\"a\"{1,1000}){1,1000}){1,1000}){1,1000}"),
        grammar("root ::= x{1,10000} \"b\"\nx ::= \"(\" x{1,10000} \")\" | \"a\""),
    ];
    for form in forms {
        let started = Instant::now();
        let shown: String = format!("{form:?}").chars().take(120).collect();
        let constraint = compile(&form);
        assert!(started.elapsed() < Duration::from_secs(15), "{shown} compiled in {:?}", started.elapsed());
        let Ok(constraint) = constraint else { continue };
        let mut state = constraint.begin();
        for position in 0..100 {
            let allowed: Vec<u32> = (0..EOS).filter(|&id| is_allowed(&state, id)).collect();
            let a = u32::from(b'a');
            let Some(&id) =
                (if allowed.contains(&a) { Some(&a) } else { allowed.get(position % allowed.len().max(1)) })
            else {
                break;
            };
            let started = Instant::now();
            let accepted = state.accept(id);
            assert!(started.elapsed() < Duration::from_secs(2), "{shown} stepped in {:?}", started.elapsed());
            if accepted != Ok(false) {
                break;
            }
        }
    }
}

/// A reference that leads to the next, and so on to `last`, each in what `link` puts around it.
fn chain(links: usize, last: Value, link: impl Fn(Value) -> Value) -> Value {
    let chained = (0..links).map(|i| (format!("{i:05}"), link(json!({"$ref": format!("#/a/{:05}", i + 1)}))));
    let chained: Map<String, Value> = chained.chain([(format!("{links:05}"), last)]).collect();
    json!({"$ref": "#/a/00000", "a": chained})
}

/// Both of two objects' entries.
fn beside(one: Value, other: Value) -> Value {
    let (Value::Object(mut one), Value::Object(mut other)) = (one, other) else { panic!("two objects") };
    one.append(&mut other);
    Value::Object(one)
}

type Link = fn(Value) -> Value;

/// What can stand around a reference, those first that take the most stack.
const LINKS: [(&str, Link); 12] = [
    ("prefixItems", |next| json!({"type": "array", "prefixItems": [beside(json!({"type": "array"}), next)]})),
    ("items", |next| json!({"type": "array", "items": beside(json!({"type": "array"}), next)})),
    ("a map", |next| json!({"type": "object", "additionalProperties": beside(json!({"type": "object"}), next)})),
    ("no type", |next| json!({"items": next})),
    ("nothing", |next| next),
    ("a type before", |next| beside(json!({"type": "array"}), next)),
    ("a type behind", |next| beside(next, json!({"type": "array"}))),
    ("properties", |next| json!({"type": "object", "properties": {"a": next}})),
    (
        "copied properties",
        |next| json!({"type": "object", "properties": {"a": beside(json!({"type": "object"}), next)}}),
    ),
    ("allOf", |next| json!({"allOf": [{"type": "array"}, next]})),
    ("anyOf", |next| json!({"anyOf": [next, {"type": "null"}]})),
    ("oneOf", |next| json!({"oneOf": [next, {"type": "null"}]})),
];

#[test]
fn chains_of_references_are_refused_before_the_stack_ends() {
    for links in [25_000, 45_000] {
        for (name, link) in LINKS {
            let reason = check(&chain(links, json!({}), link)).unwrap_err();
            assert!(reason.starts_with("$ref: expected at most 3000 levels"), "{name}: {reason}");
        }
    }
    // As requests bring them.
    for (name, link) in &LINKS[4..7] {
        match compile(&schema(chain(20_000, json!({}), link))) {
            Err(ConstraintError::Invalid(reason)) => assert!(reason.starts_with("$ref: expected"), "{name}: {reason}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn references_count_by_each_of_their_names_and_wherever_they_stand() {
    // `0`, `00`, `000` and so on are one place, which llguidance goes into by each of these names.
    let alias = |zeros: usize| format!("#/a/{}", "0".repeat(zeros));
    let names: Vec<Value> = (1..1200).map(|zeros| json!({"$ref": alias(zeros)})).collect();
    let deep = (0..3).fold(json!({"anyOf": names}), |inner, _| json!({"items": inner}));
    let reason = compile(&schema(json!({"$ref": "#/a/0", "a": [deep]}))).unwrap_err().to_string();
    assert!(reason.starts_with("$ref: expected at most 3000 levels"), "{reason}");

    // Through names that are no schemas' anywhere else.
    let chained: Vec<Value> =
        (0..3500).map(|i| json!([{"default": {"$ref": format!("#/x/{}/0/default", i + 1)}}])).collect();
    let reason = compile(&schema(json!({"$ref": "#/x/0/0/default", "x": chained}))).unwrap_err().to_string();
    assert!(reason.starts_with("$ref: expected at most 3000 levels"), "{reason}");
}

#[test]
fn the_longest_chains_that_are_let_through_have_stack_left() {
    for (name, link) in LINKS {
        let step = |links| chain(links, json!({}), link);
        let levels = |links| {
            let chain = step(links);
            Contents::of(&chain).levels(&chain)
        };
        let (one, two) = (levels(1), levels(2));
        let chain = step((MAX_LEVELS - one) / (two - one));
        assert!(check(&chain).is_ok(), "{name}");
        // An overflow would abort the tests.
        let started = Instant::now();
        let _ = grammars().compile_within(STACK_BYTES / 4, &schema(chain));
        println!("{name}: {:?}", started.elapsed());
    }
}

#[test]
fn schemas_that_refer_to_each_other_often_are_none_too_deep() {
    // 300 definitions, all of which lead to each other.
    let kinds: Map<String, Value> = (0..300)
        .map(|i| {
            let to = |step: usize| json!({"$ref": format!("#/$defs/{}", (i * 7 + step) % 300)});
            let either = json!({"anyOf": [to(2), {"type": "null"}]});
            let many = json!({"type": "array", "items": to(3)});
            (i.to_string(), json!({"type": "object", "properties": {"a": to(1), "b": either, "c": many}}))
        })
        .collect();
    let schema = schema(json!({"$ref": "#/$defs/0", "$defs": kinds}));
    assert!(compile(&schema).is_ok());
}

/// A form is compiled or refused in about a second of a release build.
#[track_caller]
fn assert_soon(name: &str, spec: &ConstraintSpec) -> Result<Constraint, ConstraintError> {
    let started = Instant::now();
    let compiled = compile(spec);
    println!(
        "{name}: {:?}, {}",
        started.elapsed(),
        compiled.as_ref().map_or_else(ToString::to_string, |_| "fits".into())
    );
    assert!(started.elapsed() < Duration::from_secs(5), "{name}: {:?}", started.elapsed());
    compiled
}

#[test]
fn schemas_of_many_names_are_refused_and_those_of_some_thousand_are_not() {
    let name = |i: usize| format!("{i:05}");
    let names = |range: std::ops::Range<usize>| range.map(name).map(Value::from).collect::<Value>();
    let object = |count: usize| (0..count).map(|i| (name(i), json!(true))).collect::<Map<_, _>>();
    let of_parts = |part: &dyn Fn(std::ops::Range<usize>) -> Value| -> Value {
        (0..60).map(|i| part(1000 * i..1000 * (i + 1))).collect()
    };
    let many = [
        ("required", json!({"type": "object", "required": names(0..60_000)})),
        ("properties", json!({"type": "object", "properties": object(60_000)})),
        ("a constant", json!({"const": object(60_000)})),
        ("constants", json!({"enum": [[object(30_000)], {"a": object(30_000)}]})),
        ("merged", json!({"type": "object", "allOf": of_parts(&|part| json!({"required": names(part)}))})),
        (
            "merged properties",
            json!({"allOf": of_parts(&|part| json!({"properties": {"a": {"required": names(part)}}}))}),
        ),
        ("behind a reference", json!({"$ref": "#/x", "x": {"const": object(60_000)}})),
        ("behind a property's name", json!({"$ref": "#/properties", "properties": {"const": object(60_000)}})),
    ];
    for (name, many) in many {
        let refused = assert_soon(name, &schema(many)).unwrap_err().to_string();
        assert!(
            refused.starts_with("properties: expected at most 4000 names in the whole schema"),
            "{name}: {refused}"
        );
    }
    let some = [
        ("4000 required", json!({"type": "object", "required": names(0..4000)})),
        ("4000 optional", json!({"type": "object", "properties": object(4000)})),
        ("4000 strict", json!({"type": "object", "properties": object(4000), "required": names(0..4000)})),
        ("4000 constant", json!({"const": object(4000)})),
    ];
    for (name, some) in some {
        assert!(assert_soon(name, &schema(some)).is_ok(), "{name}");
    }
    let within = |schema: &Value| ConstraintSpec::Grammar(format!("start: \"a\" %json\n{schema}\n"));
    let refused = compile(&within(&json!({"type": "object", "required": names(0..5000)}))).unwrap_err().to_string();
    assert!(refused.starts_with("properties: expected"), "{refused}");
    assert!(accepts(&within(&json!({"type": "null"})), "anull"));
}

#[test]
fn objects_whose_properties_are_counted_have_few() {
    let object = |count: usize| (0..count).map(|i| (format!("{i:05}"), json!(true))).collect::<Map<_, _>>();
    let closed = |count: usize| json!({"type": "object", "properties": object(count), "additionalProperties": false});
    let one = || json!({"minProperties": 1});
    let required: Value = (0..1000).map(|i| format!("r{i}")).collect();
    let many = [
        ("at least one", beside(closed(1000), one())),
        ("exactly one more", beside(closed(1000), json!({"maxProperties": 1001, "required": required}))),
        ("merged", json!({"allOf": [closed(1000), one()]})),
        ("beside a reference", beside(json!({"$ref": "#/$defs/a", "$defs": {"a": closed(1000)}}), one())),
        ("merged within", json!({"allOf": [{"properties": {"a": closed(1000)}}, {"properties": {"a": one()}}]})),
        ("by a pattern", json!({"properties": {"a": closed(1000)}, "patternProperties": {"a": one()}})),
    ];
    for (name, many) in many {
        let refused = assert_soon(name, &schema(many)).unwrap_err().to_string();
        assert!(refused.starts_with("minProperties: expected at most 150 names"), "{name}: {refused}");
    }
    assert!(assert_soon("150", &schema(beside(closed(150), one()))).is_ok());
    let apart =
        json!({"type": "object", "properties": {"a": closed(1000), "b": {"type": "object", "minProperties": 1}}});
    assert!(assert_soon("apart", &schema(apart)).is_ok());
}

#[test]
fn what_is_copied_often_is_refused() {
    let names: Vec<String> = (0..30_000).map(|i| format!("{i:05}")).collect();
    let copy = |i: usize| (i.to_string(), json!({"allOf": [false], "$ref": "#/$defs/a"}));
    let copies: Map<String, Value> = (0..3000).map(copy).collect();
    let copied = json!({"type": "object", "properties": copies, "$defs": {"a": {"enum": names}}});
    let refused = assert_soon("copies", &schema(copied)).unwrap_err().to_string();
    assert!(refused.starts_with("$ref: expected at most 4000000 values of JSON"), "{refused}");

    let types = json!({"type": vec!["object"; 20_000], "required": names[..3000]});
    let refused = assert_soon("types", &schema(types)).unwrap_err().to_string();
    assert!(refused.starts_with("type: expected at most 7 types"), "{refused}");
}

#[test]
fn long_grammars_of_llama_cpp_are_rewritten_in_time() {
    let many_empty = |last: &str| {
        let head = "x ::= x \"a\" | \"b\"\nw ::= \"\" | \"a\"\nroot ::= ";
        format!("{head}{}{last}", "w ".repeat((MAX_SOURCE_BYTES - head.len() - last.len()) / 2))
    };
    let names: Vec<String> = (0..4500).map(|i| format!("r{i:04}")).collect();
    let chained = |last: &str| {
        let links: String = names.windows(2).map(|two| format!("{}::={}\n", two[0], two[1])).collect();
        format!("root::=r0000\n{links}{}::={last}", names[4499])
    };
    let grammars = [
        ("many that may be empty", many_empty("x")),
        ("many that may be empty at the end", many_empty("w")),
        ("a chain", chained("\"a\"")),
        ("a chain of what recurses", chained("\"a\" root | \"b\"")),
        ("many groups", format!("root ::= {} root | \"b\"", "(\"a\" ([a] [b])) ".repeat(3500))),
        (
            "many rules of many",
            (0..100).fold(String::from("root ::= r0"), |grammar, i| {
                format!("{grammar}\nr{i} ::= {}\"a\"", format!("r{} ", i + 1).repeat(100))
            }) + "\nr100 ::= \"a\"",
        ),
    ];
    for (name, grammar) in grammars {
        assert!(grammar.len() <= MAX_SOURCE_BYTES, "{name}");
        let started = Instant::now();
        assert!(gbnf_to_lark(&grammar).is_ok(), "{name}");
        assert!(started.elapsed() < Duration::from_millis(1500), "{name} rewritten in {:?}", started.elapsed());
        // How long llguidance takes then is bounded by its own items.
        let started = Instant::now();
        let _ = compile(&ConstraintSpec::Grammar(grammar));
        assert!(started.elapsed() < Duration::from_secs(15), "{name} compiled in {:?}", started.elapsed());
    }
}
