//! `dots batch` as a process.

mod support;

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};
use support::{Ran, dots, fixture};

fn line(id: &str, url: &str, body: Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": url, "body": body}).to_string()
}

fn batch(folder: &Path) -> Ran {
    let mut command = dots();
    command.arg("batch").arg(folder.join("in.jsonl")).arg("-o").arg(folder.join("out.jsonl")).arg(fixture("hf"));
    command.args(["--served-model-name", "dots1", "--max-model-len", "128", "--concurrency", "3"]);
    Ran::of(command).succeeded()
}

/// Answers by their `custom_id`, or by `id` where they have none.
fn answers(folder: &Path) -> BTreeMap<String, Value> {
    let text = std::fs::read_to_string(folder.join("out.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let named = lines.map(|answer| {
        let name = answer["custom_id"].as_str().or(answer["id"].as_str()).unwrap().to_owned();
        (name, answer)
    });
    let count = text.lines().count();
    let named: BTreeMap<_, _> = named.collect();
    assert_eq!(named.len(), count, "no answer twice: {text}");
    named
}

#[test]
fn each_line_is_answered_as_its_endpoint_would_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let chat = json!({"model": "dots1", "messages": messages, "max_tokens": 4, "temperature": 0});
    let mut lines = vec![
        line("chat", "/v1/chat/completions", chat.clone()),
        line("text", "/v1/completions", json!({"prompt": "Once upon", "max_tokens": 4, "seed": 1})),
        line("message", "/v1/messages", json!({"messages": messages, "max_tokens": 4})),
        line("stranger", "/v1/completions", json!({"model": "gpt-4", "prompt": "x"})),
        line("nowhere", "/v1/nothing", json!({})),
        "not json".to_owned(),
        line("chat", "/v1/chat/completions", chat),
    ];
    std::fs::write(folder.join("in.jsonl"), lines.join("\n")).unwrap();
    let words = batch(folder).stderr;
    assert!(words.contains("3 answered, 4 refused."), "{words}");

    let first = answers(folder);
    let status = |name: &str| first[name]["response"]["status_code"].as_u64();
    assert_eq!(status("chat"), Some(200));
    assert_eq!(first["chat"]["response"]["body"]["object"], "chat.completion");
    assert_eq!(first["chat"]["error"], Value::Null);
    assert_eq!(first["text"]["response"]["body"]["usage"]["completion_tokens"], 4);
    assert_eq!(first["message"]["response"]["body"]["type"], "message");
    assert_eq!((status("stranger"), status("nowhere")), (Some(404), Some(404)));
    assert_eq!(first["stranger"]["response"]["body"]["error"]["code"], "model_not_found");
    assert_eq!(first["batch_req_6"]["error"]["code"], "invalid_line");
    assert_eq!(first["batch_req_7"]["error"]["code"], "duplicate_custom_id");

    // A run that was stopped in the middle of a line, and a request more.
    let out = folder.join("out.jsonl");
    let whole = std::fs::read_to_string(&out).unwrap();
    std::fs::write(&out, &whole[..whole.len() - 20]).unwrap();
    lines.push(line("more", "/v1/completions", json!({"prompt": "x", "max_tokens": 1})));
    std::fs::write(folder.join("in.jsonl"), lines.join("\n")).unwrap();
    let words = batch(folder).stderr;
    assert!(words.contains("6 answered before"), "{words}");
    let mut second = answers(folder);
    assert_eq!(second.remove("more").unwrap()["response"]["status_code"], 200);
    assert_eq!(second.keys().collect::<Vec<_>>(), first.keys().collect::<Vec<_>>());
    assert_eq!(second["chat"]["response"]["body"]["choices"], first["chat"]["response"]["body"]["choices"]);

    let words = batch(folder).stderr;
    assert!(words.contains("0 answered, 0 refused, 8 answered before."), "{words}");
}

#[test]
fn long_requests_that_the_server_had_no_place_for_are_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Longer than those that the server holds as many of as come.
    let body = json!({"prompt": "x", "max_tokens": 1, "padding": "x".repeat(70 << 10)});
    let lines: Vec<String> = (0..150).map(|i| line(&i.to_string(), "/v1/completions", body.clone())).collect();
    std::fs::write(folder.join("in.jsonl"), lines.join("\n")).unwrap();
    let mut command = dots();
    command.arg("batch").arg(folder.join("in.jsonl")).arg("-o").arg(folder.join("out.jsonl")).arg(fixture("hf"));
    command.args(["--max-model-len", "128", "--concurrency", "256"]);
    let words = Ran::of(command).succeeded().stderr;
    assert!(words.contains("150 answered, 0 refused."), "{words}");
    assert!(answers(folder).values().all(|answer| answer["response"]["status_code"] == 200));
}

#[test]
fn a_file_that_is_missing_is_named_before_anything_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = dots();
    command.arg("batch").arg(folder.path().join("none.jsonl")).args(["-o", "out.jsonl", "no-such-model"]);
    Ran::of(command).failed_saying(&["none.jsonl"]);
}

#[test]
fn answers_do_not_go_into_the_requests_nor_into_a_strangers_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let requests = folder.join("in.jsonl");
    std::fs::write(&requests, line("1", "/v1/completions", json!({"prompt": "x"})) + "\n").unwrap();
    std::fs::hard_link(&requests, folder.join("linked.jsonl")).unwrap();
    std::fs::write(folder.join("notes"), "my notes").unwrap();
    for (output, expected) in [
        ("in.jsonl", "expected another file for the answers"),
        ("linked.jsonl", "expected another file for the answers"),
        ("notes", "notes: line 1: expected an answer in OpenAI's batch format"),
    ] {
        let output = folder.join(output);
        let before = std::fs::read(&output).unwrap();
        let mut command = dots();
        command.arg("batch").arg(&requests).arg("-o").arg(&output).arg("no-such-model");
        Ran::of(command).failed_saying(&[expected]);
        assert_eq!(std::fs::read(&output).unwrap(), before);
    }
}
