//! `/openapi.json` and `/docs`.

use super::*;

#[test]
fn every_example_of_the_document_is_answered() {
    let server = Server::start(None);
    let (status, _, document) = server.call("GET", "/openapi.json", "", b"");
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&document).unwrap();
    let mut answered = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let operation = &methods["post"];
        let Some(examples) = operation["requestBody"]["content"]["application/json"]["examples"].as_object() else {
            continue;
        };
        let streams = operation["responses"]["200"]["content"].get("text/event-stream").is_some();
        let required = &operation["responses"]["200"]["content"]["application/json"]["schema"]["required"];
        for (name, example) in examples {
            let (status, answer) = server.post(path, example["value"].clone());
            assert_eq!(status, 200, "{path}, {name}: {answer}");
            for field in required.as_array().unwrap() {
                assert!(answer.get(field.as_str().unwrap()).is_some(), "{path}, {name}: no {field} in {answer}");
            }
            if streams {
                let mut body = example["value"].clone();
                body["stream"] = json!(true);
                let (status, head, _) = server.call("POST", path, JSON, body.to_string().as_bytes());
                assert!(status == 200 && head.contains("text/event-stream"), "{path}, {name}: {head}");
            }
            answered += 1;
        }
    }
    assert!(answered > 10, "{answered}");
    server.wait_until_running(0);
}

#[test]
fn the_documents_are_open_and_the_page_may_load_nothing() {
    let server = Server::start(Some("secret"));
    let (status, head, _) = server.call("GET", "/openapi.json", "", b"");
    assert!(status == 200 && head.contains("content-type: application/json"), "{head}");
    let (status, head, page) = server.call("GET", "/docs", "", b"");
    assert!(status == 200 && head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(head.contains("default-src 'none'"), "{head}");
    assert!(page.starts_with("<!doctype html>") && page.contains("/v1/chat/completions"));
}
