//! `/v1/responses`.

use super::*;

const PATH: &str = "/v1/responses";

#[test]
fn a_response_is_answered_whole_and_can_be_read_again() {
    let server = Server::start(None);
    let body = json!({
        "model": "dots1", "input": "hi", "instructions": "s", "max_output_tokens": 3, "temperature": 0.5,
        "metadata": {"a": "b"},
    });
    let (status, answer) = server.post(PATH, body);
    assert_eq!(status, 200);
    let id = answer["id"].as_str().unwrap();
    assert!(id.starts_with("resp_"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("response"), &json!("dots1")));
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(answer["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!((&answer["error"], &answer["metadata"]), (&json!(null), &json!({"a": "b"})));
    assert_eq!((&answer["temperature"], &answer["max_output_tokens"]), (&json!(0.5), &json!(3)));
    let [message] = &answer["output"].as_array().unwrap()[..] else { panic!("one message: {answer}") };
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(message["content"], json!([{"type": "output_text", "annotations": [], "logprobs": [], "text": "abc."}]));
    assert_eq!(answer["usage"]["input_tokens"], 3);
    assert_eq!((&answer["usage"]["output_tokens"], &answer["usage"]["total_tokens"]), (&json!(3), &json!(6)));

    let address = format!("{PATH}/{id}");
    let (status, _, again) = server.call("GET", &address, "", b"");
    assert_eq!((status, serde_json::from_str::<Value>(&again).unwrap()), (200, answer.clone()));
    let (status, _, gone) = server.call("DELETE", &address, "", b"");
    let gone: Value = serde_json::from_str(&gone).unwrap();
    assert_eq!((status, gone), (200, json!({"id": id, "object": "response", "deleted": true})));
    for method in ["GET", "DELETE"] {
        assert_eq!(server.call(method, &address, "", b"").0, 404);
    }
}

#[test]
fn a_conversation_goes_on_without_the_instructions_of_before() {
    let server = Server::start(None);
    let first = json!({"input": "hi", "instructions": "system", "max_output_tokens": 2});
    for streamed in [false, true] {
        let mut first = first.clone();
        first["stream"] = json!(streamed);
        let id = match streamed {
            false => server.post(PATH, first).1["id"].clone(),
            true => server.events(PATH, first)[0].1["response"]["id"].clone(),
        };
        let (status, next) = server.post(PATH, json!({"input": "yo", "previous_response_id": id}));
        assert_eq!(status, 200, "{next}");
        // "hi", the answer "ab." and "yo".
        assert_eq!(next["usage"]["input_tokens"], 7);
        let (_, next) = server.post(PATH, json!({"input": "yo", "previous_response_id": next["id"], "store": false}));
        assert_eq!(next["usage"]["input_tokens"], 14);
        let (status, error) = server.post(PATH, json!({"input": "yo", "previous_response_id": next["id"]}));
        assert_eq!((status, &error["error"]["param"]), (400, &json!("previous_response_id")));
        assert_eq!(error["error"]["code"], "previous_response_not_found");
    }
}

#[test]
fn a_streamed_response_has_its_events_in_order() {
    let server = Server::start(None);
    let body = json!({"input": "hi", "max_output_tokens": 2, "stream": true, "top_logprobs": 1});
    let events = server.events(PATH, body);
    let names: Vec<_> = events.iter().map(|(name, _)| name.strip_prefix("response.").unwrap()).collect();
    let expected = [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ];
    assert_eq!(names, expected);
    for (i, (_, event)) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
    }
    let deltas: String = events[4..7].iter().map(|(_, event)| event["delta"].as_str().unwrap()).collect();
    assert_eq!(deltas, "ab.");
    let (text, item, response) = (&events[7].1, &events[9].1["item"], &events[10].1["response"]);
    assert_eq!(text["text"], "ab.");
    assert_eq!(text["logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(text["logprobs"][0], events[4].1["logprobs"][0]);
    assert_eq!(text["logprobs"][0]["top_logprobs"].as_array().unwrap().len(), 1);
    assert_eq!((&item["content"][0]["text"], &item["status"]), (&json!("ab."), &json!("incomplete")));
    assert_eq!((&response["output"][0], &response["status"]), (item, &json!("incomplete")));
    let begun = &events[0].1["response"];
    assert_eq!(
        (&begun["status"], &begun["usage"], &begun["output"]),
        (&json!("in_progress"), &json!(null), &json!([]))
    );
    assert_eq!(text["item_id"], item["id"]);
    let (_, _, again) = server.call("GET", &format!("{PATH}/{}", response["id"].as_str().unwrap()), "", b"");
    assert_eq!(&serde_json::from_str::<Value>(&again).unwrap(), response);
}

#[test]
fn a_conversation_too_long_is_refused_or_cut_as_the_request_says() {
    let server = Server::start(None);
    let turn = |role: &str, content: String| json!({"role": role, "content": content});
    let input = json!([
        turn("system", "s".to_owned()),
        turn("user", "a".repeat(40)),
        turn("assistant", "b".repeat(10)),
        turn("user", "c".repeat(20)),
    ]);
    let (status, error) = server.post(PATH, json!({"input": input, "max_output_tokens": 4}));
    assert_eq!((status, &error["error"]["code"]), (400, &json!("context_length_exceeded")));
    assert_eq!(error["error"]["param"], "input");
    let (status, cut) = server.post(PATH, json!({"input": input, "max_output_tokens": 4, "truncation": "auto"}));
    assert_eq!((status, &cut["usage"]["input_tokens"]), (200, &json!(1 + 10 + 20)));
    let long = json!({"input": "x".repeat(70), "truncation": "auto"});
    assert_eq!(server.post(PATH, long).0, 400);
}

#[test]
fn what_cannot_fit_is_not_tokenised_again_and_again() {
    let script = Script::default();
    let encoded = Arc::clone(&script.encoded);
    let server = Server::start_over(script, None);
    let (small, huge) = (vec!["a".to_owned(); 1000], vec!["h".repeat(100_000)]);
    let ask = |said: Vec<String>| {
        let input: Vec<_> = said.iter().map(|content| json!({"role": "user", "content": content})).collect();
        encoded.lock().unwrap().clear();
        let (status, answer) = server.post(PATH, json!({"input": input, "truncation": "auto", "max_output_tokens": 4}));
        let encoded = encoded.lock().unwrap();
        (status, answer["usage"]["input_tokens"].clone(), encoded.len(), encoded.iter().sum::<usize>())
    };
    // What must stay is too long alone.
    let (status, _, times, _) = ask([small.clone(), huge.clone()].concat());
    assert_eq!((status, times), (400, 2));
    // What is too long is before what must stay, or among it.
    for (after, kept) in [(1, 1), (7, 7), (60, 60), (200, 60)] {
        let (status, tokens, times, in_all) = ask([&small[..], &huge, &small[..after]].concat());
        assert_eq!((status, tokens), (200, json!(kept)));
        assert!(in_all < 100_000 + 5_000, "{in_all} tokens in {times} times");
    }
}

#[test]
fn errors_have_openais_shape() {
    let server = Server::start(Some("secret"));
    let key = format!("{JSON}authorization: Bearer secret\r\n");
    for (method, path, headers, body, status, param) in [
        ("POST", PATH, JSON, "{\"input\": \"x\"}", 401, json!(null)),
        ("GET", "/v1/responses/resp_1", "", "", 401, json!(null)),
        ("DELETE", "/v1/responses/resp_1", "", "", 401, json!(null)),
        ("POST", PATH, &key, "{", 400, json!(null)),
        ("POST", PATH, &key, "{}", 400, json!("input")),
        ("POST", PATH, &key, "{\"input\": \"refuse me\"}", 400, json!("input")),
        ("POST", PATH, &key, "{\"input\": \"x\", \"model\": \"gpt-4\"}", 404, json!("model")),
        ("GET", "/v1/responses/resp_1", &key, "", 404, json!(null)),
        ("GET", "/v1/responses/%ff", &key, "", 404, json!(null)),
        ("DELETE", "/v1/responses/resp_1", &key, "", 404, json!(null)),
        ("GET", "/v1/responses/resp_1/input_items", "", "", 401, json!(null)),
        ("GET", "/v1/responses/resp_1/input_items", &key, "", 404, json!(null)),
        ("GET", PATH, &key, "", 405, json!(null)),
    ] {
        let (found, _, text) = server.call(method, path, headers, body.as_bytes());
        let error: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((found, &error["error"]["param"]), (status, &param), "{method} {path}: {text}");
    }
    server.wait_until_running(0);
}

#[test]
fn a_generation_that_fails_leaves_no_response() {
    let server = Server::start(None);
    assert_eq!(server.post(PATH, json!({"input": "!"})).0, 500);
    let events = server.events(PATH, json!({"input": "!", "stream": true}));
    let (name, event) = events.last().unwrap();
    let response = &event["response"];
    assert_eq!((name.as_str(), &response["status"]), ("response.failed", &json!("failed")));
    assert_eq!(response["error"]["code"], "server_error");
    assert!(!response.to_string().contains("secret"));
    let address = format!("{PATH}/{}", response["id"].as_str().unwrap());
    assert_eq!(server.call("GET", &address, "", b"").0, 404);
    server.wait_until_running(0);
}

#[test]
fn a_client_that_hangs_up_stops_its_response() {
    let server = Server::start(None);
    for body in [json!({"input": "~"}), json!({"input": "~", "stream": true})] {
        let stream = server.open(&request("POST", PATH, JSON, body.to_string().as_bytes()));
        server.wait_until_running(1);
        drop(stream);
        server.wait_until_running(0);
    }
}

#[test]
fn a_format_that_cannot_be_compiled_is_named_by_its_field() {
    let server = Server::start(None);
    let schema = json!({"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}});
    let format = json!({"type": "json_schema", "name": "x", "schema": schema});
    let (status, error) = server.post(PATH, json!({"input": "hi", "text": {"format": format}}));
    assert_eq!((status, &error["error"]["param"]), (400, &json!("text.format.schema")), "{error}");
    let (status, answer) = server.post(PATH, json!({"input": "hi", "text": {"format": {"type": "json_object"}}}));
    assert_eq!((status, &answer["text"]["format"]["type"]), (200, &json!("json_object")));
}

const TWO_CALLS: &str = "Wait.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Köln\"}}\n</tool_call>\n\
    <tool_call>\n{\"name\": \"weather\", \"arguments\": {}}\n</tool_call>";

fn saying(answer: &str) -> Server {
    Server::start_over(Script { answer: Some(answer.to_owned()), ..Script::default() }, None)
}

fn with_tools(extra: Value) -> Value {
    let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
    let mut body = json!({"input": "hi", "tools": [{"type": "function", "name": "weather", "parameters": schema}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// An answer without what differs between any two: its names.
fn nameless(mut output: Value) -> Value {
    for item in output.as_array_mut().unwrap() {
        for name in ["id", "call_id"] {
            if let Some(id) = item.get_mut(name) {
                assert!(id.take().as_str().unwrap().len() > 20);
            }
        }
    }
    output
}

#[test]
fn calls_are_items_of_their_own_whole_and_streamed() {
    let server = saying(TWO_CALLS);
    let (status, answer) = server.post(PATH, with_tools(json!({})));
    assert_eq!((status, &answer["status"]), (200, &json!("completed")), "{answer}");
    // The tool's name stands for its definition in the script's prompt.
    assert_eq!(answer["usage"]["input_tokens"], 3);
    assert_eq!((&answer["tool_choice"], &answer["tools"][0]["name"]), (&json!("auto"), &json!("weather")));
    let ids: Vec<_> = answer["output"].as_array().unwrap().iter().map(|item| item["call_id"].clone()).collect();
    assert!(ids[1] != ids[2] && ids[1].as_str().unwrap().starts_with("call_"), "{ids:?}");
    let call = |arguments: &str| {
        json!({
            "type": "function_call", "id": null, "call_id": null, "name": "weather", "arguments": arguments,
            "status": "completed",
        })
    };
    let text = json!({"type": "output_text", "annotations": [], "logprobs": [], "text": "Wait."});
    let expected = json!([
        {"type": "message", "id": null, "status": "completed", "role": "assistant", "content": [text]},
        call("{\"city\": \"Köln\"}"),
        call("{}"),
    ]);
    assert_eq!(nameless(answer["output"].clone()), expected);

    let events = server.events(PATH, with_tools(json!({"stream": true})));
    let (_, last) = events.last().unwrap();
    assert_eq!(nameless(last["response"]["output"].clone()), expected);
    let (mut names, mut grown) = (Vec::new(), vec![String::new(); 3]);
    for (i, (name, event)) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], i);
        let Some(index) = event["output_index"].as_u64() else { continue };
        let index = index as usize;
        let item = &last["response"]["output"][index];
        match name.strip_prefix("response.").unwrap() {
            "output_item.added" => assert_eq!(event["item"]["status"], "in_progress"),
            "output_item.done" => assert_eq!(&event["item"], item),
            _ => assert_eq!(event["item_id"], item["id"]),
        }
        match name.strip_prefix("response.").unwrap() {
            "output_text.delta" | "function_call_arguments.delta" => grown[index] += event["delta"].as_str().unwrap(),
            name => names.push((index, name)),
        }
        if name == "response.function_call_arguments.done" {
            assert_eq!((&event["arguments"], &event["name"]), (&item["arguments"], &json!("weather")));
        }
    }
    let called = ["output_item.added", "function_call_arguments.done", "output_item.done"];
    let said = ["output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done"];
    let expected =
        said.map(|name| (0, name)).into_iter().chain([1, 2].iter().flat_map(|&i| called.map(|name| (i, name))));
    assert_eq!(names, expected.collect::<Vec<_>>());
    assert_eq!(grown, ["Wait.", "{\"city\": \"Köln\"}", "{}"]);
}

#[test]
fn a_result_goes_on_from_the_call_that_was_kept() {
    let server = saying("<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"a\"}}\n</tool_call>");
    let (_, first) = server.post(PATH, with_tools(json!({})));
    let call = &first["output"][0];
    let result = |id: &Value| json!([{"type": "function_call_output", "call_id": id, "output": "rain"}]);
    let follow = |id: &Value| with_tools(json!({"input": result(id), "previous_response_id": first["id"]}));
    let (status, kept) = server.post(PATH, follow(&call["call_id"]));
    assert_eq!(status, 200, "{kept}");
    let history = json!([{"role": "user", "content": "hi"}, call, result(&call["call_id"])[0]]);
    let (status, sent) = server.post(PATH, with_tools(json!({"input": history})));
    assert_eq!((status, &sent["usage"]), (200, &kept["usage"]), "{sent}");
    let (status, error) = server.post(PATH, follow(&json!("call_of_nobody")));
    assert_eq!((status, &error["error"]["param"]), (400, &json!("input")));
    assert!(error["error"]["message"].as_str().unwrap().contains("call_of_nobody"), "{error}");
}

#[test]
fn a_call_that_was_cut_off_is_incomplete_and_was_not_made() {
    let server = saying("<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"K");
    let (_, answer) = server.post(PATH, with_tools(json!({})));
    let [call] = &answer["output"].as_array().unwrap()[..] else { panic!("one call: {answer}") };
    assert_eq!((&call["status"], &call["arguments"]), (&json!("incomplete"), &json!("{\"city\": \"K")));
    let result = json!([{"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}]);
    let follow = with_tools(json!({"input": result, "previous_response_id": answer["id"]}));
    assert_eq!(server.post(PATH, follow).0, 400);
}

#[test]
fn without_tools_a_call_is_a_text() {
    let server = saying(TWO_CALLS);
    for extra in [json!({"tool_choice": "none"}), json!({"tools": []})] {
        let (_, answer) = server.post(PATH, with_tools(extra));
        assert_eq!(answer["output"][0]["content"][0]["text"], TWO_CALLS);
        assert_eq!(answer["usage"]["input_tokens"], 2);
    }
}

#[test]
fn nothing_said_and_nothing_called_is_a_message_without_text() {
    for (streamed, tools) in [(false, false), (false, true), (true, false), (true, true)] {
        let server = saying("");
        let mut body = with_tools(json!({"stream": streamed}));
        if !tools {
            body["tools"] = json!([]);
        }
        let answer = match streamed {
            false => server.post(PATH, body).1,
            true => server.events(PATH, body).last().unwrap().1["response"].clone(),
        };
        let [message] = &answer["output"].as_array().unwrap()[..] else { panic!("one message: {answer}") };
        assert_eq!((&message["type"], &message["content"][0]["text"]), (&json!("message"), &json!("")));
    }
}

#[test]
fn a_result_stays_with_its_call_where_the_oldest_is_left_out() {
    let server = Server::start(None);
    let call = json!({"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"});
    let result = |bytes: usize| json!({"type": "function_call_output", "call_id": "1", "output": "r".repeat(bytes)});
    let input = |bytes: usize| json!([{"role": "user", "content": "a".repeat(50)}, call, result(bytes)]);
    let cut = json!({"input": input(30), "max_output_tokens": 4, "truncation": "auto"});
    let (status, cut) = server.post(PATH, cut);
    assert_eq!((status, &cut["usage"]["input_tokens"]), (200, &json!(30)), "{cut}");
    // What is kept can be gone on from: the call is there.
    assert_eq!(server.post(PATH, json!({"input": "x", "previous_response_id": cut["id"]})).0, 200);
    assert_eq!(server.post(PATH, json!({"input": input(70), "truncation": "auto"})).0, 400);
    // A result far behind its call is still read, and gone on from, where the call is left out.
    let far = json!([call, {"role": "user", "content": "a".repeat(50)}, {"role": "user", "content": "b"}, result(30)]);
    let (_, cut) = server.post(PATH, json!({"input": far, "max_output_tokens": 4, "truncation": "auto"}));
    assert_eq!(cut["usage"]["input_tokens"], 31, "{cut}");
    assert_eq!(server.post(PATH, json!({"input": "x", "previous_response_id": cut["id"]})).0, 200);
}

#[test]
fn a_schema_of_a_tool_that_cannot_be_compiled_is_named_by_its_field() {
    let server = Server::start(None);
    let wrong = json!({"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}});
    let tool = |name: &str, schema: &Value| json!({"type": "function", "name": name, "parameters": schema});
    let tools = json!([tool("f", &json!({"type": "object"})), tool("g", &wrong)]);
    let (status, error) = server.post(PATH, json!({"input": "hi", "tools": tools}));
    assert_eq!((status, &error["error"]["param"]), (400, &json!("tools[1].parameters")), "{error}");
}

#[test]
fn what_a_response_answered_can_be_read() {
    let server = Server::start(None);
    let (_, first) = server.post(PATH, json!({"input": "hi", "instructions": "s", "max_output_tokens": 2}));
    let (_, next) = server.post(PATH, json!({"input": "yo", "previous_response_id": first["id"]}));
    let address = format!("{PATH}/{}/input_items", next["id"].as_str().unwrap());
    let (status, _, items) = server.call("GET", &format!("{address}?order=asc"), "", b"");
    let items: Value = serde_json::from_str(&items).unwrap();
    let said: Vec<_> = items["data"].as_array().unwrap().iter().map(|item| &item["content"][0]["text"]).collect();
    assert_eq!((status, said), (200, vec![&json!("hi"), &json!("ab."), &json!("yo")]), "{items}");
    assert_eq!(server.call("GET", &format!("{address}?limit=0"), "", b"").0, 400);
}
