//! The routes over a real socket, with a script in the engine's place.

mod about_prompts;
mod documents;
mod messages;
mod responses;
mod tokens;

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use dots_engine::{
    Breakers, Event, Failure, Finish, FinishReason, Grammars, Pooling, PromptToken, Request, Routing, SamplingParams,
    Stats, Stop, SubmitError, TokenEvent, TokenLogprobs,
    constraint::{Constraint, ConstraintError, ConstraintSpec},
};
use dots_model::{
    Checkpoint,
    checkpoint::GenerationDefaults,
    template::{Message, TemplateError},
    tokenizer::{Specials, Tokenizer},
};
use futures_core::Stream;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    Keys, Limits, ServerOptions,
    backend::{Backend, EventStream, Vocabulary},
    serve_backend,
};

mod encrypted;
mod operations;
mod structured;
mod traces;

const CONTEXT_TOKENS: usize = 64;

/// One byte is one token. Answers with the letters from `a` on; with a seed, from the seed's letter on. A prompt that
/// ends in `~` is answered by one letter and then silence, one that ends in `!` by a failure, one that ends in `?` finds a full
/// queue, one that ends in `\` a fault. A stop text of one letter ends the answer.
#[derive(Default)]
struct Script {
    defaults: GenerationDefaults,
    running: Arc<AtomicUsize>,
    /// The request that came last.
    last: Arc<Mutex<Option<Request>>>,
    /// Requests that asked about their prompt's tokens.
    asked_about_prompts: Arc<AtomicUsize>,
    has_stopped: bool,
    /// Goes on with letters where silence would be.
    is_flood: bool,
    /// Said instead of letters, a character a token.
    answer: Option<String>,
    grammars: OnceLock<Grammars>,
    /// Conversations end in `|>`, or in `|` where no answer is asked for.
    prompts_for_answers: bool,
}

/// A vocabulary in which nothing is found.
struct NoBytes;

impl dots_engine::TokenBytes for NoBytes {
    fn token_bytes(&self, _id: u32) -> &[u8] {
        &[]
    }
}

struct Scripted {
    events: VecDeque<Event>,
    endless: bool,
    is_flood: bool,
    running: Arc<AtomicUsize>,
}

impl Stream for Scripted {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Event>> {
        match self.events.pop_front() {
            None if self.is_flood => {
                Poll::Ready(Some(Event::Token(TokenEvent { id: 97, text: "a".repeat(1000), logprobs: None })))
            }
            None if self.endless => Poll::Pending,
            event => Poll::Ready(event),
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Vocabulary for Script {
    fn token_bytes(&self, id: u32) -> Vec<u8> {
        vec![id as u8]
    }

    fn is_special(&self, _id: u32) -> bool {
        false
    }
}

impl Backend for Script {
    fn defaults(&self) -> &GenerationDefaults {
        &self.defaults
    }

    fn context_tokens(&self) -> usize {
        CONTEXT_TOKENS
    }

    fn encode_text(&self, text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    fn vocab_size(&self) -> usize {
        256
    }

    fn eos_token_ids(&self) -> &[u32] {
        &[b'$' as u32]
    }

    fn encode_piece(&self, text: &str, _specials: Specials) -> Vec<u32> {
        self.encode_text(text)
    }

    fn dry_breakers(&self, texts: Vec<String>) -> Breakers {
        Breakers::new(texts, Arc::new(NoBytes))
    }

    fn encode_chat(
        &self,
        messages: &[Message],
        tools: &[Value],
        add_generation_prompt: bool,
    ) -> Result<Vec<u32>, TemplateError> {
        if messages.iter().any(|message| message.content.contains("refuse me")) {
            return Err(TemplateError("roles must alternate".to_owned()));
        }
        let tools = tools.iter().map(|tool| u32::from(tool["function"]["name"].as_str().unwrap().as_bytes()[0]));
        let ending = if add_generation_prompt { "|>" } else { "|" };
        let ending = self.encode_text(if self.prompts_for_answers { ending } else { "" });
        let said = messages.iter().flat_map(|message| self.encode_text(&message.content));
        Ok(said.chain(tools).chain(ending).collect())
    }

    /// The forms are a golden's; the script does not keep to them.
    fn compile(&self, spec: &ConstraintSpec) -> Result<Constraint, ConstraintError> {
        let grammars = self.grammars.get_or_init(|| {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/goldens/hf");
            let checkpoint = Checkpoint::open(std::path::Path::new(path)).unwrap();
            Grammars::new(Arc::new(Tokenizer::new(checkpoint.tokenizer.as_ref().unwrap()).unwrap()), vec![])
        });
        grammars.compile(spec)
    }

    fn decode(&self, ids: &[u32]) -> String {
        ids.iter().filter_map(|&id| char::from_u32(id)).collect()
    }

    fn is_running(&self) -> bool {
        !self.has_stopped
    }

    fn stats(&self) -> Stats {
        Stats { running: self.running.load(Ordering::SeqCst), ..Stats::default() }
    }

    fn submit(&self, request: Request) -> Result<EventStream, SubmitError> {
        *self.last.lock().unwrap() = Some(request.clone());
        self.asked_about_prompts.fetch_add(usize::from(request.prompt_logprobs.is_some()), Ordering::SeqCst);
        let prompt = request.prompt.len();
        let Some(&last) = request.prompt.last() else { return Err(SubmitError::EmptyPrompt) };
        assert_ne!(last, u32::from(b'\\'), "a script's own fault");
        if last == u32::from(b'?') {
            return Err(SubmitError::QueueFull { outstanding: 2, retry_after_seconds: 7 });
        }
        let completion = request.max_tokens.unwrap_or(4);
        if prompt + completion > CONTEXT_TOKENS {
            let requested = prompt + completion;
            return Err(SubmitError::TooLong { context: CONTEXT_TOKENS, requested, prompt, completion });
        }
        if let Some(answer) = &self.answer {
            let token = |c: char| TokenEvent { id: u32::from(c), text: c.into(), logprobs: None };
            let mut events: VecDeque<_> = answer.chars().map(|c| Event::Token(token(c))).collect();
            events.push_back(Event::Finished(Finish {
                reason: if request.constraint.is_some() { FinishReason::Stop } else { FinishReason::Length },
                text: String::new(),
                prompt_tokens: prompt,
                completion_tokens: answer.len(),
                ..Finish::default()
            }));
            self.running.fetch_add(1, Ordering::SeqCst);
            return Ok(Box::pin(Scripted {
                events,
                endless: false,
                is_flood: false,
                running: Arc::clone(&self.running),
            }));
        }
        let first = u32::from(b'a') + request.sampling.seed.unwrap_or(0) as u32;
        let mut stopped_at = None;
        let mut events: VecDeque<_> = (0..completion as u32)
            .map(|i| {
                let logprobs = request.logprobs.map(|n| TokenLogprobs {
                    logprob: -0.5,
                    top: vec![(first + i, -0.5), (65, -1.5)].into_iter().take(n).collect(),
                });
                let mut text = char::from_u32(first + i).unwrap().to_string();
                if request.stop.contains(&text) {
                    stopped_at.get_or_insert(i as usize + 1);
                    text.clear();
                }
                Event::Token(TokenEvent { id: first + i, text, logprobs })
            })
            .collect();
        // Each token is as likely as its byte says, and the likeliest in its place where it is a letter.
        if let Some(n) = request.prompt_logprobs {
            let one = |(i, &id): (usize, &u32)| {
                let logprob = -(id as f32) / 100.0;
                let is_letter = char::from_u32(id).is_some_and(char::is_alphabetic);
                let top = vec![(if is_letter { id } else { 65 }, if is_letter { logprob } else { -0.125 })];
                let rank = usize::from(!is_letter);
                (i > 0).then(|| PromptToken { id, logprob, rank, top: top.into_iter().take(n).collect() })
            };
            events.push_front(Event::Prompt(request.prompt.iter().enumerate().map(one).collect()));
        }
        let routing = request.return_routing.then(|| Routing {
            layers: vec![1, 2],
            experts: (0..4 * (prompt + completion.max(1) - 1) as u16).collect(),
        });
        let finished = Event::Finished(Finish { prompt_tokens: prompt, ..Finish::default() });
        match u8::try_from(last) {
            Ok(b'~') => events.truncate(1),
            Ok(b'!') => {
                events.truncate(1);
                events.push_back(Event::Failed(Failure::Step("secret reason".to_owned())));
            }
            _ if request.pooling.is_some() => {
                let pooled = if request.pooling == Some(Pooling::Last) { 4.0 } else { -4.0 };
                events = VecDeque::from([Event::Embedding(vec![3.0, pooled]), finished]);
            }
            _ => {
                if let Some(tokens) = stopped_at {
                    events.truncate(tokens);
                }
                let (reason, text) = match stopped_at {
                    Some(_) => (FinishReason::Stop, ""),
                    None => (FinishReason::Length, "."),
                };
                events.push_back(Event::Finished(Finish {
                    reason,
                    stop: stopped_at.map(|_| Stop::Text(request.stop.last().cloned().unwrap_or_default())),
                    text: text.to_owned(),
                    prompt_tokens: prompt,
                    completion_tokens: stopped_at.unwrap_or(completion),
                    routing,
                    ..Finish::default()
                }));
            }
        }
        self.running.fetch_add(1, Ordering::SeqCst);
        let endless = last == u32::from(b'~');
        let is_flood = endless && self.is_flood;
        Ok(Box::pin(Scripted { events, endless, is_flood, running: Arc::clone(&self.running) }))
    }
}

/// Settings of a server that a test waits for a minute at most.
fn options() -> ServerOptions {
    ServerOptions {
        model_names: vec!["dots1".to_owned(), "owner/dots.llm1".to_owned()],
        drain: Duration::from_secs(60),
        allows_priority: true,
        ..ServerOptions::default()
    }
}

/// A running server.
struct Server {
    address: SocketAddr,
    running: Arc<AtomicUsize>,
    shutdown: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(api_key: Option<&str>) -> Self {
        Self::start_over(Script::default(), api_key)
    }

    fn start_over(script: Script, api_key: Option<&str>) -> Self {
        let keys = Keys::new(api_key.as_slice(), None).unwrap();
        Self::start_with(script, ServerOptions { keys, ..options() })
    }

    fn start_with(script: Script, options: ServerOptions) -> Self {
        let running = Arc::clone(&script.running);
        let (shutdown, on_shutdown) = oneshot::channel::<()>();
        let (send_address, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                send_address.send(listener.local_addr().unwrap()).unwrap();
                serve_backend(listener, options, Box::new(script), async { drop(on_shutdown.await) }).await;
            });
        });
        Self { address: address.recv().unwrap(), running, shutdown: Some(shutdown), thread: Some(thread) }
    }

    /// Sends bytes and leaves the connection open.
    fn open(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request).unwrap();
        stream
    }

    /// Sends a request and reads the whole answer: status, head, body.
    fn call(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> (u16, String, String) {
        let mut stream = self.open(&request(method, path, headers, body));
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body = if head.contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
        (head[9..12].parse().unwrap(), head.to_owned(), body)
    }

    fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, _, text) = self.call("POST", path, JSON, body.to_string().as_bytes());
        (status, serde_json::from_str(&text).unwrap())
    }

    /// The chunks of a stream, `[DONE]` checked and taken off.
    fn stream(&self, path: &str, body: Value) -> Vec<Value> {
        let (status, head, text) = self.call("POST", path, JSON, body.to_string().as_bytes());
        assert_eq!(status, 200, "{text}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        let events = text.strip_suffix("data: [DONE]\n\n").expect("a stream ends in [DONE]");
        events
            .split_terminator("\n\n")
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }

    /// The events of a stream whose events have names.
    fn events(&self, path: &str, body: Value) -> Vec<(String, Value)> {
        let (status, head, text) = self.call("POST", path, JSON, body.to_string().as_bytes());
        assert_eq!(status, 200, "{text}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        let event = |event: &str| {
            let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(data["type"], name);
            (name.to_owned(), data)
        };
        text.split_terminator("\n\n").map(event).collect()
    }

    fn wait_until_running(&self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.running.load(Ordering::SeqCst) != count {
            assert!(Instant::now() < deadline, "{} generations still run", self.running.load(Ordering::SeqCst));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shutdown.take());
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().unwrap();
        }
    }
}

const JSON: &str = "content-type: application/json\r\n";

fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        text.push_str(&rest[..length]);
        body = &rest[length + 2..];
    }
    text
}

fn chat(content: &str, extra: Value) -> Value {
    let mut body = json!({"model": "dots1", "messages": [{"role": "user", "content": content}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

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
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n\
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
    let padding = " ".repeat(super::routes::OFF_RUNTIME_BYTES);
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
