//! Constraints from strangers: refused with a reason, in bounded time, and never with a panic.

use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn what_cannot_be_compiled_is_refused_with_a_reason() {
    let deep =
        |depth: usize| (0..depth).fold(json!({"type": "null"}), |inner, _| json!({"type": "array", "items": inner}));
    let many: serde_json::Map<String, Value> =
        (0..60_000).map(|i| (format!("a{i}"), json!({"type": "string"}))).collect();
    let wide = json!({"type": "object", "properties": many});
    let cases = [
        schema(json!({"type": "strange"})),
        schema(json!({"type": "object", "properties": []})),
        schema(json!({"$ref": "https://example.com/schema"})),
        schema(json!({"$ref": "#/$defs/none"})),
        schema(json!({"oneOf": [{"type": "integer"}, {"type": "number"}]})),
        schema(json!({"not": {"type": "string"}})),
        schema(json!({"type": "array", "uniqueItems": true})),
        schema(json!({"type": "string", "pattern": "(?=a)b"})),
        schema(json!({"type": "string", "pattern": "("})),
        schema(json!({"enum": []})),
        schema(json!({"$ref": "#"})),
        schema(json!({"type": "object", "properties": {"a": {"type": "integer", "multipleOf": 999_999_937}}})),
        schema(json!({"type": "number", "multipleOf": 0.123_456_789_1})),
        schema(json!(false)),
        schema(json!("string")),
        schema(wide),
        schema(json!({"type": "array", "minItems": 5, "maxItems": 2})),
        ConstraintSpec::Regex("(".repeat(60_000)),
        ConstraintSpec::Regex("\\b".to_owned()),
        ConstraintSpec::Regex("x".repeat(70_000)),
        ConstraintSpec::Choice(vec!["x".repeat(70_000)]),
        ConstraintSpec::Grammar("start: a\na: b".to_owned()),
        ConstraintSpec::Grammar("start: A\nA: A \"a\"".to_owned()),
        ConstraintSpec::Grammar(format!("start: {}\"a\"{}", "(".repeat(30_000), ")".repeat(30_000))),
        ConstraintSpec::Grammar(format!("root ::= {}\"a\"{}", "(".repeat(30_000), ")".repeat(30_000))),
        ConstraintSpec::Grammar("start: <|nothing|>".to_owned()),
        ConstraintSpec::Grammar("x".repeat(70_000)),
    ];
    for spec in cases {
        let started = Instant::now();
        let shown: String = format!("{spec:?}").chars().take(200).collect();
        match compile(&spec) {
            Err(ConstraintError::Invalid(reason)) => assert!(!reason.is_empty() && reason.len() < 2000, "{shown}"),
            other => panic!("{other:?}: {shown}"),
        }
        assert!(started.elapsed().as_secs() < 20, "{shown}: {:?}", started.elapsed());
    }
    let step = compile(&schema(json!({"type": "integer", "multipleOf": 12_500}))).unwrap();
    assert!(babble(&step, 1, 50).is_none_or(|text| text.parse::<i64>().unwrap() % 12_500 == 0));
    // Deep, but not too deep.
    assert!(compile(&schema(deep(60))).is_ok());
}

#[test]
fn grammars_that_grow_are_stopped() {
    // Each rule doubles the last.
    let doubling: String = (0..40).map(|i| format!("r{i} ::= r{} r{}\n", i + 1, i + 1)).collect();
    let source = format!("root ::= r0\n{doubling}r40 ::= \"a\" root \"b\" | \"c\"\n");
    let started = Instant::now();
    if let Ok(constraint) = compile(&ConstraintSpec::Grammar(source)) {
        let mut state = constraint.begin();
        for _ in 0..50 {
            if state.accept(b'a'.into()).is_err() {
                break;
            }
        }
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

fn noise(characters: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(characters.chars().collect::<Vec<char>>()), 0..40)
        .prop_map(|characters| characters.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_regular_expression_panics(regex in noise("ab01()[]{}|*+?.^$\\-,&~#dwsbBAzpPu: \n/\"中")) {
        let _ = compile(&ConstraintSpec::Regex(regex));
    }

    #[test]
    fn no_grammar_panics(body in noise("abAB01()[]{}|*+?.^$\\-,&~#<>@%:! \n/\"中")) {
        let _ = compile(&ConstraintSpec::Grammar(format!("start: {body}")));
        let _ = compile(&ConstraintSpec::Grammar(format!("root ::= {body}")));
    }
}
