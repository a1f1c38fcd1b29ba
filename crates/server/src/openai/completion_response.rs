//! The answer to `POST /v1/completions`, whole and in chunks.

use std::{collections::VecDeque, sync::Arc};

use dots_engine::{Finish, TokenEvent};
use serde::Serialize;

use super::{Head, finish_reason, logprobs::CompletionLogprobs, to_json};
use crate::{
    App,
    answer::{Answer, Usage},
    backend::Vocabulary,
    sse::Chunker,
};

/// `object` of a whole answer and of a chunk.
pub const OBJECT: &str = "text_completion";

/// A whole answer.
#[derive(Debug, Serialize)]
pub struct Completion {
    #[serde(flatten)]
    head: Head,
    choices: Vec<Choice>,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct Choice {
    text: String,
    index: usize,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}

impl Completion {
    /// Of complete choices, `n` to a prompt. `echoed[i]` is the text of prompt `i` where the request asked for it.
    pub fn new(
        head: Head,
        answers: Vec<Answer>,
        n: usize,
        echoed: &[String],
        logprobs: bool,
        vocabulary: &dyn Vocabulary,
    ) -> Self {
        let usage = Usage::of(&answers, n);
        let choices = answers.into_iter().enumerate().map(|(index, answer)| Choice {
            text: match echoed.get(index / n) {
                Some(prompt) => format!("{prompt}{}", answer.text),
                None => answer.text,
            },
            index,
            logprobs: logprobs.then(|| CompletionLogprobs::new(&answer.tokens, vocabulary, &mut 0)),
            finish_reason: Some(finish_reason(answer.finish.reason)),
        });
        Self { head, choices: choices.collect(), usage }
    }
}

#[derive(Serialize)]
struct Chunk<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: &'a [Choice],
    /// `None` is left out, `Some(None)` is `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

/// Chunks of a completion: texts, the last with the reason to end.
pub struct CompletionChunker {
    app: Arc<App>,
    head: Head,
    n: usize,
    logprobs: bool,
    include_usage: bool,
    echoed: Vec<String>,
    choices: Vec<Growing>,
}

#[derive(Clone, Default)]
struct Growing {
    echoed: bool,
    /// Where the next token begins, in characters.
    offset: usize,
    /// Tokens whose text is not certain yet; they go out with it, so that texts and log-probabilities stay together.
    waiting: Vec<TokenEvent>,
}

impl CompletionChunker {
    /// For `choices` choices, `n` to a prompt. `echoed[i]` is the text of prompt `i` where the request asked for it.
    pub(crate) fn new(
        app: Arc<App>,
        head: Head,
        choices: usize,
        n: usize,
        echoed: Vec<String>,
        logprobs: bool,
        include_usage: bool,
    ) -> Self {
        Self { app, head, n, logprobs, include_usage, echoed, choices: vec![Growing::default(); choices] }
    }

    fn chunk(&mut self, index: usize, text: String, finish_reason: Option<&'static str>) -> String {
        let choice = &mut self.choices[index];
        let tokens = std::mem::take(&mut choice.waiting);
        let logprobs = self.logprobs.then(|| CompletionLogprobs::new(&tokens, &*self.app.backend, &mut choice.offset));
        to_json(&Chunk {
            head: &self.head,
            choices: &[Choice { text, index, logprobs, finish_reason }],
            usage: self.include_usage.then_some(None),
        })
    }

    /// The prompt, once, before anything else.
    fn echo(&mut self, index: usize, chunks: &mut VecDeque<String>) {
        if std::mem::replace(&mut self.choices[index].echoed, true) {
            return;
        }
        if let Some(prompt) = self.echoed.get(index / self.n).cloned() {
            chunks.push_back(self.chunk(index, prompt, None));
        }
    }
}

impl Chunker for CompletionChunker {
    fn token(&mut self, index: usize, mut token: TokenEvent, chunks: &mut VecDeque<String>) {
        self.echo(index, chunks);
        let text = std::mem::take(&mut token.text);
        if self.logprobs {
            self.choices[index].waiting.push(token);
        }
        if !text.is_empty() {
            chunks.push_back(self.chunk(index, text, None));
        }
    }

    fn finish(&mut self, index: usize, finish: &Finish, chunks: &mut VecDeque<String>) {
        self.echo(index, chunks);
        chunks.push_back(self.chunk(index, finish.text.clone(), Some(finish_reason(finish.reason))));
    }

    fn usage(&self, usage: Usage) -> String {
        to_json(&Chunk { head: &self.head, choices: &[], usage: Some(Some(usage)) })
    }
}
