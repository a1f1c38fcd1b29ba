//! `/tokenize`, `/detokenize` and `/ready`.

use super::*;

#[test]
fn a_text_is_cut_into_tokens_and_comes_back() {
    let server = Server::start(None);
    let (status, cut) = server.post("/tokenize", json!({"prompt": "hé"}));
    assert_eq!(
        (status, cut),
        (200, json!({"count": 3, "max_model_len": CONTEXT_TOKENS, "tokens": [104, 195, 169], "token_strs": null}))
    );
    let (_, cut) = server.post("/tokenize", json!({"prompt": "hé", "return_token_strs": true}));
    assert_eq!(cut["token_strs"], json!(["h", "\\xc3", "\\xa9"]));
    let (status, whole) = server.post("/detokenize", json!({"tokens": cut["tokens"], "model": "dots1"}));
    assert_eq!((status, whole), (200, json!({"prompt": "hé"})));
    assert_eq!(server.post("/detokenize", json!({"tokens": [256]})).0, 400);
    assert_eq!(server.post("/detokenize", json!({"tokens": []})).1, json!({"prompt": ""}));
}

#[test]
fn a_conversation_is_cut_as_the_chat_would_cut_it() {
    let server = Server::start_over(Script { prompts_for_answers: true, ..Script::default() }, None);
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    for (extra, expected) in [
        (json!({}), "ab|>"),
        (json!({"add_generation_prompt": false}), "ab|"),
        (json!({"continue_final_message": true}), "a|>b"),
    ] {
        let mut body = json!({"messages": messages});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let (_, cut) = server.post("/tokenize", body);
        let (_, whole) = server.post("/detokenize", json!({"tokens": cut["tokens"]}));
        assert_eq!(whole["prompt"], expected, "{extra}");
    }
    let (status, error) = server.post("/tokenize", json!({"messages": [{"role": "user", "content": "refuse me"}]}));
    assert_eq!((status, &error["error"]["param"]), (400, &json!("messages")));
    assert_eq!(server.post("/tokenize", json!({"prompt": "x", "model": "gpt-4"})).0, 404);
    assert_eq!(server.post("/detokenize", json!({"tokens": [1], "model": "gpt-4"})).0, 404);
}

#[test]
fn a_server_is_ready_while_its_engine_runs() {
    let server = Server::start(Some("secret"));
    assert_eq!(server.call("GET", "/ready", "", b"").0, 200);
    assert_eq!(server.call("POST", "/tokenize", JSON, b"{\"prompt\": \"x\"}").0, 401);
    let stopped = Server::start_over(Script { has_stopped: true, ..Script::default() }, None);
    assert_eq!(stopped.call("GET", "/ready", "", b"").0, 503);
}

#[test]
fn the_tokenizer_is_described() {
    let (status, _, info) = Server::start(None).call("GET", "/tokenizer_info", "", b"");
    let info: Value = serde_json::from_str(&info).unwrap();
    let expected = json!({"eos_token": "$", "bos_token": null, "model_max_length": CONTEXT_TOKENS, "vocab_size": 256});
    assert_eq!((status, info), (200, expected));
}
