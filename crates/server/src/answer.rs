//! What the engine says about the choices of one request, gathered.

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use dots_engine::{Event, Failure, Finish, PromptToken, TokenEvent};

use crate::{backend::EventStream, error::ApiError};

/// The events of all choices as they come, none of them starved by another. Dropping it stops them all.
pub struct Choices {
    running: Vec<(usize, EventStream)>,
    /// The one that is asked first, next time.
    turn: usize,
}

impl Choices {
    /// Choice `i` is `streams[i]`.
    pub fn new(streams: Vec<EventStream>) -> Self {
        Self { running: streams.into_iter().enumerate().collect(), turn: 0 }
    }

    /// The next event and its choice; `None` when every choice has ended.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<(usize, Event)>> {
        if self.running.is_empty() {
            return Poll::Ready(None);
        }
        for step in 0..self.running.len() {
            let at = (self.turn + step) % self.running.len();
            let (choice, stream) = &mut self.running[at];
            let choice = *choice;
            if let Poll::Ready(event) = stream.as_mut().poll_next(cx) {
                let event = event.unwrap_or(Event::Failed(Failure::Stopped));
                if matches!(event, Event::Finished(_) | Event::Failed(_)) {
                    drop(self.running.remove(at));
                    self.turn = at;
                } else {
                    self.turn = at + 1;
                }
                return Poll::Ready(Some((choice, event)));
            }
        }
        Poll::Pending
    }
}

/// One complete choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// All of its text.
    pub text: String,
    /// Its tokens, in order.
    pub tokens: Vec<TokenEvent>,
    /// The prompt's log-probabilities, where the request asked; else empty.
    pub prompt: Vec<Option<PromptToken>>,
    /// The prompt's embedding, where the request asked; else empty.
    pub embedding: Vec<f32>,
    /// How it ended.
    pub finish: Finish,
}

/// What has come of a choice.
#[derive(Clone, Default)]
struct Growing {
    tokens: Vec<TokenEvent>,
    prompt: Vec<Option<PromptToken>>,
    embedding: Vec<f32>,
}

/// Waits until `count` choices are complete.
pub async fn collect(mut choices: Choices, count: usize) -> Result<Vec<Answer>, ApiError> {
    let mut growing = vec![Growing::default(); count];
    let mut answers = vec![None; count];
    while let Some((choice, event)) = poll_fn(|cx| choices.poll_event(cx)).await {
        match event {
            Event::Token(token) => growing[choice].tokens.push(token),
            Event::Finished(finish) => {
                let Growing { tokens, prompt, embedding } = std::mem::take(&mut growing[choice]);
                let mut text: String = tokens.iter().map(|token: &TokenEvent| token.text.as_str()).collect();
                text.push_str(&finish.text);
                answers[choice] = Some(Answer { text, tokens, prompt, embedding, finish });
            }
            Event::Failed(failure) => return Err(failed(&failure)),
            Event::Prompt(prompt) => growing[choice].prompt = prompt,
            Event::Embedding(embedding) => growing[choice].embedding = embedding,
        }
    }
    answers.into_iter().collect::<Option<_>>().ok_or_else(|| failed(&Failure::Stopped))
}

/// The engine's reason goes into the log; the client learns that it is not to blame, unless it set the deadline itself.
pub fn failed(failure: &Failure) -> ApiError {
    match failure {
        Failure::Deadline => return ApiError::deadline(),
        Failure::Stopped => return ApiError::stopping(),
        Failure::Form(reason) => return ApiError::form_failed(reason),
        Failure::Step(_) => {}
    }
    tracing::error!(%failure, "a generation failed");
    ApiError::internal("The generation failed on the server. The reason is in the server's log.")
}

/// Tokens read and written, as OpenAI counts them: a prompt counts once, however many choices it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
struct PromptDetails {
    /// Of the prompts' tokens, those that did not have to be computed.
    cached_tokens: usize,
}

impl Usage {
    /// Adds a choice that has ended. `choices_per_prompt` is `n`.
    pub fn add(&mut self, choice: usize, choices_per_prompt: usize, finish: &Finish) {
        if choice.is_multiple_of(choices_per_prompt) {
            self.prompt_tokens += finish.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += finish.cached_tokens;
        }
        self.completion_tokens += finish.completion_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }

    /// Of complete choices.
    pub fn of(answers: &[Answer], choices_per_prompt: usize) -> Self {
        let mut usage = Self::default();
        for (choice, answer) in answers.iter().enumerate() {
            usage.add(choice, choices_per_prompt, &answer.finish);
        }
        usage
    }
}
