//! The routes over a real socket, with a script in the engine's place.

mod about_prompts;
mod access;
mod background;
mod completions;
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
    Breakers, Event, Failure, Finish, FinishReason, Grammars, Pooling, PromptToken, Request, Routing, RoutingOf,
    SamplingParams, Stats, Stop, SubmitError, TokenEvent, TokenLogprobs,
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
    Keys, Limits, LocalNames, ServerOptions,
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
    /// Tokens of each conversation that was made a prompt.
    encoded: Arc<Mutex<Vec<usize>>>,
    has_stopped: bool,
    /// Goes on with letters where silence would be.
    is_flood: bool,
    /// Said instead of letters, a character a token.
    answer: Option<String>,
    grammars: OnceLock<Grammars>,
    /// The form `stuck` is compiled for as long as this is held.
    stuck: Arc<Mutex<()>>,
    /// Longest sequence, [`CONTEXT_TOKENS`] where there is none.
    context_tokens: Option<usize>,
    /// What a token's experts are counted as.
    experts_per_token: usize,
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
        self.context_tokens.unwrap_or(CONTEXT_TOKENS)
    }

    fn experts_per_token(&self) -> usize {
        self.experts_per_token
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
        let ids: Vec<u32> = said.chain(tools).chain(ending).collect();
        self.encoded.lock().unwrap().push(ids.len());
        Ok(ids)
    }

    /// The forms are a golden's; the script does not keep to them.
    fn compile(&self, spec: &ConstraintSpec) -> Result<Constraint, ConstraintError> {
        if *spec == ConstraintSpec::Regex("stuck".to_owned()) {
            drop(self.stuck.lock());
        }
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
        let context = self.context_tokens();
        if prompt + completion > context {
            let requested = prompt + completion;
            return Err(SubmitError::TooLong { context, requested, prompt, completion });
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
        let experts = |first: usize| (4 * first as u16..4 * (prompt + completion.max(1) - 1) as u16).collect();
        let routing = match request.routing {
            RoutingOf::Nothing => None,
            RoutingOf::Answer => Some(Routing { layers: vec![1, 2], experts: experts(prompt) }),
            RoutingOf::All => Some(Routing { layers: vec![1, 2], experts: experts(0) }),
        };
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
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
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
