//! `/v1/responses` with `"background": true`.

use super::*;

const PATH: &str = "/v1/responses";

fn begin(server: &Server, input: &str) -> Value {
    let (status, begun) = server.post(PATH, json!({"input": input, "background": true}));
    assert_eq!(status, 200, "{begun}");
    begun
}

fn address(response: &Value) -> String {
    format!("{PATH}/{}", response["id"].as_str().unwrap())
}

fn json_of(server: &Server, method: &str, path: &str) -> (u16, Value) {
    let (status, _, text) = server.call(method, path, "", b"");
    (status, serde_json::from_str(&text).unwrap())
}

/// Asks until the response has this status.
fn wait_for(server: &Server, response: &Value, wanted: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (status, found) = json_of(server, "GET", &address(response));
        if (status, found["status"].as_str().unwrap()) == (200, wanted) {
            return found;
        }
        assert!(Instant::now() < deadline, "never {wanted}: {found}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn what_was_asked_for_in_the_background_is_what_somebody_waits_for() {
    let server = Server::start(None);
    let body = json!({"input": "hi", "max_output_tokens": 3, "metadata": {"a": "b"}});
    let (_, waited_for) = server.post(PATH, body.clone());
    let mut body = body;
    body["background"] = json!(true);
    let (status, begun) = server.post(PATH, body);
    assert_eq!((status, &begun["status"], &begun["background"]), (200, &json!("queued"), &json!(true)));
    assert_eq!((&begun["output"], &begun["usage"]), (&json!([]), &json!(null)));
    let ended = wait_for(&server, &begun, "incomplete");
    assert_eq!(ended["output"][0]["content"], waited_for["output"][0]["content"]);
    assert_eq!((&ended["usage"], &ended["metadata"]), (&waited_for["usage"], &waited_for["metadata"]));
    assert_eq!((&ended["id"], &ended["created_at"]), (&begun["id"], &begun["created_at"]));
    let follow = |response: &Value| {
        let (status, next) = server.post(PATH, json!({"input": "yo", "previous_response_id": response["id"]}));
        assert_eq!(status, 200, "{next}");
        next["usage"].clone()
    };
    assert_eq!(follow(&ended), follow(&waited_for));
}

#[test]
fn a_cancelled_response_stops_and_says_so_from_then_on() {
    let server = Server::start(None);
    let begun = begin(&server, "~");
    assert_eq!(wait_for(&server, &begun, "in_progress")["output"], json!([]));
    server.wait_until_running(1);
    let (_, items) = json_of(&server, "GET", &format!("{}/input_items", address(&begun)));
    assert_eq!(items["data"][0]["content"][0]["text"], "~");
    let (status, error) = server.post(PATH, json!({"input": "yo", "previous_response_id": begun["id"]}));
    assert_eq!((status, &error["error"]["param"]), (400, &json!("previous_response_id")), "it has no answer yet");
    let cancel = format!("{}/cancel", address(&begun));
    let (status, cancelled) = json_of(&server, "POST", &cancel);
    assert_eq!((status, &cancelled["status"]), (200, &json!("cancelled")));
    server.wait_until_running(0);
    assert_eq!(json_of(&server, "POST", &cancel), (200, cancelled.clone()));
    assert_eq!(json_of(&server, "GET", &address(&begun)), (200, cancelled));
    assert_eq!(server.post(PATH, json!({"input": "yo", "previous_response_id": begun["id"]})).0, 400);
}

#[test]
fn what_has_ended_or_was_waited_for_is_not_cancelled() {
    let server = Server::start(None);
    let ended = wait_for(&server, &begin(&server, "hi"), "incomplete");
    assert_eq!(json_of(&server, "POST", &format!("{}/cancel", address(&ended))), (200, ended));
    let (_, waited_for) = server.post(PATH, json!({"input": "hi"}));
    let (status, error) = json_of(&server, "POST", &format!("{}/cancel", address(&waited_for)));
    assert_eq!((status, &error["error"]["type"]), (400, &json!("invalid_request_error")), "{error}");
    for (method, path, status) in [
        ("POST", "/v1/responses/resp_1/cancel", 404),
        ("GET", "/v1/responses/resp_1/cancel", 405),
        ("GET", &*format!("{}?stream=true", address(&waited_for)), 400),
    ] {
        assert_eq!(json_of(&server, method, path).0, status, "{method} {path}");
    }
}

#[test]
fn a_failure_is_read_and_tells_nothing_of_the_inside() {
    let server = Server::start(None);
    let failed = wait_for(&server, &begin(&server, "!"), "failed");
    assert_eq!((&failed["error"]["code"], &failed["output"]), (&json!("server_error"), &json!([])));
    assert!(!failed.to_string().contains("secret"), "{failed}");
    assert_eq!(server.post(PATH, json!({"input": "yo", "previous_response_id": failed["id"]})).0, 400);
}

#[test]
fn a_deleted_response_stops_and_is_gone() {
    let server = Server::start(None);
    let begun = begin(&server, "~");
    server.wait_until_running(1);
    let (status, deleted) = json_of(&server, "DELETE", &address(&begun));
    assert_eq!((status, &deleted["deleted"]), (200, &json!(true)));
    server.wait_until_running(0);
    for (method, path) in [("GET", address(&begun)), ("POST", format!("{}/cancel", address(&begun)))] {
        assert_eq!(json_of(&server, method, &path).0, 404, "{method} {path}");
    }
}

#[test]
fn nobody_reads_or_stops_what_another_runs() {
    let keys = Keys::new(&["mine", "theirs"], None).unwrap();
    let server = Server::start_with(Script::default(), ServerOptions { keys, ..options() });
    let as_key = |key: &str, method: &str, path: &str, body: &str| {
        let headers = format!("{JSON}authorization: Bearer {key}\r\n");
        let (status, _, text) = server.call(method, path, &headers, body.as_bytes());
        (status, serde_json::from_str::<Value>(&text).unwrap())
    };
    let (_, begun) = as_key("mine", "POST", PATH, r#"{"input": "~", "background": true}"#);
    server.wait_until_running(1);
    let cancel = format!("{}/cancel", address(&begun));
    for (method, path) in [("GET", &address(&begun)), ("POST", &cancel), ("DELETE", &address(&begun))] {
        assert_eq!(as_key("theirs", method, path, "").0, 404, "{method} {path}");
    }
    assert_eq!(server.running.load(Ordering::SeqCst), 1);
    assert_eq!(as_key("mine", "POST", &cancel, "").1["status"], "cancelled");
}

#[test]
fn a_full_queue_refuses_it_and_leaves_nothing_behind() {
    let server = Server::start(None);
    let (status, error) = server.post(PATH, json!({"input": "?", "background": true}));
    assert_eq!((status, &error["error"]["code"]), (429, &json!("queue_full")), "{error}");
    server.wait_until_running(0);
}

/// Stops the server, and says when it has ended.
fn stop(server: &mut Server) -> std::sync::mpsc::Receiver<()> {
    let (send, ended) = std::sync::mpsc::channel();
    let thread = server.thread.take().unwrap();
    std::thread::spawn(move || {
        thread.join().unwrap();
        send.send(()).unwrap();
    });
    drop(server.shutdown.take());
    ended
}

#[test]
fn a_server_that_stops_waits_for_it_and_lets_it_be_read_and_cancelled() {
    let mut server = Server::start(None);
    let begun = begin(&server, "~");
    wait_for(&server, &begun, "in_progress");
    let ended = stop(&mut server);
    while server.call("GET", "/ready", "", b"").0 != 503 {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(server.post(PATH, json!({"input": "hi", "background": true})).0, 503);
    assert_eq!(wait_for(&server, &begun, "in_progress")["id"], begun["id"]);
    assert!(ended.try_recv().is_err(), "it still runs");
    assert_eq!(json_of(&server, "POST", &format!("{}/cancel", address(&begun))).1["status"], "cancelled");
    ended.recv_timeout(Duration::from_secs(20)).unwrap();
}

#[test]
fn a_server_whose_time_to_end_is_over_waits_for_it_no_longer() {
    let drain = Duration::from_millis(100);
    let mut server = Server::start_with(Script::default(), ServerOptions { drain, ..options() });
    let begun = begin(&server, "~");
    wait_for(&server, &begun, "in_progress");
    stop(&mut server).recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(server.running.load(Ordering::SeqCst), 0);
}
