//! Chats and completions: answers whole and streamed, and what is refused.

use super::*;

#[test]
fn a_chat_is_answered_whole() {
    let (status, answer) = Server::start(None).post("/v1/chat/completions", chat("hi", json!({"n": 2, "seed": 1})));
    assert_eq!(status, 200);
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "dots1");
    assert_eq!(answer["system_fingerprint"], concat!("dots-", env!("CARGO_PKG_VERSION")));
    let choice = |index: usize, content: &str| {
        json!({
            "index": index,
            "message": {"role": "assistant", "content": content, "refusal": null},
            "logprobs": null,
            "finish_reason": "length",
        })
    };
    assert_eq!(answer["choices"], json!([choice(0, "bcde."), choice(1, "cdef.")]));
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 2, "completion_tokens": 8, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 0}})
    );
}

#[test]
fn how_a_request_stands_among_others_reaches_the_engine() {
    let script = Script::default();
    let last = Arc::clone(&script.last);
    let server = Server::start_over(script, Some("secret"));
    let extra = json!({"priority": -2, "cache_salt": "mine", "timeout": 30});
    let with_key = format!("{JSON}Authorization: Bearer secret\r\n");
    let body = chat("hi", extra).to_string();
    assert_eq!(server.call("POST", "/v1/chat/completions", &with_key, body.as_bytes()).0, 200);
    let request = last.lock().unwrap().take().unwrap();
    assert_eq!((request.priority, request.cache_salt.as_deref()), (-2, Some("mine")));
    let left = request.deadline.unwrap() - Instant::now();
    assert!(left > Duration::from_secs(20) && left <= Duration::from_secs(30), "{left:?}");
    assert_ne!(request.tenant, 0, "the key tells who asks");

    let server = Server::start_with(Script::default(), ServerOptions { allows_priority: false, ..options() });
    let (status, error) = server.post("/v1/chat/completions", chat("hi", json!({"priority": 1})));
    assert_eq!((status, &error["error"]["param"]), (400, &json!("priority")));
}

#[test]
fn every_sampling_setting_reaches_the_engine() {
    let script = Script::default();
    let last = Arc::clone(&script.last);
    let server = Server::start_over(script, None);
    let settings = json!({
        "typical_p": 0.5, "xtc_probability": 0.25, "xtc_threshold": 0.125, "dry_multiplier": 0.5, "dry_base": 2.0,
        "dry_allowed_length": 3, "dry_penalty_last_n": 99, "dry_sequence_breakers": ["--", ""],
        "bad_words": [" no", "no"], "stop_token_ids": [7], "min_tokens": 2, "ignore_eos": true,
        "include_stop_str_in_output": true, "skip_special_tokens": false,
    });
    let (status, error) = server.post("/v1/chat/completions", chat("hi", settings.clone()));
    assert_eq!((status, &error["error"]["param"]), (400, &json!("dry_sequence_breakers[1]")));

    let mut settings = settings;
    settings["dry_sequence_breakers"] = json!(["--", "\n"]);
    let mut completion = settings.clone();
    completion["prompt"] = json!("hi");
    for (path, body) in [("/v1/chat/completions", chat("hi", settings)), ("/v1/completions", completion)] {
        assert_eq!(server.post(path, body).0, 200);
        let request = last.lock().unwrap().take().unwrap();
        let SamplingParams { typical_p, xtc_probability, xtc_threshold, dry, bad_words, .. } = request.sampling;
        assert_eq!((typical_p, xtc_probability, xtc_threshold), (0.5, 0.25, 0.125));
        assert_eq!((dry.multiplier, dry.base, dry.allowed_length, dry.penalty_last_n), (0.5, 2.0, 3, 99));
        assert_eq!(format!("{:?}", dry.breakers.unwrap()), r#"["--", "\n"]"#);
        // With a space before it the word has more tokens, and its last is forbidden all the same.
        assert_eq!(*bad_words, [vec![110, 111]]);
        assert_eq!((request.stop_token_ids, request.min_tokens), (vec![7], 2));
        assert!(request.ignore_eos && request.include_stop && request.show_special_tokens);
    }
    assert_eq!(server.post("/v1/completions", json!({"prompt": "hi", "dry_multiplier": 1})).0, 200);
    let breakers = last.lock().unwrap().take().unwrap().sampling.dry.breakers;
    assert_eq!(format!("{:?}", breakers.unwrap()), r#"["\n", ":", "\"", "*"]"#, "llama.cpp's");
    assert_eq!(server.post("/v1/completions", json!({"prompt": "hi", "dry_sequence_breakers": ["a"]})).0, 200);
    let breakers = last.lock().unwrap().take().unwrap().sampling.dry.breakers;
    assert_eq!(breakers, None, "nothing is looked for where DRY is off");
}

#[test]
fn a_streamed_chat_is_a_role_texts_a_reason_and_a_count() {
    let server = Server::start(None);
    let options = json!({"stream": true, "max_tokens": 2, "stream_options": {"include_usage": true}});
    let chunks = server.stream("/v1/chat/completions", chat("hi", options));
    let deltas: Vec<_> = chunks[..5].iter().map(|chunk| chunk["choices"][0]["delta"].clone()).collect();
    let expected = [
        json!({"role": "assistant", "content": ""}),
        json!({"content": "a"}),
        json!({"content": "b"}),
        json!({"content": "."}),
        json!({}),
    ];
    assert_eq!(deltas, expected);
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], json!(null));
    assert_eq!(chunks[4]["choices"][0]["finish_reason"], "length");
    assert_eq!(chunks[5]["choices"], json!([]));
    assert_eq!(
        chunks[5]["usage"],
        json!({"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4, "prompt_tokens_details": {"cached_tokens": 0}})
    );
    assert_eq!(chunks.len(), 6);
    for chunk in &chunks[..5] {
        assert_eq!(chunk.get("usage"), Some(&Value::Null));
        assert_eq!((&chunk["id"], &chunk["object"]), (&chunks[5]["id"], &json!("chat.completion.chunk")));
    }
    let without = server.stream("/v1/chat/completions", chat("hi", json!({"stream": true})));
    assert!(without.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[test]
fn streamed_choices_keep_their_own_texts() {
    let body = json!({"prompt": ["x", "yy"], "n": 2, "seed": 0, "stream": true, "max_tokens": 2, "echo": true});
    let mut texts = vec![String::new(); 4];
    let mut ended = vec![0; 4];
    for chunk in Server::start(None).stream("/v1/completions", body) {
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().unwrap() as usize;
        texts[index].push_str(choice["text"].as_str().unwrap());
        ended[index] += usize::from(choice["finish_reason"] == "length");
    }
    assert_eq!(texts, ["xab.", "xbc.", "yyab.", "yybc."]);
    assert_eq!(ended, [1; 4]);
}

#[test]
fn completions_are_answered_whole() {
    let server = Server::start(None);
    let (status, answer) =
        server.post("/v1/completions", json!({"prompt": [[120], [121, 121]], "max_tokens": 1, "echo": true}));
    assert_eq!(status, 200);
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(
        answer["choices"],
        json!([
            {"text": "xa.", "index": 0, "logprobs": null, "finish_reason": "length"},
            {"text": "yya.", "index": 1, "logprobs": null, "finish_reason": "length"},
        ])
    );
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}})
    );
    let (_, answer) = server.post("/v1/completions", json!({"prompt": "x"}));
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    let (_, answer) = server.post("/v1/completions", json!({"prompt": "x".repeat(CONTEXT_TOKENS - 3)}));
    assert_eq!(answer["usage"]["completion_tokens"], 3, "the default takes what room is left");
}

#[test]
fn log_probabilities_are_the_same_whole_and_streamed() {
    let server = Server::start(None);
    let asked = json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 3});
    let (_, whole) = server.post("/v1/chat/completions", chat("hi", asked.clone()));
    let whole = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(whole.len(), 3);
    assert_eq!(whole[0]["top_logprobs"][1], json!({"token": "A", "logprob": -1.5, "bytes": [65]}));
    let mut asked = chat("hi", asked);
    asked["stream"] = json!(true);
    let streamed: Vec<_> = server
        .stream("/v1/chat/completions", asked)
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(streamed, whole);
    let (_, plain) = server.post("/v1/completions", json!({"prompt": "x", "logprobs": 2, "max_tokens": 2}));
    assert_eq!(
        plain["choices"][0]["logprobs"],
        json!({
            "tokens": ["a", "b"],
            "token_logprobs": [-0.5, -0.5],
            "top_logprobs": [{"a": -0.5, "A": -1.5}, {"b": -0.5, "A": -1.5}],
            "text_offset": [0, 1],
        })
    );
}

/// Method, path, headers and body; status, `param` and `code`.
type Refused<'a> = (&'a str, &'a str, &'a str, &'a [u8], u16, Value, Value);

#[test]
fn errors_have_openais_shape_and_the_server_goes_on() {
    let server = Server::start(None);
    let chat_path = "/v1/chat/completions";
    let ok = chat("hi", json!({})).to_string();
    let huge = vec![b' '; 10 << 20];
    let deep = format!("{{\"messages\":{}", "[".repeat(1 << 20));
    let cases: [Refused<'_>; 18] = [
        ("POST", chat_path, JSON, b"{", 400, json!(null), json!(null)),
        ("POST", chat_path, JSON, b"", 400, json!(null), json!(null)),
        ("POST", chat_path, JSON, b"{\"a\":\"\xff\"}", 400, json!(null), json!(null)),
        ("POST", chat_path, JSON, deep.as_bytes(), 400, json!(null), json!(null)),
        ("POST", chat_path, JSON, &huge, 413, json!(null), json!("request_too_large")),
        ("POST", chat_path, "", ok.as_bytes(), 400, json!(null), json!(null)),
        ("POST", chat_path, "content-type: text/plain\r\n", ok.as_bytes(), 400, json!(null), json!(null)),
        ("POST", chat_path, JSON, b"{\"messages\":[]}", 400, json!("messages"), json!("empty_array")),
        ("POST", chat_path, JSON, b"{}", 400, json!("messages"), json!("missing_required_parameter")),
        (
            "POST",
            chat_path,
            JSON,
            b"{\"messages\":[{\"role\":\"user\",\"content\":\"refuse me\"}]}",
            400,
            json!("messages"),
            json!("invalid_value"),
        ),
        (
            "POST",
            chat_path,
            JSON,
            b"{\"model\":\"gpt-4\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
            404,
            json!("model"),
            json!("model_not_found"),
        ),
        ("POST", "/v1/completions", JSON, b"{\"prompt\":\"\"}", 400, json!("prompt"), json!("invalid_value")),
        (
            "POST",
            "/v1/completions",
            JSON,
            b"{\"prompt\":\"x\",\"max_tokens\":64}",
            400,
            json!("prompt"),
            json!("context_length_exceeded"),
        ),
        ("GET", chat_path, "", b"", 405, json!(null), json!("method_not_supported")),
        ("DELETE", "/v1/models", "", b"", 405, json!(null), json!("method_not_supported")),
        ("GET", "/v1/models/gpt-4", "", b"", 404, json!("model"), json!("model_not_found")),
        ("GET", "/v1/models/%ff", "", b"", 404, json!("model"), json!("model_not_found")),
        ("POST", "/v1/nothing", JSON, b"{}", 404, json!(null), json!(null)),
    ];
    for (method, path, headers, body, status, param, code) in cases {
        let (found, _, text) = server.call(method, path, headers, body);
        assert_eq!(found, status, "{method} {path}: {text}");
        let error = serde_json::from_str::<Value>(&text).unwrap()["error"].clone();
        assert_eq!((&error["param"], &error["code"]), (&param, &code), "{method} {path}: {text}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty() && message.len() < 400));
        assert_eq!(server.call("GET", "/health", "", b"").0, 200);
    }
    server.wait_until_running(0);
}

#[test]
fn a_request_too_long_is_told_the_numbers() {
    let (status, error) = Server::start(None)
        .post("/v1/completions", json!({"prompt": "x".repeat(60), "max_tokens": 5, "n": 2, "stream": true}));
    assert_eq!(status, 400);
    let message = error["error"]["message"].as_str().unwrap();
    for number in ["64", "65", "60", "5"] {
        assert!(message.contains(number), "{message}");
    }
}

#[test]
fn who_waits_for_continue_learns_of_the_limit_before_sending() {
    let server = Server::start(None);
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n\
                content-length: 10000000\r\n\r\n";
    let mut stream = server.open(head.as_bytes());
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 413");
}

#[test]
fn a_failed_generation_is_a_server_error_without_the_reason() {
    let server = Server::start(None);
    let (status, error) = server.post("/v1/chat/completions", chat("!", json!({})));
    assert_eq!((status, &error["error"]["type"]), (500, &json!("server_error")));
    let chunks = server.stream("/v1/chat/completions", chat("!", json!({"stream": true})));
    assert_eq!(chunks.last().unwrap()["error"]["code"], "internal_error");
    assert!(!error.to_string().contains("secret") && !chunks.last().unwrap().to_string().contains("secret"));
    server.wait_until_running(0);
}

#[test]
fn a_client_that_hangs_up_stops_its_generation() {
    let server = Server::start(None);
    for (body, path) in [
        (chat("~", json!({"stream": true, "n": 3})), "/v1/chat/completions"),
        (chat("~", json!({"n": 3})), "/v1/chat/completions"),
        (json!({"prompt": ["~", "~", "~"]}), "/v1/completions"),
    ] {
        let stream = server.open(&request("POST", path, JSON, body.to_string().as_bytes()));
        server.wait_until_running(3);
        let (_, _, health) = server.call("GET", "/health", "", b"");
        assert_eq!(health, r#"{"status":"ok","running":3,"waiting":0}"#);
        drop(stream);
        server.wait_until_running(0);
    }
}
