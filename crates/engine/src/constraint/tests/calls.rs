//! Answers that may call tools.

use serde_json::json;

use super::*;
use crate::constraint::{CallRule, FreeText, Function, ToolCalls};

fn calls(rule: CallRule, parallel: bool) -> ConstraintSpec {
    let get = json!({
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}},
        "required": ["city"],
        "additionalProperties": false,
        "$defs": {"city": {"type": "string", "maxLength": 5}},
    });
    let functions = vec![
        Function { name: "get".to_owned(), parameters: get },
        Function { name: "get_all".to_owned(), parameters: json!({"properties": {}, "additionalProperties": false}) },
    ];
    ConstraintSpec::ToolCalls(ToolCalls { functions, rule, parallel })
}

fn call(name: &str, arguments: &str) -> String {
    format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>")
}

#[test]
fn a_required_call_is_of_a_tool_and_its_schema() {
    let required = calls(CallRule::Required, true);
    let paris = call("get", "{\"city\": \"Paris\"}");
    assert!(accepts(&required, &paris));
    assert!(accepts(&required, &call("get_all", "{}")));
    assert!(accepts(&required, &format!("{paris}\n{}", call("get_all", "{ }"))));
    let wrong = [
        "".to_owned(),
        "Hello".to_owned(),
        call("other", "{}"),
        call("get", "{}"),
        call("get", "{\"city\": 1}"),
        call("get", "{\"city\": \"too long\"}"),
        call("get_all", "[]"),
        call("get_all", "{\"a\": 1}"),
        format!("{paris} and more"),
        format!("{paris}\n"),
    ];
    for text in wrong {
        assert!(!accepts(&required, &text), "{text}");
    }
}

#[test]
fn one_call_ends_an_answer_that_may_not_go_on() {
    let paris = call("get", "{\"city\": \"Paris\"}");
    for rule in [CallRule::Required, CallRule::Auto(FreeText::Any)] {
        let one = calls(rule, false);
        assert!(accepts(&one, &paris));
        assert!(!accepts(&one, &format!("{paris}\n{paris}")));
        let mut state = compile(&one).unwrap().begin();
        let ends: Vec<bool> = paris.bytes().map(|byte| state.accept(byte.into()).unwrap()).collect();
        assert!(ends[ends.len() - 1] && !ends[..ends.len() - 1].contains(&true));
    }
}

#[test]
fn a_text_is_free_until_a_call_opens() {
    let auto = calls(CallRule::Auto(FreeText::Any), true);
    let paris = call("get", "{\"city\": \"Paris\"}");
    for text in ["", "Hello, 中文!\n", "a < b <tool_cal", "<tools>", "</tool_call>", "{\"name\": \"get\"}"] {
        assert!(accepts(&auto, text), "{text:?}");
        assert!(accepts(&auto, &format!("{text} {paris}")), "{text:?}");
        assert!(accepts(&auto, &format!("{text}{paris}\n{paris}")), "{text:?}");
    }
    for wrong in [
        "Hello <tool_call>".to_owned(),
        "Hello <tool_call>\n{\"name\": \"other".to_owned(),
        format!("Hello {}", call("get", "{}")),
        format!("{paris} And so on."),
    ] {
        assert!(!accepts(&auto, &wrong), "{wrong}");
    }
}

#[test]
fn a_text_beside_tools_may_be_json() {
    let answer = json!({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]});
    let json = calls(CallRule::Auto(FreeText::Json(answer)), true);
    assert!(accepts(&json, "{\"a\": true}"));
    assert!(accepts(&json, &call("get_all", "{}")));
    assert!(!accepts(&json, "true") && !accepts(&json, &format!("{{\"a\": true}}{}", call("get_all", "{}"))));
}

#[test]
fn what_a_model_babbles_is_a_call() {
    let required = compile(&calls(CallRule::Required, true)).unwrap();
    let mut ended = 0;
    for seed in 0..40 {
        let Some(text) = babble(&required, seed, 600) else { continue };
        ended += 1;
        for body in text.split("</tool_call>").filter(|body| !body.is_empty()) {
            let body = body.trim_start().strip_prefix("<tool_call>").unwrap();
            let call: Value = serde_json::from_str(body).unwrap();
            match call["name"].as_str() {
                Some("get") => assert!(call["arguments"]["city"].as_str().unwrap().chars().count() <= 5),
                Some("get_all") => assert_eq!(call["arguments"], json!({})),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(ended > 30, "{ended}");
}
