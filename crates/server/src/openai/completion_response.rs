//! The answer to `POST /v1/completions`, whole and in chunks.

use std::{collections::VecDeque, sync::Arc};

use dots_engine::{Finish, PromptList, PromptToken, TokenEvent};
use serde::Serialize;

use super::{
    Head, finish_reason,
    logprobs::{Columns, CompletionLogprobs, PromptLogprobs},
    routing::RoutingShape,
    to_json,
};
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
    #[serde(skip_serializing_if = "PromptLogprobs::is_empty")]
    prompt_logprobs: PromptLogprobs,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<RoutingShape>,
}

/// A prompt that its answers begin with.
#[derive(Debug, Clone)]
pub struct Echoed {
    /// Its text.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Whether the text came with the request, its special tokens as they are written.
    pub is_given: bool,
}

impl Echoed {
    fn logprobs(&self, found: &[Option<PromptToken>], vocabulary: &dyn Vocabulary, offset: &mut usize) -> Arc<Columns> {
        Arc::new(Columns::of_prompt(&self.ids, found, self.is_given, vocabulary, offset))
    }
}

/// What the request asked to be listed.
#[derive(Debug, Clone, Copy)]
pub struct Listed {
    /// `logprobs`.
    pub logprobs: bool,
    /// `prompt_logprobs`.
    pub prompt_logprobs: bool,
}

impl Completion {
    /// Of complete choices, `n` to a prompt. `echoed[i]` is prompt `i` where the request asked for it.
    pub fn new(
        head: Head,
        answers: Vec<Answer>,
        n: usize,
        echoed: &[Echoed],
        listed: Listed,
        vocabulary: &dyn Vocabulary,
    ) -> Self {
        let usage = Usage::of(&answers, n);
        // Of the prompt whose answers are being written.
        let (mut columns, mut prompt_end, mut prompt_logprobs) = (Arc::default(), 0, PromptLogprobs::default());
        let choices = answers.into_iter().enumerate().map(|(index, answer)| {
            let echoed = echoed.get(index / n);
            if index.is_multiple_of(n) {
                (columns, prompt_end) = (Arc::default(), 0);
                if let Some(prompt) = echoed.filter(|_| listed.logprobs) {
                    columns = prompt.logprobs(&answer.prompt, vocabulary, &mut prompt_end);
                }
                if listed.prompt_logprobs {
                    prompt_logprobs = PromptLogprobs::new(&answer.prompt, vocabulary);
                }
            }
            let logprobs = listed.logprobs.then(|| {
                CompletionLogprobs::new(Arc::clone(&columns), &answer.tokens, vocabulary, &mut prompt_end.clone())
            });
            Choice {
                text: match echoed {
                    Some(prompt) => format!("{}{}", prompt.text, answer.text),
                    None => answer.text,
                },
                index,
                logprobs,
                finish_reason: Some(finish_reason(answer.finish.reason)),
                prompt_logprobs: prompt_logprobs.clone(),
                routing: RoutingShape::of(&answer.finish),
            }
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
    echoed: Vec<Echoed>,
    choices: Vec<Growing>,
}

#[derive(Clone, Default)]
struct Growing {
    echoed: bool,
    /// The prompt's log-probabilities, until it has gone out.
    prompt: PromptList,
    /// Where the next token begins, in characters.
    offset: usize,
    /// Tokens whose text is not certain yet; they go out with it, so that texts and log-probabilities stay together.
    waiting: Vec<TokenEvent>,
}

impl CompletionChunker {
    /// For `choices` choices, `n` to a prompt. `echoed[i]` is prompt `i` where the request asked for it.
    pub(crate) fn new(
        app: Arc<App>,
        head: Head,
        choices: usize,
        n: usize,
        echoed: Vec<Echoed>,
        logprobs: bool,
        include_usage: bool,
    ) -> Self {
        Self { app, head, n, logprobs, include_usage, echoed, choices: vec![Growing::default(); choices] }
    }

    fn chunk(&mut self, index: usize, text: String, finish: Option<&Finish>) -> String {
        let choice = &mut self.choices[index];
        let tokens = std::mem::take(&mut choice.waiting);
        let logprobs = self
            .logprobs
            .then(|| CompletionLogprobs::new(Arc::default(), &tokens, &*self.app.backend, &mut choice.offset));
        self.with_logprobs(index, text, logprobs, finish)
    }

    fn with_logprobs(
        &self,
        index: usize,
        text: String,
        logprobs: Option<CompletionLogprobs>,
        finish: Option<&Finish>,
    ) -> String {
        let choice = Choice {
            text,
            index,
            logprobs,
            finish_reason: finish.map(|finish| finish_reason(finish.reason)),
            prompt_logprobs: PromptLogprobs::default(),
            routing: finish.and_then(RoutingShape::of),
        };
        to_json(&Chunk { head: &self.head, choices: &[choice], usage: self.include_usage.then_some(None) })
    }

    /// The prompt, once, before anything else.
    fn echo(&mut self, index: usize, chunks: &mut VecDeque<String>) {
        if std::mem::replace(&mut self.choices[index].echoed, true) {
            return;
        }
        let Some(prompt) = self.echoed.get(index / self.n) else { return };
        let choice = &mut self.choices[index];
        let found = std::mem::take(&mut choice.prompt);
        let logprobs = self.logprobs.then(|| {
            let columns = prompt.logprobs(&found, &*self.app.backend, &mut choice.offset);
            CompletionLogprobs::new(columns, &[], &*self.app.backend, &mut choice.offset)
        });
        chunks.push_back(self.with_logprobs(index, prompt.text.clone(), logprobs, None));
    }
}

impl Chunker for CompletionChunker {
    fn prompt(&mut self, index: usize, prompt: PromptList, _chunks: &mut VecDeque<String>) {
        self.choices[index].prompt = prompt;
    }

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
        chunks.push_back(self.chunk(index, finish.text.clone(), Some(finish)));
    }

    fn usage(&self, usage: Usage) -> String {
        to_json(&Chunk { head: &self.head, choices: &[], usage: Some(Some(usage)) })
    }
}
