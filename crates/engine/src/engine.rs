//! The engine: one thread that steps the executor, and the one way in.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use dots_model::{executor::Executor, tokenizer::Tokenizer};

use crate::request::{Event, Request, SubmitError};

/// Settings of an engine.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Longest sequence, prompt and completion together, in tokens.
    pub max_model_len: usize,
    /// Most tokens in one step, prompts' chunks and decoded tokens together.
    pub max_batch_tokens: usize,
    /// Most sequences in one step.
    pub max_sequences: usize,
    /// Ids that end a turn.
    pub eos_token_ids: Vec<u32>,
}

/// Runs requests. Cheap to clone; the engine's thread ends when the last clone is dropped.
#[derive(Clone)]
pub struct Engine;

impl Engine {
    /// Starts the engine's thread over `executor`.
    pub fn start(_executor: Box<dyn Executor>, _tokenizer: Arc<Tokenizer>, _options: EngineOptions) -> Self {
        todo!()
    }

    /// Queues a request. Dropping the returned stream cancels it within one step.
    pub fn submit(&self, _request: Request) -> Result<Events, SubmitError> {
        todo!()
    }

    /// The engine's settings.
    pub fn options(&self) -> &EngineOptions {
        todo!()
    }
}

/// The events of one request: a `Stream`, or an iterator that blocks.
#[derive(Debug)]
pub struct Events;

impl Events {
    /// Waits for the next event on a thread that is not async.
    pub fn blocking_next(&mut self) -> Option<Event> {
        todo!()
    }
}

impl futures_core::Stream for Events {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Event>> {
        todo!()
    }
}
