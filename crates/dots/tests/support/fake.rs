//! A server that does what a test tells it to, over plain HTTP/1.1.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// What came.
pub struct Request {
    pub path: String,
    pub authorization: Option<String>,
    pub body: Value,
    /// Which request to this path, from 0.
    pub number: usize,
}

/// What goes back.
pub struct Reply {
    pub status: u16,
    pub content_type: &'static str,
    pub steps: Vec<Step>,
    /// Close the connection before the body's end.
    pub broken: bool,
}

pub enum Step {
    Wait(Duration),
    Send(String),
}

impl Reply {
    pub fn json(status: u16, body: Value) -> Self {
        Self { status, content_type: "application/json", steps: vec![Step::Send(body.to_string())], broken: false }
    }

    /// Nothing: the connection is closed.
    pub fn none() -> Self {
        Self { status: 0, broken: true, ..Self::stream(Vec::new()) }
    }

    /// Events.
    pub fn stream(steps: Vec<Step>) -> Self {
        Self { status: 200, content_type: "text/event-stream", steps, broken: false }
    }

    /// A whole completion, with the server's counts.
    pub fn completion(mut steps: Vec<Step>, prompt_tokens: usize, completion_tokens: usize) -> Self {
        let usage = json!({ "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens });
        steps.extend([
            event(&json!({ "choices": [{ "index": 0, "text": "", "finish_reason": "length" }] }).to_string()),
            event(&json!({ "choices": [], "usage": usage }).to_string()),
            event("[DONE]"),
        ]);
        Self::stream(steps)
    }
}

pub fn wait(milliseconds: u64) -> Step {
    Step::Wait(Duration::from_millis(milliseconds))
}

pub fn event(data: &str) -> Step {
    Step::Send(format!("data: {data}\n\n"))
}

/// A chunk of a completion.
pub fn text(text: &str) -> Step {
    event(&json!({ "choices": [{ "index": 0, "text": text, "finish_reason": null }] }).to_string())
}

/// Words of the prompt: what this server calls tokens.
pub fn words(request: &Request) -> usize {
    request.body["prompt"].as_str().unwrap_or("").split_whitespace().count()
}

pub struct FakeServer {
    pub url: String,
    /// Connections so far.
    pub connections: Arc<AtomicUsize>,
}

impl FakeServer {
    /// A server with one model, `fake`, a tokenizer of words, and these answers to all other requests.
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let (answer, count) = (Arc::new(answer), Arc::clone(&connections));
        let numbers = Arc::new(AtomicUsize::new(0));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { break };
                count.fetch_add(1, SeqCst);
                let (answer, numbers) = (Arc::clone(&answer), Arc::clone(&numbers));
                let serve = move || while serve(&stream, &*answer, &numbers).is_some() {};
                thread::Builder::new().stack_size(256 << 10).spawn(serve).unwrap();
            }
        });
        Self { url, connections }
    }
}

/// Answers one request. `None` when the connection is over.
fn serve(stream: &TcpStream, answer: &dyn Fn(&Request) -> Reply, numbers: &AtomicUsize) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut length, mut authorization) = (0, None);
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut request = Request { path, authorization, body, number: 0 };
    let reply = match request.path.as_str() {
        "/v1/models" => Reply::json(200, json!({ "data": [{ "id": "fake" }] })),
        "/tokenize" => Reply::json(200, json!({ "tokens": vec![0; words(&request)] })),
        // A server under a path of its own has no tokenizer.
        path if path.ends_with("/tokenize") => Reply::json(404, json!({ "detail": "Not Found" })),
        _ => {
            request.number = numbers.fetch_add(1, SeqCst);
            answer(&request)
        }
    };
    send(stream, &reply).ok()?;
    (!reply.broken).then_some(())
}

fn send(mut stream: &TcpStream, reply: &Reply) -> std::io::Result<()> {
    let (status, content_type) = (reply.status, reply.content_type);
    if status == 0 {
        return stream.shutdown(std::net::Shutdown::Both);
    }
    write!(stream, "HTTP/1.1 {status} Status\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    for step in &reply.steps {
        match step {
            Step::Wait(time) => thread::sleep(*time),
            Step::Send(bytes) => stream.write_all(format!("{:x}\r\n{bytes}\r\n", bytes.len()).as_bytes())?,
        }
    }
    if reply.broken {
        return stream.shutdown(std::net::Shutdown::Both);
    }
    stream.write_all(b"0\r\n\r\n")
}
