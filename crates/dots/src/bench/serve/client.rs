//! One request after another: what is sent, and the times of what comes back.

use std::{fmt::Write as _, time::Duration};

use anyhow::{anyhow, bail};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT},
};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{
    chunk::{Message, error_message},
    record::{Failure, FailureKind, Outcome, Record},
    sse::{self, Parser},
    target::{Connection, Target},
};

/// Most bytes of an answer that is not streamed: a list of models, the ids of a prompt, an error.
const MOST_BODY_BYTES: usize = 64 << 20;
/// Of an error, so many are read.
const MOST_ERROR_BYTES: usize = 1 << 16;
/// How long a stream may take to end after it said that it is done, before its connection is given up.
const END_OF_STREAM: Duration = Duration::from_millis(250);
/// For what is asked before the run.
const SHORT: Duration = Duration::from_secs(30);

/// Sends requests to one server.
pub struct Client {
    target: Target,
    authorization: Option<HeaderValue>,
    timeout: Duration,
}

impl Client {
    pub fn new(target: Target, api_key: Option<&str>, timeout: Duration) -> anyhow::Result<Self> {
        let authorization = match api_key {
            None => None,
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                    .map_err(|_| anyhow!("--api-key: expected printable characters, found others"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { target, authorization, timeout })
    }

    /// The first name under which the server has a model.
    pub async fn first_model(&self) -> anyhow::Result<String> {
        let models = self.json(Method::GET, "/v1/models", None).await?;
        match models.pointer("/data/0/id").and_then(Value::as_str) {
            Some(name) => Ok(name.to_owned()),
            None => bail!("{}/v1/models: expected data[0].id, found none; --model names one", self.target.address),
        }
    }

    /// An answer in JSON to a request outside of the run.
    pub async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.target.address);
        let whole = async {
            let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
            let (response, connection) =
                self.send(method, path, body).await.map_err(|failure| anyhow!("{url}: {}", failure.message))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MOST_BODY_BYTES).collect().await;
            let body = body.map_err(|error| anyhow!("{url}: {error}"))?.to_bytes();
            self.target.keep(connection);
            let value: Result<Value, _> = serde_json::from_slice(&body);
            match value {
                Ok(value) if status == StatusCode::OK => Ok(value),
                Ok(value) => bail!("{url}: {status}: {}", error_message(&value)),
                Err(error) => bail!("{url}: {status}, expected JSON, found none: {error}"),
            }
        };
        timeout(SHORT, whole).await.map_err(|_| anyhow!("{url}: no answer in {} s", SHORT.as_secs()))?
    }

    /// Sends `body` and notes in `record` when what came. `on_text` hears of each chunk of text at once. The record is whole
    /// whenever this is dropped, but for its end.
    pub async fn stream(&self, path: &str, body: Bytes, record: &mut Record, on_text: impl Fn()) {
        let start = Instant::now();
        let result = timeout(self.timeout, self.read_stream(path, body, start, record, on_text)).await;
        let outcome = match result {
            Ok(Ok(())) => Outcome::Answered,
            Ok(Err(failure)) => Outcome::Failed(failure),
            Err(_) => {
                let message = format!("no end in {} s", self.timeout.as_secs_f64());
                Outcome::Failed(Failure::new(FailureKind::TimedOut, message))
            }
        };
        if outcome != Outcome::Answered {
            record.e2e = start.elapsed().as_secs_f64();
        }
        record.outcome = outcome;
    }

    async fn read_stream(
        &self,
        path: &str,
        body: Bytes,
        start: Instant,
        record: &mut Record,
        on_text: impl Fn(),
    ) -> Result<(), Failure> {
        let (response, connection) = self.send(Method::POST, path, body).await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        if !content_type.trim_start().to_ascii_lowercase().starts_with("text/event-stream") {
            let message = format!("expected Content-Type text/event-stream, found {content_type:?}");
            return Err(Failure::new(FailureKind::NotUnderstood, message));
        }
        let mut body = response.into_body();
        let mut answer = Answer::new(record);
        let mut parser = Parser::default();
        let mut events = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::new(FailureKind::BrokenOff, chain(&error)))?;
            let Some(bytes) = frame.data_ref() else { continue };
            let now = start.elapsed().as_secs_f64();
            parser.feed(bytes, &mut events).map_err(|sse::TooLong| {
                let message = format!("expected events of at most {} bytes, found a longer one", sse::MOST_EVENT_BYTES);
                Failure::new(FailureKind::NotUnderstood, message)
            })?;
            for event in events.drain(..) {
                if answer.take(&event, now, &on_text)? {
                    // Read to its end, the connection can be used again.
                    if matches!(timeout(END_OF_STREAM, rest(&mut body)).await, Ok(true)) {
                        self.target.keep(connection);
                    }
                    return Ok(());
                }
            }
        }
        let now = start.elapsed().as_secs_f64();
        parser.finish(&mut events);
        for event in events {
            if answer.take(&event, now, &on_text)? {
                return Ok(());
            }
        }
        // Some servers send no [DONE]; the reason to end is enough.
        if answer.record.finish_reason.is_some() {
            self.target.keep(connection);
            return Ok(());
        }
        Err(Failure::new(FailureKind::BrokenOff, "the stream ended without [DONE] and without a reason to end"))
    }

    /// Sends over a connection that is open already, or a new one. A server may close the former at any time: where it did so
    /// before a byte of an answer came, the request goes out again, as browsers do it.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<(Response<Incoming>, Connection), Failure> {
        let request = self.request(method, path, body)?;
        while let Some(mut connection) = self.target.idle() {
            if connection.ready().await.is_err() {
                continue;
            }
            let mut error = match connection.try_send_request(request.clone()).await {
                Ok(response) => return Ok((response, connection)),
                Err(error) => error,
            };
            if error.take_message().is_none() && !error.error().is_incomplete_message() {
                return Err(Failure::new(FailureKind::BrokenOff, chain(error.error())));
            }
        }
        let connected = self.target.connect().await;
        let mut connection = connected.map_err(|error| Failure::new(FailureKind::Connect, chain(&error)))?;
        match connection.send_request(request).await {
            Ok(response) => Ok((response, connection)),
            Err(error) => Err(Failure::new(FailureKind::BrokenOff, chain(&error))),
        }
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Failure> {
        let address = &self.target.address;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", address.prefix))
            .header(HOST, address.host_header())
            .header(USER_AGENT, concat!("dots/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "*/*")
            .header(CONTENT_TYPE, "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(Full::new(body)).map_err(|error| Failure::new(FailureKind::NotUnderstood, error.to_string()))
    }
}

/// What a stream has said so far.
struct Answer<'r> {
    record: &'r mut Record,
    /// Chunks that may still come: a stream without an end must not fill the memory.
    chunks_left: usize,
}

impl<'r> Answer<'r> {
    fn new(record: &'r mut Record) -> Self {
        // Some servers send a chunk a byte, and most one for the role, one for the end and one for the usage.
        let chunks_left = record.asked.output_tokens.saturating_mul(16).saturating_add(1024);
        Self { record, chunks_left }
    }

    /// Notes an event that came at `now`, in seconds from the start. True: the answer is complete.
    fn take(&mut self, event: &sse::Event, now: f64, on_text: impl Fn()) -> Result<bool, Failure> {
        let message = Message::read(event).map_err(|why| Failure::new(FailureKind::NotUnderstood, why))?;
        let chunk = match message {
            Message::Done => {
                // An answer without text or reason has this end only.
                if self.record.e2e == 0.0 {
                    self.record.e2e = now;
                }
                return Ok(true);
            }
            Message::Error(words) => return Err(Failure::new(FailureKind::InStream, words)),
            Message::Chunk(chunk) => chunk,
        };
        let Some(left) = self.chunks_left.checked_sub(1) else {
            let asked = self.record.asked.output_tokens;
            let message = format!("expected about {asked} chunks, found more than {}", 16 * asked + 1024);
            return Err(Failure::new(FailureKind::NotUnderstood, message));
        };
        self.chunks_left = left;
        let record = &mut *self.record;
        if chunk.has_text {
            record.text_at.push(now);
            on_text();
        }
        if chunk.has_text || chunk.finish_reason.is_some() {
            record.e2e = now;
        }
        if chunk.finish_reason.is_some() {
            record.finish_reason = chunk.finish_reason;
        }
        // Some servers count in every chunk; the last count is the whole one.
        if let Some(usage) = chunk.usage {
            record.prompt_tokens = usage.prompt_tokens.or(record.prompt_tokens);
            record.output_tokens = usage.completion_tokens.or(record.output_tokens);
            record.cached_tokens = usage.cached_tokens.or(record.cached_tokens);
        }
        Ok(false)
    }
}

/// Reads what nobody needs. True: to the end.
async fn rest(body: &mut Incoming) -> bool {
    while let Some(frame) = body.frame().await {
        if frame.is_err() {
            return false;
        }
    }
    true
}

/// What a status other than 200 says.
async fn refusal(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let body = Limited::new(response.into_body(), MOST_ERROR_BYTES).collect().await.map(|body| body.to_bytes());
    let message = match body {
        Ok(body) => match serde_json::from_slice::<Value>(&body) {
            Ok(value) => error_message(&value),
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        },
        Err(error) => error.to_string(),
    };
    Failure::new(FailureKind::Status(status.as_u16()), message)
}

/// An error with its causes: the outermost of hyper's says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(words, ": {error}");
        source = error.source();
    }
    words
}
