//! Who may ask for what: keys, the names of models, health, and the page.

use super::*;

#[test]
fn the_key_guards_what_costs_and_nothing_else() {
    let server = Server::start(Some("secret"));
    let body = chat("hi", json!({})).to_string();
    let with_key = format!("{JSON}authorization: Bearer secret\r\n");
    let with_guess = format!("{JSON}authorization: Bearer guess\r\n");
    assert_eq!(server.call("POST", "/v1/chat/completions", &with_key, body.as_bytes()).0, 200);
    for headers in [JSON, &with_guess] {
        for (method, path) in [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/v1/models/dots1")] {
            let (status, _, text) = server.call(method, path, headers, body.as_bytes());
            let error: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((status, &error["error"]["code"]), (401, &json!("invalid_api_key")), "{method} {path}");
        }
    }
    for path in ["/health", "/version"] {
        assert_eq!(server.call("GET", path, "", b"").0, 200);
    }
}

#[test]
fn models_are_listed_by_every_name() {
    let server = Server::start(None);
    let (_, _, list) = server.call("GET", "/v1/models", "", b"");
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["object"], "list");
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert_eq!(names, ["dots1", "owner/dots.llm1"]);
    for path in ["/v1/models/owner/dots.llm1", "/v1/models/owner%2Fdots.llm1"] {
        let (status, _, model) = server.call("GET", path, "", b"");
        let model: Value = serde_json::from_str(&model).unwrap();
        assert_eq!((status, &model["id"], &model["object"]), (200, &json!("owner/dots.llm1"), &json!("model")));
        assert_eq!(model["max_model_len"], CONTEXT_TOKENS);
    }
    let (_, answer) = server.post("/v1/completions", json!({"prompt": "x", "model": "owner/dots.llm1"}));
    assert_eq!(answer["model"], "owner/dots.llm1");
    let (_, answer) = server.post("/v1/completions", json!({"prompt": "x"}));
    assert_eq!(answer["model"], "dots1");
}

#[test]
fn a_long_request_is_read_off_the_runtime_and_answered_alike() {
    let padding = " ".repeat(crate::routes::OFF_RUNTIME_BYTES);
    let body = format!("{{\"prompt\": \"x\",{padding}\"max_tokens\": 1}}");
    let (status, _, text) = Server::start(None).call("POST", "/v1/completions", JSON, body.as_bytes());
    assert_eq!(status, 200, "{text}");
}

#[test]
fn a_server_whose_engine_has_stopped_is_not_healthy() {
    let server = Server::start_over(Script { has_stopped: true, ..Script::default() }, None);
    let (status, _, health) = server.call("GET", "/health", "", b"");
    assert_eq!((status, health.as_str()), (503, r#"{"status":"stopped","running":0,"waiting":0}"#));
}

#[test]
fn the_page_is_open_without_the_key_and_may_do_nothing_else() {
    let server = Server::start(Some("secret"));
    let (status, head, body) = server.call("GET", "/", "", b"");
    assert_eq!(status, 200, "{head}");
    assert!(body.starts_with("<!doctype html>"), "{body}");
    for header in [
        "content-type: text/html; charset=utf-8",
        "cache-control: no-cache",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self' data:; base-uri 'none'; frame-ancestors 'none'; form-action 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ] {
        assert!(head.contains(&format!("{header}\r\n")), "{header}: {head}");
    }
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("an ETag");
    let (status, head, body) = server.call("GET", "/", &format!("if-none-match: {etag}\r\n"), b"");
    assert_eq!((status, body.as_str()), (304, ""), "{head}");

    for (name, kind) in [
        ("app.js", "text/javascript; charset=utf-8"),
        ("style.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ] {
        let (status, head, body) = server.call("GET", &format!("/page/{name}"), "", b"");
        assert_eq!(status, 200, "{name}");
        assert!(head.contains(&format!("content-type: {kind}\r\n")), "{name}: {head}");
        assert!(head.contains("content-security-policy: default-src 'none'"), "{name}: {head}");
        assert!(!body.is_empty(), "{name}");
    }
    let (status, _, body) = server.call("HEAD", "/", "", b"");
    assert_eq!((status, body.as_str()), (200, ""));
    let (status, ..) = server.call("GET", "/v1/models", "", b"");
    assert_eq!(status, 401, "the API behind it asks for the key");
}

#[test]
fn the_page_has_no_other_addresses() {
    let server = Server::start(None);
    for path in
        ["/page", "/page/", "/page/index.html", "/page/mod.rs", "/page/../lib.rs", "/page/%2e%2e/lib.rs", "/page/a/b"]
    {
        let (status, _, body) = server.call("GET", path, "", b"");
        assert_eq!(status, 404, "{path}");
        assert!(body.contains("Invalid URL"), "{path}: {body}");
    }
    let (status, ..) = server.call("POST", "/", JSON, b"{}");
    assert_eq!(status, 405);
    // An escape that is no UTF-8 is the client's mistake.
    let (status, ..) = server.call("GET", "/page/%ff", "", b"");
    assert_eq!(status, 404);
}

/// The status of an answer to who calls the server by this name.
fn called(server: &Server, method: &str, path: &str, headers: &str, host: &str) -> u16 {
    let request = String::from_utf8(request(method, path, headers, b"")).unwrap();
    let mut stream = server.open(request.replace("host: localhost", &format!("host: {host}")).as_bytes());
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer[9..12].parse().unwrap()
}

#[test]
fn a_server_for_this_machine_without_a_key_is_no_foreign_pages() {
    let server = Server::start(None);
    for (method, path, found) in [("GET", "/", 200), ("GET", "/v1/models", 200), ("GET", "/nowhere", 404)] {
        for host in ["evil.example", "evil.example:8000", "localhost.evil.example"] {
            assert_eq!(called(&server, method, path, "", host), 403, "{path} of {host}");
        }
        for host in ["localhost:8000", "localhost", "127.0.0.1:8000", "127.0.0.1", "[::1]:8000", "[::1]"] {
            assert_eq!(called(&server, method, path, "", host), found, "{path} of {host}");
        }
    }
    let local_names = LocalNames::new(vec!["dots.example".to_owned()]);
    let proxied = Server::start_with(Script::default(), ServerOptions { local_names, ..options() });
    assert_eq!(called(&proxied, "GET", "/v1/models", "", "dots.example"), 200);
    assert_eq!(called(&proxied, "GET", "/v1/models", "", "evil.example"), 403);
    // The key keeps a foreign page out.
    let keyed = Server::start(Some("secret"));
    assert_eq!(called(&keyed, "GET", "/v1/models", "authorization: Bearer secret\r\n", "dots.example"), 200);
}

#[test]
fn what_one_key_has_left_in_the_cache_serves_no_other() {
    let salts = |keys: &[&str], shares_cache: bool, asked: &[(&str, Value)]| -> Vec<Option<String>> {
        let script = Script::default();
        let last = Arc::clone(&script.last);
        let keys = Keys::new(keys, None).unwrap();
        let server = Server::start_with(script, ServerOptions { keys, shares_cache, ..options() });
        let salt = |(key, extra): &(&str, Value)| {
            let headers = format!("{JSON}authorization: Bearer {key}\r\n");
            let body = chat("hi", extra.clone()).to_string();
            assert_eq!(server.call("POST", "/v1/chat/completions", &headers, body.as_bytes()).0, 200);
            last.lock().unwrap().as_ref().unwrap().cache_salt.clone()
        };
        asked.iter().map(salt).collect()
    };
    let (none, own) = (json!({}), json!({"cache_salt": "own"}));
    let asked = [("one", none.clone()), ("two", none.clone()), ("one", none.clone()), ("two", own.clone())];
    let found = salts(&["one", "two"], false, &asked);
    assert!(found[0].is_some() && found[0] != found[1] && found[0] == found[2], "{found:?}");
    assert_eq!(found[3].as_deref(), Some("own"));
    assert!(found.iter().flatten().all(|salt| !salt.contains("one") && !salt.contains("two")), "{found:?}");
    let shared = salts(&["one", "two"], true, &asked);
    assert_eq!(shared, [None, None, None, Some("own".to_owned())]);
    assert_eq!(salts(&[], false, &[("one", none), ("one", own)]), [None, Some("own".to_owned())]);
}
