//! The answer to `POST /v1/messages`, whole and as events.

use std::collections::VecDeque;

use dots_engine::{Finish, FinishReason, Stop, TokenEvent};
use serde::Serialize;
use serde_json::{Value, json};

use super::error::to_event;
use crate::{
    answer::Answer,
    error::ApiError,
    openai::{to_json, unique_id},
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
    content: Vec<TextBlock>,
    stop_reason: Option<&'static str>,
    /// The stop text, where one ended the answer.
    stop_sequence: Option<String>,
    usage: Usage,
}

#[derive(Debug, Clone, Serialize)]
struct TextBlock {
    #[serde(rename = "type")]
    kind: &'static str,
    text: String,
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
    pub fn new(model: String, answer: Answer) -> Self {
        let mut message = Self::begun(model, answer.finish.prompt_tokens);
        message.end(&answer.finish);
        message.content.push(TextBlock { kind: "text", text: answer.text });
        message
    }

    fn end(&mut self, finish: &Finish) {
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
            (FinishReason::Stop, None) => "end_turn",
            (FinishReason::Stop, Some(_)) => "stop_sequence",
        });
    }
}

/// The events of an answer: a message begins, its one block begins, grows and ends, the message ends.
pub struct MessageWriter {
    message: Message,
}

impl MessageWriter {
    /// For an answer to a prompt of `input_tokens`.
    pub fn new(model: String, input_tokens: usize) -> Self {
        Self { message: Message::begun(model, input_tokens) }
    }
}

/// An event's name is also its JSON's `type`.
fn send(sent: &mut VecDeque<Sent>, name: &'static str, mut event: Value) {
    event["type"] = json!(name);
    sent.push_back(Sent { event: Some(name), data: event.to_string() });
}

fn delta(sent: &mut VecDeque<Sent>, text: &str) {
    if !text.is_empty() {
        let delta = json!({"type": "text_delta", "text": text});
        send(sent, "content_block_delta", json!({"type": null, "index": 0, "delta": delta}));
    }
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
        let block = json!({"type": "text", "text": ""});
        send(sent, "content_block_start", json!({"type": null, "index": 0, "content_block": block}));
        send(sent, "ping", json!({}));
    }

    fn token(&mut self, _choice: usize, token: TokenEvent, sent: &mut VecDeque<Sent>) {
        delta(sent, &token.text);
    }

    fn finish(&mut self, _choice: usize, finish: &Finish, sent: &mut VecDeque<Sent>) {
        delta(sent, &finish.text);
        self.message.end(finish);
    }

    fn end(&mut self, sent: &mut VecDeque<Sent>) {
        let Message { stop_reason, stop_sequence, usage, .. } = &self.message;
        send(sent, "content_block_stop", json!({"type": null, "index": 0}));
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        send(sent, "message_delta", json!({"type": null, "delta": delta, "usage": usage}));
        send(sent, "message_stop", json!({}));
    }

    fn fail(&mut self, error: &ApiError, sent: &mut VecDeque<Sent>) {
        sent.push_back(Sent { event: Some("error"), data: to_event(error) });
    }
}
