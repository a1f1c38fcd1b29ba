//! Spans at a collector.

use std::sync::mpsc::channel;

use super::*;
use crate::Exporter;

#[test]
fn a_request_of_a_sampled_trace_is_told_to_the_collector() {
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let (send, received) = channel();
    std::thread::spawn(move || {
        for stream in collector.incoming() {
            let mut stream = stream.unwrap();
            let mut text = String::new();
            let mut buffer = [0; 4096];
            loop {
                let bytes = stream.read(&mut buffer).unwrap();
                text.push_str(std::str::from_utf8(&buffer[..bytes]).unwrap());
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let length =
                    head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
                if body.len() == length.unwrap_or(0) {
                    break;
                }
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}").unwrap();
            let _ = send.send(text);
        }
    });
    let traces = Some(Exporter::start(&endpoint).unwrap());
    let server = Server::start_with(Script::default(), ServerOptions { traces, ..options() });
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for flags in ["00", "01"] {
        let headers =
            format!("{JSON}x-request-id: mine-{flags}\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-{flags}\r\n");
        let body = chat("hi", json!({"max_tokens": 3})).to_string();
        assert_eq!(server.call("POST", "/v1/chat/completions", &headers, body.as_bytes()).0, 200);
    }
    let text = received.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(text.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{text}");
    let body: Value = serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap();
    let spans = body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 1, "a trace that its caller does not record is not recorded here");
    let span = &spans[0];
    assert_eq!((&span["traceId"], &span["parentSpanId"]), (&json!(trace), &json!("00f067aa0ba902b7")));
    assert_eq!((&span["name"], &span["kind"]), (&json!("POST /v1/chat/completions"), &json!(2)));
    let attribute = |key: &str| span["attributes"].as_array().unwrap().iter().find(|it| it["key"] == key).cloned();
    assert_eq!(attribute("gen_ai.request.id").unwrap()["value"], json!({"stringValue": "mine-01"}));
    assert_eq!(attribute("gen_ai.usage.output_tokens").unwrap()["value"], json!({"intValue": "3"}));
    assert_eq!(attribute("gen_ai.response.finish_reason").unwrap()["value"], json!({"stringValue": "length"}));
    let nanos = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
    assert!(
        nanos("startTimeUnixNano") <= nanos("endTimeUnixNano")
            && nanos("startTimeUnixNano") > 1_700_000_000_000_000_000
    );
}

#[test]
fn a_collector_that_is_not_there_holds_nobody_up() {
    let traces = Some(Exporter::start("http://127.0.0.1:9").unwrap());
    let server = Server::start_with(Script::default(), ServerOptions { traces, ..options() });
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(server.post("/v1/completions", json!({"prompt": "x"})).0, 200);
    }
    drop(server);
    assert!(began.elapsed() < Duration::from_secs(10));
    for wrong in ["127.0.0.1:4318", "ftp://x", ""] {
        assert!(Exporter::start(wrong).is_err(), "{wrong}");
    }
}
