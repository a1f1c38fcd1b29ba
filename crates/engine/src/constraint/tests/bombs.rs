//! Forms that are made to take long: each ends within its bounds.

use std::time::{Duration, Instant};

use serde_json::{Map, json};

use super::*;

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
