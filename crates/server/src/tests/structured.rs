//! Forms and tools over a real socket.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{JSON, Keys, Script, Server, ServerOptions, chat, options, request};

fn weather() -> Value {
    let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]});
    json!({"type": "function", "function": {"name": "weather", "parameters": parameters}})
}

const TWO_CALLS: &str = "Wait.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\"}}\n</tool_call>\n\
    <tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\":\"\"}}\n</tool_call>";

fn saying(answer: &str) -> Server {
    Server::start_over(Script { answer: Some(answer.to_owned()), ..Script::default() }, None)
}

#[test]
fn calls_are_taken_out_of_the_text() {
    let (status, answer) =
        saying(TWO_CALLS).post("/v1/chat/completions", chat("hi", json!({"tools": [weather()], "n": 2})));
    assert_eq!(status, 200, "{answer}");
    // The tool's name stands for its definition in the script's prompt.
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    let mut ids = std::collections::HashSet::new();
    for choice in answer["choices"].as_array().unwrap() {
        assert_eq!(choice["finish_reason"], "tool_calls");
        let message = &choice["message"];
        assert_eq!((&message["content"], &message["role"]), (&json!("Wait."), &json!("assistant")));
        let calls = message["tool_calls"].as_array().unwrap();
        let said: Vec<_> = calls.iter().map(|call| (&call["type"], &call["function"])).collect();
        let function = |arguments: &str| json!({"name": "weather", "arguments": arguments});
        let expected = [function("{\"city\": \"Köln\"}"), function("{\"city\":\"\"}")];
        assert_eq!(said, [(&json!("function"), &expected[0]), (&json!("function"), &expected[1])]);
        for call in calls {
            assert!(ids.insert(call["id"].as_str().unwrap().strip_prefix("call_").unwrap().to_owned()));
        }
    }
}

#[test]
fn streamed_calls_begin_with_an_id_and_a_name_and_grow_by_arguments() {
    let body = chat("hi", json!({"tools": [weather()], "stream": true}));
    let chunks = saying(TWO_CALLS).stream("/v1/chat/completions", body);
    let mut calls: Vec<(Value, String)> = Vec::new();
    let mut content = String::new();
    for chunk in &chunks {
        let delta = &chunk["choices"][0]["delta"];
        content += delta["content"].as_str().unwrap_or_default();
        let Some(call) = delta.get("tool_calls").map(|calls| &calls[0]) else { continue };
        let index = call["index"].as_u64().unwrap() as usize;
        if index == calls.len() {
            assert_eq!((&call["type"], &call["function"]["arguments"]), (&json!("function"), &json!("")));
            assert!(call["id"].as_str().unwrap().starts_with("call_"));
            calls.push((call["function"]["name"].clone(), String::new()));
        } else {
            assert_eq!(index + 1, calls.len());
            assert_eq!(call.as_object().unwrap().len(), 2, "{call}");
            calls[index].1 += call["function"]["arguments"].as_str().unwrap();
        }
    }
    let name = json!("weather");
    assert_eq!(calls, [(name.clone(), "{\"city\": \"Köln\"}".to_owned()), (name, "{\"city\":\"\"}".to_owned())]);
    assert_eq!(content, "Wait.");
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    assert!(chunks.len() > 20);
}

#[test]
fn without_tools_a_call_is_a_text() {
    let none = json!({"tools": [weather()], "tool_choice": "none"});
    for extra in [json!({}), none] {
        let (_, answer) = saying(TWO_CALLS).post("/v1/chat/completions", chat("hi", extra));
        assert_eq!(answer["choices"][0]["message"]["content"], TWO_CALLS);
        assert_eq!(answer["choices"][0]["message"].get("tool_calls"), None);
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        assert_eq!(answer["usage"]["prompt_tokens"], 2);
    }
}

#[test]
fn a_form_that_cannot_be_compiled_is_the_clients_fault() {
    let server = Server::start(None);
    let format = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}});
    let broken = json!({"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}});
    let mut tool = weather();
    tool["function"]["parameters"] = broken.clone();
    let schema = "response_format.json_schema.schema";
    let cases = [
        (format(json!({"type": "strange"})), schema),
        (format(broken.clone()), schema),
        (format(json!({"not": {"type": "string"}})), schema),
        (format(json!({"type": "integer", "minimum": 2, "maximum": 1})), schema),
        (json!({"guided_json": broken}), "guided_json"),
        (json!({"guided_regex": "(a"}), "guided_regex"),
        (json!({"guided_regex": "(?=a)b"}), "guided_regex"),
        (json!({"guided_regex": "a".repeat(70_000)}), "guided_regex"),
        (json!({"guided_grammar": "start: nothing"}), "guided_grammar"),
        (json!({"grammar": "root ::= nothing"}), "grammar"),
        (json!({"structured_outputs": {"regex": "[b-a]"}}), "structured_outputs.regex"),
        (
            json!({"tools": [weather(), {"type": "function", "function": {"name": "g", "parameters": tool["function"]["parameters"]}}]}),
            "tools[1].function.parameters",
        ),
        (
            json!({"tools": [weather()], "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "x"}}}}),
            schema,
        ),
    ];
    for (extra, param) in cases {
        let (status, answer) = server.post("/v1/chat/completions", chat("hi", extra.clone()));
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{extra}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("cannot be compiled: "), "{answer}");
        if extra.get("tools").is_none() {
            let mut body = json!({"prompt": "hi"});
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let (status, answer) = server.post("/v1/completions", body);
            assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{extra}: {answer}");
        }
    }
    let (status, _) = server.post("/v1/chat/completions", chat("hi", format(json!({"type": "object"}))));
    assert_eq!(status, 200);
}

#[test]
fn each_api_names_its_own_field() {
    let server = Server::start(None);
    let wrong = json!({"type": "strange"});
    let format = json!({"type": "json_schema", "name": "x", "schema": wrong});
    let body = json!({"input": "hi", "text": {"format": format}});
    let (status, answer) = server.post("/v1/responses", body);
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("text.format.schema")), "{answer}");
    let format = json!({"type": "json_schema", "name": "x", "schema": {"type": "object"}});
    let (status, answer) = server.post("/v1/responses", json!({"input": "hi", "text": {"format": format}}));
    assert_eq!((status, &answer["text"]["format"]), (200, &format), "{answer}");

    let message = |schema: Value| {
        let said = json!([{"role": "user", "content": "hi"}]);
        json!({"messages": said, "max_tokens": 4, "output_config": {"format": {"type": "json_schema", "schema": schema}}})
    };
    let (status, answer) = server.post("/v1/messages", message(wrong));
    assert_eq!((status, &answer["error"]["type"]), (400, &json!("invalid_request_error")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("output_config.format.schema"), "{answer}");
    let (status, answer) = server.post("/v1/messages", message(json!({"type": "object"})));
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn a_tenant_whose_forms_take_long_to_compile_holds_up_itself_alone() {
    let script = Script::default();
    let stuck = Arc::clone(&script.stuck);
    let keys = Keys::new(&["mine", "theirs"], None).unwrap();
    let server = Server::start_with(script, ServerOptions { keys, ..options() });
    let of = |key: &str| format!("{JSON}authorization: Bearer {key}\r\n");
    let body = |regex: &str, timeout: f64| chat("hi", json!({"guided_regex": regex, "timeout": timeout})).to_string();
    let held = stuck.lock().unwrap();
    let long = request("POST", "/v1/chat/completions", &of("mine"), body("stuck", 60.0).as_bytes());
    let _waiting = [server.open(&long), server.open(&long)];
    let ask = |key: &str, timeout: f64| {
        server.call("POST", "/v1/chat/completions", &of(key), body("a", timeout).as_bytes()).0
    };
    // Until both have come to the compiler.
    while ask("mine", 0.2) != 408 {}
    assert_eq!(ask("theirs", 60.0), 200);
    drop(held);
    assert_eq!(ask("mine", 60.0), 200);
}
