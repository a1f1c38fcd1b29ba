//! Answers as they grow: server-sent events. OpenAI's first two APIs send one JSON chunk each, and `[DONE]` last; later
//! APIs give each event a name, and have events of their own for beginnings and ends.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::response::{
    IntoResponse, Response,
    sse::{Event as SseEvent, KeepAlive, Sse},
};
use dots_engine::{Event, Finish, PromptList, TokenEvent};
use futures_core::Stream;

use crate::{
    answer::{Choices, Usage, failed},
    error::ApiError,
    openai::StreamOptions,
};

/// Between two bytes of a slow answer, so that no proxy takes a long prefill for a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Gives an API's shape to what happens in a stream. Chunks are JSON without line breaks.
pub trait Chunker: Send + Unpin {
    /// Chunks for the prompt's log-probabilities, which only a request gets that asks for them.
    fn prompt(&mut self, _choice: usize, _prompt: PromptList, _chunks: &mut VecDeque<String>) {}
    /// Chunks, often none, for one token.
    fn token(&mut self, choice: usize, token: TokenEvent, chunks: &mut VecDeque<String>);
    /// Chunks for a choice's end.
    fn finish(&mut self, choice: usize, finish: &Finish, chunks: &mut VecDeque<String>);
    /// The chunk that counts the tokens.
    fn usage(&self, usage: Usage) -> String;
}

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Its name, where the API has names.
    pub event: Option<&'static str>,
    /// JSON without line breaks, or `[DONE]`.
    pub data: String,
}

/// Gives an API's shape to a whole stream.
pub trait Writer: Send + Unpin {
    /// Before anything has come.
    fn begin(&mut self, sent: &mut VecDeque<Sent>);
    /// The prompt's log-probabilities came, which only a request gets that asks for them.
    fn prompt(&mut self, _choice: usize, _prompt: PromptList, _sent: &mut VecDeque<Sent>) {}
    /// A token came.
    fn token(&mut self, choice: usize, token: TokenEvent, sent: &mut VecDeque<Sent>);
    /// A choice is complete.
    fn finish(&mut self, choice: usize, finish: &Finish, sent: &mut VecDeque<Sent>);
    /// All choices are complete, nothing follows.
    fn end(&mut self, sent: &mut VecDeque<Sent>);
    /// The generation failed, nothing follows. The status line is long gone, so the error travels as an event.
    fn fail(&mut self, error: &ApiError, sent: &mut VecDeque<Sent>);
}

/// A response that streams `choices` as a [`Chunker`] shapes them.
pub fn response<C: Chunker + 'static>(
    choices: Choices,
    chunker: C,
    choices_per_prompt: usize,
    options: StreamOptions,
) -> Response {
    let writer = ChunkWriter {
        chunker,
        choices_per_prompt,
        include_usage: options.include_usage,
        usage: Usage::default(),
        chunks: VecDeque::new(),
    };
    written(choices, writer, KeepAlive::new())
}

/// A response that streams `choices` as `writer` shapes them. When the client hangs up, the response is dropped and the
/// choices with it.
pub fn written<W: Writer + 'static>(choices: Choices, mut writer: W, keep_alive: KeepAlive) -> Response {
    let mut ready = VecDeque::new();
    writer.begin(&mut ready);
    let stream = Writing { choices, writer, ready, ended: false };
    Sse::new(stream).keep_alive(keep_alive.interval(KEEP_ALIVE)).into_response()
}

/// Chunks as a stream.
struct ChunkWriter<C> {
    chunker: C,
    choices_per_prompt: usize,
    include_usage: bool,
    usage: Usage,
    chunks: VecDeque<String>,
}

impl<C> ChunkWriter<C> {
    fn send(&mut self, sent: &mut VecDeque<Sent>) {
        sent.extend(self.chunks.drain(..).map(|data| Sent { event: None, data }));
    }

    fn done(&mut self, sent: &mut VecDeque<Sent>) {
        self.chunks.push_back("[DONE]".to_owned());
        self.send(sent);
    }
}

impl<C: Chunker> Writer for ChunkWriter<C> {
    fn begin(&mut self, _sent: &mut VecDeque<Sent>) {}

    fn prompt(&mut self, choice: usize, prompt: PromptList, sent: &mut VecDeque<Sent>) {
        self.chunker.prompt(choice, prompt, &mut self.chunks);
        self.send(sent);
    }

    fn token(&mut self, choice: usize, token: TokenEvent, sent: &mut VecDeque<Sent>) {
        self.chunker.token(choice, token, &mut self.chunks);
        self.send(sent);
    }

    fn finish(&mut self, choice: usize, finish: &Finish, sent: &mut VecDeque<Sent>) {
        self.usage.add(choice, self.choices_per_prompt, finish);
        self.chunker.finish(choice, finish, &mut self.chunks);
        self.send(sent);
    }

    fn end(&mut self, sent: &mut VecDeque<Sent>) {
        if self.include_usage {
            self.chunks.push_back(self.chunker.usage(self.usage));
        }
        self.done(sent);
    }

    fn fail(&mut self, error: &ApiError, sent: &mut VecDeque<Sent>) {
        // As OpenAI's clients expect it: one more chunk.
        self.chunks.push_back(error.to_json());
        self.done(sent);
    }
}

struct Writing<W> {
    choices: Choices,
    writer: W,
    ready: VecDeque<Sent>,
    ended: bool,
}

impl<W: Writer> Stream for Writing<W> {
    type Item = Result<SseEvent, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(Sent { event, data }) = this.ready.pop_front() {
                let named = event.map_or_else(SseEvent::default, |name| SseEvent::default().event(name));
                return Poll::Ready(Some(Ok(named.data(data))));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(this.choices.poll_event(cx)) {
                Some((choice, Event::Token(token))) => this.writer.token(choice, token, &mut this.ready),
                Some((choice, Event::Finished(finish))) => this.writer.finish(choice, &finish, &mut this.ready),
                Some((choice, Event::Prompt(prompt))) => this.writer.prompt(choice, prompt, &mut this.ready),
                // Vectors are not streamed.
                Some((_, Event::Embedding(_))) => {}
                Some((_, Event::Failed(failure))) => {
                    this.writer.fail(&failed(&failure), &mut this.ready);
                    this.choices = Choices::new(Vec::new());
                    this.ended = true;
                }
                None => {
                    this.writer.end(&mut this.ready);
                    this.ended = true;
                }
            }
        }
    }
}
