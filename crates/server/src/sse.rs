//! Answers as they grow: server-sent events, one JSON chunk each, `[DONE]` last.

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
use dots_engine::{Event, Finish, TokenEvent};
use futures_core::Stream;

use crate::{
    answer::{Choices, Usage, failed},
    openai::StreamOptions,
};

/// Between two bytes of a slow answer, so that no proxy takes a long prefill for a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Gives an API's shape to what happens in a stream. Chunks are JSON without line breaks.
pub trait Chunker: Send + Unpin {
    /// Chunks, often none, for one token.
    fn token(&mut self, choice: usize, token: TokenEvent, chunks: &mut VecDeque<String>);
    /// Chunks for a choice's end.
    fn finish(&mut self, choice: usize, finish: &Finish, chunks: &mut VecDeque<String>);
    /// The chunk that counts the tokens.
    fn usage(&self, usage: Usage) -> String;
}

/// A response that streams `choices`. When the client hangs up, the response is dropped and the choices with it.
pub fn response<C: Chunker + 'static>(
    choices: Choices,
    chunker: C,
    choices_per_prompt: usize,
    options: StreamOptions,
) -> Response {
    let stream = Chunks {
        choices,
        chunker,
        choices_per_prompt,
        include_usage: options.include_usage,
        usage: Usage::default(),
        ready: VecDeque::new(),
        ended: false,
    };
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

struct Chunks<C> {
    choices: Choices,
    chunker: C,
    choices_per_prompt: usize,
    include_usage: bool,
    usage: Usage,
    ready: VecDeque<String>,
    ended: bool,
}

impl<C: Chunker> Chunks<C> {
    fn end(&mut self) {
        self.ready.push_back("[DONE]".to_owned());
        self.ended = true;
    }
}

impl<C: Chunker> Stream for Chunks<C> {
    type Item = Result<SseEvent, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(chunk) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(SseEvent::default().data(chunk))));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            match ready!(this.choices.poll_event(cx)) {
                Some((choice, Event::Token(token))) => this.chunker.token(choice, token, &mut this.ready),
                Some((choice, Event::Finished(finish))) => {
                    this.usage.add(choice, this.choices_per_prompt, &finish);
                    this.chunker.finish(choice, &finish, &mut this.ready);
                }
                Some((_, Event::Prompt(_) | Event::Embedding(_))) => {}
                Some((_, Event::Failed(failure))) => {
                    // The status line is long gone: the error travels as OpenAI's clients expect it, as one more chunk.
                    this.ready.push_back(failed(&failure).to_json());
                    this.choices = Choices::new(Vec::new());
                    this.end();
                }
                None => {
                    if this.include_usage {
                        this.ready.push_back(this.chunker.usage(this.usage));
                    }
                    this.end();
                }
            }
        }
    }
}
