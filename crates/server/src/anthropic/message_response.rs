//! The answer to `POST /v1/messages`, whole and as events.

use std::collections::VecDeque;

use dots_engine::{Finish, FinishReason, Stop, TokenEvent};
use serde::Serialize;
use serde_json::{Value, json};

use super::error::to_event;
use crate::{
    answer::Answer,
    error::ApiError,
    openai::{
        to_json,
        tool_parser::{self, Piece, ToolParser},
        unique_id,
    },
    sse::{Sent, Writer},
};

/// A whole answer, or what a stream begins with.
#[derive(Debug, Clone, Serialize)]
pub struct Message {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: String,
    content: Vec<Block>,
    stop_reason: Option<&'static str>,
    /// The stop text, where one ended the answer.
    stop_sequence: Option<String>,
    usage: Usage,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text { text: String },
    ToolUse { id: String, name: String, input: Value },
}

impl Block {
    fn call(name: String, input: Value) -> Self {
        Self::ToolUse { id: format!("toolu_{}", unique_id()), name, input }
    }
}

/// What was said and what was called. Arguments that the answer's end cut off are no JSON, and so are none.
fn blocks(text: String, has_tools: bool) -> Vec<Block> {
    let (text, calls) = if has_tools { tool_parser::parse(&text) } else { (text, Vec::new()) };
    let said = (calls.is_empty() || !text.is_empty()).then_some(Block::Text { text });
    let called = calls
        .into_iter()
        .map(|call| Block::call(call.name, serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}))));
    said.into_iter().chain(called).collect()
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Usage {
    input_tokens: usize,
    output_tokens: usize,
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
}

impl Message {
    fn begun(model: String, input_tokens: usize) -> Self {
        Self {
            id: format!("msg_{}", unique_id()),
            kind: "message",
            role: "assistant",
            model,
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: Usage { input_tokens, output_tokens: 0, cache_creation_input_tokens: 0, cache_read_input_tokens: 0 },
        }
    }

    /// Of a complete answer.
    pub fn new(model: String, answer: Answer, has_tools: bool) -> Self {
        let mut message = Self::begun(model, answer.finish.prompt_tokens);
        message.content = blocks(answer.text, has_tools);
        let calls = message.content.iter().any(|block| matches!(block, Block::ToolUse { .. }));
        message.end(&answer.finish, calls);
        message
    }

    fn end(&mut self, finish: &Finish, calls: bool) {
        self.usage.output_tokens = finish.completion_tokens;
        // Anthropic counts what was read from the cache apart.
        self.usage.cache_read_input_tokens = finish.cached_tokens;
        self.usage.input_tokens = finish.prompt_tokens.saturating_sub(finish.cached_tokens);
        self.stop_sequence = match &finish.stop {
            Some(Stop::Text(text)) => Some(text.clone()),
            Some(Stop::Token(_)) | None => None,
        };
        self.stop_reason = Some(match (finish.reason, &self.stop_sequence) {
            (FinishReason::Length, _) => "max_tokens",
            (FinishReason::Stop, None) if calls => "tool_use",
            (FinishReason::Stop, None) => "end_turn",
            (FinishReason::Stop, Some(_)) => "stop_sequence",
        });
    }
}

/// The events of an answer: a message begins, its blocks begin, grow and end one after another, the message ends.
pub struct MessageWriter {
    message: Message,
    /// Finds calls, where the request has tools. Without them the one block is a text, which begins at once.
    parser: Option<ToolParser>,
    /// Blocks that have begun, of which the last may be open.
    begun: usize,
    open: Option<Open>,
}

impl MessageWriter {
    /// For an answer to a prompt of `input_tokens`.
    pub fn new(model: String, input_tokens: usize, has_tools: bool) -> Self {
        let parser = has_tools.then(ToolParser::default);
        Self { message: Message::begun(model, input_tokens), parser, begun: 0, open: None }
    }

    fn pieces(&mut self, text: &str) -> Vec<Piece> {
        match &mut self.parser {
            Some(parser) => parser.push(text),
            None => vec![Piece::Text(text.to_owned())],
        }
    }

    fn send(&mut self, pieces: Vec<Piece>, sent: &mut VecDeque<Sent>) {
        for piece in pieces {
            let delta = match piece {
                Piece::Text(text) if text.is_empty() => continue,
                Piece::Text(text) => {
                    if self.open != Some(Open::Text) {
                        self.begin_block(Open::Text, &Block::Text { text: String::new() }, sent);
                    }
                    json!({"type": "text_delta", "text": text})
                }
                Piece::Call(name) => {
                    self.begin_block(Open::Call, &Block::call(name, json!({})), sent);
                    continue;
                }
                Piece::Arguments(arguments) => json!({"type": "input_json_delta", "partial_json": arguments}),
            };
            let index = self.begun.saturating_sub(1);
            send(sent, "content_block_delta", json!({"type": null, "index": index, "delta": delta}));
        }
    }

    fn begin_block(&mut self, open: Open, block: &Block, sent: &mut VecDeque<Sent>) {
        self.end_block(sent);
        let event = json!({"type": null, "index": self.begun, "content_block": block});
        send(sent, "content_block_start", event);
        self.begun += 1;
        self.open = Some(open);
    }

    fn end_block(&mut self, sent: &mut VecDeque<Sent>) {
        if self.open.take().is_some() {
            send(sent, "content_block_stop", json!({"type": null, "index": self.begun - 1}));
        }
    }
}

/// The block that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Call,
}

/// An event's name is also its JSON's `type`.
fn send(sent: &mut VecDeque<Sent>, name: &'static str, mut event: Value) {
    event["type"] = json!(name);
    sent.push_back(Sent { event: Some(name), data: event.to_string() });
}

impl Writer for MessageWriter {
    fn begin(&mut self, sent: &mut VecDeque<Sent>) {
        #[derive(Serialize)]
        struct Start<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            message: &'a Message,
        }
        let name = "message_start";
        let data = to_json(&Start { kind: name, message: &self.message });
        sent.push_back(Sent { event: Some(name), data });
        if self.parser.is_none() {
            self.begin_block(Open::Text, &Block::Text { text: String::new() }, sent);
        }
        send(sent, "ping", json!({}));
    }

    fn token(&mut self, _choice: usize, token: TokenEvent, sent: &mut VecDeque<Sent>) {
        let pieces = self.pieces(&token.text);
        self.send(pieces, sent);
    }

    fn finish(&mut self, _choice: usize, finish: &Finish, sent: &mut VecDeque<Sent>) {
        let mut pieces = self.pieces(&finish.text);
        pieces.extend(self.parser.as_mut().map(ToolParser::finish).unwrap_or_default());
        self.send(pieces, sent);
        self.end_block(sent);
        let calls = self.parser.as_ref().is_some_and(|parser| parser.calls() > 0);
        self.message.end(finish, calls);
    }

    fn end(&mut self, sent: &mut VecDeque<Sent>) {
        let Message { stop_reason, stop_sequence, usage, .. } = &self.message;
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        send(sent, "message_delta", json!({"type": null, "delta": delta, "usage": usage}));
        send(sent, "message_stop", json!({}));
    }

    fn fail(&mut self, error: &ApiError, sent: &mut VecDeque<Sent>) {
        sent.push_back(Sent { event: Some("error"), data: to_event(error) });
    }
}
