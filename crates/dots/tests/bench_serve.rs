//! `dots bench serve` against a server whose times and faults are known.

mod support;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::Duration,
};

use serde_json::{Value, json};
use support::{
    Ran, dots,
    fake::{FakeServer, Reply, Step, event, text, wait, words},
    fixture,
};

fn bench(url: &str, flags: &str) -> Command {
    let mut command = dots();
    command.args(["bench", "serve", url]).args(flags.split_whitespace());
    command
}

/// Runs a load and reads its JSON.
#[track_caller]
fn measured(server: &FakeServer, flags: &str) -> Value {
    let ran = Ran::of(bench(&server.url, &format!("{flags} --json -"))).succeeded();
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Three chunks, 40 ms apart after 120 ms, that the server counts as five tokens.
fn steady() -> FakeServer {
    FakeServer::start(|request| {
        let steps = vec![wait(120), text("a"), wait(40), text("b"), wait(40), text("c d e")];
        Reply::completion(steps, words(request), 5)
    })
}

#[track_caller]
fn near(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    // A busy machine is late, never early.
    assert!(found >= expected - 0.003 && found <= expected + 0.1, "{found} is not about {expected}");
}

#[test]
fn known_times_are_found() {
    let server = steady();
    let found = measured(&server, "--requests 6 --concurrency 2 --lengths fixed:20,5 --slo ttft=5000,e2e=50");
    assert_eq!((&found["answered"], &found["failed"], &found["peak_running"]), (&json!(6), &json!(0), &json!(2)));
    near(&found["times"]["ttft_seconds"]["p50"], 0.120);
    near(&found["times"]["itl_seconds"]["p50"], 0.040);
    near(&found["times"]["tpot_seconds"]["p50"], 0.020);
    near(&found["times"]["e2e_seconds"]["p50"], 0.200);
    assert_eq!(found["times"]["itl_seconds"]["count"], 12);
    assert_eq!((&found["input_tokens"], &found["output_tokens"]), (&json!(120), &json!(30)));
    let duration = found["duration_seconds"].as_f64().unwrap();
    assert!((0.6..1.5).contains(&duration), "{duration}");
    let rate = found["output_tokens_per_second"].as_f64().unwrap();
    assert!((rate - 30.0 / duration).abs() < 1e-9);
    assert_eq!(found["good"], 0, "nothing ended within 50 ms");
    assert_eq!(found["requests"].as_array().unwrap().len(), 6);
    assert_eq!(found["requests"][3]["prompt_tokens"], 20);
    assert_eq!(found["requests"][3]["finish_reason"], "length");
    let connections = server.connections.load(SeqCst);
    assert!(connections <= 2, "two users need two connections, found {connections}");
}

#[test]
fn a_chunks_role_is_no_text_and_bytes_may_be_cut_anywhere() {
    let server = FakeServer::start(|request| {
        assert_eq!(request.path, "/v1/chat/completions");
        let chunk = |delta: Value| format!("data: {}\r\n\r\n", json!({ "choices": [{ "index": 0, "delta": delta }] }));
        let (role, first) = (chunk(json!({ "role": "assistant", "content": "" })), chunk(json!({ "content": "él" })));
        // Cut inside the word `data` and inside the event.
        let (a, b) = first.split_at(2);
        let (b, c) = b.split_at(20);
        let pieces = [role, ": keep-alive\n\n".to_owned(), a.to_owned(), b.to_owned()];
        let mut steps: Vec<Step> = pieces.into_iter().map(Step::Send).collect();
        steps.extend([wait(100), Step::Send(c.to_owned()), event("[DONE]")]);
        Reply::stream(steps)
    });
    let found = measured(&server, "--requests 2 --concurrency 1 --endpoint chat");
    assert_eq!((&found["answered"], &found["answers_without_usage"]), (&json!(2), &json!(2)));
    near(&found["times"]["ttft_seconds"]["p50"], 0.100);
    assert_eq!(found["output_tokens"], 2, "a chunk is a token where nobody counts");
}

#[test]
fn errors_are_counted_by_their_kind() {
    let server = FakeServer::start(|request| match request.number {
        0 => Reply::json(429, json!({ "error": { "message": "the queue is full" } })),
        1 | 2 => Reply::json(500, json!({ "error": { "message": "it broke" } })),
        3 => Reply { broken: true, ..Reply::stream(vec![text("a")]) },
        4 => Reply::stream(vec![text("a"), event(r#"{"error":{"message":"out of memory"}}"#)]),
        5 => Reply::json(200, json!({ "choices": [] })),
        6 => Reply::stream(vec![text("a"), event("this is no JSON")]),
        7 => Reply::stream(vec![text("a"), wait(3_000), text("b")]),
        8 => Reply::stream(vec![text("a")]),
        9 => Reply::stream(vec![Step::Send("x".repeat(3 << 20))]),
        _ => Reply::completion(vec![text("a")], 1, 1),
    });
    let found = measured(&server, "--requests 13 --concurrency 1 --timeout 1");
    assert_eq!((&found["answered"], &found["failed"]), (&json!(3), &json!(10)));
    let mut errors: Vec<(&str, u64)> = found["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| (error["kind"].as_str().unwrap(), error["count"].as_u64().unwrap()))
        .collect();
    errors.sort_unstable();
    let expected = [
        ("broken_off", 2),
        ("error_in_stream", 1),
        ("http_429", 1),
        ("http_500", 2),
        ("not_understood", 3),
        ("timed_out", 1),
    ];
    assert_eq!(errors, expected);
    assert_eq!(found["requests"][0]["error"]["message"], "the queue is full");
    assert_eq!(found["requests"][4]["error"]["message"], "out of memory");
    assert!((1.0..2.0).contains(&found["requests"][7]["e2e"].as_f64().unwrap()), "{}", found["requests"][7]);
}

#[test]
fn a_connection_that_was_closed_after_its_last_answer_fails_no_request() {
    let server = FakeServer::start(|request| match request.number {
        // Once for the second request; for the third on a new connection too.
        1 | 3 | 4 => Reply::none(),
        _ => Reply::completion(vec![text("a")], 1, 1),
    });
    let found = measured(&server, "--requests 4 --concurrency 1");
    assert_eq!((&found["answered"], &found["failed"]), (&json!(3), &json!(1)), "{}", found["errors"]);
    assert_eq!(found["requests"][2]["error"]["kind"], "broken_off");
}

#[test]
fn a_seed_asks_the_same_questions_at_the_same_times() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    let server = FakeServer::start(move |request| {
        heard.lock().unwrap().push(request.body["prompt"].as_str().unwrap().to_owned());
        Reply::completion(vec![text("a")], words(request), 1)
    });
    let run = |seed: &str| {
        let found = measured(&server, &format!("--requests 20 --rate 40 --lengths uniform:5-50,1-9 --seed {seed}"));
        let starts: Vec<f64> =
            found["requests"].as_array().unwrap().iter().map(|request| request["start"].as_f64().unwrap()).collect();
        let mut prompts = std::mem::take(&mut *asked.lock().unwrap());
        prompts.sort();
        (starts, prompts)
    };
    let (first, again, other) = (run("1"), run("1"), run("2"));
    assert_eq!(first.1, again.1);
    assert_ne!(first.1, other.1);
    let mut apart: Vec<f64> = first.0.iter().zip(&again.0).map(|(a, b)| (a - b).abs()).collect();
    apart.sort_by(f64::total_cmp);
    // The median, as a busy machine may be late with some.
    assert!(apart[10] < 0.02, "{first:?} {again:?}");
    assert!(first.0.is_sorted() && first.0[19] > 0.1, "{:?}", first.0);
}

#[test]
fn prompts_share_their_prefix_and_requests_carry_the_key() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    let server = FakeServer::start(move |request| {
        hears.lock().unwrap().push((request.authorization.clone(), request.body.clone()));
        Reply::completion(vec![text("a")], words(request), 1)
    });
    let flags = "--requests 3 --lengths fixed:4,7 --shared-prefix 50 --api-key secret --ignore-eos --temperature 0.5 --model m \
                 --warmup 2";
    let found = measured(&server, flags);
    assert_eq!(found["requests"].as_array().unwrap().len(), 3, "what warms up does not count");
    assert_eq!(found["requests"][0]["prompt_tokens"], 54);
    assert_eq!(found["requests"][0]["prompt_tokens_asked"], 54);
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 5);
    let prefix: Vec<Vec<&str>> =
        heard.iter().map(|(_, body)| body["prompt"].as_str().unwrap().split(' ').take(50).collect()).collect();
    assert!(prefix.iter().all(|words| *words == prefix[0]));
    for (authorization, body) in heard.iter() {
        assert_eq!(authorization.as_deref(), Some("Bearer secret"));
        assert_eq!((&body["max_tokens"], &body["ignore_eos"]), (&json!(7), &json!(true)));
        assert_eq!((&body["temperature"], &body["model"]), (&json!(0.5), &json!("m")));
    }
}

#[test]
fn a_server_without_a_tokenizer_is_asked_by_two_short_requests() {
    let server = FakeServer::start(|request| {
        assert_eq!(request.path, "/api/v1/completions");
        // Two tokens a word, and one before all.
        let prompt_tokens = 1 + 2 * words(request);
        if request.body["stream"] == true {
            return Reply::completion(vec![text("a")], prompt_tokens, 1);
        }
        assert_eq!(request.body["max_tokens"], 1);
        Reply::json(200, json!({ "choices": [{ "text": "a" }], "usage": { "prompt_tokens": prompt_tokens } }))
    });
    let url = format!("{}/api/v1", server.url);
    let ran = Ran::of(bench(&url, "--requests 3 --model m --lengths fixed:40,1 --json -")).succeeded();
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&found["answered"], &found["requests"][2]["prompt_tokens"]), (&json!(3), &json!(41)));
}

#[test]
fn hundreds_of_streams_run_at_once() {
    let server = FakeServer::start(|_| {
        let mut steps = vec![text("a")];
        for _ in 0..5 {
            steps.extend([wait(300), text("b")]);
        }
        Reply::completion(steps, 1, 6)
    });
    let found = measured(&server, "--requests 400 --concurrency 400 --lengths fixed:5,6");
    assert_eq!((&found["answered"], &found["peak_running"]), (&json!(400), &json!(400)), "{}", found["errors"]);
    assert_eq!(found["output_tokens"], 2_400);
}

#[test]
fn the_page_asks_nothing_of_the_network_and_holds_no_stranger_s_tags() {
    let server = FakeServer::start(|request| match request.number {
        0 => Reply::json(500, json!({ "error": { "message": "<script>alert(1)</script>" } })),
        _ => Reply::completion(vec![wait(20), text("a"), wait(5), text("b")], 1, 2),
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.html");
    let flags = format!("--requests 10 --slo ttft=1000 --html {}", path.display());
    let ran = Ran::of(bench(&server.url, &flags)).succeeded();
    for words in ["TTFT", "ITL", "TPOT", "end to end", "goodput", "HTTP 500", "output tokens", "p99"] {
        assert!(ran.stdout.contains(words), "{words} is not in {}", ran.stdout);
    }
    let page = std::fs::read_to_string(path).unwrap();
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"));
    for asks in ["src=", "href=", "@import", "url("] {
        assert!(!page.contains(asks), "{asks}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf "));
    assert_eq!(page.matches("<svg").count(), 7);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_shows_what_there_is() {
    let server = FakeServer::start(|request| match request.number {
        0..4 => Reply::completion(vec![text("a")], 1, 1),
        _ => Reply::stream(vec![text("a"), wait(60_000)]),
    });
    let mut command = bench(&server.url, "--requests 50 --concurrency 2 --json -");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ran = Ran::from(child.wait_with_output().unwrap()).succeeded();
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(found["interrupted"], true);
    assert_eq!((&found["answered"], &found["stopped"], &found["failed"]), (&json!(4), &json!(2), &json!(0)));
    assert!(found["requests"][4]["ttft"].is_f64(), "what came of a stopped request is kept");
}

/// `dots serve` of the small golden, over HTTPS. It is stopped when the test ends, however it ends.
struct OwnServer {
    child: Child,
    port: String,
}

impl OwnServer {
    fn start(certificate: &Path, key: &Path) -> Self {
        let mut command = dots();
        command.arg("serve").arg(fixture("hf")).args(["--port", "0", "--tls-cert"]).arg(certificate);
        command.arg("--tls-key").arg(key).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut words = BufReader::new(child.stderr.take().unwrap()).lines();
        let port =
            words.find_map(|line| Some(line.unwrap().split_once(" on https://")?.1.rsplit_once(':')?.1.to_owned()));
        // What it says from now on is read, so that it never waits for a reader.
        std::thread::spawn(move || words.for_each(drop));
        Self { child, port: port.unwrap() }
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn our_own_server_is_measured_over_https() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let server = OwnServer::start(&certificate, &key);
    let url = format!("https://localhost:{}/v1", server.port);

    Ran::of(bench(&url, "--requests 1")).failed_saying(&["certificate"]);
    for endpoint in ["completions", "chat"] {
        let flags = "--requests 6 --concurrency 3 --lengths fixed:8,10 --ignore-eos --temperature 0 --json -";
        let flags = format!("{flags} --endpoint {endpoint} --ca-file {}", certificate.display());
        let found: Value = serde_json::from_str(&Ran::of(bench(&url, &flags)).succeeded().stdout).unwrap();
        assert_eq!(
            (&found["answered"], &found["answers_without_usage"]),
            (&json!(6), &json!(0)),
            "{}",
            found["errors"]
        );
        assert_eq!((&found["output_tokens"], &found["peak_running"]), (&json!(60), &json!(3)));
        assert!(found["requests"][0]["prompt_tokens"].as_u64() >= Some(8));
        assert!(found["times"]["ttft_seconds"]["p50"].as_f64() <= found["times"]["e2e_seconds"]["p50"].as_f64());
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    Ran::of(bench(&address, "--requests 1")).failed_saying(&[&address, "refused"]);
}

#[test]
fn a_run_without_an_answer_fails_after_its_report() {
    let server = FakeServer::start(|_| Reply::json(503, json!({ "error": "closed" })));
    let ran = Ran::of(bench(&server.url, "--requests 3"));
    assert!(ran.stdout.contains("HTTP 503") && ran.stdout.contains("closed"), "{}", ran.stdout);
    ran.failed_saying(&["no request was answered"]);
}

#[test]
fn wrong_calls_are_refused_before_anything_is_sent() {
    for flags in [
        "--requests 0",
        "--rate 0",
        "--rate 1 --concurrency 1",
        "--lengths alpaca",
        "--slo first=1",
        "--timeout 0",
        "--endpoint responses",
    ] {
        assert_eq!(Ran::of(bench("http://127.0.0.1:9", flags)).code, Some(2), "{flags}");
    }
    assert_eq!(Ran::of(bench("ftp://127.0.0.1", "")).code, Some(2));
    Ran::of(bench("http://127.0.0.1:9", "--html /no/such/folder/x")).failed_saying(&["/no/such/folder/x"]);
}

#[test]
fn a_model_is_still_measured_without_a_subcommand() {
    let mut command = dots();
    command.args(["bench", "/no/such/model"]);
    Ran::of(command).failed_saying(&["/no/such/model"]);
}
