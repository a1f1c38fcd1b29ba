//! What an operator relies on: metrics, names of requests, limits, an orderly end.

use std::sync::mpsc::Receiver;

use super::*;
use crate::Origins;

/// An answer to a connection that stays open: status, head and body of known length.
fn answer(stream: &mut TcpStream) -> (u16, String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    (head[9..12].parse().unwrap(), head, String::from_utf8(body).unwrap())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.split_once(": ").filter(|(found, _)| *found == name)).map(|(_, value)| value)
}

fn streamed(content: &str) -> Vec<u8> {
    let body = chat(content, json!({"stream": true})).to_string();
    request("POST", "/v1/chat/completions", JSON, body.as_bytes())
}

impl Server {
    /// The value of a metric whose name and labels begin so.
    fn metric(&self, beginning: &str) -> f64 {
        let (status, head, text) = self.call("GET", "/metrics", "", b"");
        assert_eq!((status, header(&head, "content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
        let line = text.lines().find(|line| line.starts_with(beginning));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or_else(|| panic!("{beginning}: {text}"))
    }

    fn wait_for_metric(&self, beginning: &str, value: f64) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.metric(beginning) != value {
            assert!(Instant::now() < deadline, "{beginning} is {}, not {value}", self.metric(beginning));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

const OF_MODEL: &str = "model_name=\"dots1\",engine=\"0\"";

#[test]
fn requests_are_counted_and_measured_under_vllms_names() {
    let server = Server::start(None);
    let (status, _) = server.post("/v1/chat/completions", chat("hi", json!({"n": 2, "max_tokens": 3})));
    assert_eq!(status, 200);
    let of_model = |name: &str| server.metric(&format!("{name}{{{OF_MODEL}}}"));
    assert_eq!(server.metric(&format!("vllm:request_success_total{{{OF_MODEL},finished_reason=\"length\"}}")), 2.0);
    assert_eq!(of_model("vllm:prompt_tokens_total"), 4.0);
    assert_eq!(of_model("vllm:generation_tokens_total"), 6.0);
    assert_eq!(of_model("vllm:time_to_first_token_seconds_count"), 2.0);
    assert_eq!(of_model("vllm:inter_token_latency_seconds_count"), 4.0);
    assert_eq!(of_model("vllm:request_time_per_output_token_seconds_count"), 2.0);
    assert_eq!(of_model("vllm:e2e_request_latency_seconds_count"), 2.0);
    assert_eq!(of_model("vllm:request_queue_time_seconds_count"), 2.0);
    assert_eq!(of_model("vllm:request_inference_time_seconds_count"), 2.0);
    assert_eq!(of_model("vllm:request_params_n_sum"), 2.0);
    assert_eq!(of_model("vllm:request_params_max_tokens_sum"), 6.0);
    assert_eq!(of_model("vllm:request_prompt_tokens_sum"), 4.0);
    assert_eq!(server.metric("dots:http_requests_total{route=\"/v1/chat/completions\",status=\"200\"}"), 1.0);
    assert_eq!(server.call("GET", "/nowhere/at/all", "", b"").0, 404);
    assert_eq!(server.metric("dots:http_requests_total{route=\"unmatched\",status=\"404\"}"), 1.0);
    assert_eq!(server.post("/v1/chat/completions", json!({})).0, 400);
    assert_eq!(server.metric("dots:requests_refused_total{reason=\"missing_required_parameter\"}"), 1.0);
    assert!(server.metric("process_resident_memory_bytes") > 1e6);
}

#[test]
fn what_nobody_waits_for_any_more_is_counted_as_aborted() {
    let server = Server::start(None);
    let stream = server.open(&streamed("~"));
    server.wait_until_running(1);
    assert_eq!(server.metric(&format!("vllm:num_requests_running{{{OF_MODEL}}}")), 1.0);
    drop(stream);
    server.wait_for_metric(&format!("vllm:request_success_total{{{OF_MODEL},finished_reason=\"abort\"}}"), 1.0);
    server.wait_for_metric("dots:http_requests_total{route=\"/v1/chat/completions\",status=\"200\"}", 1.0);
    let whole = request("POST", "/v1/chat/completions", JSON, chat("~", json!({})).to_string().as_bytes());
    let stream = server.open(&whole);
    server.wait_until_running(1);
    drop(stream);
    server.wait_for_metric("dots:http_requests_total{route=\"/v1/chat/completions\",status=\"499\"}", 1.0);
    assert_eq!(server.post("/v1/chat/completions", chat("!", json!({}))).0, 500);
    server.wait_for_metric(&format!("vllm:request_success_total{{{OF_MODEL},finished_reason=\"error\"}}"), 1.0);
}

/// What `examples/online_serving/prometheus_grafana/grafana.json` of vLLM asks for, by its names then and now.
const ASKED_BY_VLLMS_BOARD: [&str; 20] = [
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:e2e_request_latency_seconds_sum",
    "vllm:e2e_request_latency_seconds_count",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:time_per_output_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:inter_token_latency_seconds_sum",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:gpu_cache_usage_perc",
    "vllm:kv_cache_usage_perc",
    "vllm:request_prompt_tokens_bucket",
    "vllm:request_generation_tokens_bucket",
    "vllm:request_success_total",
    "vllm:request_queue_time_seconds_sum",
    "vllm:request_prefill_time_seconds_sum",
    "vllm:request_decode_time_seconds_sum",
    "vllm:request_max_num_generation_tokens_sum",
];

#[test]
fn every_metric_of_the_board_exists_and_every_metric_is_in_the_book() {
    let server = Server::start(None);
    server.post("/v1/chat/completions", chat("hi", json!({})));
    server.post("/v1/chat/completions", json!({}));
    let (_, _, text) = server.call("GET", "/metrics", "", b"");
    let known: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| &line[..line.find(['{', ' ']).unwrap()])
        .collect();
    for name in ASKED_BY_VLLMS_BOARD {
        assert!(known.contains(&name), "{name}");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/grafana/dots.json");
    let board: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut queries = 0;
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().unwrap();
            let names: Vec<&str> = query
                .split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')))
                .filter(|word| word.starts_with("vllm:") || word.starts_with("dots:") || word.starts_with("process_"))
                .collect();
            assert!(!names.is_empty(), "{query}");
            for name in names {
                assert!(known.contains(&name), "{name} is asked for by {query} and is no metric");
            }
            queries += 1;
        }
    }
    assert!(queries > 20, "{queries}");
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");
    let page = std::fs::read_to_string(page).unwrap();
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(page.contains(&format!("| `{name}` |")), "{name} is not in docs/operations.md");
    }
}

#[test]
fn every_answer_bears_the_requests_name() {
    let server = Server::start(None);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let headers = format!("{JSON}x-request-id: mine-7\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n");
    for (path, status) in [("/v1/chat/completions", 400), ("/nowhere", 404), ("/health", 405)] {
        let (found, head, _) = server.call("POST", path, &headers, b"{}");
        assert_eq!((found, header(&head, "x-request-id")), (status, Some("mine-7")), "{path}");
        let parent = header(&head, "traceparent").unwrap();
        assert!(parent.starts_with(&format!("00-{trace}-")) && !parent.contains("00f067aa0ba902b7"), "{parent}");
    }
    let (_, head, _) = server.call("GET", "/health", "x-request-id: not safe\r\n", b"");
    assert!(header(&head, "x-request-id").unwrap().starts_with("req_"), "{head}");
}

#[test]
fn only_the_named_origins_may_read() {
    let cors = Origins::new(vec!["https://app.example".to_owned()]).unwrap();
    let keys = Keys::new(&["secret"], None).unwrap();
    let server = Server::start_with(Script::default(), ServerOptions { cors, keys, ..options() });
    let asked = "access-control-request-method: POST\r\naccess-control-request-headers: authorization, x-mine\r\n";
    let path = "/v1/chat/completions";
    let (status, head, _) = server.call("OPTIONS", path, &format!("origin: https://app.example\r\n{asked}"), b"");
    assert_eq!(status, 204, "a browser sends no key with its question");
    assert_eq!(header(&head, "access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(header(&head, "access-control-allow-headers"), Some("authorization, x-mine"));
    assert!(header(&head, "access-control-allow-methods").unwrap().contains("POST"));
    let (status, head, _) = server.call("POST", path, &format!("{JSON}origin: https://app.example\r\n"), b"{}");
    assert_eq!((status, header(&head, "access-control-allow-origin")), (401, Some("https://app.example")));
    assert!(header(&head, "access-control-expose-headers").unwrap().contains("x-request-id"));
    let (status, head, _) = server.call("OPTIONS", path, &format!("origin: https://evil.example\r\n{asked}"), b"");
    assert_eq!((status, header(&head, "access-control-allow-origin")), (405, None));
    assert_eq!(header(&head, "vary"), Some("origin"));
    let closed = Server::start(None);
    let (status, head, _) = closed.call("OPTIONS", path, &format!("origin: https://app.example\r\n{asked}"), b"");
    assert_eq!((status, header(&head, "access-control-allow-origin")), (405, None), "none unless it is named");
}

#[test]
fn heads_and_bodies_are_held_to_their_limits() {
    let limits = Limits { body_bytes: 1000, header_bytes: 8 << 10, headers: 20, ..Limits::default() };
    let server = Server::start_with(Script::default(), ServerOptions { limits, ..options() });
    let large = format!("{{\"prompt\": \"{}\"}}", "x".repeat(1000));
    let (status, _, text) = server.call("POST", "/v1/completions", JSON, large.as_bytes());
    assert!(status == 413 && text.contains("1000 bytes"), "{text}");
    let flood: String = (0..30).map(|i| format!("x-{i}: y\r\n")).collect();
    assert_eq!(server.call("GET", "/health", &flood, b"").0, 431);
    assert_eq!(server.call("GET", "/health", &format!("x: {}\r\n", "y".repeat(9000)), b"").0, 431);
    assert_eq!(server.call("GET", "/health", "", b"").0, 200);
}

fn impatient() -> ServerOptions {
    let limits = Limits { read: Duration::from_millis(200), stall: Duration::from_millis(300), ..Limits::default() };
    ServerOptions { limits, ..options() }
}

/// What a connection gives until it is closed.
fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end too.
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn who_does_not_send_is_not_waited_for() {
    let server = Server::start_with(Script::default(), impatient());
    let began = Instant::now();
    for head in ["", "GET /health HTTP/1.1\r\nhost: localhost\r\n"] {
        assert!(!rest(server.open(head.as_bytes())).contains("200 OK"), "{head}");
    }
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    let text = rest(server.open(head.as_bytes()));
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("request_timeout"), "{text}");
    // One that keeps sending a little is no better.
    let mut trickle = server.open(head.as_bytes());
    let mut writer = trickle.try_clone().unwrap();
    std::thread::spawn(move || {
        while writer.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let mut status = [0; 12];
    trickle.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 408");
    // One that is idle after its answer is closed too.
    let mut idle = server.open(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(answer(&mut idle).0, 200);
    assert_eq!(rest(idle), "");
    assert!(began.elapsed() < Duration::from_secs(15));
    server.wait_for_metric("dots:connections ", 1.0);
}

#[test]
fn who_does_not_read_is_cut_and_its_request_cancelled() {
    let server = Server::start_with(Script { is_flood: true, ..Script::default() }, impatient());
    let stream = server.open(&streamed("~"));
    server.wait_until_running(1);
    server.wait_until_running(0);
    server.wait_for_metric("dots:connections_stalled_total", 1.0);
    assert_eq!(server.call("GET", "/health", "", b"").0, 200);
    drop(stream);
}

#[test]
fn a_request_that_makes_the_server_panic_gets_an_answer_and_takes_nobody_down() {
    let server = Server::start(None);
    let mut other = server.open(&streamed("~"));
    server.wait_until_running(1);
    let mut connection = server.open(&request("POST", "/v1/completions", JSON, br#"{"prompt": "\\"}"#));
    let (status, head, body) = answer(&mut connection);
    assert_eq!(status, 500, "{body}");
    assert!(
        body.contains("internal_error") && !body.contains("fault") && header(&head, "x-request-id").is_some(),
        "{body}"
    );
    assert_eq!(server.metric("dots:requests_refused_total{reason=\"internal_error\"}"), 1.0);
    assert_eq!(server.running.load(Ordering::SeqCst), 1);
    other.read_exact(&mut [0; 100]).unwrap();
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let server = Server::start(None);
    let body = json!({"prompt": "?", "stream": true}).to_string();
    let (status, head, text) = server.call("POST", "/v1/completions", JSON, body.as_bytes());
    assert_eq!((status, header(&head, "retry-after")), (429, Some("7")), "{text}");
    let error: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&error["error"]["type"], &error["error"]["code"]), (&json!("rate_limit_error"), &json!("queue_full")));
    assert_eq!(server.metric("dots:requests_refused_total{reason=\"queue_full\"}"), 1.0);
}

#[test]
fn connections_beyond_the_most_wait_for_a_place() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let server = Server::start_with(Script::default(), ServerOptions { limits, ..options() });
    let first = server.open(b"GET /health HTTP/1.1\r\n");
    let mut second = server.open(&request("GET", "/health", "", b""));
    second.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(second.read(&mut [0]).is_err(), "there is no place yet");
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert!(rest(second).starts_with("HTTP/1.1 200"));
}

/// Says when the server has ended.
fn ended(server: &mut Server) -> Receiver<()> {
    let (send, receive) = std::sync::mpsc::channel();
    let thread = server.thread.take().unwrap();
    std::thread::spawn(move || {
        thread.join().unwrap();
        send.send(()).unwrap();
    });
    receive
}

fn wait_until_not_ready(server: &Server) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.call("GET", "/ready", "", b"").0 != 503 {
        assert!(Instant::now() < deadline, "the server is still ready");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn shutdown_lets_a_running_answer_end_and_takes_no_new_work() {
    let mut server = Server::start(None);
    assert_eq!(server.call("GET", "/ready", "", b"").0, 200);
    let stream = server.open(&streamed("~"));
    server.wait_until_running(1);
    drop(server.shutdown.take());
    wait_until_not_ready(&server);
    let (status, _, health) = server.call("GET", "/health", "", b"");
    assert_eq!((status, health.as_str()), (200, r#"{"status":"stopping","running":1,"waiting":0}"#));
    let (status, head, _) = server.call("POST", "/v1/completions", JSON, b"{\"prompt\":\"x\"}");
    assert_eq!((status, header(&head, "retry-after")), (503, Some("1")));
    assert_eq!(server.running.load(Ordering::SeqCst), 1, "what runs goes on");
    let ended = ended(&mut server);
    drop(stream);
    ended.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(server.running.load(Ordering::SeqCst), 0);
    assert!(TcpStream::connect(server.address).is_err());
}

#[test]
fn an_answer_that_outlasts_the_time_to_end_is_told_so() {
    let drain = Duration::from_millis(100);
    let mut server = Server::start_with(Script::default(), ServerOptions { drain, ..options() });
    let stream = server.open(&streamed("~"));
    let whole =
        server.open(&request("POST", "/v1/chat/completions", JSON, chat("~", json!({})).to_string().as_bytes()));
    server.wait_until_running(2);
    let ended = ended(&mut server);
    drop(server.shutdown.take());
    let text = rest(stream);
    assert!(text.contains("\"code\":\"service_unavailable\"") && text.contains("data: [DONE]"), "{text}");
    let text = rest(whole);
    assert!(text.starts_with("HTTP/1.1 503") && text.contains("The server is stopping."), "{text}");
    ended.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(server.running.load(Ordering::SeqCst), 0);
}

#[test]
fn an_idle_server_ends_at_once() {
    let mut server = Server::start(None);
    let mut idle = server.open(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n");
    assert_eq!(answer(&mut idle).0, 200);
    let began = Instant::now();
    let ended = ended(&mut server);
    drop(server.shutdown.take());
    ended.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(began.elapsed() < Duration::from_secs(2), "an open connection that asks for nothing holds nothing up");
}
