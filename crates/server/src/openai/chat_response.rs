//! The answer to `POST /v1/chat/completions`, whole and in chunks.

use std::{collections::VecDeque, sync::Arc};

use dots_engine::{Finish, TokenEvent};
use serde::Serialize;

use super::{Head, finish_reason, logprobs::ChatLogprobs, to_json};
use crate::{
    App,
    answer::{Answer, Usage},
    backend::Vocabulary,
    sse::Chunker,
};

/// `object` of a whole answer.
pub const OBJECT: &str = "chat.completion";
/// `object` of a chunk.
pub const CHUNK_OBJECT: &str = "chat.completion.chunk";

/// A whole answer.
#[derive(Debug, Serialize)]
pub struct ChatCompletion {
    #[serde(flatten)]
    head: Head,
    choices: Vec<Choice>,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: usize,
    message: AssistantMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

#[derive(Debug, Serialize)]
struct AssistantMessage {
    role: &'static str,
    content: String,
    refusal: Option<String>,
}

impl ChatCompletion {
    /// Of complete choices; `logprobs` as the request asked.
    pub fn new(head: Head, answers: Vec<Answer>, logprobs: bool, vocabulary: &dyn Vocabulary) -> Self {
        let usage = Usage::of(&answers, answers.len().max(1));
        let choices = answers.into_iter().enumerate().map(|(index, answer)| Choice {
            index,
            logprobs: logprobs.then(|| ChatLogprobs::new(&answer.tokens, vocabulary)),
            message: AssistantMessage { role: "assistant", content: answer.text, refusal: None },
            finish_reason: finish_reason(answer.finish.reason),
        });
        Self { head, choices: choices.collect(), usage }
    }
}

#[derive(Serialize)]
struct Chunk<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: &'a [ChunkChoice],
    /// `None` is left out, `Some(None)` is `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct ChunkChoice {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

/// Chunks of a chat's answer: a role, texts, a reason to end.
pub struct ChatChunker {
    app: Arc<App>,
    head: Head,
    logprobs: bool,
    include_usage: bool,
    choices: Vec<Growing>,
}

#[derive(Clone, Default)]
struct Growing {
    begun: bool,
    /// Tokens whose text is not certain yet; they go out with it, so that texts and log-probabilities stay together.
    waiting: Vec<TokenEvent>,
}

impl ChatChunker {
    /// For `choices` choices.
    pub(crate) fn new(app: Arc<App>, head: Head, choices: usize, logprobs: bool, include_usage: bool) -> Self {
        Self { app, head, logprobs, include_usage, choices: vec![Growing::default(); choices] }
    }

    fn chunk(&self, choices: &[ChunkChoice]) -> String {
        to_json(&Chunk { head: &self.head, choices, usage: self.include_usage.then_some(None) })
    }

    fn begin(&mut self, index: usize, chunks: &mut VecDeque<String>) {
        if !std::mem::replace(&mut self.choices[index].begun, true) {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            chunks.push_back(self.chunk(&[ChunkChoice { index, delta, logprobs: None, finish_reason: None }]));
        }
    }

    fn text(&mut self, index: usize, text: String, chunks: &mut VecDeque<String>) {
        let tokens = std::mem::take(&mut self.choices[index].waiting);
        let logprobs = self.logprobs.then(|| ChatLogprobs::new(&tokens, &*self.app.backend));
        let delta = Delta { role: None, content: Some(text) };
        chunks.push_back(self.chunk(&[ChunkChoice { index, delta, logprobs, finish_reason: None }]));
    }
}

impl Chunker for ChatChunker {
    fn token(&mut self, index: usize, mut token: TokenEvent, chunks: &mut VecDeque<String>) {
        self.begin(index, chunks);
        let text = std::mem::take(&mut token.text);
        if self.logprobs {
            self.choices[index].waiting.push(token);
        }
        if !text.is_empty() {
            self.text(index, text, chunks);
        }
    }

    fn finish(&mut self, index: usize, finish: &Finish, chunks: &mut VecDeque<String>) {
        self.begin(index, chunks);
        if !finish.text.is_empty() || !self.choices[index].waiting.is_empty() {
            self.text(index, finish.text.clone(), chunks);
        }
        let finish_reason = Some(finish_reason(finish.reason));
        let delta = Delta::default();
        chunks.push_back(self.chunk(&[ChunkChoice { index, delta, logprobs: None, finish_reason }]));
    }

    fn usage(&self, usage: Usage) -> String {
        to_json(&Chunk { head: &self.head, choices: &[], usage: Some(Some(usage)) })
    }
}
