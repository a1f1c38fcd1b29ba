//! `/v1/messages`.

use super::*;

const PATH: &str = "/v1/messages";

fn message(content: &str, extra: Value) -> Value {
    let mut body = json!({"model": "dots1", "max_tokens": 3, "messages": [{"role": "user", "content": content}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[test]
fn a_message_is_answered_whole() {
    let (status, mut answer) = Server::start(None).post(PATH, message("hi", json!({"system": "s"})));
    assert_eq!(status, 200);
    assert!(answer["id"].take().as_str().unwrap().starts_with("msg_"));
    assert_eq!(
        answer,
        json!({
            "id": null,
            "type": "message",
            "role": "assistant",
            "model": "dots1",
            "content": [{"type": "text", "text": "abc."}],
            "stop_reason": "max_tokens",
            "stop_sequence": null,
            "usage": {
                "input_tokens": 3,
                "output_tokens": 3,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
            },
        })
    );
}

#[test]
fn the_stop_text_that_ended_a_message_is_named() {
    let server = Server::start(None);
    let settings = json!({"stop_sequences": ["x", "c"], "max_tokens": 5});
    let (_, answer) = server.post(PATH, message("hi", settings.clone()));
    assert_eq!((&answer["stop_reason"], &answer["stop_sequence"]), (&json!("stop_sequence"), &json!("c")));
    assert_eq!(answer["content"][0]["text"], "ab");
    let mut streamed = message("hi", settings);
    streamed["stream"] = json!(true);
    let events = server.events(PATH, streamed);
    let (_, delta) = &events[events.len() - 2];
    assert_eq!(delta["delta"], json!({"stop_reason": "stop_sequence", "stop_sequence": "c"}));
}

#[test]
fn a_streamed_message_begins_grows_and_ends() {
    let events = Server::start(None).events(PATH, message("hi", json!({"stream": true})));
    let names: Vec<_> = events.iter().map(|(name, _)| name.as_str()).collect();
    let grown = ["content_block_delta"; 4];
    let expected = [
        &["message_start", "content_block_start", "ping"][..],
        &grown,
        &["content_block_stop", "message_delta", "message_stop"],
    ];
    assert_eq!(names, expected.concat());
    let begun = &events[0].1["message"];
    assert_eq!((&begun["content"], &begun["stop_reason"]), (&json!([]), &json!(null)));
    assert_eq!((&begun["usage"]["input_tokens"], &begun["role"]), (&json!(2), &json!("assistant")));
    assert_eq!(
        events[1].1,
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    );
    let text: String = events[3..7].iter().map(|(_, event)| event["delta"]["text"].as_str().unwrap()).collect();
    assert_eq!(text, "abc.");
    assert_eq!(events[8].1["delta"], json!({"stop_reason": "max_tokens", "stop_sequence": null}));
    assert_eq!(events[8].1["usage"]["output_tokens"], 3);
}

#[test]
fn an_answer_that_the_client_began_goes_on_where_it_ends() {
    let server = Server::start_over(Script { prompts_for_answers: true, ..Script::default() }, None);
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    let (_, count) = server.post("/v1/messages/count_tokens", json!({"messages": messages}));
    assert_eq!(count, json!({"input_tokens": "a|>b".len()}));
    let (_, count) = server.post("/v1/messages/count_tokens", json!({"system": "s", "messages": [messages[0]]}));
    assert_eq!(count, json!({"input_tokens": "sa|>".len()}));
}

#[test]
fn errors_have_anthropics_shape_wherever_they_come_from() {
    let server = Server::start(Some("secret"));
    let key = format!("{JSON}x-api-key: secret\r\nanthropic-version: 2023-06-01\r\n");
    let ok = message("hi", json!({})).to_string();
    let stranger = message("hi", json!({"model": "gpt-4"})).to_string();
    let long = message("hi", json!({"max_tokens": 64})).to_string();
    let failing = message("!", json!({})).to_string();
    let refused = message("refuse me", json!({})).to_string();
    let huge = " ".repeat(10 << 20);
    assert_eq!(server.call("POST", PATH, &key, ok.as_bytes()).0, 200);
    for (method, path, headers, body, status, kind) in [
        ("POST", PATH, JSON, ok.as_str(), 401, "authentication_error"),
        ("POST", PATH, &key, "{", 400, "invalid_request_error"),
        ("POST", PATH, &key, "{}", 400, "invalid_request_error"),
        ("POST", PATH, &key, &long, 400, "invalid_request_error"),
        ("POST", PATH, &key, &refused, 400, "invalid_request_error"),
        ("POST", PATH, &key, &stranger, 404, "not_found_error"),
        ("POST", PATH, &key, &huge, 413, "request_too_large"),
        ("POST", PATH, &key, &failing, 500, "api_error"),
        ("GET", PATH, &key, "", 405, "invalid_request_error"),
        ("POST", "/v1/messages/count_tokens", &key, "{}", 400, "invalid_request_error"),
        ("POST", "/v1/messages/count_tokens", &key, &stranger, 404, "not_found_error"),
        ("POST", "/v1/messages/batches", &key, "{}", 404, "not_found_error"),
    ] {
        let (found, head, text) = server.call(method, path, headers, body.as_bytes());
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((found, &error["type"], &error["error"]["type"]), (status, &json!("error"), &json!(kind)), "{text}");
        assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty() && message.len() < 400));
        let request_id = error["request_id"].as_str().unwrap();
        assert!(!request_id.is_empty() && head.contains(&format!("request-id: {request_id}")), "{head}");
        assert!(!text.contains("secret"), "{text}");
    }
    server.wait_until_running(0);
}

#[test]
fn a_message_that_fails_while_it_grows_ends_in_an_error() {
    let server = Server::start(None);
    let events = server.events(PATH, message("!", json!({"stream": true})));
    let (name, error) = events.last().unwrap();
    assert_eq!((name.as_str(), &error["error"]["type"]), ("error", &json!("api_error")));
    server.wait_until_running(0);
}

#[test]
fn a_client_that_hangs_up_stops_its_message() {
    let server = Server::start(None);
    for body in [message("~", json!({})), message("~", json!({"stream": true}))] {
        let stream = server.open(&request("POST", PATH, JSON, body.to_string().as_bytes()));
        server.wait_until_running(1);
        drop(stream);
        server.wait_until_running(0);
    }
}

const ONE_CALL: &str = "Wait.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\"}}\n</tool_call>";

fn with_tools(extra: Value) -> Value {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let mut body = message("hi", json!({"tools": [{"name": "weather", "input_schema": schema}]}));
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

#[test]
fn a_call_is_a_block_of_its_own_whole_and_streamed() {
    let server = Server::start_over(Script { answer: Some(ONE_CALL.to_owned()), ..Script::default() }, None);
    let (status, answer) = server.post(PATH, with_tools(json!({})));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["stop_reason"], "tool_use");
    let blocks = answer["content"].as_array().unwrap();
    assert_eq!(blocks.len(), 2, "{answer}");
    assert_eq!(blocks[0]["type"], "text");
    assert!(blocks[0]["text"].as_str().unwrap().starts_with("Wait."));
    assert_eq!((&blocks[1]["type"], &blocks[1]["name"]), (&json!("tool_use"), &json!("weather")));
    assert_eq!(blocks[1]["input"], json!({"city": "Köln"}));
    assert!(blocks[1]["id"].as_str().unwrap().starts_with("toolu_"));

    let events = server.events(PATH, with_tools(json!({"stream": true})));
    let (mut kinds, mut text, mut arguments) = (Vec::new(), String::new(), String::new());
    for (name, event) in &events {
        match name.as_str() {
            "content_block_start" => kinds.push((event["index"].clone(), event["content_block"]["type"].clone())),
            "content_block_delta" => {
                text += event["delta"]["text"].as_str().unwrap_or("");
                arguments += event["delta"]["partial_json"].as_str().unwrap_or("");
            }
            _ => {}
        }
    }
    assert_eq!(kinds, [(json!(0), json!("text")), (json!(1), json!("tool_use"))]);
    assert_eq!((json!(text), arguments.as_str()), (blocks[0]["text"].clone(), "{\"city\": \"Köln\"}"));
    let stops = events.iter().filter(|(name, _)| name == "content_block_stop").count();
    assert_eq!(stops, 2);
    assert_eq!(events[events.len() - 2].1["delta"]["stop_reason"], "tool_use");
}

#[test]
fn a_schema_that_cannot_be_compiled_is_named_by_its_field() {
    let server = Server::start(None);
    let wrong = json!({"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}});
    let tool = json!({"tools": [{"name": "f", "input_schema": wrong}]});
    let format = json!({"output_config": {"format": {"type": "json_schema", "schema": wrong}}});
    for (extra, param) in [(tool, "tools[0].input_schema"), (format, "output_config.format.schema")] {
        let (status, error) = server.post(PATH, message("hi", extra));
        assert_eq!((status, &error["error"]["type"]), (400, &json!("invalid_request_error")));
        assert!(error["error"]["message"].as_str().unwrap().contains(param), "{error}");
    }
}
