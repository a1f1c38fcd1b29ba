//! The answer to `POST /v1/chat/completions`, whole and in chunks.

use std::{collections::VecDeque, sync::Arc};

use dots_engine::{Finish, FinishReason, TokenEvent};
use serde::Serialize;

use super::{
    Head, finish_reason,
    logprobs::{ChatLogprobs, PromptLogprobs},
    routing::RoutingShape,
    to_json,
    tool_parser::{self, Piece, ToolParser},
    unique_id,
};
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
    /// One prompt has one list, whatever its choices.
    #[serde(skip_serializing_if = "PromptLogprobs::is_empty")]
    prompt_logprobs: PromptLogprobs,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: usize,
    message: AssistantMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<RoutingShape>,
}

#[derive(Debug, Serialize)]
struct AssistantMessage {
    role: &'static str,
    /// `None` where there are calls and nothing was said.
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

/// A call; in a chunk what is new of it.
#[derive(Debug, Serialize)]
struct ToolCall {
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: CalledFunction,
}

#[derive(Debug, Serialize)]
struct CalledFunction {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl ToolCall {
    fn new(index: Option<usize>, name: String, arguments: String) -> Self {
        let function = CalledFunction { name: Some(name), arguments };
        Self { index, id: Some(format!("call_{}", unique_id())), kind: Some("function"), function }
    }

    fn more(index: usize, arguments: String) -> Self {
        Self { index: Some(index), id: None, kind: None, function: CalledFunction { name: None, arguments } }
    }
}

/// An answer that calls ends for its calls.
fn reason_with_calls(reason: FinishReason, calls: usize) -> &'static str {
    match reason {
        FinishReason::Stop if calls > 0 => "tool_calls",
        reason => finish_reason(reason),
    }
}

impl AssistantMessage {
    fn new(text: String, has_tools: bool) -> Self {
        let (content, calls) = if has_tools { tool_parser::parse(&text) } else { (text, Vec::new()) };
        let content = (calls.is_empty() || !content.is_empty()).then_some(content);
        let tool_calls = calls.into_iter().map(|call| ToolCall::new(None, call.name, call.arguments)).collect();
        Self { role: "assistant", content, refusal: None, tool_calls }
    }
}

impl ChatCompletion {
    /// Of complete choices; `has_tools` and `logprobs` as the request asked.
    pub fn new(head: Head, answers: Vec<Answer>, has_tools: bool, logprobs: bool, vocabulary: &dyn Vocabulary) -> Self {
        let usage = Usage::of(&answers, answers.len().max(1));
        let prompt_logprobs = answers
            .first()
            .map_or_else(PromptLogprobs::default, |answer| PromptLogprobs::new(&answer.prompt, vocabulary));
        let choices = answers.into_iter().enumerate().map(|(index, answer)| {
            let message = AssistantMessage::new(answer.text, has_tools);
            Choice {
                index,
                logprobs: logprobs.then(|| ChatLogprobs::new(&answer.tokens, vocabulary)),
                finish_reason: reason_with_calls(answer.finish.reason, message.tool_calls.len()),
                routing: RoutingShape::of(&answer.finish),
                message,
            }
        });
        Self { head, choices: choices.collect(), usage, prompt_logprobs }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<RoutingShape>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCall; 1]>,
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
    /// Finds calls, where the request has tools.
    parser: Option<ToolParser>,
}

impl ChatChunker {
    /// For `choices` choices.
    pub(crate) fn new(
        app: Arc<App>,
        head: Head,
        choices: usize,
        has_tools: bool,
        logprobs: bool,
        include_usage: bool,
    ) -> Self {
        let growing = Growing { parser: has_tools.then(ToolParser::default), ..Growing::default() };
        Self { app, head, logprobs, include_usage, choices: vec![growing; choices] }
    }

    fn chunk(&self, choices: &[ChunkChoice]) -> String {
        to_json(&Chunk { head: &self.head, choices, usage: self.include_usage.then_some(None) })
    }

    fn begin(&mut self, index: usize, chunks: &mut VecDeque<String>) {
        if !std::mem::replace(&mut self.choices[index].begun, true) {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), tool_calls: None };
            let choice = ChunkChoice { index, delta, logprobs: None, finish_reason: None, routing: None };
            chunks.push_back(self.chunk(&[choice]));
        }
    }

    /// Sends what is new, with the log-probabilities of the tokens that it is of.
    fn send(&mut self, index: usize, delta: Delta, chunks: &mut VecDeque<String>) {
        let tokens = std::mem::take(&mut self.choices[index].waiting);
        let logprobs = self.logprobs.then(|| ChatLogprobs::new(&tokens, &*self.app.backend));
        let choice = ChunkChoice { index, delta, logprobs, finish_reason: None, routing: None };
        chunks.push_back(self.chunk(&[choice]));
    }

    fn send_pieces(&mut self, index: usize, pieces: Vec<Piece>, chunks: &mut VecDeque<String>) {
        // The pieces are of one push or of the end: the calls before them were counted before.
        let begun = pieces.iter().filter(|piece| matches!(piece, Piece::Call(_))).count();
        let mut calls = self.calls(index) - begun;
        for piece in pieces {
            let delta = match piece {
                Piece::Text(text) => Delta { content: Some(text), ..Delta::default() },
                Piece::Call(name) => {
                    calls += 1;
                    let call = ToolCall::new(Some(calls - 1), name, String::new());
                    Delta { tool_calls: Some([call]), ..Delta::default() }
                }
                Piece::Arguments(arguments) => {
                    let call = ToolCall::more(calls.saturating_sub(1), arguments);
                    Delta { tool_calls: Some([call]), ..Delta::default() }
                }
            };
            self.send(index, delta, chunks);
        }
    }

    /// Calls that have begun.
    fn calls(&self, index: usize) -> usize {
        self.choices[index].parser.as_ref().map_or(0, ToolParser::calls)
    }

    fn text(&mut self, index: usize, text: &str, chunks: &mut VecDeque<String>) {
        let pieces = match &mut self.choices[index].parser {
            Some(parser) => parser.push(text),
            None if text.is_empty() => Vec::new(),
            None => vec![Piece::Text(text.to_owned())],
        };
        self.send_pieces(index, pieces, chunks);
    }
}

impl Chunker for ChatChunker {
    fn token(&mut self, index: usize, mut token: TokenEvent, chunks: &mut VecDeque<String>) {
        self.begin(index, chunks);
        let text = std::mem::take(&mut token.text);
        if self.logprobs {
            self.choices[index].waiting.push(token);
        }
        self.text(index, &text, chunks);
    }

    fn finish(&mut self, index: usize, finish: &Finish, chunks: &mut VecDeque<String>) {
        self.begin(index, chunks);
        self.text(index, &finish.text, chunks);
        let rest = self.choices[index].parser.as_mut().map(ToolParser::finish).unwrap_or_default();
        self.send_pieces(index, rest, chunks);
        if !self.choices[index].waiting.is_empty() {
            self.send(index, Delta { content: Some(String::new()), ..Delta::default() }, chunks);
        }
        let finish_reason = Some(reason_with_calls(finish.reason, self.calls(index)));
        let delta = Delta::default();
        let routing = RoutingShape::of(finish);
        chunks.push_back(self.chunk(&[ChunkChoice { index, delta, logprobs: None, finish_reason, routing }]));
    }

    fn usage(&self, usage: Usage) -> String {
        to_json(&Chunk { head: &self.head, choices: &[], usage: Some(Some(usage)) })
    }
}
