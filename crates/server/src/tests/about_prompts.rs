//! What is asked about prompts: their log-probabilities, scores, vectors, and the experts that tokens took.

use super::*;

#[test]
fn an_echo_lists_the_prompts_log_probabilities_first_and_null_before_all() {
    let server = Server::start(None);
    // As lm-eval asks.
    let body =
        json!({"prompt": ["ab", "c!x"], "max_tokens": 1, "logprobs": 1, "echo": true, "temperature": 0, "seed": 0});
    let (status, whole) = server.post("/v1/completions", body.clone());
    assert_eq!(status, 200, "{whole}");
    assert_eq!(whole["choices"][0]["text"], "aba.");
    assert_eq!(
        whole["choices"][0]["logprobs"],
        json!({
            "tokens": ["a", "b", "a"],
            "token_logprobs": [null, -0.98, -0.5],
            "top_logprobs": [null, {"b": -0.98}, {"a": -0.5}],
            "text_offset": [0, 1, 2],
        })
    );
    let listed = &whole["choices"][1]["logprobs"];
    assert_eq!(listed["tokens"], json!(["c", "!", "x", "a"]));
    assert_eq!(listed["top_logprobs"][1], json!({"A": -0.125, "!": -0.33}));

    let mut streamed = body;
    streamed["stream"] = json!(true);
    let chunks = server.stream("/v1/completions", streamed);
    for index in 0..2 {
        let mut all: Value = json!({"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []});
        for chunk in chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice["index"] == index) {
            for (name, listed) in all.as_object_mut().unwrap() {
                listed.as_array_mut().unwrap().extend(chunk["logprobs"][name].as_array().unwrap().clone());
            }
        }
        assert_eq!(all, whole["choices"][index as usize]["logprobs"]);
    }
}

#[test]
fn a_prompt_may_be_asked_about_without_an_answer() {
    let server = Server::start(None);
    let body = json!({"prompt": "ab", "max_tokens": 0, "logprobs": 0, "echo": true});
    let (status, answer) = server.post("/v1/completions", body);
    assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(0)));
    assert_eq!(answer["choices"][0]["logprobs"]["token_logprobs"], json!([null, -0.98]));
    let (_, answer) = server.post("/v1/completions", json!({"prompt": "a;", "max_tokens": 0, "prompt_logprobs": 1}));
    assert_eq!(
        answer["choices"][0]["prompt_logprobs"],
        json!([null, {
            "59": {"logprob": -0.59, "rank": 2, "decoded_token": ";"},
            "65": {"logprob": -0.125, "rank": 1, "decoded_token": "A"},
        }])
    );
    assert_eq!(answer["choices"][0]["logprobs"], json!(null));
    let (_, answer) = server.post("/v1/chat/completions", chat("ab", json!({"prompt_logprobs": 0})));
    assert_eq!(answer["prompt_logprobs"], json!([null, {"98": {"logprob": -0.98, "rank": 1, "decoded_token": "b"}}]));
    let (_, plain) = server.post("/v1/chat/completions", chat("ab", json!({})));
    assert_eq!(plain.get("prompt_logprobs"), None);
}

#[test]
fn a_prompt_is_asked_about_once_however_many_answers_it_has() {
    let script = Script::default();
    let asked = Arc::clone(&script.asked_about_prompts);
    let server = Server::start_over(script, None);
    let body = |n: usize, extra: Value| {
        let mut body = json!({"prompt": ["ab", "c;d"], "max_tokens": 2, "seed": 0, "n": n});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    for extra in [
        json!({"echo": true, "logprobs": 1}),
        json!({"prompt_logprobs": 1}),
        json!({"echo": true, "logprobs": 0, "prompt_logprobs": 1}),
    ] {
        let (_, one) = server.post("/v1/completions", body(1, extra.clone()));
        assert_eq!(asked.swap(0, Ordering::SeqCst), 2);
        let (_, three) = server.post("/v1/completions", body(3, extra.clone()));
        assert_eq!(asked.swap(0, Ordering::SeqCst), 2, "{extra}: one choice of each prompt");
        for (index, choice) in three["choices"].as_array().unwrap().iter().enumerate() {
            let alone = &one["choices"][index / 3];
            assert_eq!(choice["prompt_logprobs"], alone["prompt_logprobs"], "{extra}: choice {index}");
            let prompt_tokens = if extra["echo"] == true { [2, 3][index / 3] } else { 0 };
            for column in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                let of = |choice: &Value| choice["logprobs"][column].as_array().cloned().unwrap_or_default();
                let (own, alone) = (of(choice), of(alone));
                assert_eq!(
                    (own.len(), &own[..prompt_tokens]),
                    (alone.len(), &alone[..prompt_tokens]),
                    "{extra}: {column}"
                );
            }
        }
    }
    let (_, answer) = server.post("/v1/chat/completions", chat("ab", json!({"prompt_logprobs": 0, "n": 4})));
    assert_eq!(answer["prompt_logprobs"], json!([null, {"98": {"logprob": -0.98, "rank": 1, "decoded_token": "b"}}]));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[test]
fn an_answer_lists_only_so_much_of_its_prompts() {
    let server = Server::start(None);
    let text = "x".repeat(2500);
    let prompts = vec![&text; 200];
    let (status, answer) = server.post("/v1/completions", json!({"prompt": prompts, "prompt_logprobs": 20}));
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("prompt_logprobs")), "{message}");
    assert!(
        message.contains("2097152") && message.contains("10500000") && message.contains("500000 tokens"),
        "{message}"
    );
    let body = json!({"prompt": prompts, "echo": true, "logprobs": 0, "n": 5});
    assert_eq!(server.post("/v1/completions", body).1["error"]["param"], "logprobs");
}

#[test]
fn an_answer_lists_only_so_many_experts_and_log_probabilities_of_its_own() {
    // As dots.llm1 has them.
    let script = Script { context_tokens: Some(32_768), experts_per_token: 61 * 6, ..Script::default() };
    let server = Server::start_over(script, None);
    let experts = |extra: Value| {
        let mut body = json!({"return_routing": true});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let listed = |extra: Value| {
        let mut body = json!({"logprobs": true, "top_logprobs": 20});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        chat("a", body)
    };
    let chats = "/v1/chat/completions";
    let long = experts(json!({"prompt": "x".repeat(32_000), "max_tokens": 0, "n": 16}));
    for (path, body, param, found) in [
        ("/v1/completions", long, "return_routing", "187392000"),
        (chats, chat("a", experts(json!({"n": 3}))), "return_routing", "35979264"),
        (chats, listed(json!({"n": 4})), "top_logprobs", "2752428"),
        (chats, listed(json!({"n": 16, "max_tokens": 10_000})), "top_logprobs", "3360000"),
    ] {
        let (status, answer) = server.post(path, body);
        let message = answer["error"]["message"].as_str().unwrap();
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{message}");
        assert!(message.contains(found), "{message}");
    }
    for body in [
        chat("a", experts(json!({"n": 2}))),
        chat("a", experts(json!({"n": 16, "max_tokens": 20}))),
        listed(json!({"n": 3})),
        listed(json!({"n": 16, "max_tokens": 20})),
    ] {
        let (status, answer) = server.post(chats, body);
        assert_eq!(status, 200, "{answer}");
    }
    // What is sent token by token is never held.
    assert!(!server.stream(chats, listed(json!({"n": 4, "stream": true}))).is_empty());
    server.wait_until_running(0);
}

#[test]
fn continuations_are_scored() {
    let server = Server::start(None);
    let body = json!({"prompt": "12", "continuations": ["ab", "a;", "d"]});
    let (status, answer) = server.post("/v1/score", body);
    assert_eq!(status, 200, "{answer}");
    let data = answer["data"].as_array().unwrap();
    assert_eq!(data[0]["tokens"], json!([97, 98]));
    assert_eq!(data[0]["token_logprobs"], json!([-0.97, -0.98]));
    let sum = data[0]["sum"].as_f64().unwrap();
    assert!((sum + 1.95).abs() < 1e-6, "{sum}");
    let greedy: Vec<_> = data.iter().map(|score| score["is_greedy"].as_bool().unwrap()).collect();
    assert_eq!(greedy, [true, false, true]);
    assert_eq!(answer["usage"], json!({"prompt_tokens": 4 + 4 + 3, "total_tokens": 11}));
    let many: Vec<_> = (0..40).map(|i| "x".repeat(i % 7 + 1)).collect();
    let (_, answer) = server.post("/v1/score", json!({"prompt": "p", "continuations": many}));
    let lengths: Vec<_> =
        answer["data"].as_array().unwrap().iter().map(|s| s["tokens"].as_array().unwrap().len()).collect();
    assert_eq!(lengths, (0..40).map(|i| i % 7 + 1).collect::<Vec<_>>());
    server.wait_until_running(0);
}

#[test]
fn scores_follow_a_conversation_where_its_answer_would_begin() {
    let server = Server::start_over(Script { prompts_for_answers: true, ..Script::default() }, None);
    let messages = json!([{"role": "user", "content": "u"}]);
    let (_, answer) = server.post("/v1/score", json!({"messages": messages, "continuations": ["ab"]}));
    assert_eq!(answer["usage"]["prompt_tokens"], "u|>ab".len());
    assert_eq!(answer["data"][0]["tokens"], json!([97, 98]));
}

#[test]
fn texts_become_vectors_of_length_one() {
    let server = Server::start(None);
    let (status, answer) = server.post("/v1/embeddings", json!({"input": ["ab", "c"]}));
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["data"][1], json!({"object": "embedding", "index": 1, "embedding": [0.6, -0.8]}));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("list"), &json!("dots1")));
    let (_, answer) =
        server.post("/v1/embeddings", json!({"input": [97], "pooling": "last", "encoding_format": "base64"}));
    assert_eq!(answer["data"][0]["embedding"], "mpkZP83MTD8=");
}

#[test]
fn what_cannot_be_scored_or_embedded_is_named() {
    let server = Server::start(None);
    for (path, body, status, param) in [
        ("/v1/score", json!({"prompt": "x".repeat(60), "continuations": ["yyyyyy"]}), 400, json!("continuations")),
        ("/v1/score", json!({"prompt": "x"}), 400, json!("continuations")),
        ("/v1/score", json!({"prompt": "x", "continuations": ["y"], "model": "gpt-4"}), 404, json!("model")),
        ("/v1/embeddings", json!({"input": "x".repeat(65)}), 400, json!("input")),
        ("/v1/embeddings", json!({"input": ""}), 400, json!("input")),
        ("/v1/embeddings", json!({"input": "x", "model": "gpt-4"}), 404, json!("model")),
    ] {
        let (found, answer) = server.post(path, body);
        assert_eq!((found, &answer["error"]["param"]), (status, &param), "{path}: {answer}");
    }
    let failing = json!({"prompt": "x", "continuations": ["y!"]});
    assert_eq!(server.post("/v1/score", failing).0, 500);
    server.wait_until_running(0);
}

#[test]
fn the_experts_that_tokens_took_are_told_on_demand() {
    let server = Server::start(None);
    let asked = json!({"return_routing": true, "max_tokens": 2});
    let (_, answer) = server.post("/v1/chat/completions", chat("a", asked.clone()));
    let expected = json!({"layers": [1, 2], "experts": [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]});
    assert_eq!(answer["choices"][0]["routing"], expected);
    let mut streamed = chat("a", asked);
    streamed["stream"] = json!(true);
    let chunks = server.stream("/v1/chat/completions", streamed);
    assert_eq!(chunks.last().unwrap()["choices"][0]["routing"], expected);
    let (_, answer) = server.post("/v1/completions", json!({"prompt": "a", "max_tokens": 2, "return_routing": true}));
    assert_eq!(answer["choices"][0]["routing"], expected);
    // Every answer to a prompt has those of the prompt, of which only the first was asked.
    let several = json!({"return_routing": true, "max_tokens": 2, "n": 3, "stream": true});
    let chunks = server.stream("/v1/chat/completions", chat("a", several));
    let told = |index: u64| {
        let choices = chunks.iter().map(|chunk| &chunk["choices"][0]);
        choices.filter(|choice| choice["index"] == index).filter_map(|choice| choice.get("routing")).collect::<Vec<_>>()
    };
    assert_eq!((told(0), told(1), told(2)), (vec![&expected], vec![&expected], vec![&expected]));
    let (_, answer) =
        server.post("/v1/completions", json!({"prompt": ["a", "b"], "max_tokens": 1, "n": 2, "return_routing": true}));
    let expected = json!({"layers": [1, 2], "experts": [[[0, 1], [2, 3]]]});
    assert_eq!(answer["choices"].as_array().unwrap().iter().filter(|one| one["routing"] == expected).count(), 4);
    let (_, answer) = server.post("/v1/completions", json!({"prompt": "a", "max_tokens": 2}));
    assert_eq!(answer["choices"][0].get("routing"), None);
}
